"""The copies of one replica: which restore point, by what name, and by which activator."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING
from uuid import uuid4

import attrs

from vm_replica.failover.errors import FailoverFailed, FailoverRefused
from vm_replica.failover.shared import OF_COPIES
from vm_replica.failover.transitions import Copy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from vm_replica.failover.point import Activator, Point
    from vm_replica.failover.stored import StoredReplica
    from vm_replica.failover.transitions import Record


def _none(_: Copy) -> None:
    return None


@attrs.frozen
class PointCopies:
    """Copies of `replica`, by the activator of the target that was given, if one was.

    `local` gives the activator of a copy on this host: it can be removed without a target.
    `generation` is the restore point, None for the newest; `name` the copy's, if it was given.
    With `exact`, a volume group that another copy brought in another state will not do, and with a
    `generation` one in a newer state.
    """

    replica: StoredReplica
    activator: Activator | None
    local: Callable[[Copy], Activator | None] = _none
    generation: int | None = None
    name: str = ""
    exact: bool = False

    def refuse_unfit(self, *, test: bool) -> None:
        """Raise FailoverRefused when no copy can be made."""
        if self.activator is None:
            raise FailoverRefused(
                "say where to make the copy: --folder DIR for this host, "
                "or --target KEY=VALUE for a cluster"
            )
        point = self._point(self.generation)
        if not getattr(self.activator, "leaves_groups", False):
            _refuse_without_groups(self.activator, point)
        self.activator.refuse_unfit(self._name(test=test), point, test=test)

    def refuse_unwatched(self) -> None:
        """Raise FailoverRefused when the target starts nothing."""
        if self.activator is not None and not self.activator.starts:
            raise FailoverRefused(
                f"a copy at {self.activator.place} is not started, so no drill is possible: give "
                "--target KEY=VALUE of a cluster"
            )

    def refuse_foreign(self, copy: Copy) -> None:
        """Raise FailoverRefused when the copy is on a target that was not given."""
        if self._remover(copy) is None:
            raise FailoverRefused(_not_given(copy))

    def refuse_lost(self, copy: Copy) -> None:
        """Raise FailoverRefused when the copy, which was made, is not at its place."""
        look = getattr(self._remover(copy), "has", None)
        try:
            is_there = look is None or look(copy)
        except FailoverFailed as error:
            raise FailoverRefused(
                f"{error}: if {copy.place} is lost for good, repeat this with --abandon"
            ) from error
        if not is_there:
            raise FailoverRefused(
                f"the copy {copy.name} (key {copy.key}) is not found at {copy.place}: look whether "
                "it runs there under another name, without the key in its description, and remove "
                "it; when it is gone, repeat this with --abandon"
            )

    def intend(self, *, test: bool) -> Copy:
        """Choose name, place, key and generation of a copy."""
        activator = self._require()
        generation = self.generation or self.replica.newest
        return Copy(
            str(uuid4()), self._name(test=test), activator.kind, activator.place, generation
        )

    def make(self, copy: Copy, *, test: bool) -> str:
        """Make it."""
        return self._require().make(copy, self._point(copy.generation), test=test)

    def watch(self, copy: Copy) -> str:
        """Start it and watch it."""
        return self._require().watch(copy)

    def remove(self, copy: Copy, *, test: bool) -> None:
        """Remove what there is of it, but no volume group that the copy of another VM may need."""
        remover = self._remover(copy)
        if remover is None:
            raise FailoverFailed(_not_given(copy))
        if test or not _shares_groups(remover):
            remover.remove(copy)
        else:
            remover.remove(copy, self.replica.kept_groups(copy.place))

    @contextmanager
    def turn(self, record: Record, *, recovers: bool) -> Iterator[None]:
        """Hold while the begin of an event is written down.

        Raises FailoverRefused while a VM that shares a volume group fails over, or is undone, and
        for a new copy also when it cannot be read whether one shares a group.
        """
        with self.replica.turn():
            if place := self._shared_place(record, recovers=recovers):
                self.replica.refuse_unfinished(place, only_live=recovers)
                if not record.copy:
                    self.replica.refuse_unreadable()
            yield

    def _shared_place(self, record: Record, *, recovers: bool) -> str:
        """Where the event makes or removes volume groups that VMs share; empty for nowhere."""
        if record.doing not in OF_COPIES or (recovers and not record.copy):
            return ""
        activator = self._remover(record.copy) if record.copy else self.activator
        if activator is None or not _shares_groups(activator):
            return ""
        makes_none = not record.copy and getattr(activator, "leaves_groups", False)
        return "" if makes_none else activator.place

    def _point(self, generation: int | None) -> Point:
        point = self.replica.point(generation)
        chosen = self.generation is not None
        groups = [attrs.evolve(group, exact=self.exact, chosen=chosen) for group in point.groups]
        return attrs.evolve(point, groups=tuple(groups))

    def _name(self, *, test: bool) -> str:
        return self.name or f"{self.replica.vm_name}-{'test' if test else 'failover'}"

    def _remover(self, copy: Copy) -> Activator | None:
        found = self.activator
        fits = found is not None and (found.kind, found.place) == (copy.kind, copy.place)
        return found if fits else self.local(copy)

    def _require(self) -> Activator:
        if self.activator is None:
            raise FailoverFailed("no target was given for the copy")
        return self.activator


def _shares_groups(activator: Activator) -> bool:
    return getattr(activator, "shares_groups", False)


def _refuse_without_groups(activator: Activator, point: Point) -> None:
    """Raise FailoverRefused when a copy would be without volume groups, and nobody wants that."""
    if point.missing:
        raise FailoverRefused(
            f"{'; '.join(point.missing)}: give another restore point, or --target volume_groups=no "
            "to have the VM without its volume groups"
        )
    if point.groups and not getattr(activator, "takes_groups", False):
        names = ", ".join(group.name for group in point.groups)
        raise FailoverRefused(
            f"a copy at {activator.place} would be without its volume groups ({names}): "
            "give another target"
        )


def _not_given(copy: Copy) -> str:
    return (
        f"the copy {copy.name} is at {copy.place} ({copy.kind}): "
        "give --target KEY=VALUE, so that it can be reached"
    )
