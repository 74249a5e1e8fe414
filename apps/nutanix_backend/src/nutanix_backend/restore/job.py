"""Restore: collect the manifests, plan at the first file of a VM, write, finish.

What arrives after a failure is skipped, and the job fails at its end: see refusal.
"""

from __future__ import annotations

import itertools
import logging
from contextlib import ExitStack
from functools import cached_property, partial
from typing import TYPE_CHECKING, TypeVar

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
from nutanix_backend.restore import choice, destination, sources
from nutanix_backend.restore.background import Background
from nutanix_backend.restore.outcome import VM_ERRORS, RestoreOutcome
from nutanix_backend.restore.sources import Role
from nutanix_backend.restore.vms import PlannedVm, Receiver, SiblingVm, Vm
from nutanix_backend.restore.write_behind import IN_USE, WriteBehind
from nutanix_backend.restore.writer import DiskWriter

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from concurrent.futures import Future
    from pathlib import Path

    from nutanix_backend.job import JobContext, SharedJob
    from nutanix_backend.restore.sources import SourceFile

log = logging.getLogger(__name__)

V = TypeVar("V", bound=Vm)

PIECE = 1 << 20
"""Bytes of a disk that are written at a time, when they come fast enough."""
MAX_SMALL = 64 * 1024 * 1024
"""Bytes of a manifest or a VM configuration that we are ready to hold."""


def run(job: JobContext) -> None:
    """Restore what the daemon sends, until it says END."""
    shared = job.shared()
    width = job.settings.parallel_vms
    with ExitStack() as stack, Background(width, shared) as background:
        Restore(shared, stack, background).run()


class Restore:
    """One restore: the manifests seen, and the VMs begun."""

    def __init__(self, job: SharedJob, stack: ExitStack, background: Background) -> None:
        """Restore within `job`; `stack` undoes what must not stay."""
        self._job = job
        self._stack = stack
        self._background = background
        self._ahead: dict[str, PlannedVm] = {}
        self._row = 0
        self._last = ""
        self._finishing: dict[str, Future[None] | None] = {}
        self._outcome = RestoreOutcome(job, abort_on_error=job.settings.abort_on_error)
        self._manifests: dict[str, list[manifest.Manifest]] = {}
        self._damaged: dict[str, ManifestError] = {}
        self._vms: dict[str, Vm] = {}
        self._destination: destination.Destination | None = None
        self._folder: Path | None = None

    @cached_property
    def _memory(self) -> list[memoryview]:
        """The memory that disks are received in."""
        return [memoryview(bytearray(PIECE)) for _ in range(IN_USE)]

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
        self._settle()
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
        pieces = self._pieces(self._memory if isinstance(receiver, DiskWriter) else None)
        try:
            if isinstance(receiver, DiskWriter):
                with WriteBehind(receiver) as behind:
                    _pass_on(pieces, behind)
            else:
                _pass_on(pieces, receiver)
        except VM_ERRORS as error:
            self._fail(folder, name, error)
        for _ in pieces:
            pass  # what is left of a file that cannot be used
        self._finish_behind(folder)
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
        if place.is_slow and isinstance(vm, PlannedVm):
            self._make_ahead(vm, besides=file.key)
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
            self._vms[folder].failed(error)

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
            every = (found for manifests in self._manifests.values() for found in manifests)
            with_groups = any(found.is_group for found in every)
            self._destination = choice.choose(
                self._job, self._stack, first, with_groups=with_groups
            )
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
            self._vms[file.folder] = (
                self._begin(file, place)
                if manifests
                else self._kept(SiblingVm(self._job, place, file, self._staging))
            )
        return self._vms[file.folder]

    def _kept(self, vm: V) -> V:
        """A VM that is given up at the end, unless it is finished."""
        self._stack.callback(vm.abandon)
        return vm

    def _begin(self, file: SourceFile, place: destination.Destination) -> PlannedVm:
        """Begin a VM with its first file: it was planned ahead, or is now."""
        vm = self._ahead.pop(file.folder, None) or self._plan(file.folder, file.where, place)
        vm.begin()
        if place.is_slow:
            self._plan_ahead(file, place)
        return vm

    def _plan(self, folder: str, where: str, place: destination.Destination) -> PlannedVm:
        return self._kept(PlannedVm(self._job, place, self._manifests[folder], where))

    def _plan_ahead(self, file: SourceFile, place: destination.Destination) -> None:
        """Plan the VMs that come next, and make their first disks, once VMs came in a row.

        The Director sends the manifests of all VMs of the jobs, whichever were selected: what comes
        is known only by what came. A VM that cannot be planned says so when it comes.
        """
        order = list(self._manifests)
        at = order.index(file.folder)
        self._row = self._row + 1 if order[at - 1 : at] == [self._last] else 0
        self._last = file.folder
        for folder in order[at + 1 : at + 1 + min(self._row, self._job.settings.parallel_vms)]:
            if folder in self._vms or folder in self._ahead or folder in self._damaged:
                continue
            try:
                self._ahead[folder] = self._plan(folder, file.where, place)
            except VM_ERRORS as error:
                log.info("%s is not planned ahead: %s", folder, error)
            else:
                self._make_ahead(self._ahead[folder])

    def _make_ahead(self, vm: PlannedVm, besides: str = "") -> None:
        """Make the next disks of a VM while others are written."""
        for writer in vm.next_disks(self._job.settings.parallel_vms, besides):
            if not writer.is_asked_for:
                writer.is_asked_for = True
                self._background.start(partial(_open, writer))

    def _staging(self) -> Path:
        """The folder for images of other hypervisors, made when the first of them comes."""
        if self._folder is None:
            intents = self._stack.enter_context(self._job.journal("images", of_this_host=True))
            self._folder = destination.staging_folder(self._job, intents, self._stack, "-images")
        return self._folder

    def _finish(self) -> None:
        """Everything has arrived: finish each VM, or say what is missing; start those asked for."""
        for folder, vm in self._vms.items():
            if folder in self._finishing or self._outcome.has_failed(folder):
                continue
            if self._destination and self._destination.is_slow:
                self._finishing[folder] = self._background.start(vm.finish)
                continue
            try:
                vm.finish()
            except VM_ERRORS as error:
                self._fail(folder, _vm_name(vm), error)
        self._settle(wait=True)
        self._job.release()
        self._outcome.conclude(sum(not self._outcome.has_failed(folder) for folder in self._vms))
        if self._destination:
            self._destination.start()

    def _finish_behind(self, folder: str) -> None:
        """Finish a VM of which nothing more will come, while others are written."""
        vm = self._vms.get(folder)
        is_slow = self._destination is not None and self._destination.is_slow
        is_due = is_slow and folder not in self._finishing and not self._outcome.has_failed(folder)
        if vm is not None and is_due and vm.is_whole():
            self._finishing[folder] = self._background.start(vm.finish)

    def _settle(self, *, wait: bool = False) -> None:
        """See which VMs have been finished, and what failed; with `wait` until all have."""
        for folder, future in self._finishing.items():
            if future is None or not (wait or future.done()):
                continue
            if self._outcome.has_failed(folder) and future.cancel():
                continue  # with abort_on_error the first that fails ends them all
            self._background.wait_for(future)
            self._finishing[folder] = None
            try:
                future.result()
            except VM_ERRORS as error:
                self._fail(folder, _vm_name(self._vms[folder]), error)

    def _collect(self) -> bytes:
        content = bytearray()
        for piece in self._pieces():
            add(content, piece)
        return bytes(content)

    def _pieces(self, memory: Sequence[memoryview] | None = None) -> Iterator[memoryview]:
        """The content of the object or file that was just announced.

        Into `memory` it comes in large pieces: each is valid until so many others came after it.
        """
        for buffer in itertools.cycle(memory or (None,)):
            match self._job.endpoint.expect(DataStart, Data, DataEnd, EndOfInput, buffer=buffer):
                case DataStart():
                    continue
                case Data() as data:
                    yield from (memoryview(part) for part in data.parts)
                case DataEnd():
                    return
                case EndOfInput():
                    raise Cancelled("the daemon closed the connection in the middle of a file")

    def _reply(self, answer: Answer) -> None:
        self._job.release()
        self._job.endpoint.send(Reply(answer))


def _pass_on(pieces: Iterable[memoryview], receiver: Receiver) -> None:
    """Hand on the content of a file, all of it."""
    for piece in pieces:
        receiver.write(piece)
    receiver.end()


def _vm_name(vm: Vm) -> str:
    return vm.plan.title


def _open(writer: DiskWriter) -> None:
    """Make a disk ahead of its data; an error is raised when that comes."""
    try:
        writer.open()
    except VM_ERRORS as error:
        log.info("disk %s was not made ahead: %s", writer.chain.disk_id, error)


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
