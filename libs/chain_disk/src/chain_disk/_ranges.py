"""Ranges of a disk: joined, widened and cut into steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


def aligned(extents: Iterable[tuple[int, int]], step: int, size: int) -> Iterator[tuple[int, int]]:
    """The extents (ascending by their begin) widened to multiples of `step`, joined, cut to `size`.

    Those that overlap or touch become one.
    """
    begin = end = 0
    for low, high in extents:
        start, stop = low - low % step, min(high + -high % step, size)
        if start > end or not end:
            if end > begin:
                yield begin, end
            begin, end = start, max(stop, start)
        else:
            end = max(end, stop)
    if end > begin:
        yield begin, end


def steps(extents: Iterable[tuple[int, int]], step: int) -> Iterator[tuple[int, int]]:
    """The extents cut into (offset, length) of at most `step` bytes."""
    for begin, end in extents:
        for at in range(begin, end, step):
            yield at, min(step, end - at)
