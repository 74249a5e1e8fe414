"""Any two streams: one that does what they do one after the other, or PhcbtError."""

from __future__ import annotations

import io

import phcbt01
from phcbt01.testing import MemoryTarget, decode

LARGEST = 1 << 16  # bytes; larger disks are merged, but not compared


def check(data: bytes) -> None:
    """Merge the two streams that follow the length of the first, two bytes."""
    length = int.from_bytes(data[:2], "little")
    streams = [data[2 : 2 + length], data[2 + length :]]
    out = io.BytesIO()
    try:
        header = phcbt01.merge([io.BytesIO(stream) for stream in streams], out)
    except phcbt01.PhcbtError:
        if out.getvalue():
            raise AssertionError("something was written before the deltas were checked") from None
        return
    if decode(out.getvalue()).fault is not None:
        raise AssertionError("the merged stream is invalid")
    size = _smallest(streams)
    if header.original_size <= LARGEST and _images([out.getvalue()], size) != _images(
        streams, size
    ):
        raise AssertionError("the merged stream does something else")


def _images(streams: list[bytes], size: int) -> list[bytes]:
    """Return two bases of different bytes after the streams: what both share was written."""
    images = []
    for fill in (b"\0", b"\xff"):
        target = MemoryTarget(fill * size)
        for stream in streams:
            phcbt01.apply(io.BytesIO(stream), target)
        images.append(bytes(target.content))
    return images


def _smallest(streams: list[bytes]) -> int:
    sizes = (decode(stream).header for stream in streams)
    return min(header.original_size for header in sizes if header is not None)
