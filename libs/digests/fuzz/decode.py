"""Any bytes: a list or BadList; the accepted re-encodes to the same bytes."""

from __future__ import annotations

from digests import BadList, ImageDigests


def check(data: bytes) -> None:
    """Decode the bytes; a list has one form."""
    try:
        image = ImageDigests.decode(data)
    except BadList:
        return
    if image.encode() != data:
        raise AssertionError(f"{data!r} is not the one form of its list")
