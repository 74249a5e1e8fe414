"""When each block of a disk was last proven: read, and found to be what its digest list says."""

from __future__ import annotations

import random
import zlib
from array import array
from collections import Counter
from itertools import compress
from typing import TYPE_CHECKING

from digests import BLOCK, blocks_of

if TYPE_CHECKING:
    from typing import Self

NEVER = 0


class ProvenTimes:
    """The time of the last proof of each block, in seconds since 1970; NEVER where there was none.

    Four bytes a block; in a file they are compressed, for most blocks have the time of some other.
    """

    def __init__(self, size: int) -> None:
        """Of a disk of `size` bytes no block was proven yet."""
        self._times = array("I", bytes(4 * blocks_of(size)))
        self._size = size

    def resize(self, size: int) -> None:
        """The disk grew to `size` bytes."""
        if self._size % BLOCK and size > self._size:
            self._times[-1] = NEVER
        self._times.extend(array("I", bytes(4 * (blocks_of(size) - len(self._times)))))
        self._size = size

    def mark(self, offset: int, length: int, when: int) -> None:
        """Of the disk these bytes were read: the blocks that lie inside are proven."""
        end = offset + length
        last = blocks_of(end) if end == self._size else end // BLOCK
        first = blocks_of(offset)
        if first < last:
            self._times[first:last] = array("I", [when]) * (last - first)

    def forget(self, offset: int, length: int) -> None:
        """These bytes changed and were not read: the blocks that they lie in are not proven."""
        first, last = offset // BLOCK, blocks_of(offset + length)
        self._times[first:last] = array("I", [NEVER]) * (last - first)

    def at(self, offset: int) -> int:
        """When the block at `offset` was proven."""
        return self._times[offset // BLOCK]

    def __len__(self) -> int:
        """How many blocks the disk has."""
        return len(self._times)

    def never(self) -> int:
        """How many blocks were never proven."""
        return self._times.count(NEVER)

    def oldest(self) -> int:
        """The oldest time of a block that was proven; NEVER where none was."""
        return min(filter(None, self._times), default=NEVER)

    def choose(self, candidates: bytearray, count: int) -> bytearray:
        """Choose `count` of the blocks whose byte in `candidates` is 1: a 1 for each of them.

        Those come first whose proof is oldest; of equally old ones, any. So every block has its
        turn, after as many jobs as there are such numbers in the candidates.
        """
        by_time = Counter(compress(self._times, candidates))
        left = count
        for limit in sorted(by_time):
            if left < by_time[limit]:
                return self._oldest(candidates, limit, random.sample(range(by_time[limit]), left))
            left -= by_time[limit]
        return bytearray(candidates)

    def _oldest(self, candidates: bytearray, limit: int, ranks: list[int]) -> bytearray:
        """The candidates proven before `limit`, and of those proven then the ones of these ranks.

        One block at a time: a disk of 64 TiB has 67 million.
        """
        chosen, wanted = bytearray(len(candidates)), set(ranks)
        rank = 0
        for number in compress(range(len(candidates)), candidates):
            if self._times[number] < limit:
                chosen[number] = 1
            elif self._times[number] == limit:
                chosen[number] = rank in wanted
                rank += 1
        return chosen

    def encode(self) -> bytes:
        """The times as a file of this host."""
        return zlib.compress(self._times.tobytes(), 1)

    @classmethod
    def decode(cls, data: bytes, size: int) -> Self:
        """Read the times of a disk of `size` bytes; where they cannot be read, there are none."""
        found = cls(size)
        wanted = 4 * len(found._times)
        stream = zlib.decompressobj()
        try:
            times = stream.decompress(data, wanted + 1)
        except zlib.error:
            return found
        if stream.eof and len(times) == wanted:
            found._times = array("I", times)
        return found
