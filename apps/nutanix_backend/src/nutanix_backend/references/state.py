"""The state of a VM on this host: the jobs of its chain and the reference each left on the cluster.

The state is a convenience, never a truth: whether a job counts is decided by the Director (through
the name of the previous job), and whether its reference still exists by the cluster. State that is
lost or damaged costs a full backup, and says so.
"""

from __future__ import annotations

import os
import re
import time
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from urllib.parse import unquote

import attrs
import durable
from durable import records
from prism_client import PointId, PointKind

from nutanix_backend.errors import StateError
from nutanix_backend.references.lists import ListStore
from nutanix_backend.references.point_fields import one_kind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SCHEMA = 1
SENT = "sent"
FAILED = "failed"
_SECOND = 1.01
"""A second, and what the clock of a file system may lag behind."""


@attrs.frozen
class DiskReference:
    """A disk inside a reference: its id, its size then (bytes), and its disk recovery point.

    `image_root` is the root of the digest list of what it held then, empty where none was made.
    `part` is the part of the recovery point that the disk is in, if it is another than that of the
    reference: a disk of a volume group that is replicated with its VM.
    """

    disk_id: str
    size: int
    disk_recovery_point: str
    image_root: str = ""
    part: str = ""


@attrs.frozen
class Reference:
    """What a job left on the cluster, for the next one to be compared with.

    That is a recovery point (v4) or a VM snapshot (v3); the id of the other kind is empty.
    `shared_with` are the ids of the VM and the volume groups that are in it too.
    """

    reference_recovery_point_ext_id: str
    vm_recovery_point: str
    manifest: str
    disks: tuple[DiskReference, ...]
    snapshot_uuid: str = ""
    shared_with: tuple[str, ...] = ()

    def __attrs_post_init__(self) -> None:
        one_kind(self.reference_recovery_point_ext_id, self.snapshot_uuid)

    @property
    def point(self) -> str:
        """The id of the recovery point, of either kind."""
        return self.snapshot_uuid or self.reference_recovery_point_ext_id

    @property
    def point_id(self) -> PointId:
        """The recovery point with its kind."""
        kind = PointKind.VM_SNAPSHOT if self.snapshot_uuid else PointKind.RECOVERY_POINT
        return PointId(kind, self.point)


@attrs.frozen
class JobRecord:
    """One job: its name, what the Director said came before, and what it left.

    `proven` says that a later job named it, or a job on top of it, as its predecessor: the Director
    holds it. Records of version 0.1 do not have it.
    """

    job: str
    job_id: int
    level: str
    predecessor: str
    outcome: str
    reference: Reference | None
    proven: bool = False

    @property
    def series(self) -> str:
        """The name of the job resource: the jobs of one name are one chain."""
        return series_of(self.job)


@attrs.frozen
class VmState:
    """The recorded jobs of a VM, oldest first."""

    schema: int
    vm_id: str
    jobs: tuple[JobRecord, ...]

    def references(self, series: str | None = None) -> list[Reference]:
        """Every reference that is recorded, or those of one series of jobs, oldest first."""
        return [
            record.reference
            for record in self.jobs
            if record.reference and series in {None, record.series}
        ]

    def fulls(self, series: str, *, proven: bool) -> list[Reference]:
        """The references of the fulls of a series, or only of the proven ones, oldest first."""
        return [
            r.reference
            for r in self.jobs
            if r.reference and r.level == "F" and r.series == series and (r.proven or not proven)
        ]

    def full_behind(self, reference: Reference) -> Reference | None:
        """The reference of the full that a recorded one goes back to, if that is recorded too."""
        record = self._full_record(reference)
        return record.reference if record else None

    def with_proof(self, reference: Reference) -> VmState:
        """The state once the Director has named the job of this reference: it holds that job."""
        full = self._full_record(reference)
        jobs = tuple(
            attrs.evolve(r, proven=True) if r.reference == reference or r == full else r
            for r in self.jobs
        )
        return attrs.evolve(self, jobs=jobs)

    def _full_record(self, reference: Reference) -> JobRecord | None:
        at = next(i for i, r in enumerate(self.jobs) if r.reference == reference)
        record = self.jobs[at]
        older = [r for r in self.jobs[:at] if r.series == record.series]
        if record.level == "I":
            record = next((r for r in reversed(older) if r.level != "I"), record)
        if record.level == "D":
            record = next((r for r in older if r.job == record.predecessor), record)
        return record if record.level == "F" else None

    def with_job(self, record: JobRecord, keep: set[str]) -> VmState:
        """The state after a job: its record, and of older ones those whose reference is kept.

        `keep` holds the recovery points that stay.
        """
        kept = self.with_only(keep)
        return attrs.evolve(kept, jobs=(*kept.jobs, record))

    def with_only(self, keep: set[str]) -> VmState:
        """The records whose reference is kept, and those without one that link them."""
        kept = [r for r in self.jobs if r.reference is None or r.reference.point in keep]
        first = next((i for i, r in enumerate(kept) if r.reference), len(kept))
        return attrs.evolve(self, jobs=tuple(kept[first:]))


_RUN = re.compile(r"\.[0-9]{4}-[0-9]{2}-[0-9]{2}_[0-9]{2}\.[0-9]{2}\.[0-9]{2}_[0-9]+$")
"""What the Director adds to the name of a job resource: date, time and a number."""


def series_of(job: str) -> str:
    """The name of the job resource that a job ran for."""
    return _RUN.sub("", job)


@attrs.frozen
class Base:
    """The outcome of looking for a base: a reference, or the reason why there is none."""

    reference: Reference | None
    reason: str = ""


def find_base(state: VmState | None, level: str, previous: str) -> Base:
    """Find what an incremental or a differential may stand on.

    `previous` is the job that the Director holds as the predecessor. An incremental walks from
    there over jobs in which this VM failed; a differential stands on exactly the job named.
    """
    if not previous:
        return Base(None, "the Director named no previous job")
    if state is None:
        return Base(None, "no state of this VM is on this host")
    by_name = {record.job: record for record in state.jobs}
    name = previous
    while name in by_name:
        record = by_name.pop(name)
        if record.reference:
            return Base(record.reference)
        if level == "D":
            return Base(None, f"this VM failed in the full backup {previous}")
        name = record.predecessor
    return Base(None, f"no reference of this VM is recorded for job {previous} or before it")


BACKUP = "bitmap"
REPLICATION = "replication"
"""Folders of the state in which each keeps, for itself alone, what it left on the cluster."""


PULSE = 0.5
"""Seconds between two tries to lock a VM."""


@attrs.frozen
class Patience:
    """How long a job waits for another one that has locked a VM, in seconds.

    `say` is called once when it has to wait; `check` is called while it waits, and raises to end
    that.
    """

    seconds: float
    say: Callable[[str], object]
    check: Callable[[], object]


class StateFile:
    """The state file of one VM, opened and locked; one job at a time may hold it."""

    def __init__(self, path: Path, vm_id: str, vm_name: str = "") -> None:
        """Use the file at `path`; nothing is read before `load`. The name is for messages."""
        self._path = path
        self._vm_id = vm_id
        self._vm = f"{vm_name} ({vm_id})" if vm_name else vm_id
        self.lists = ListStore(path.with_suffix(".lists"))
        """The digest lists of the disks in the references, beside the file."""

    @contextmanager
    def locked(self, patience: Patience | None = None) -> Iterator[None]:
        """Hold the VM against other jobs; raise StateError when one is running for too long."""
        descriptor = self._try_to_lock()
        if descriptor is None and patience:
            descriptor = self._wait_for_lock(patience)
        if descriptor is None:
            waited = f" for more than {patience.seconds:g} s" if patience else ""
            raise StateError(
                f"another job is processing VM {self._vm}{waited}: run this job again when it "
                "has ended"
            )
        try:
            yield
        finally:
            os.close(descriptor)

    def _try_to_lock(self) -> int | None:
        """Return the descriptor of the lock; None when another job holds it. Raises StateError."""
        try:
            durable.make_folder(self._path.parent)
            return durable.open_locked(self._path.with_suffix(".lock"))
        except BlockingIOError:
            return None
        except OSError as error:
            raise StateError(
                f"state_dir is not usable: {error}: check its path and rights"
            ) from error

    def _wait_for_lock(self, patience: Patience) -> int | None:
        patience.say(
            f"another job is processing VM {self._vm}: waiting for it up to "
            f"{patience.seconds:g} s (lock_wait)"
        )
        deadline = time.monotonic() + patience.seconds
        descriptor = None
        while descriptor is None and time.monotonic() < deadline:
            patience.check()
            time.sleep(PULSE)
            descriptor = self._try_to_lock()
        return descriptor

    def is_kept_by(self, ext_id: str, point: str) -> bool:
        """Whether the state of another VM or volume group of this cluster has a recovery point."""
        other, _ = StateFile(self._path.with_name(f"{ext_id}.json"), ext_id).load()
        return any(reference.point == point for reference in other.references())

    def load(self) -> tuple[VmState, str]:
        """The recorded state and an empty text, or an empty state and why nothing could be used."""
        empty = VmState(SCHEMA, self._vm_id, ())
        try:
            state = records.load(self._path.read_bytes(), VmState, schema=SCHEMA)
        except FileNotFoundError:
            return empty, self._why_missing()
        except (OSError, records.RecordError) as error:
            return empty, f"the state file {self._path} cannot be used: {error}"
        if state.vm_id != self._vm_id:
            return empty, f"the state file {self._path} is of another VM"
        return state, ""

    def _why_missing(self) -> str:
        """A VM whose cluster was renamed has its state below the old name."""
        others = sorted(self._path.parent.parent.glob(f"*/{self._path.name}"))
        if not others:
            return "no state of this VM is on this host"
        return (
            f"its cluster was called {unquote(others[0].parent.name)} in the last job; "
            "a new chain begins under the new name"
        )

    def new_second(self) -> datetime:
        """Now (UTC), more than a second after the last save.

        Names of deltas carry seconds: two jobs of a VM within one would give two files one name, of
        which the catalog keeps only the newer.
        """
        try:
            age = time.time() - self._path.stat().st_mtime
        except OSError:
            return datetime.now(UTC)
        if 0 <= age < _SECOND:
            time.sleep(_SECOND - age)
        return datetime.now(UTC)

    def remove(self) -> None:
        """Forget the VM; raise StateError."""
        try:
            self.lists.keep_only(set())
            durable.remove(self._path)
        except OSError as error:
            raise StateError(f"{self._path} cannot be removed: {error.strerror}") from error

    def save(self, state: VmState) -> None:
        """Replace the state, durable before this returns; raise StateError.

        Digest lists that it does not name are removed.
        """
        try:
            durable.replace(self._path, records.dump(state))
            self.lists.keep_only({d.image_root for r in state.references() for d in r.disks})
        except OSError as error:
            raise StateError(
                f"the state of the VM cannot be saved: {error}: check free space"
            ) from error


STALE = 90 * 86_400
"""Seconds without a job after which the references of a VM are given up."""


def stale_files(state_dir: Path) -> Iterator[StateFile]:
    """The state of each VM that no job has saved for a long time, locked while it is handed out.

    Such a VM was deleted, has left the FileSet, or its cluster was renamed.
    """
    for kind in (BACKUP, REPLICATION):
        for path in sorted((state_dir / kind).glob("*/*.json")):
            file = StateFile(path, path.stem)
            if time.time() - path.stat().st_mtime < STALE:
                continue
            try:
                with file.locked():
                    yield file
            except StateError:  # a job of this VM runs now
                continue


def recorded_points(state_dir: Path) -> dict[str, str]:
    """The recovery points that are references of some VM on this host, and of which job."""
    found: dict[str, str] = {}
    for kind in (BACKUP, REPLICATION):
        for path in (state_dir / kind).glob("*/*.json"):
            known, _ = StateFile(path, path.stem).load()
            found |= {r.reference.point: r.job for r in known.jobs if r.reference}
    return found
