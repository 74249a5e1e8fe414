"""What a delta or a raw image is written to, and the rule by which zeros become holes.

No file is opened here: `files.FileTarget` is the target on a file or a block device.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator

    from phcbt01.model import Buffer

PAGE: Final = 4096
"""Smallest run of zeros worth a hole, in bytes: the block of the usual file systems."""

_ZEROS: Final = bytes(1 << 20)


class Target(Protocol):
    """A disk that can be written: what an Applier needs of it. Offsets and lengths in bytes."""

    @property
    def size(self) -> int:
        """How many bytes the disk has."""

    def write(self, offset: int, view: Buffer) -> None:
        """Write all of `view` at `offset`, or raise."""

    def zero(self, offset: int, length: int) -> None:
        """Make the range read as zeros, without using space where that is possible."""

    def resize(self, size: int) -> None:
        """Grow to `size`; the bytes gained read as zeros. Never shrinks: that raises."""

    def flush(self) -> None:
        """Return when everything written is durable."""


def is_zero(view: Buffer) -> bool:
    """Tell whether every byte is zero, at the speed of memcmp (what startswith is made of)."""
    window = memoryview(view)
    step = len(_ZEROS)
    return all(_ZEROS.startswith(window[at : at + step]) for at in range(0, len(window), step))


def write_sparse(target: Target, offset: int, view: Buffer) -> None:
    """Write the pages of `view` that hold data, and zero the pages that hold none.

    Pages are counted from the beginning of the disk; a page cut by either end of `view` is judged
    by the part that is there.
    """
    window = memoryview(view)
    if not window:
        return
    if is_zero(window):
        target.zero(offset, len(window))
        return
    if (offset | len(window)) % PAGE == 0 and _has_data_everywhere(window):
        target.write(offset, window)
        return
    for start, piece, empty in _runs(offset, window):
        if empty:
            target.zero(start, len(piece))
        else:
            target.write(start, piece)


def _has_data_everywhere(view: memoryview) -> bool:
    """Tell at a glance that none of the pages is empty: each begins with a word that is not zero.

    False means that it takes a closer look.
    """
    return 0 not in view.cast("B").cast("Q")[:: PAGE // 8].tolist()


def _runs(offset: int, view: memoryview) -> Iterator[tuple[int, memoryview, bool]]:
    """Cut `view` into the longest runs of pages that are all zero, or all not."""
    begin, was_empty = 0, False
    at, end = 0, PAGE - offset % PAGE
    while at < len(view):
        empty = _ZEROS.startswith(view[at:end])
        if empty != was_empty and at > begin:
            yield offset + begin, view[begin:at], was_empty
            begin = at
        was_empty = empty
        at, end = end, end + PAGE
    yield offset + begin, view[begin:], was_empty
