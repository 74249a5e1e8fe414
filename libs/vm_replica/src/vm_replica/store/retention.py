"""Which older generations are kept: a rule about numbers and times."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vm_replica.store.catalog import Generation


@attrs.frozen
class Retention:
    """How many older generations are kept, and how long (seconds, 0: for ever)."""

    count: int = 24
    age: int = 0


def superfluous(points: Sequence[Generation], retention: Retention, now: float) -> list[int]:
    """The numbers of the older generations (oldest first) that need not be kept."""
    surplus = [point.number for point in points[: max(len(points) - retention.count, 0)]]
    if retention.age:
        for point in points[len(surplus) :]:
            if point.committed >= now - retention.age:
                break
            surplus.append(point.number)
    return surplus
