"""Restore: collect the manifests, plan at the first file of a VM, write, finish."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import attrs
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
from nutanix_backend.errors import Cancelled, RestoreFailed, RestoreRefused
from nutanix_backend.restore import destination
from nutanix_backend.restore.plan import VmPlan, plan_vm

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nutanix_backend.jobs.job import JobContext
    from nutanix_backend.restore.writer import DiskWriter

MAX_SMALL = 64 * 1024 * 1024
"""Bytes of a manifest or a VM configuration that we are ready to hold."""


@attrs.frozen
class VmRestore:
    """A VM of which at least one file arrived."""

    plan: VmPlan
    writers: dict[str, DiskWriter]


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
        self._manifests: dict[names.VmFolder, list[manifest.Manifest]] = {}
        self._vms: dict[names.VmFolder, VmRestore] = {}
        self._destination: destination.Destination | None = None

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
            self._manifests.setdefault(found.folder, []).append(found)
        self._reply(Answer.OK)

    def _take_file(self, announced: File) -> None:
        file = names.parse(announced.name)
        vm = self._vm(file)
        if file.kind is names.FileKind.METADATA:
            self._reply(Answer.OK)
            self._receive_metadata(file)
        else:
            self._take_disk_file(vm, file)

    def _vm(self, file: names.VirtualFile) -> VmRestore:
        """The VM that a file belongs to; with its first file it is planned, or refused."""
        if file.folder not in self._vms:
            manifests = self._manifests.get(file.folder)
            if not manifests:
                raise RestoreRefused(
                    f"no manifest came for {file.folder.path}: its backup did not complete, or was "
                    "not made by this plugin"
                )
            if self._destination is None:
                self._destination = destination.choose(self._job, self._stack, file)
            plan = plan_vm(manifests, self._job.settings.disk)
            writers = self._destination.prepare(plan, file)
            for writer in writers.values():
                self._stack.callback(writer.abandon)
            self._vms[file.folder] = VmRestore(plan, writers)
            self._announce(plan)
        return self._vms[file.folder]

    def _announce(self, plan: VmPlan) -> None:
        for chain in plan.disks:
            self._job.say(
                f"VM {plan.manifest.vm_name} disk {chain.newest.index}: whole image and "
                f"{len(chain.files) - 1} deltas, to the state of job {plan.manifest.job}"
            )

    def _take_disk_file(self, vm: VmRestore, file: names.VirtualFile) -> None:
        writer = vm.writers.get(file.disk_id)
        if writer is None or not writer.needs(file.name):
            self._job.endpoint.send(
                Message(Severity.SKIPPED, f"{file.name} is not needed"), Reply(Answer.SKIP)
            )
            return
        writer.begin(file.name)
        self._reply(Answer.OK)
        for piece in self._pieces():
            writer.write(piece)
        writer.end()
        self._reply(Answer.OK)

    def _receive_metadata(self, file: names.VirtualFile) -> None:
        content = self._collect()
        if self._destination is not None:
            self._destination.metadata(file, content)
        self._reply(Answer.OK)

    def _finish(self) -> None:
        """Everything has arrived: finish each VM, or say what is missing."""
        for vm in self._vms.values():
            for writer in vm.writers.values():
                missing = writer.missing()
                if missing:
                    raise RestoreFailed(
                        f"{missing.file} did not arrive, so disk {missing.index} of VM "
                        f"{vm.plan.manifest.vm_name} is not restored: select all of its files"
                    )
            if self._destination and any(writer.complete for writer in vm.writers.values()):
                self._destination.finish(vm.plan, vm.writers)

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
