"""Which older generations are kept: a rule about numbers and times."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vm_replica.store.catalog import Generation

HOUR, DAY = 3600, 86_400


@attrs.frozen
class Retention:
    """Which older generations are kept. Times in seconds since their commit.

    None younger than `protect` is ever dropped. Of the others are kept: the newest `count`, the
    last one of each of the newest `hours` hours and `days` days that have any. What is older than
    `age` is dropped all the same (0: there is no such limit).
    """

    count: int = 24
    age: int = 0
    protect: int = 7 * DAY
    hours: int = 24
    days: int = 30


def superfluous(points: Sequence[Generation], retention: Retention, now: float) -> list[int]:
    """The numbers of the older generations (oldest first) that need not be kept."""
    kept = {point.number for point in points[max(len(points) - retention.count, 0) :]}
    kept |= _last_of_each(points, HOUR, retention.hours)
    kept |= _last_of_each(points, DAY, retention.days)
    return [
        point.number
        for point in points
        if point.committed < now - retention.protect or not retention.protect
        if point.number not in kept or 0 < retention.age < now - point.committed
    ]


def _last_of_each(points: Sequence[Generation], unit: int, number: int) -> set[int]:
    """The last point of each of the newest `number` units of time that have one."""
    last = {point.committed // unit: point.number for point in points}
    return {last[key] for key in sorted(last, reverse=True)[:number]}
