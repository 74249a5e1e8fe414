"""A run of D packets of one length, read to where their payloads follow each other. No IO.

bacula-fd cuts the content of a file into D packets of 64 KiB. The headers of those to come are
known, so a reader can have each payload put where the one before it ends, without a copy and
without a look at each packet. What turns out to be something else is handed back as it came.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from ptcomm._layout import HEADER_SIZE, build_header

if TYPE_CHECKING:
    from collections.abc import Callable

MOST = 64
"""Packets of a run: twice as many pieces of memory are read into at once, IOV_MAX is 1024."""


class Run:
    """Up to MOST D packets of `length` bytes each, whose payloads go to `buffer`."""

    def __init__(self, buffer: memoryview, length: int) -> None:
        """Expect as many packets as `buffer` has room for, which is one at least."""
        count = min(len(buffer) // length, MOST)
        self._header = build_header(b"D", length)
        self._heads = memoryview(bytearray(HEADER_SIZE * count))
        self._buffer = buffer
        self._length = length
        self._got = 0
        self._left: deque[memoryview] = deque()
        for number in range(count):
            self._left += self._packet(number)

    def read(self, readv: Callable[[list[memoryview]], int]) -> bool:
        """Read until all packets are in, or something else is; return whether input is left."""
        while self._left and self._is_run():
            count = readv(list(self._left))
            if not count:
                return False
            self._got += count
            drop(self._left, count)
        return True

    @property
    def whole(self) -> int:
        """How many packets have come, before anything else or a part of one."""
        complete = self._got // (HEADER_SIZE + self._length)
        heads = self._heads[: HEADER_SIZE * complete]
        if heads == self._header * complete:
            return complete
        return next(
            number
            for number in range(complete)
            if heads[HEADER_SIZE * number :][:HEADER_SIZE] != self._header
        )

    def rest(self, whole: int) -> bytes:
        """What was read behind so many packets, in its order."""
        left = self._got - whole * (HEADER_SIZE + self._length)
        count = -(-left // (HEADER_SIZE + self._length))
        parts = (part for number in range(count) for part in self._packet(whole + number))
        return b"".join(parts)[:left]

    def _is_run(self) -> bool:
        """Whether each header that is here is the one that was expected."""
        complete, inside = divmod(self._got, HEADER_SIZE + self._length)
        count = complete + (inside >= HEADER_SIZE)
        return self._heads[: HEADER_SIZE * count] == self._header * count

    def _packet(self, number: int) -> tuple[memoryview, memoryview]:
        """Where header and payload of a packet go."""
        return (
            self._heads[HEADER_SIZE * number :][:HEADER_SIZE],
            self._buffer[self._length * number :][: self._length],
        )


def drop(left: deque[memoryview], count: int) -> None:
    """Take the first ``count`` bytes off, and empty parts with them."""
    while left and left[0].nbytes <= count:
        count -= left.popleft().nbytes
    if count:
        left[0] = left[0][count:]
