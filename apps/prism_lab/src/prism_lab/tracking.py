"""What may be wrong with a cluster's change tracking: `lab.spoil_changes(forget(3))`.

Each makes another list of changed blocks out of the true one. What it makes stays the same for
every page and for every look, as a cluster's error would; only comparing the data finds it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from prism_lab._regions import Region, Spoil


def forget(number: int) -> Spoil:
    """The changed block of this number, from 0 on, is not listed."""

    def spoil(blocks: list[Region]) -> list[Region]:
        return blocks[:number] + blocks[number + 1 :]

    return spoil


def shift(blocks: list[Region]) -> list[Region]:
    """The first changed block is listed one block further on."""
    first = blocks[0]
    size = first.end - first.start
    return [attrs.evolve(first, start=first.end, end=first.end + size), *blocks[1:]]


def miss_discards(blocks: list[Region]) -> list[Region]:
    """What was given back, and reads as zero now, is not listed."""
    return [block for block in blocks if block.kind != "ZEROED"]
