"""The copies of one replica: which restore point, by what name, and by which activator."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import attrs
from replica_receiver import host
from replica_receiver.host import Host

from vm_replica.failover.errors import FailoverFailed, FailoverRefused
from vm_replica.failover.transitions import Copy

if TYPE_CHECKING:
    from vm_replica.failover.point import Activator
    from vm_replica.failover.stored import StoredReplica


@attrs.frozen
class PointCopies:
    """Copies of `replica`, by the activator that was asked for, if one was.

    `generation` is the restore point, None for the newest; `name` the copy's, if it was given.
    """

    replica: StoredReplica
    activator: Activator | None
    generation: int | None = None
    name: str = ""

    def refuse_unfit(self, *, test: bool) -> None:
        """Raise FailoverRefused when no copy can be made."""
        if self.activator is None:
            raise FailoverRefused(
                "say where the copy is to be: --folder /a/folder, or --target prism=... for AHV"
            )
        point = self.replica.point(self.generation)
        self.activator.refuse_unfit(self._name(test=test), point, test=test)

    def refuse_foreign(self, copy: Copy) -> None:
        """Raise FailoverRefused when the copy is on a cluster to which no way was given."""
        if self._remover(copy) is None:
            raise FailoverRefused(f"{copy.name} is on {copy.place}: say --target prism=... for it")

    def intend(self, *, test: bool) -> Copy:
        """Choose name, place, key and generation of a copy."""
        activator = self._require()
        generation = self.generation or self.replica.newest
        return Copy(
            str(uuid4()), self._name(test=test), activator.kind, activator.place, generation
        )

    def make(self, copy: Copy, *, test: bool) -> str:
        """Make it."""
        return self._require().make(copy, self.replica.point(copy.generation), test=test)

    def remove(self, copy: Copy) -> None:
        """Remove what there is of it."""
        remover = self._remover(copy)
        if remover is None:
            raise FailoverFailed(f"{copy.name} is on {copy.place}: say --target prism=... for it")
        remover.remove(copy)

    def _name(self, *, test: bool) -> str:
        return self.name or f"{self.replica.vm_name}-{'test' if test else 'failover'}"

    def _remover(self, copy: Copy) -> Activator | None:
        if copy.kind == host.KIND:
            return Host(Path(copy.place))
        found = self.activator
        fits = found is not None and (found.kind, found.place) == (copy.kind, copy.place)
        return found if fits else None

    def _require(self) -> Activator:
        if self.activator is None:
            raise FailoverFailed("it is not known where the copy is to be")
        return self.activator
