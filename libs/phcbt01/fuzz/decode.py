"""Any bytes: events or FormatError, the same whole, cut and indexed; the accepted re-encodes."""

from __future__ import annotations

from phcbt01.testing import check_input


def check(data: bytes) -> None:
    """Decode the bytes whole, in halves and byte by byte."""
    check_input(data, range(0, len(data), 1 + len(data) // 7))
    check_input(data, range(len(data)))
