"""The chain of one VM: what an incremental may stand on, and which references may go."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ptcomm import Level

from nutanix_backend.errors import ChainError, StateError
from nutanix_backend.references import state
from nutanix_backend.references.points import ReferencePoints

if TYPE_CHECKING:
    from collections.abc import Sequence

    from prism_client import PrismClient

    from nutanix_backend.job import JobContext


class Chain:
    """The recorded jobs of a VM, seen by one job that adds itself. Use under the VM's lock."""

    def __init__(self, job: JobContext, client: PrismClient, file: state.StateFile) -> None:
        """Load what is recorded in `file`."""
        self._job = job
        self._file = file
        self._state, self._problem = file.load()
        self._level = job.info.level or Level.FULL
        self._series = state.series_of(job.info.name)
        self._points = ReferencePoints(client, job.warn)
        self._kept = {reference.point for reference in self._state.references()}
        self._has_left_some = False
        self._is_sent = False
        self.why_full = ""
        """Why the VM is backed up in full where another level was asked for."""

    def base(self, vm_name: str) -> state.Reference | None:
        """The reference to compare with, still on the cluster; None for a full.

        A full that was not asked for is announced in the job log, or refused with ChainError.
        """
        if self._level is Level.FULL:
            return None
        found = state.find_base(self._state, self._level.value, self._job.info.prev_job_name)
        if found.reference:
            self._state = self._state.with_proof(found.reference)
            found = self._points.usable(found.reference)
        if found.reference is None:
            self.fall_back(vm_name, self._problem or found.reason)
        return found.reference

    def fall_back(self, vm_name: str, reason: str) -> None:
        """Say why the VM is backed up in full, or raise ChainError where that is not wanted."""
        if not self._job.settings.fallback_to_full:
            raise ChainError(
                f"VM {vm_name} has no base for this level: {reason}; "
                "run a full backup, or set fallback_to_full=yes"
            )
        self.why_full = reason
        self._job.warn(f"VM {vm_name} is backed up in full: {reason}")

    def drop_obsolete(self, base: state.Reference | None) -> None:
        """Delete the references that no later job of this name can ask for.

        Jobs of other names have chains of their own, whose references stay. An incremental on
        `base` proves that the Director holds the job of `base`. Any other job proves nothing, so
        the newest reference stays as well: the job may yet fail. With each stays that of its full,
        on which a differential would stand; the newest full that is proven and the two newest fulls
        stay in any case, because a full that failed later must not cost the good one before it.
        What cannot be deleted now stays recorded, for the next job to try.
        """
        recorded = self._state.references(self._series)
        kept = [base] if base else []
        if self._level is not Level.INCREMENTAL or not base:
            kept += recorded[-1:]
        if not self._job.settings.is_lean:
            fulls = [full for end in kept if (full := self._state.full_behind(end))]
            if self._level is Level.FULL:
                fulls += self._state.fulls(self._series, proven=True)[-1:]
                fulls += self._state.fulls(self._series, proven=False)[-2:]
            kept += [full for full in fulls if self._points.understands(full)]
        self._drop_all_but(kept)
        if self._has_left_some:  # the others look at the file for who still needs them
            self._file.save(self._state.with_only(self._kept))

    def keep_only_newest(self) -> None:
        """Delete every reference but the newest, without waiting for the proof that it counts."""
        self._drop_all_but(self._state.references(self._series)[-1:])
        self._file.save(self._state.with_only(self._kept))

    def _drop_all_but(self, kept: Sequence[state.Reference]) -> None:
        needed = {reference.point for reference in kept}
        for reference in self._state.references(self._series):
            if reference.point not in needed and self._drop(reference):
                self._kept.discard(reference.point)

    def _drop(self, reference: state.Reference) -> bool:
        """Delete a recovery point, or leave it to another whose base it is; whether it is done."""
        others = reference.shared_with
        if any(self._file.is_kept_by(ext_id, reference.point) for ext_id in others):
            self._has_left_some = True
            return True
        return self._points.drop(reference)

    def record(self, reference: state.Reference | None) -> None:
        """Add this job, durably: with the reference it leaves, or as one in which the VM failed."""
        info = self._job.info
        record = state.JobRecord(
            job=info.name,
            job_id=info.job_id,
            level=self._level.value,
            predecessor=info.prev_job_name,
            outcome=state.SENT if reference else state.FAILED,
            reference=reference,
        )
        self._file.save(self._state.with_job(record, self._kept))
        self._is_sent |= reference is not None

    def record_failure(self, error: Exception) -> None:
        """Add this job as one in which the VM failed with `error`, which stays the first error.

        A reference that was recorded before that stays: its recovery point is kept by now, and only
        who knows of it can delete it. The Director tells the next job that this one failed.
        """
        if self._is_sent:
            return
        try:
            self.record(None)
        except StateError as second:  # costs a full, which will say so
            error.add_note(f"then: {second}")
