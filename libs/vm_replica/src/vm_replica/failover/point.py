"""A restore point as an activator sees it: a configuration, and disks that can be written out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import attrs

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    import phcbt01
    from vm_config.machine import Machine

    from vm_replica.failover.transitions import Copy
    from vm_replica.protocol.manifest import Configuration


@attrs.frozen
class PointDisk:
    """A disk of a restore point: size and `allocated` in bytes.

    `write` puts its bytes into a new file, or into a target that reads as zeros, durably.
    """

    disk_id: str
    index: int
    size: int
    allocated: int
    write: Callable[[Path | phcbt01.Target], object]


@attrs.frozen
class SiblingCopy:
    """The copy of another VM that shares a volume group.

    `doing` is the failover of that VM that is under way, or was interrupted: until it ends there
    may be no copy, or half of one, so `key` and `place` may be empty. Without it the copy is whole.
    """

    vm_name: str
    key: str
    place: str
    doing: str = ""

    def why_to_wait(self, group: str) -> str:
        """Why no other VM that shares the group may fail over, or be undone, meanwhile."""
        return (
            f"VM {self.vm_name} shares volume group {group}, and its failover "
            f"({self.doing}) is under way or was interrupted: wait until it ends, or run "
            f"failover recover {self.vm_name}"
        )


@attrs.frozen
class PointGroup:
    """A volume group of the VM: its disks, in their order, as of `taken` (seconds of the epoch).

    One of the copies of `siblings` may have brought it to the target already, in another state:
    with `exact` that will not do, nor a newer one with `chosen`, when this very point was asked
    for. `is_shared`: other replicated VMs have it as well.
    """

    group_id: str
    name: str
    disks: tuple[PointDisk, ...]
    taken: int
    siblings: tuple[SiblingCopy, ...] = ()
    exact: bool = False
    chosen: bool = False
    is_shared: bool = False


@attrs.frozen
class Point:
    """A restore point: generation 1 is the seed.

    `vm_id` is the VM at the source; `configuration` is as the source wrote it, `machine` what it
    describes. `disks` are the VM's own; `missing` has a line for each volume group that is not
    among `groups`, because no replica of this host has it or it is not wanted.
    """

    generation: int
    vm_id: str
    configuration: Configuration
    machine: Machine
    disks: tuple[PointDisk, ...]
    groups: tuple[PointGroup, ...] = ()
    missing: tuple[str, ...] = ()

    @property
    def all_disks(self) -> tuple[PointDisk, ...]:
        """Its disks and those of its volume groups."""
        return (*self.disks, *(disk for group in self.groups for disk in group.disks))

    @property
    def allocated(self) -> int:
        """Bytes that all disks take when they are written out."""
        return sum(disk.allocated for disk in self.all_disks)

    def without_groups(self) -> Point:
        """The same point, of whose volume groups none is wanted."""
        left_out = (
            f"volume group {group.name} is not in this copy: volume_groups=no"
            for group in self.groups
        )
        return attrs.evolve(self, groups=(), missing=(*self.missing, *left_out))


class Activator(Protocol):
    """Makes VMs of restore points, somewhere."""

    @property
    def kind(self) -> str:
        """A word for the kind of place."""
        ...

    @property
    def place(self) -> str:
        """Where, so that the copy is found again from it."""
        ...

    @property
    def starts(self) -> bool:
        """Whether it can start copies and watch them."""
        ...

    @property
    def takes_groups(self) -> bool:
        """Whether copies have the volume groups of a point; one without this property has not."""
        ...

    @property
    def leaves_groups(self) -> bool:
        """Whether it was told to make copies without volume groups; without this property: no."""
        ...

    @property
    def shares_groups(self) -> bool:
        """Whether copies of VMs that share a group share it; without this property: no."""
        ...

    def refuse_unfit(self, name: str, point: Point, *, test: bool) -> None:
        """Raise FailoverRefused when a copy called `name` cannot be made; makes nothing."""
        ...

    def make(self, copy: Copy, point: Point, *, test: bool) -> str:
        """Make the copy, and say where it is. A test copy reaches no network."""
        ...

    def watch(self, copy: Copy) -> str:
        """Start a copy and say what shows that it lives; raise DrillFailed when nothing does."""
        ...

    def has(self, copy: Copy) -> bool:
        """Whether a copy of this place is there; without this method: nobody looks.

        Raises FailoverFailed when the place does not answer.
        """
        ...

    def remove(self, copy: Copy, kept: Mapping[str, str] = ..., /) -> None:
        """Remove what there is of a copy of this place, if anything.

        `kept` has the volume groups that are to stay, by their id at the source, and why; it is
        given to an activator that shares groups.
        """
        ...
