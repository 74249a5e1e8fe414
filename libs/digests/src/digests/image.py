"""The digest list of a disk image: a digest for each block of 1 MiB, and one root over all.

docs/format.md is normative for the bytes. The list is kept up to date from what is written to an
image: a block that is written from its beginning to its end is known at once, one that is written
in part becomes *stale* until somebody reads it and says what it holds.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

import xxhash

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Self

    from digests.stream import Buffer

BLOCK: Final = 1 << 20
"""Bytes of a block; the last block of an image may be shorter."""
MAGIC: Final = b"PHDGL01\0"
_HEADER = struct.Struct("<8sQ")
_LARGEST = (1 << 63) - 1
_WIDTH = 16
_ZEROS = memoryview(bytes(BLOCK))
_ZERO = xxhash.xxh3_128_digest(_ZEROS)
_UNTOUCHED, _KNOWN, _STALE = 0, 1, 2
_DISTRUSTED = bytes([_UNTOUCHED, _STALE, _STALE]).ljust(256, b"\0")


class BadList(ValueError):
    """The bytes are not a digest list."""


def blocks_of(size: int) -> int:
    """How many blocks an image of `size` bytes has."""
    return -(-size // BLOCK)


def encoded_size(size: int, data_blocks: int) -> int:
    """Bytes of the list of an image of `size` bytes, of whose blocks so many are not all zero."""
    return _HEADER.size + -(-blocks_of(size) // 8) + _WIDTH * data_blocks


class ImageDigests:
    """The digests of the blocks of an image, which all know of what is written to it.

    What is written is told by `update`, `zeros` and `resize`, in the order in which it is written.
    Only as long as no block is stale there is a root, and a list to be encoded.
    """

    def __init__(self, size: int) -> None:
        """Start with an image of `size` bytes that are all zero."""
        self.size = 0
        self._digests = bytearray()
        self._marks = bytearray()
        self._block = xxhash.xxh3_128()
        self._next = -1
        """Where the block goes on that is being written from its beginning; -1 when none is."""
        self.resize(size)

    @classmethod
    def unknown(cls, size: int) -> Self:
        """The list of an image that nobody has read: every block is stale."""
        image = cls(size)
        image.doubt(0, size)
        return image

    def __len__(self) -> int:
        """Number of blocks."""
        return len(self._marks)

    # --- what is written

    def resize(self, size: int) -> None:
        """The image grew to `size` bytes; what it gained is zero. It never shrinks: ValueError."""
        if size < self.size:
            raise ValueError(f"an image of {self.size} bytes does not shrink to {size}")
        if size == self.size:
            return
        old, new = len(self), blocks_of(size)
        if self.size % BLOCK:
            self._marks[-1] = _STALE
        self.size = size
        self._digests += _ZERO * (new - old)
        self._marks += bytes(new - old)
        if size % BLOCK and new > old:
            self._set(new - 1, xxhash.xxh3_128_digest(_ZEROS[: size % BLOCK]), _UNTOUCHED)

    def update(self, offset: int, data: Buffer) -> None:
        """`data` was written at `offset`."""
        view = memoryview(data).cast("B")
        while view:
            piece = view[: BLOCK - offset % BLOCK]
            self._part(offset, piece)
            view, offset = view[len(piece) :], offset + len(piece)

    def zeros(self, offset: int, length: int) -> None:
        """`length` zero bytes were written at `offset`."""
        head = min(-offset % BLOCK, length)
        blocks = (length - head) // BLOCK
        self.update(offset, _ZEROS[:head])
        if blocks:
            first = (offset + head) // BLOCK
            self._digests[first * _WIDTH : (first + blocks) * _WIDTH] = _ZERO * blocks
            self._marks[first : first + blocks] = bytes([_KNOWN]) * blocks
            self._next = -1
        done = head + blocks * BLOCK
        self.update(offset + done, _ZEROS[: length - done])

    def _part(self, offset: int, piece: memoryview) -> None:
        """A piece of one block was written."""
        number, inside = divmod(offset, BLOCK)
        if inside == 0:
            self._block.reset()
        elif offset != self._next:
            self._marks[number], self._next = _STALE, -1
            return
        self._block.update(piece)
        self._marks[number], self._next = _STALE, offset + len(piece)
        if self._next == self._end(number):
            self._set(number, self._block.digest(), _KNOWN)

    # --- what is read

    def doubt(self, offset: int, length: int) -> None:
        """Make the blocks of this range stale: nobody knows what is there."""
        first, last = offset // BLOCK, blocks_of(offset + length)
        self._marks[first:last] = bytes([_STALE]) * (last - first)

    def distrust(self) -> None:
        """Make every block stale that something was written to: it is to be read back."""
        self._marks = self._marks.translate(_DISTRUSTED)

    def stale(self) -> Iterator[tuple[int, int]]:
        """Offset and length of each block that has to be read, ascending, one after the other."""
        number = self._marks.find(_STALE)
        while number >= 0:
            yield number * BLOCK, self._end(number) - number * BLOCK
            number = self._marks.find(_STALE, number + 1)

    def put(self, offset: int, block: Buffer) -> None:
        """The whole block at `offset` was read."""
        self._set(offset // BLOCK, xxhash.xxh3_128_digest(block), _KNOWN)

    def holds(self, offset: int, block: Buffer) -> bool:
        """Whether the block at `offset` is this one, as far as the list knows."""
        return self._digest(offset // BLOCK) == xxhash.xxh3_128_digest(block)

    def differences(self, other: ImageDigests) -> Iterator[int]:
        """The offsets of the blocks in which two images of one size differ."""
        for number in range(len(self)):
            if self._digest(number) != other._digest(number):
                yield number * BLOCK

    # --- what it says

    def root(self) -> str:
        """The digest of size and list: `xxh3-128:` and 32 hexadecimal digits."""
        self._refuse_stale()
        state = xxhash.xxh3_128(self.size.to_bytes(8, "little"))
        state.update(self._digests)
        return f"xxh3-128:{state.hexdigest()}"

    def data_blocks(self) -> Iterator[tuple[int, bytes]]:
        """Number and digest of each block that holds a byte that is not zero."""
        for number in range(len(self)):
            digest = self._digest(number)
            if digest != self._zero(number):
                yield number, digest

    def encode(self) -> bytes:
        """The list as a file, see docs/format.md."""
        self._refuse_stale()
        marks, digests = bytearray(-(-len(self) // 8)), bytearray()
        for number, digest in self.data_blocks():
            marks[number // 8] |= 1 << number % 8
            digests += digest
        return _HEADER.pack(MAGIC, self.size) + marks + digests

    @classmethod
    def decode(cls, data: Buffer) -> Self:
        """Read a list; raise BadList unless it is what `encode` writes."""
        view = memoryview(data)
        marks = cls._decode_header(view)
        image = cls(int.from_bytes(view[8:16], "little"))
        at = _HEADER.size + len(marks)
        for number in _marked(marks):
            digest = bytes(view[at : at + _WIDTH])
            if number >= len(image) or len(digest) < _WIDTH:
                raise BadList(f"the digest list has no digest of block {number}")
            image._refuse_zero(number, digest)
            image._set(number, digest, _UNTOUCHED)
            at += _WIDTH
        if at != len(view):
            raise BadList(f"a digest list of {at} bytes has {len(view)}")
        return image

    @staticmethod
    def _decode_header(view: memoryview) -> memoryview:
        """Check magic and size; return the marks, all of them."""
        if len(view) < _HEADER.size or bytes(view[:8]) != MAGIC:
            raise BadList("it does not begin as a digest list does")
        size = int.from_bytes(view[8:16], "little")
        marks = view[_HEADER.size : _HEADER.size + -(-blocks_of(size) // 8)]
        if size > _LARGEST or len(marks) * 8 < blocks_of(size):
            raise BadList(f"the digest list of an image of {size} bytes is cut short")
        return marks

    def _refuse_zero(self, number: int, digest: bytes) -> None:
        """A block of zeros is not listed: there is one file for one list."""
        if digest == self._zero(number):
            raise BadList(f"block {number} of the digest list is one of zeros")

    def _refuse_stale(self) -> None:
        if _STALE in self._marks:
            raise ValueError(f"{self._marks.count(_STALE)} blocks were not read yet")

    def _digest(self, number: int) -> bytes:
        return bytes(self._digests[number * _WIDTH : (number + 1) * _WIDTH])

    def _set(self, number: int, digest: bytes, mark: int) -> None:
        self._digests[number * _WIDTH : (number + 1) * _WIDTH] = digest
        self._marks[number] = mark

    def _end(self, number: int) -> int:
        return min((number + 1) * BLOCK, self.size)

    def _zero(self, number: int) -> bytes:
        """The digest that the block has when it is all zero."""
        length = self.size - number * BLOCK
        return _ZERO if length >= BLOCK else xxhash.xxh3_128_digest(_ZEROS[:length])


def _marked(marks: memoryview) -> Iterator[int]:
    """The numbers of the bits that are set."""
    for at, byte in enumerate(marks):
        if byte:
            yield from (8 * at + bit for bit in range(8) if byte >> bit & 1)
