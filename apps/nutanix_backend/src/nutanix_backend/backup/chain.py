"""The chain of one VM: what an incremental may stand on, and which references may go."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prism_client import NotFound, PrismError
from ptcomm import Level

from nutanix_backend.errors import ChainError, StateError
from nutanix_backend.references import state

if TYPE_CHECKING:
    from collections.abc import Sequence

    from prism_client import PrismClient

    from nutanix_backend.job import JobContext


class Chain:
    """The recorded jobs of a VM, seen by one job that adds itself. Use under the VM's lock."""

    def __init__(self, job: JobContext, client: PrismClient, file: state.StateFile) -> None:
        """Load what is recorded in `file`."""
        self._job = job
        self._client = client
        self._file = file
        self._state, self._problem = file.load()
        self._level = job.info.level or Level.FULL
        self._kept = {reference.point for reference in self._state.references()}

    @property
    def _generation(self) -> str:
        return self._client.recovery_points.generation

    def base(self, vm_name: str) -> state.Reference | None:
        """The reference to compare with, still on the cluster; None for a full.

        A full that was not asked for is announced in the job log, or refused with ChainError.
        """
        if self._level is Level.FULL:
            return None
        found = state.find_base(self._state, self._level.value, self._job.info.prev_job_name)
        if found.reference:
            found = self._still_usable(found.reference)
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
        self._job.warn(f"VM {vm_name} is backed up in full: {reason}")

    def drop_obsolete(self, base: state.Reference | None) -> None:
        """Delete the references that no later job can ask for.

        An incremental on `base` proves that the Director holds the job of `base`. Any other job
        proves nothing, so the newest reference stays as well: the job may yet fail. With each stays
        that of its full, on which a differential would stand. What cannot be deleted now stays
        recorded, for the next job to try.
        """
        recorded = self._state.references()
        kept = [base] if base else []
        if self._level is not Level.INCREMENTAL or not base:
            kept += recorded[-1:]
        if not self._job.settings.is_lean:
            fulls = [full for end in kept if (full := self._state.full_behind(end))]
            kept += [full for full in fulls if full.generation == self._generation]
        self._drop_all_but(kept)

    def keep_only_newest(self) -> None:
        """Delete every reference but the newest, without waiting for the proof that it counts."""
        self._drop_all_but(self._state.references()[-1:])
        self._file.save(self._state.with_only(self._kept))

    def _drop_all_but(self, kept: Sequence[state.Reference]) -> None:
        needed = {reference.point for reference in kept}
        for reference in self._state.references():
            if reference.point not in needed:
                self._drop(reference)

    def _drop(self, reference: state.Reference) -> None:
        if reference.generation != self._generation:
            self._job.warn(
                f"{reference.generation} recovery point {reference.point} is not needed, but Prism "
                f"is used over {self._generation} now: delete it there, or let it expire"
            )
            self._kept.discard(reference.point)
            return
        try:
            self._client.recovery_points.delete(reference.point)
        except PrismError as error:
            self._job.warn(
                f"recovery point {reference.point} is not needed, but stays for now: {error}"
            )
        else:
            self._kept.discard(reference.point)

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

    def record_failure(self, error: Exception) -> None:
        """Add this job as one in which the VM failed with `error`, which stays the first error."""
        try:
            self.record(None)
        except StateError as second:  # costs a full, which will say so
            error.add_note(f"then: {second}")

    def _still_usable(self, reference: state.Reference) -> state.Base:
        """The reference as a base, or why it is none any more."""
        if reference.generation != self._generation:
            return state.Base(
                None,
                f"Prism is used over its API {self._generation} now, which cannot compare with "
                f"what the previous job left over {reference.generation}",
            )
        try:
            self._client.recovery_points.get(reference.point)
        except NotFound:
            return state.Base(None, "the reference of the previous job is gone from the cluster")
        return state.Base(reference)
