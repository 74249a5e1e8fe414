"""What reading a damaged file system leads to, in the libraries and here."""

from __future__ import annotations

import struct

DAMAGE = (
    OSError,
    ValueError,
    LookupError,
    ArithmeticError,
    MemoryError,
    struct.error,
    TypeError,  # these two for fields for which a library gives None
    AttributeError,
)


def words(error: BaseException) -> str:
    """The cause as one line: in the error of a library the second sentence is the innermost."""
    parts = str(error).partition("\n")[0].split(". ")
    text = parts[1] if len(parts) > 1 else parts[0]
    return (text or type(error).__name__)[:300]
