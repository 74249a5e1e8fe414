"""Any bytes on any base: the image of the definition or PhcbtError, the same whole and cut."""

from __future__ import annotations

import phcbt01
from phcbt01.testing import MemoryTarget, decode

LARGEST = 1 << 16  # bytes; a disk without room says so, as a real one does


class SmallTarget(MemoryTarget):
    """A target that cannot grow for ever."""

    def resize(self, size: int) -> None:
        """Grow, or refuse."""
        if size > LARGEST:
            raise phcbt01.TargetTooSmall(f"{size} bytes do not fit")
        super().resize(size)


def check(data: bytes) -> None:
    """Apply the stream behind the first two bytes, which say how large the base is."""
    base = bytes(range(1, 256)) * (data[0] if data else 0) + b"x" * (data[1] if data[1:] else 0)
    stream = data[2:]
    image = _applied(base, stream, max(len(stream), 1))
    if _applied(base, stream, 1) != image or _applied(base, stream, 11) != image:
        raise AssertionError("cut into pieces the image differs")
    if isinstance(image, bytes) and image != _defined(base, stream):
        raise AssertionError("the image is not what the definition says")


def _applied(base: bytes, stream: bytes, size: int) -> bytes | str:
    target = SmallTarget(base)
    applier = phcbt01.Applier(target)
    try:
        for start in range(0, len(stream), size):
            applier.receive_data(stream[start : start + size])
        applier.close()
    except phcbt01.PhcbtError as error:
        return repr(error)
    return bytes(target.content)


def _defined(base: bytes, stream: bytes) -> bytes:
    found = decode(stream)
    if found.header is None or found.fault is not None:
        raise AssertionError("an invalid stream was applied")
    image = bytearray(base.ljust(found.header.original_size, b"\0"))
    for region, payload in found.regions:
        image[region.offset : region.end] = payload
    return bytes(image)
