"""The digest of the content of raw images, as the store keeps it.

The digest of a disk is a sum over its chunks, so that a cycle changes it without reading the rest:
each chunk that is not all zero adds its XXH3-128, seeded with its number. It guards against damage,
not against forgery.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import phcbt01
import xxhash

if TYPE_CHECKING:
    from vm_replica.protocol.messages import Buffer

CHUNK = 65_536
"""Bytes whose digest is one term of the sum; the last chunk of a disk is taken as filled up."""
STEP = 16 * CHUNK
"""Bytes read at a time."""
_MODULUS = 1 << 128
_PREFIX = "xxh3-sum:"
EMPTY = f"{_PREFIX}{0:032x}"
"""The digest of a disk that is all zeros."""


def term(number: int, chunk: Buffer) -> int:
    """What a chunk (of CHUNK bytes, fewer only at the end of a disk) adds to the sum."""
    if phcbt01.is_zero(chunk):
        return 0
    view = memoryview(chunk)
    if len(view) < CHUNK:
        view = memoryview(bytes(view) + bytes(CHUNK - len(view)))
    return xxhash.xxh3_128_intdigest(view, number)


class ContentDigest:
    """The digest of a disk's content while it changes."""

    def __init__(self, text: str = EMPTY) -> None:
        """Start with a digest; raise ValueError for what is none."""
        if not text.startswith(_PREFIX):
            raise ValueError(f"{text!r} is no digest of a content")
        self._sum = int(text.removeprefix(_PREFIX), 16)

    def replace(self, number: int, old: Buffer, new: Buffer) -> None:
        """A chunk has got another content."""
        self._sum = (self._sum - term(number, old) + term(number, new)) % _MODULUS

    def add(self, offset: int, view: Buffer) -> None:
        """Add chunks that were zeros before; `offset` is a multiple of CHUNK."""
        window = memoryview(view)
        for at in range(0, len(window), CHUNK):
            number = (offset + at) // CHUNK
            self._sum = (self._sum + term(number, window[at : at + CHUNK])) % _MODULUS

    def text(self) -> str:
        """The digest so far."""
        return f"{_PREFIX}{self._sum:032x}"
