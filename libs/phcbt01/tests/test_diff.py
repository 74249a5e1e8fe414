"""Two images to a delta: what is a region, what is skipped, what is refused."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
from phcbt01 import EncodeError, Header, ShrunkDisk, apply, diff, testing

BLOCK = 64


def changed(old: bytes, new: bytes, block_size: int = BLOCK) -> list[tuple[int, int]]:
    """Diff, apply again, and return the regions."""
    out = io.BytesIO()
    header = diff(io.BytesIO(old), io.BytesIO(new), out, block_size=block_size)
    target = testing.MemoryTarget(old)
    assert apply(io.BytesIO(out.getvalue()), target) == header
    assert target.content == new
    found = testing.decode(out.getvalue())
    return [(region.offset, region.length) for region, _ in found.regions]


def image(size: int, *marks: int) -> bytes:
    content = bytearray(b"\x11" * size)
    for mark in marks:
        content[mark] ^= 0xFF
    return bytes(content)


@pytest.mark.parametrize(
    ("marks", "regions"),
    [
        ([], []),
        ([0], [(0, 64)]),
        ([63], [(0, 64)]),
        ([64], [(64, 64)]),
        ([0, 64, 127], [(0, 128)]),
        ([0, 128], [(0, 64), (128, 64)]),
        ([999], [(960, 40)]),
        (list(range(1000)), [(0, 1000)]),
    ],
)
def test_changed_blocks_become_joined_regions(
    marks: list[int], regions: list[tuple[int, int]]
) -> None:
    assert changed(image(1000), image(1000, *marks)) == regions


def test_regions_are_joined_across_what_is_read_at_a_time() -> None:
    size = 1 << 20
    assert changed(b"\x01" * size, b"\x02" * size, 4096) == [(0, size)]
    assert changed(b"\x01" * size, b"\x02" * size, size * 2) == [(0, size)]


def test_a_grown_image() -> None:
    assert changed(image(100), image(100) + bytes(500)) == []
    assert changed(image(100), image(100) + bytes(399) + b"x") == [(448, 52)]
    assert changed(b"", image(130)) == [(0, 130)]
    assert changed(b"", b"") == []


def test_a_region_that_became_zero_is_there_in_zeros() -> None:
    out = io.BytesIO()
    diff(io.BytesIO(image(128)), io.BytesIO(bytes(128)), out, block_size=BLOCK)
    assert out.getvalue() == testing.encode(128, [(0, bytes(128))])


def test_a_shrunk_image_is_refused() -> None:
    out = io.BytesIO()
    with pytest.raises(ShrunkDisk, match="new image has 99 bytes, the old one 100"):
        diff(io.BytesIO(image(100)), io.BytesIO(image(99)), out)
    assert out.getvalue() == b""


@pytest.mark.parametrize("block_size", [-1, 0, 64 * 1024 * 1024 + 1])
def test_an_impossible_block_size(block_size: int) -> None:
    with pytest.raises(EncodeError, match="block of"):
        diff(io.BytesIO(), io.BytesIO(), io.BytesIO(), block_size=block_size)


def test_an_image_that_is_cut_meanwhile() -> None:
    class Shrinking(io.BytesIO):
        """Ends earlier than it said."""

        def seek(self, offset: int, whence: int = 0) -> int:
            found = super().seek(offset, whence)
            return found + 100 if whence == io.SEEK_END else found

    with pytest.raises(EncodeError, match="a file of 200 bytes was cut"):
        diff(io.BytesIO(), Shrinking(image(100)), io.BytesIO())


class Counting(io.FileIO):
    """A file that counts the bytes read from it."""

    count = 0

    def readinto(self, buffer: object) -> int:
        got = super().readinto(buffer)  # type: ignore[arg-type]
        self.count += got
        return got


def test_holes_are_not_read(tmp_path: Path) -> None:
    size, step = 64 << 20, 1 << 20
    old, new = tmp_path / "old", tmp_path / "new"
    for path, marks in ((old, [3, 40, 60]), (new, [3, 50])):
        with path.open("wb") as file:
            file.truncate(size)
            for mark in marks:
                file.seek(mark * step + 5000)
                file.write(b"\x77" * 10)
    out = io.BytesIO()
    with Counting(os.fspath(old)) as before, Counting(os.fspath(new)) as after:
        header = diff(before, after, out)
        assert before.count < 2 * step
        assert after.count < 2 * step
    found = testing.decode(out.getvalue())
    assert header == Header(size, 3)
    assert [region.offset for region, _ in found.regions] == [40 * step, 50 * step, 60 * step]
    with old.open("rb") as raw:
        target = testing.MemoryTarget(raw.read())
    apply(io.BytesIO(out.getvalue()), target)
    assert target.content == new.read_bytes()


def test_paths_and_streams_give_the_same(tmp_path: Path) -> None:
    contents = (image(1000) + bytes(9000), image(1000, 5, 999) + bytes(8999) + b"x" + bytes(20000))
    paths = [tmp_path / "old", tmp_path / "new"]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    by_path, by_stream = io.BytesIO(), io.BytesIO()
    diff(paths[0], paths[1], by_path)
    diff(io.BytesIO(contents[0]), io.BytesIO(contents[1]), by_stream)
    assert by_path.getvalue() == by_stream.getvalue()


def test_a_block_device_is_an_image(device: Path) -> None:
    size = device.read_bytes().__len__()
    out = io.BytesIO()
    assert diff(Path("/dev/null"), device, out) == Header(size, 1)
    assert out.getvalue()[40:] == device.read_bytes()


def test_seek_errors_are_not_taken_for_holes() -> None:
    class Broken(io.FileIO):
        """A file on a bad disk."""

        def seek(self, offset: int, whence: int = 0) -> int:
            if whence == os.SEEK_DATA:
                raise OSError(5, "Input/output error")
            return super().seek(offset, whence)

    with Broken(__file__) as broken, pytest.raises(OSError, match="Input/output error"):
        diff(io.BytesIO(), broken, io.BytesIO())


def test_a_raw_output_that_takes_little_at_a_time() -> None:
    class Raw(io.BytesIO):
        """Takes three bytes per write."""

        def write(self, data: object) -> int:
            return super().write(bytes(data)[:3])  # type: ignore[call-overload]

    out = Raw()
    diff(io.BytesIO(), io.BytesIO(image(100)), out)
    assert out.getvalue() == testing.encode(100, [(0, image(100))])
