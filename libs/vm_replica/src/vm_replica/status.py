"""How the replicas of a store stand: what `status` shows and what monitoring judges."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

import attrs

from vm_replica.errors import ReplicationError
from vm_replica.failover import ledger, shared
from vm_replica.store.accounts import stored_bytes
from vm_replica.store.catalog import ReplicaRole

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from vm_replica.failover.shared import Holder
    from vm_replica.protocol.manifest import ReplicaGroup
    from vm_replica.store.catalog import Generation
    from vm_replica.store.replica import Replica, Store


ALARM_SHARE = 50
"""Percent of what a disk held: who overwrites so much in one cycle has to explain it."""
ALARM_SIZE = 1 << 20
"""Bytes of a disk below which the share says nothing."""
ALARM_TIME = 86_400
"""Seconds for which status shows it."""


class Level(Enum):
    """What a monitor makes of it; the values are the exit codes that they expect."""

    OK = 0
    WARNING = 1
    CRITICAL = 2


@attrs.frozen
class Status:
    """One replica. Times in seconds of the epoch, amounts in bytes, lag and rpo in seconds.

    `taken` is the moment that the current generation shows, 0 if there is none; `lag` that of the
    oldest of its disks, also of a volume group whose disks are in another replica; `size` what its
    disks have, `stored` what the replica takes on disk; `arrived` of `expected` is here of the next
    cycle. `why` says what is wrong, in a line, and is empty when nothing is.
    """

    cluster: str
    vm_id: str
    vm_name: str
    state: str
    level: Level
    why: str
    generation: int
    points: int
    oldest: int
    taken: int
    committed: int
    lag: int
    rpo: int
    size: int
    stored: int
    arrived: int
    expected: int
    error: str
    error_when: int

    def plain(self) -> dict[str, object]:
        """For JSON."""
        return attrs.asdict(self) | {"level": self.level.name}


def statuses(store: Store, now: float, rpo: int = 0) -> Iterator[Status]:
    """The status of each replica; `rpo` is for those whose source has promised none."""
    for replica in store.replicas():
        try:
            yield _status(store, replica, now, rpo)
        except (ReplicationError, OSError) as error:
            files = replica.files
            yield attrs.evolve(
                _EMPTY,
                cluster=files.cluster,
                vm_id=files.vm_id,
                why=str(error),
                error=str(error),
                error_when=int(now),
            )


_EMPTY = Status(
    cluster="",
    vm_id="",
    vm_name="",
    state="unreadable",
    level=Level.CRITICAL,
    why="",
    generation=0,
    points=0,
    oldest=0,
    taken=0,
    committed=0,
    lag=0,
    rpo=0,
    size=0,
    stored=0,
    arrived=0,
    expected=0,
    error="",
    error_when=0,
)


def _status(store: Store, replica: Replica, now: float, rpo: int) -> Status:
    state = replica.files.existing()
    points, arrived, trouble = replica.points(), replica.resumable(), replica.trouble()
    current, failover = state.current, ledger.read(replica.files.path)
    groups: Mapping[ReplicaGroup, Holder | None] = {}
    found = attrs.evolve(
        _EMPTY,
        cluster=state.cluster,
        vm_id=state.vm_id,
        state=failover.state.value,
        generation=state.number,
        points=len(points),
        oldest=points[0].manifest.taken if points else 0,
        rpo=rpo,
        stored=stored_bytes(replica.files.path),
        arrived=sum(arrived.durable_bytes.values()) if arrived else 0,
        expected=arrived.manifest.stream_bytes if arrived else 0,
        error=trouble.text if trouble else "",
        error_when=trouble.when if trouble else 0,
        vm_name=arrived.manifest.vm_name if arrived else "",
    )
    if current:
        groups = shared.holders(store, replica, current, newest=True)
        found = _with_generation(found, current, groups, now)
    takes_cycles = state.role is ReplicaRole.REPLICA
    why, level = _judge(found, takes_cycles=takes_cycles)
    if level is Level.OK and (alarm := _rewriting(points, now)):
        why, level = alarm, Level.WARNING
    if takes_cycles and level is Level.OK and current and (left := current.manifest.left_out):
        why, level = f"its cycles leave out volume group {left[0]}", Level.WARNING
    if takes_cycles and (lost := [group for group, held in groups.items() if not held]):
        why = f"no replica has the disks of its volume group {lost[0].group_id}"
        level = Level.CRITICAL
    if ledger.is_interrupted(replica.files.path, failover):
        why = f"failover {failover.doing} was interrupted: run failover recover"
        level = Level.CRITICAL
    if state.applying:
        why, level = f"generation {state.applying.number} is only half applied", Level.CRITICAL
    if state.rolling:
        why, level = f"the rollback to generation {state.rolling} broke off", Level.CRITICAL
    return attrs.evolve(found, why=why, level=level)


def _with_generation(
    found: Status, current: Generation, groups: Mapping[ReplicaGroup, Holder | None], now: float
) -> Status:
    manifest = current.manifest
    moments = [held.generation.moment for held in groups.values() if held]
    return attrs.evolve(
        found,
        vm_name=manifest.vm_name,
        taken=manifest.taken,
        committed=current.committed,
        lag=max(int(now) - min([current.moment, *moments]), 0),
        rpo=manifest.rpo or found.rpo,
        size=sum(disk.size for disk in current.disks),
    )


def _rewriting(points: list[Generation], now: float) -> str:
    """Which cycle of the last day has overwritten most of a disk, as one does that encrypts it."""
    for point in reversed(points):
        for disk in point.disks:
            is_suspect = disk.size >= ALARM_SIZE and disk.rewritten >= ALARM_SHARE
            if is_suspect and now - point.committed < ALARM_TIME:
                return (
                    f"generation {point.number} has overwritten {disk.rewritten} % of what disk "
                    f"{disk.index} held: if nobody can explain it, generation {point.number - 1} "
                    "is the last good one"
                )
    return ""


def _judge(found: Status, *, takes_cycles: bool) -> tuple[str, Level]:
    """What is wrong. A replica that was failed over to does not lag."""
    if not takes_cycles:
        return "", Level.OK
    if not found.generation:
        return found.error or "no seed has been committed yet", Level.WARNING
    if found.rpo and found.lag > found.rpo:
        level = Level.CRITICAL if found.lag > 2 * found.rpo else Level.WARNING
        error = f": {found.error}" if found.error else ""
        return f"it lags {found.lag} s behind, {found.rpo} s are allowed{error}", level
    return found.error, Level.WARNING if found.error else Level.OK
