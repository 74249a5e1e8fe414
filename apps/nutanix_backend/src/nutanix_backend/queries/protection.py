"""What is known of each VM and each replica: its last good point, and what was proven of it.

Only what this host has recorded is looked at, Prism is not asked. A VM for which no job of this
host has run is not in here: coverage finds those.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import attrs
from vm_replica.errors import ReplicationError
from vm_replica.evidence import Evidence, TrialKind
from vm_replica.store.access import open_store

from nutanix_backend.queries import coverage
from nutanix_backend.references import evidence, state
from nutanix_backend.references.known import known
from nutanix_backend.references.roster import rosters

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from vm_replica.evidence import Trial
    from vm_replica.store.replica import Replica

    from nutanix_backend.references.known import Blocks, Known


@attrs.frozen
class Tried:
    """The trials of one kind: the last good one, and a later one that failed."""

    good: Trial | None = None
    failed: Trial | None = None

    @classmethod
    def of(cls, known: Evidence, kind: TrialKind) -> Tried:
        """Read them from what is recorded."""
        last = known.last(kind)
        return cls(known.last(kind, good=True), last if last and not last.good else None)


@attrs.frozen
class Protection:
    """A VM or a replica.

    `taken` is the moment of its last good `point` in seconds of the epoch, 0 for none, and `age`
    the seconds since then. `blocks` is None where no digest list is kept.
    """

    kind: str
    name: str
    uuid: str
    cluster: str
    point: str = ""
    taken: int = 0
    age: int = 0
    proof: Tried = Tried()
    drill: Tried = Tried()
    blocks: Blocks | None = None
    problems: tuple[str, ...] = ()

    def plain(self) -> dict[str, object]:
        """For JSON."""
        found = attrs.asdict(self)
        for part in (found["proof"], found["drill"]):
            for trial in filter(None, part.values()):
                trial["kind"] = trial["kind"].value
        return found


def vms(state_dir: Path, days: int) -> Iterator[Protection]:
    """Each VM that this host has saved; one not saved for so many `days` has a problem."""
    recorded = {known.vm_id: known for known in evidence.recorded(state_dir)}
    names = {vm.ext_id: vm.name for roster in rosters(state_dir) for vm in roster.vms}
    jobs = known(state_dir / state.BACKUP)
    for vm_id in sorted(jobs.keys() | recorded.keys(), key=lambda i: (names.get(i, ""), i)):
        tried = recorded.get(vm_id, Evidence())
        name = names.get(vm_id) or tried.vm_name or vm_id
        row = Protection("VM", name, vm_id, tried.cluster)
        yield _with_trials(_of_vm(row, jobs.get(vm_id), days), tried)


def _of_vm(row: Protection, jobs: Known | None, days: int) -> Protection:
    if jobs is None:
        return attrs.evolve(row, problems=("no job of it is recorded on this host",))
    good = [record for record in jobs.jobs if record.outcome == state.SENT]
    return attrs.evolve(
        row,
        cluster=jobs.cluster,
        point=good[-1].job if good else "",
        taken=jobs.saved,
        age=_age(jobs.saved),
        blocks=jobs.blocks(),
        problems=tuple(coverage.problems_of(jobs, None, days)),
    )


def replicas(root: Path) -> Iterator[Protection]:
    """Each replica in the store of a receiver; raise StoreError for what is no store."""
    for replica in open_store(root).replicas():
        row = Protection("replica", replica.name, replica.files.vm_id, replica.files.cluster)
        try:
            yield _with_trials(_of_replica(row, replica), replica.trials())
        except (ReplicationError, OSError) as error:
            yield attrs.evolve(row, problems=(str(error),))


def _of_replica(row: Protection, replica: Replica) -> Protection:
    current = replica.files.existing().current
    if current is None:
        return attrs.evolve(row, problems=("no seed has been committed yet",))
    age, rpo = _age(current.moment), current.manifest.rpo
    late = (f"it lags {age} s behind, {rpo} s are allowed",) if rpo and age > rpo else ()
    return attrs.evolve(
        row,
        name=current.manifest.vm_name or row.name,
        point=f"generation {current.number}",
        taken=current.moment,
        age=age,
        problems=late,
    )


def _with_trials(row: Protection, known: Evidence) -> Protection:
    proof, drill = (Tried.of(known, kind) for kind in TrialKind)
    problems = [
        f"{what} of {tried.failed.point} failed: {tried.failed.text}"
        for what, tried in (("the proof", proof), ("the drill", drill))
        if tried.failed
    ]
    return attrs.evolve(row, proof=proof, drill=drill, problems=(*row.problems, *problems))


def _age(moment: int) -> int:
    return max(0, int(time.time()) - moment) if moment else 0
