"""Restore: collect the manifests, plan at the first file of a VM, write, finish.

What arrives after a failure is skipped, and the job fails at its end: see refusal.
"""

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
from nutanix_backend.errors import ManifestError, RestoreFailed, RestoreRefused
from nutanix_backend.restore import destination, single_files, sources
from nutanix_backend.restore.outcome import VM_ERRORS, RestoreOutcome
from nutanix_backend.restore.sources import Role
from nutanix_backend.restore.vms import PlannedVm, Receiver, SiblingVm, Vm

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
        self._outcome = RestoreOutcome(job, abort_on_error=job.settings.abort_on_error)
        self._manifests: dict[str, list[manifest.Manifest]] = {}
        self._damaged: dict[str, ManifestError] = {}
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
            folder = f"{names.NAMESPACE}/{announced.name.removeprefix(manifest.OBJECT_PREFIX)}"
            try:
                found = manifest.decode(content)
            except ManifestError as error:
                self._damaged[folder] = error
            else:
                folder = found.folder.path
                self._manifests.setdefault(folder, []).append(found)
            self._outcome.expect(folder)
        self._reply(Answer.OK)

    def _take_file(self, announced: File) -> None:
        """Take a file, or skip it: nobody needs it, or its VM is not restored."""
        folder, name = announced.name, f"file {announced.name!r}"
        receiver: Receiver | None = None
        try:
            file = sources.recognise(announced.name)
            folder, name = file.folder, f"VM {self._name(file)}"
            if file.role is not Role.OTHER and not self._outcome.has_failed(folder):
                receiver = self._receiver(file, announced.size)
        except VM_ERRORS as error:
            self._fail(folder, name, error)
        if receiver is None:
            self._skip(announced)
            return
        self._reply(Answer.OK)
        pieces = self._pieces()
        try:
            for piece in pieces:
                receiver.write(piece)
            receiver.end()
        except VM_ERRORS as error:
            self._fail(folder, name, error)
        for _ in pieces:
            pass  # what is left of a file that cannot be used
        self._reply(Answer.OK)

    def _receiver(self, file: SourceFile, length: int) -> Receiver | None:
        """What takes a file, as far as it is known; None when nobody needs it."""
        if file.role is Role.LIST:
            return Unneeded()
        self._outcome.expect(file.folder)
        place = self._destination or self._choose_destination(file)
        if place is None:
            return None
        vm = self._vm(file, place)
        if file.role is Role.CONFIGURATION:
            return ConfigurationReceiver(vm, file)
        return vm.receiver(file, length)

    def _fail(self, folder: str, name: str, error: Exception) -> None:
        """Give a VM up; the others go on."""
        self._outcome.expect(folder)
        if {*self._manifests, *self._damaged} == {folder}:  # no other VM can follow
            self._outcome.job_failed(error)
        else:
            self._outcome.vm_failed(folder, name, error)
        if folder in self._vms:
            self._vms[folder].abandon()

    def _name(self, file: SourceFile) -> str:
        """The name of a file's VM, as far as it is known."""
        known = self._manifests.get(file.folder)
        return known[-1].vm_name if known else file.vm

    def _skip(self, announced: File) -> None:
        self._outcome.skip(announced.size)
        self._job.endpoint.send(
            Message(Severity.SKIPPED, f"{announced.name} is not needed"), Reply(Answer.SKIP)
        )

    def _choose_destination(self, first: SourceFile) -> destination.Destination | None:
        """Find out where everything goes; what is wrong with that is wrong for all VMs."""
        try:
            if self._job.settings.file:
                self._destination = single_files.choose(self._job, self._stack)
            else:
                self._destination = destination.choose(self._job, self._stack, first)
        except VM_ERRORS as error:
            self._outcome.job_failed(error)
        return self._destination

    def _vm(self, file: SourceFile, place: destination.Destination) -> Vm:
        """The VM that a file belongs to; with its first file it is planned, or refused."""
        if file.folder not in self._vms:
            is_ours = file.namespace == names.NAMESPACE
            manifests = self._manifests.get(file.folder)
            if file.folder in self._damaged:
                raise self._damaged[file.folder]
            if is_ours and not manifests:
                raise RestoreRefused(
                    f"no manifest came for {file.folder}: its backup did not complete, or was "
                    "not made by this plugin"
                )
            vm: Vm = (
                PlannedVm(self._job, place, manifests, file)
                if manifests
                else SiblingVm(self._job, place, file, self._staging)
            )
            self._stack.callback(vm.abandon)
            self._vms[file.folder] = vm
        return self._vms[file.folder]

    def _staging(self) -> Path:
        """The folder for images of other hypervisors, made when the first of them comes."""
        if self._folder is None:
            intents = self._stack.enter_context(self._job.journal("images", of_this_host=True))
            self._folder = destination.staging_folder(self._job, intents, self._stack, "-images")
        return self._folder

    def _finish(self) -> None:
        """Everything has arrived: finish each VM, or say what is missing."""
        for folder, vm in self._vms.items():
            if not self._outcome.has_failed(folder):
                try:
                    vm.finish()
                except VM_ERRORS as error:
                    self._fail(folder, f"VM {vm.plan.origin.vm_name}", error)
        self._outcome.conclude(sum(not self._outcome.has_failed(folder) for folder in self._vms))

    def _collect(self) -> bytes:
        content = bytearray()
        for piece in self._pieces():
            add(content, piece)
        return bytes(content)

    def _pieces(self) -> Iterator[memoryview]:
        """The content of the object or file that was just announced."""
        while True:
            match self._job.endpoint.expect(DataStart, Data, DataEnd, EndOfInput):
                case DataStart():
                    continue
                case Data() as data:
                    yield from (memoryview(part) for part in data.parts)
                case DataEnd():
                    return
                case EndOfInput():
                    raise Cancelled("the daemon closed the connection in the middle of a file")

    def _reply(self, answer: Answer) -> None:
        self._job.endpoint.send(Reply(answer))


class Unneeded:
    """Takes a file that nobody needs: one that is refused counts as missing in Bacula's report."""

    def write(self, piece: memoryview) -> None:
        """Let it go."""

    def end(self) -> None:
        """It has gone."""


class ConfigurationReceiver:
    """Takes the configuration of a VM."""

    def __init__(self, vm: Vm, file: SourceFile) -> None:
        """Hand `file` on to `vm` when it is whole."""
        self._vm = vm
        self._file = file
        self._content = bytearray()

    def write(self, piece: memoryview) -> None:
        """Take the next piece."""
        add(self._content, piece)

    def end(self) -> None:
        """The file is in."""
        self._vm.configuration(self._file, bytes(self._content))


def add(content: bytearray, piece: memoryview) -> None:
    """Add a piece to what is held in memory; raise RestoreFailed when it grows too large."""
    content += piece
    if len(content) > MAX_SMALL:
        raise RestoreFailed(f"a manifest or configuration of over {MAX_SMALL} bytes came")
