"""Whether a cycle may be taken: rules about values, without a look at any disk or clock."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
from command_line.text import size as for_people

from vm_replica.errors import Code, CycleRefused
from vm_replica.store.catalog import Role

if TYPE_CHECKING:
    from vm_replica.protocol.manifest import CycleManifest
    from vm_replica.store.catalog import Generation, ReplicaState


@attrs.frozen
class Limits:
    """What the receiver takes; sizes in bytes. `reserve` is never filled of the file system."""

    disks: int = 64
    disk_size: int = 64 << 40
    reserve: int = 1 << 30


@attrs.frozen
class Offer:
    """A cycle that a source (fingerprint, or name) wants to send to a replica (cluster, VM)."""

    manifest: CycleManifest
    source: str
    cluster: str
    vm_id: str

    @property
    def name(self) -> str:
        """How people call the replica."""
        return f"{self.cluster}/{self.vm_id}"


@attrs.frozen
class Room:
    """Bytes: `free` in the file system, and `held` by what has arrived for this replica."""

    free: int
    held: int


def refuse(
    offer: Offer, state: ReplicaState | None, digests: frozenset[str], limits: Limits, room: Room
) -> CycleRefused | None:
    """Why the cycle is not taken, or None. `digests` are those of the replica's points."""
    return (
        refuse_source(offer.name, offer.source, state)
        or _refuse_other_vm(offer)
        or _refuse_size(offer.manifest, limits)
        or refuse_order(offer, state, digests)
        or _refuse_without_room(offer.manifest, state, limits, room)
    )


def refuse_source(name: str, source: str, state: ReplicaState | None) -> CycleRefused | None:
    """Why this source may not write the replica now, or None."""
    if state is None:
        return None
    if state.source != source:
        return CycleRefused(Code.NOT_ALLOWED, f"the replica {name} is of another source")
    if state.role is not Role.REPLICA:
        return CycleRefused(Code.FENCED, f"the replica takes no cycles: {state.reason}")
    return None


def refuse_order(
    offer: Offer, state: ReplicaState | None, digests: frozenset[str]
) -> CycleRefused | None:
    """Why the cycle does not follow on the current generation, or None."""
    current = state.current if state else None
    return _refuse_base(offer, current) or _refuse_replay(offer, current, digests)


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
    if offer.manifest.taken >= current.manifest.taken and offer.manifest.digest() not in digests:
        return None
    return CycleRefused(
        Code.REPLAYED,
        f"the cycle is not newer than generation {current.number} of {offer.name}",
        needs=current.digest,
    )


def _refuse_without_room(
    manifest: CycleManifest, state: ReplicaState | None, limits: Limits, room: Room
) -> CycleRefused | None:
    """The spool, what the images may grow by, and the undo deltas must fit, in the worst case.

    Then a full file system is met here, and not while images are half written. What is in the
    spool counts as free: it is of this cycle, or makes room for it.
    """
    is_first = state is None or state.current is None
    needed = manifest.stream_bytes * (2 if is_first else 3) - room.held + limits.reserve
    if room.free >= needed:
        return None
    return CycleRefused(
        Code.NO_SPACE,
        f"the receiver has {for_people(room.free)} free, and {for_people(needed)} are needed "
        "(with what is kept in reserve)",
    )
