"""Whether a cycle may be taken: rules about values, without a look at any disk or clock."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import phcbt01
from command_line.text import size as for_people

from vm_replica.errors import Code, CycleRefused
from vm_replica.store.catalog import ReplicaRole
from vm_replica.store.image import CHUNK

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from vm_replica.protocol.manifest import CycleDisk, CycleManifest
    from vm_replica.store.catalog import Generation, ReplicaState

TOLERANCE = 600
"""Seconds by which the clock of a source may be ahead of ours."""
_RECORDS = 4
"""How often the text of a manifest is on disk while its cycle is committed."""


@attrs.frozen
class Limits:
    """What the receiver takes; sizes in bytes.

    `reserve` is never filled of the file system; `quota` is what the replicas of one source may
    take (0: no limit), `replicas` how many it may have, and `points` how many older generations a
    replica.
    """

    disks: int = 64
    disk_size: int = 64 << 40
    reserve: int = 1 << 30
    quota: int = 0
    replicas: int = 1000
    points: int = 10_000


def nothing() -> None:
    """Do nothing, where a callable is asked for."""


@attrs.frozen
class Offer:
    """A cycle that a source (fingerprint, or name) wants to send to a replica (cluster, VM).

    `permit` raises CycleRefused when the source may not write the replica any more.
    """

    manifest: CycleManifest
    source: str
    cluster: str
    vm_id: str
    permit: Callable[[], None] = nothing

    @property
    def name(self) -> str:
        """How people call the replica."""
        return f"{self.cluster}/{self.vm_id}"


@attrs.frozen
class Room:
    """What the store has, in bytes.

    `free` in the file system, of which `booked` is promised to other cycles; `block` is its unit;
    `held` is what has arrived for this replica, `allocated` what its images take on disk by disk.
    `takes_file`: whether a file may be as long as the longest disk. `used` is what the source's
    replicas take in this store (only known if there is a quota), `replicas` how many it has.
    """

    free: int
    held: int = 0
    booked: int = 0
    block: int = 4096
    allocated: Mapping[str, int] = attrs.field(factory=dict)
    takes_file: bool = True
    used: int = 0
    replicas: int = 0


def refuse(
    offer: Offer,
    state: ReplicaState | None,
    digests: frozenset[str],
    limits: Limits,
    room: Room,
    now: float,
) -> CycleRefused | None:
    """Why the cycle is not taken, or None. `digests` are those of the replica's points."""
    return (
        refuse_source(offer.name, offer.source, state)
        or _refuse_unready(offer.name, state)
        or _refuse_other_vm(offer)
        or _refuse_size(offer.manifest, limits)
        or _refuse_future(offer.manifest, now)
        or refuse_order(offer, state, digests)
        or _refuse_quota(offer, state, len(digests), limits, room)
        or _refuse_file(offer.manifest, room)
        or _refuse_without_room(offer.manifest, state, limits, room)
    )


def refuse_source(name: str, source: str, state: ReplicaState | None) -> CycleRefused | None:
    """Why this source may not write the replica now, or None."""
    if state is None:
        return None
    if state.source != source:
        return CycleRefused(Code.NOT_ALLOWED, f"the replica {name} is of another source")
    if state.role is not ReplicaRole.REPLICA:
        return CycleRefused(Code.FENCED, f"the replica takes no cycles: {state.reason}")
    return None


def refuse_order(
    offer: Offer, state: ReplicaState | None, digests: frozenset[str]
) -> CycleRefused | None:
    """Why the cycle does not follow on the current generation, or None."""
    current = state.current if state else None
    return _refuse_base(offer, current) or _refuse_replay(offer, current, digests)


def _refuse_unready(name: str, state: ReplicaState | None) -> CycleRefused | None:
    if state is None or state.is_whole:
        return None
    return CycleRefused(
        Code.NOT_READY, f"the replica {name} is being recovered: try again in a minute"
    )


def _refuse_future(manifest: CycleManifest, now: float) -> CycleRefused | None:
    ahead = int(manifest.taken - now)
    if ahead <= TOLERANCE:
        return None
    return CycleRefused(
        Code.BAD_MANIFEST,
        f"the recovery point was taken {ahead} seconds in the future by the receiver's clock: "
        "compare the clocks of the cluster and of the receiver",
    )


def _refuse_other_vm(offer: Offer) -> CycleRefused | None:
    if (offer.manifest.cluster, offer.manifest.vm_id) == (offer.cluster, offer.vm_id):
        return None
    return CycleRefused(Code.BAD_MANIFEST, "the manifest is of another VM")


def _refuse_size(manifest: CycleManifest, limits: Limits) -> CycleRefused | None:
    if (
        len(manifest.disks) <= limits.disks
        and max(disk.size for disk in manifest.disks) <= limits.disk_size
    ):
        return None
    return CycleRefused(
        Code.TOO_LARGE,
        f"the receiver takes at most {limits.disks} disks of at most "
        f"{for_people(limits.disk_size)}",
    )


def _refuse_base(offer: Offer, current: Generation | None) -> CycleRefused | None:
    manifest = offer.manifest
    if manifest.is_seed:
        return None
    if current is None:
        return CycleRefused(Code.NEEDS_SEED, f"the replica {offer.name} is empty: send a seed")
    if manifest.base != current.digest:
        return CycleRefused(
            Code.WRONG_BASE,
            f"the replica {offer.name} has generation {current.number}, and the cycle stands on "
            "another one: send the changes since that, or a seed",
            needs=current.digest,
        )
    for disk in manifest.disks:
        before = current.disk(disk.disk_id)
        if not disk.whole and (before is None or before.size > disk.size):
            what = "is new" if before is None else "has shrunk"
            return CycleRefused(
                Code.NOT_READY, f"disk {disk.index} {what}: send it whole", needs=manifest.base
            )
    return None


def _refuse_replay(
    offer: Offer, current: Generation | None, digests: frozenset[str]
) -> CycleRefused | None:
    if current is None:
        return None
    if offer.manifest.taken >= current.moment and offer.manifest.digest() not in digests:
        return None
    return CycleRefused(
        Code.REPLAYED,
        f"the cycle is not newer than generation {current.number} of {offer.name}",
        needs=current.digest,
    )


def _refuse_quota(
    offer: Offer, state: ReplicaState | None, points: int, limits: Limits, room: Room
) -> CycleRefused | None:
    if state is None and room.replicas >= limits.replicas:
        what = f"has {room.replicas} replicas here, and may have {limits.replicas}"
    elif points >= limits.points:
        what = f"has {points} restore points of this VM here, and may have {limits.points}"
    elif limits.quota and _after(offer.manifest, state, room) > limits.quota:
        what = (
            f"uses {for_people(room.used)} here, may use {for_people(limits.quota)}, and with this "
            f"cycle would use up to {for_people(_after(offer.manifest, state, room))}"
        )
    else:
        return None
    return CycleRefused(Code.NO_SPACE, f"the source {what}")


def _after(manifest: CycleManifest, state: ReplicaState | None, room: Room) -> int:
    """Bytes that the source's replicas may take with this cycle."""
    return room.used - room.held + needed(manifest, state, room)


def _refuse_file(manifest: CycleManifest, room: Room) -> CycleRefused | None:
    if room.takes_file:
        return None
    largest = max(disk.size for disk in manifest.disks)
    return CycleRefused(
        Code.TOO_LARGE,
        f"the receiver's file system cannot hold a file of {for_people(largest)}: use one without "
        "this limit, such as XFS",
    )


def _refuse_without_room(
    manifest: CycleManifest, state: ReplicaState | None, limits: Limits, room: Room
) -> CycleRefused | None:
    """All that the cycle may write must fit, besides what was promised to others.

    Then a full file system is met here, and not while images are half written. What is in the
    spool counts as free: it is of this cycle, or makes room for it.
    """
    wanted = needed(manifest, state, room) - room.held + limits.reserve
    free = room.free - room.booked
    if free >= wanted:
        return None
    return CycleRefused(
        Code.NO_SPACE,
        f"the receiver has {for_people(max(free, 0))} free, and {for_people(wanted)} are needed "
        "(with what is kept in reserve)",
    )


def needed(manifest: CycleManifest, state: ReplicaState | None, room: Room) -> int:
    """Bytes that a cycle takes of the file system at most: spool, images and undo deltas."""
    current = state.current if state else None
    total = _RECORDS * (len(manifest.encode()) + room.block)
    for disk in manifest.disks:
        total += _blocks(disk.stream_bytes, room.block) + _growth(disk, room.block)
        if before := current.disk(disk.disk_id) if current else None:
            allocated = room.allocated.get(disk.disk_id, 0)
            total += _blocks(_undo(disk, before.size, allocated), room.block)
    return total


def _growth(disk: CycleDisk, block: int) -> int:
    """Bytes by which an image may grow: a region of one byte takes a block."""
    return min(_blocks(disk.size, block), _touched(disk, block))


def _undo(disk: CycleDisk, old_size: int, allocated: int) -> int:
    """Length of the undo delta at most: of a disk that comes whole, all that it held before."""
    if not disk.whole:
        return disk.stream_bytes
    chunks = -(-min(_blocks(old_size, CHUNK), _touched(disk, CHUNK) + allocated) // CHUNK)
    return phcbt01.encoded_size(chunks, chunks * CHUNK)


def _touched(disk: CycleDisk, unit: int) -> int:
    """Bytes of all units of the disk that the regions of its stream may touch."""
    data = disk.stream_bytes - phcbt01.encoded_size(disk.regions, 0)
    return data + 2 * unit * disk.regions


def _blocks(length: int, block: int) -> int:
    return -(-length // block) * block
