"""How a list of many pages proves to be whole, whatever API it comes from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from prism_client.errors import BadAnswer

if TYPE_CHECKING:
    from collections.abc import Sequence

ROUNDS = 5  # readings of a list that changes meanwhile


@attrs.define
class Reading:
    """How far one reading of a list has come, and what the pages say about the whole."""

    ids: set[str] = attrs.field(factory=set)
    totals: set[int | None] = attrs.field(factory=set)
    total: int | None = None

    def add(self, ids: Sequence[str], total: int | None, where: str) -> None:
        """Take in the ids of one page and the size of the whole list as that page states it."""
        before = len(self.ids)
        self.ids.update(ids)
        if ids and len(self.ids) == before:
            raise BadAnswer(f"{where}: the page repeats what earlier pages listed")
        self.total = total
        self.totals.add(total)

    def is_at_end(self) -> bool:
        """Say whether as many were seen as there are."""
        return self.total is not None and len(self.ids) >= self.total

    def is_whole(self) -> bool:
        """Say whether all pages agree on the size, and that many were seen."""
        return len(self.totals) == 1 and (self.total is None or len(self.ids) == self.total)
