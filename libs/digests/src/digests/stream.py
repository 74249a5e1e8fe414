"""The digest of a stream, as manifests hold it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import xxhash

if TYPE_CHECKING:
    from typing import TypeAlias

    Buffer: TypeAlias = bytes | bytearray | memoryview


class StreamDigest:
    """The digest of a stream in manifests: `xxh3-128:` and 32 hexadecimal digits.

    It guards against damage, not against forgery: whoever can alter the backup can alter the
    manifest. So it may be as fast as memory, which SHA-256 is not.
    """

    def __init__(self) -> None:
        """Start with the empty stream."""
        self._state = xxhash.xxh3_128()

    def update(self, piece: Buffer) -> None:
        """Add the next piece."""
        self._state.update(piece)

    def text(self) -> str:
        """The digest of everything so far."""
        return f"xxh3-128:{self._state.hexdigest()}"
