"""Restore: collect the manifests, plan at the first file of a VM, write, finish."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from command_line.cancel import Cancelled
from ptcomm import (
    Ack,
    Answer,
    Data,
    DataEnd,
    DataStart,
    End,
    EndOfInput,
    File,
    Finish,
    Message,
    Reply,
    RestoreObject,
    Severity,
    Terminate,
)

from nutanix_backend import manifest, names
from nutanix_backend.errors import RestoreFailed, RestoreRefused
from nutanix_backend.restore import destination, sources
from nutanix_backend.restore.sources import Role
from nutanix_backend.restore.vms import PlannedVm, SiblingVm, Vm

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from nutanix_backend.job import JobContext
    from nutanix_backend.restore.sources import SourceFile

MAX_SMALL = 64 * 1024 * 1024
"""Bytes of a manifest or a VM configuration that we are ready to hold."""


def run(job: JobContext) -> None:
    """Restore what the daemon sends, until it says END."""
    with ExitStack() as stack:
        Restore(job, stack).run()


class Restore:
    """One restore: the manifests seen, and the VMs begun."""

    def __init__(self, job: JobContext, stack: ExitStack) -> None:
        """Restore within `job`; `stack` undoes what must not stay."""
        self._job = job
        self._stack = stack
        self._manifests: dict[str, list[manifest.Manifest]] = {}
        self._vms: dict[str, Vm] = {}
        self._destination: destination.Destination | None = None
        self._folder: Path | None = None

    def run(self) -> None:
        """Answer each message of the daemon once, until there is no more."""
        while True:
            match self._job.endpoint.receive():
                case RestoreObject() as announced:
                    self._take_object(announced)
                case File() as announced:
                    self._take_file(announced)
                case Finish():
                    self._finish()
                    self._job.endpoint.send(Ack())
                case End():
                    self._job.endpoint.send(Ack())
                case Terminate() | EndOfInput():
                    return
                case other:
                    raise RestoreFailed(f"the daemon sent {type(other).__name__} between files")

    def _take_object(self, announced: RestoreObject) -> None:
        content = self._collect()
        if announced.name.startswith(manifest.OBJECT_PREFIX):
            found = manifest.decode(content)
            self._manifests.setdefault(found.folder.path, []).append(found)
        self._reply(Answer.OK)

    def _take_file(self, announced: File) -> None:
        file = sources.recognise(announced.name)
        if file.role is Role.OTHER:
            self._skip(file)
            return
        vm = self._vm(file)
        if file.role is Role.CONFIGURATION:
            self._reply(Answer.OK)
            vm.configuration(file, self._collect())
            self._reply(Answer.OK)
            return
        receiver = vm.receiver(file, announced.size)
        if receiver is None:
            self._skip(file)
            return
        self._reply(Answer.OK)
        for piece in self._pieces():
            receiver.write(piece)
        receiver.end()
        self._reply(Answer.OK)

    def _skip(self, file: SourceFile) -> None:
        self._job.endpoint.send(
            Message(Severity.SKIPPED, f"{file.name} is not needed"), Reply(Answer.SKIP)
        )

    def _vm(self, file: SourceFile) -> Vm:
        """The VM that a file belongs to; with its first file it is planned, or refused."""
        if file.folder not in self._vms:
            is_ours = file.namespace == names.NAMESPACE
            manifests = self._manifests.get(file.folder)
            if is_ours and not manifests:
                raise RestoreRefused(
                    f"no manifest came for {file.folder}: its backup did not complete, or was "
                    "not made by this plugin"
                )
            if self._destination is None:
                self._destination = destination.choose(self._job, self._stack, file)
            vm: Vm = (
                PlannedVm(self._job, self._destination, manifests, file)
                if manifests
                else SiblingVm(self._job, self._destination, file, self._staging)
            )
            self._stack.callback(vm.abandon)
            self._vms[file.folder] = vm
        return self._vms[file.folder]

    def _staging(self) -> Path:
        """The folder for images of other hypervisors, made when the first of them comes."""
        if self._folder is None:
            intents = self._stack.enter_context(self._job.journal("images"))
            self._folder = destination.staging_folder(self._job, intents, self._stack, "-images")
        return self._folder

    def _finish(self) -> None:
        """Everything has arrived: finish each VM, or say what is missing."""
        for vm in self._vms.values():
            vm.finish()

    def _collect(self) -> bytes:
        content = bytearray()
        for piece in self._pieces():
            content += piece
            if len(content) > MAX_SMALL:
                raise RestoreFailed(f"a manifest or configuration of over {MAX_SMALL} bytes came")
        return bytes(content)

    def _pieces(self) -> Iterator[memoryview]:
        """The content of the object or file that was just announced."""
        while True:
            match self._job.endpoint.receive():
                case DataStart():
                    continue
                case Data() as data:
                    yield from (memoryview(part) for part in data.parts)
                case DataEnd():
                    return
                case EndOfInput():
                    raise Cancelled("the daemon closed the connection in the middle of a file")
                case other:
                    raise RestoreFailed(f"the daemon sent {type(other).__name__} inside a file")

    def _reply(self, answer: Answer) -> None:
        self._job.endpoint.send(Reply(answer))
