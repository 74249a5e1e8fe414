"""The steps of `qualify`, each of which answers questions with the product's own jobs and calls."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import attrs
import prism_client
from iscsi_attach import kernel
from ptcomm import Level, Severity
from ptcomm_runner import jobs
from ptcomm_runner.catalog import Status, Store

from nutanix_backend.doctor.rights import RIGHTS, Need
from nutanix_backend.errors import BackendError
from nutanix_backend.qualify.calls import Calls
from nutanix_backend.qualify.rows import NOT_ASKED, Answer, Row
from nutanix_backend.qualify.scratch import SIZES, WRITTEN, Scratch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from prism_client import PrismClient

    from nutanix_backend.settings.parameters import Settings

GUEST_SECONDS = 120.0
"""How long a guest may take to boot, write, and power itself off."""
STEPS = (
    "read with every right that changes nothing",
    "make a scratch VM with two disks of 8 and 2 MiB, through a volume group and through images",
    "back it up in full, in user space and by the kernel, and compare the bytes",
    "power it on; its boot sector writes 64 KiB and powers it off",
    "back up the changes, and compare the bytes",
    "restore the VM in both ways, and compare the bytes",
    "repeat a request, list regions, and delete a recovery point while a volume group uses it",
    "remove everything, and look whether something is left",
)
"""What is done, as it is told before it begins."""


class TimeIsUp(BackendError):
    """The time limit is over; what was made is removed."""


@attrs.define
class Qualification:
    """One run. `settings` and `parameters` have a state_dir of the run's own, below `folder`."""

    client: PrismClient
    settings: Settings
    parameters: tuple[tuple[str, str], ...]
    job_settings: Callable[[tuple[tuple[str, str], ...]], jobs.Settings]
    folder: Path
    deadline: float
    vm_id: str = ""
    ways: tuple[str, ...] = ()
    is_saved: bool = False
    _restores: int = 0

    @property
    def run(self) -> str:
        """The id of the run: the name of its VM and its job."""
        return self.folder.name

    def rows(self) -> Iterator[Row]:
        """Do all steps; raise TimeIsUp between two of them."""
        scratch = Scratch.make(self.folder / "scratch", self.run)
        yield from self._in_time(self._rights())
        yield self._revisions()
        yield from self._in_time(self._make_vm(scratch))
        if not self.ways:
            return
        yield from self._in_time(self._full(scratch))
        if not self.is_saved:
            return
        yield from self._in_time(self._guest(scratch))
        yield from self._in_time(self._incremental(scratch))
        yield from self._in_time(self._restore(scratch))
        calls = Calls(self.client, self.settings, self.run, self.vm_id)
        yield from self._in_time(calls.rows())
        yield from NOT_ASKED

    def _in_time(self, rows: Iterator[Row]) -> Iterator[Row]:
        for row in rows:
            yield row
            if time.monotonic() > self.deadline:
                raise TimeIsUp("the time limit is over: the other questions stay open")

    # --- rights and releases

    def _rights(self) -> Iterator[Row]:
        missing = False
        for right in RIGHTS:
            if right.read is None:
                continue
            try:
                next(iter(right.read(self.client)), None)
            except prism_client.PrismError as error:
                missing = True
                fatal = right.need is not Need.COMFORT
                yield Row(
                    f"Has the account the right {right.operation}?",
                    Answer.NO if fatal else Answer.OTHERWISE,
                    str(error),
                    f"{right.need.value} needs it" if fatal else right.why,
                )
        if not missing:
            seen = "every right that changes nothing was used"
            yield Row("Has the account the rights?", Answer.YES, seen, "nothing")

    def _revisions(self) -> Row:
        found = ", ".join(f"{name} {text}" for name, text in sorted(self.client.revisions.items()))
        generation = self.client.recovery_points.generation
        is_v4 = generation == "v4"
        return Row(
            "Which APIs does Prism have?",
            Answer.YES if is_v4 else Answer.OTHERWISE,
            f"recovery points by {generation}; {found or 'no namespace of v4'}",
            "nothing" if is_v4 else "v3 and v2 are used",
        )

    # --- the scratch VM

    def _make_vm(self, scratch: Scratch) -> Iterator[Row]:
        for way, question, consequence in (
            (
                "volume_group",
                "Does Prism make a VM from disks of volume groups?",
                "restores go through images",
            ),
            ("image", "Can images be uploaded?", "restores need volume groups"),
        ):
            name = f"{self.run}-{way}"
            ended = self._job(
                lambda settings: jobs.restore_files(self.run, settings, scratch.items()),
                restore_vm_name=name,
                restore_via=way,
            )
            if ended.status is Status.GOOD:
                self.ways += (way,)
                yield Row(question, Answer.YES, f"VM {name} was made", "nothing")
            else:
                yield Row(question, Answer.OTHERWISE, _words(ended), consequence)
        if not self.ways:
            yield Row(
                "Can a VM be made at all?", Answer.NO, "no way works", "only disks can be restored"
            )
            return
        (vm,) = self.client.vms.find(f"{self.run}-{self.ways[0]}")
        self.vm_id = vm.ext_id

    # --- backups

    def _full(self, scratch: Scratch) -> Iterator[Row]:
        question = "Can the disks of a recovery point be read over iSCSI, in user space?"
        ended = self._backup(Level.FULL, transport="userspace")
        if ended.status is not Status.GOOD and self.settings.chap:
            without = self._backup(Level.FULL, transport="userspace", chap="no")
            if without.status is Status.GOOD:
                yield Row(
                    "Does the data services address accept CHAP?",
                    Answer.OTHERWISE,
                    _words(ended),
                    "write chap=no; the network has to protect iSCSI",
                )
                self.parameters += (("chap", "no"),)
                ended = without
        row = self._compared(question, scratch, ended)
        self.is_saved = row.answer is Answer.YES
        yield row
        why_not = kernel.unavailable()
        question = "The same by the kernel (open-iscsi)?"
        if why_not:
            yield Row(question, Answer.OPEN, why_not, "transport=auto reads in user space")
        else:
            ended = self._backup(Level.FULL, name=f"{self.run}-kernel", transport="kernel")
            yield self._compared(question, scratch, ended, name=f"{self.run}-kernel")

    def _guest(self, scratch: Scratch) -> Iterator[Row]:
        question = "Does the VM run?"
        began = time.monotonic()
        try:
            self.client.vms.power_on(self.vm_id)
            while (is_on := self._is_on()) and time.monotonic() < began + GUEST_SECONDS:
                time.sleep(0.5)
            if is_on:
                self.client.vms.power_off(self.vm_id)
        except prism_client.PrismError as error:
            yield Row(question, Answer.NO, str(error), "restored VMs have to be started by hand")
            return
        scratch.guest_has_run()
        how = f"was cut off after {GUEST_SECONDS:.0f} s" if is_on else "powered itself off"
        yield Row(question, Answer.YES, f"it was powered on and {how}", "nothing")

    def _is_on(self) -> bool:
        return self.client.vms.get(self.vm_id).power_state != "OFF"

    def _incremental(self, scratch: Scratch) -> Iterator[Row]:
        ended = self._backup(Level.INCREMENTAL, transport="userspace")
        deltas = [file for file in ended.files if file.name.endswith(".phcbt01")]
        yield Row(
            "Does Prism say what changed since a recovery point?",
            Answer.YES if len(deltas) == len(SIZES) else Answer.OTHERWISE,
            _words(ended)
            or f"{ended.data_bytes} bytes were sent; the guest wrote {len(WRITTEN)} times",
            "nothing" if len(deltas) == len(SIZES) else "every backup is a full",
        )
        yield self._compared("Are all changes in the incremental?", scratch, ended)

    # --- restores

    def _restore(self, scratch: Scratch) -> Iterator[Row]:
        for way in self.ways:
            question = f"Is a restored VM right, made through {way.replace('_', ' ')}?"
            name = f"{self.run}-restored-{way}"
            ended = self._job(
                lambda settings: jobs.restore(self._store, self.run, settings),
                restore_vm_name=name,
                restore_via=way,
            )
            if ended.status is not Status.GOOD:
                yield Row(question, Answer.NO, _words(ended), f"do not use restore_via={way}")
                continue
            saved = self._backup(Level.FULL, name=name, vm=name, transport="userspace")
            yield self._compared(question, scratch, saved, name=name)

    # --- jobs

    @property
    def _store(self) -> Store:
        return Store(self.folder / "store")

    def _backup(self, level: Level, *, name: str = "", **parameters: str) -> jobs.Result:
        given = {"vm": self.vm_id, **parameters}
        return self._job(
            lambda settings: jobs.backup(self._store, name or self.run, level, settings), **given
        )

    def _job(self, job: Callable[[jobs.Settings], jobs.Result], **parameters: str) -> jobs.Result:
        return job(self.job_settings((*self.parameters, *parameters.items())))

    def _compared(
        self, question: str, scratch: Scratch, backup: jobs.Result, *, name: str = ""
    ) -> Row:
        """Restore a backup to a folder and compare the bytes with what they should be."""
        if not backup.status.good:
            return Row(question, Answer.NO, _words(backup), "backups of this cluster fail")
        self._restores += 1
        where = self.folder / f"restored-{self._restores}"
        ended = self._job(
            lambda settings: jobs.restore(
                self._store, name or self.run, settings, job_id=backup.job_id, where=str(where)
            )
        )
        wrong = _words(ended) if not ended.status.good else scratch.differs(where)
        if wrong:
            return Row(question, Answer.NO, wrong, "do not rely on backups of this cluster")
        return Row(question, Answer.YES, "all bytes are as they were written", "nothing")


def _words(ended: jobs.Result) -> str:
    """What was wrong with a job; empty if nothing was."""
    bad = (Severity.FATAL, Severity.ERROR, Severity.NONFATAL)
    return "; ".join(message.text for message in ended.log if message.severity in bad)
