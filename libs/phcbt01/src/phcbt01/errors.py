"""Everything this library raises, and nothing else may live here.

PhcbtError
├── FormatError          the bytes are not a valid PHCBT01 stream (code, offset in the stream, what)
├── EncodeError          the caller asked for a stream that would not be valid
├── ApplyError           the stream is valid, but the target cannot take it
│   ├── TargetTooSmall   the target cannot hold the disk
│   └── ShrunkDisk       the stream describes a smaller disk than the one it is to change
└── UsageError           calls in an order that would lose data
"""

from __future__ import annotations

import enum


class Code(enum.StrEnum):
    """Why a stream is invalid: stable strings, shared with every other implementation."""

    TRUNCATED = "truncated"
    BAD_MAGIC = "bad-magic"
    BAD_SIZE = "bad-size"
    REGION_EMPTY = "region-empty"
    REGION_ORDER = "region-order"
    REGION_OVERLAP = "region-overlap"
    REGION_BOUNDS = "region-bounds"
    TRAILING_BYTES = "trailing-bytes"


class PhcbtError(Exception):
    """Base of all errors of this library."""


class FormatError(PhcbtError):
    """The stream is not valid PHCBT01.

    `code` is one of `Code`, `offset` the byte in the stream at which the fault lies (which byte
    that is for each code stands in docs/format.md), `what` a sentence for the administrator.
    """

    def __init__(self, code: Code, offset: int, what: str) -> None:
        super().__init__(f"{what} ({code} at byte {offset} of the stream)")
        self.code = code
        self.offset = offset
        self.what = what


class EncodeError(PhcbtError):
    """The caller asked for a stream that would not be valid; nothing more is encoded."""


class ApplyError(PhcbtError):
    """The target does not fit the stream, or could not be written."""


class TargetTooSmall(ApplyError):
    """The target cannot hold as many bytes as the disk has."""


class ShrunkDisk(ApplyError):
    """The stream describes a smaller disk than its base: it belongs to another one."""


class UsageError(PhcbtError):
    """Calls came in an order that would lose data: input not drained, or used after its end."""
