"""Any bytes as a package, in two pieces: members of the length announced, or ImageRefused."""

from __future__ import annotations

from disk_images import TarStream
from disk_images.errors import ImageRefused


class Counted:
    """A member whose bytes are counted."""

    def __init__(self, length: int) -> None:
        """Expect `length` bytes."""
        self.left = length

    def write(self, piece: memoryview) -> None:
        """Take the next piece."""
        self.left -= len(piece)
        if self.left < 0:
            raise AssertionError("a member is longer than it was announced")

    def end(self) -> None:
        """It is whole."""
        if self.left:
            raise AssertionError("a member ended too early")


def check(data: bytes) -> None:
    """Read an archive, cut after as many bytes as the first two say."""
    cut, archive = int.from_bytes(data[:2], "little"), memoryview(data[2:])
    found: list[Counted] = []

    def take(_name: str, length: int) -> Counted:
        found.append(Counted(length))
        return found[-1]

    stream = TarStream("package", take)
    try:
        for piece in (archive[:cut], archive[cut:]):
            stream.write(piece)
        stream.end()
    except ImageRefused as error:
        if "\n" in str(error):
            raise AssertionError(f"{error!r} is not one line") from error
        return
    if any(member.left for member in found):
        raise AssertionError("an archive that was cut off is taken for a whole one")
