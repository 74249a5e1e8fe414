"""What all disks are: bytes that are read at any offset."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

from durable.closable import Closable

if TYPE_CHECKING:
    from collections.abc import Iterable


class Disk(Closable):
    """A disk that is only read. A context manager."""

    @property
    @abstractmethod
    def size(self) -> int:
        """Bytes of the disk."""

    @abstractmethod
    def read(self, offset: int, length: int) -> bytes | bytearray:
        """Exactly so many bytes; what lies behind the end of the disk are zeros."""

    @abstractmethod
    def extents(self) -> Iterable[tuple[int, int]]:
        """The ranges (begin, end) that may hold something else than zeros, ascending, disjoint."""
