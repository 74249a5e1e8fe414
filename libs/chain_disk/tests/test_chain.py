"""A chain as one disk, against a plain model; and what is wrong with a chain."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import phcbt01
import pytest
from chain_disk import ChainDisk, ChainError, ChainFile, Delta, ImageFile, steps
from hypothesis import given, settings
from hypothesis import strategies as st
from phcbt01.testing import encode

if TYPE_CHECKING:
    from collections.abc import Iterator

UNIT = 4096


Changes: TypeAlias = "list[tuple[int, bytes]]"
History: TypeAlias = "tuple[list[tuple[int, Changes]], bool]"


@st.composite
def histories(draw: st.DrawFn) -> History:
    """Sizes and changes of each job, and whether the first one is a delta too."""
    jobs: list[tuple[int, Changes]] = []
    size = draw(st.integers(1, 3 * UNIT))
    for _ in range(draw(st.integers(1, 4))):
        size += draw(st.sampled_from([0, 0, 1, UNIT]))
        changes: Changes = []
        at = 0
        while at < size and draw(st.booleans()):
            begin = draw(st.integers(at, size - 1))
            length = draw(st.integers(1, size - begin))
            changes.append((begin, bytes([draw(st.integers(0, 255))]) * length))
            at = begin + length
        jobs.append((size, changes))
    return jobs, draw(st.booleans())


def model(jobs: list[tuple[int, Changes]]) -> bytes:
    disk = bytearray()
    for size, changes in jobs:
        disk += bytes(size - len(disk))
        for begin, data in changes:
            disk[begin : begin + len(data)] = data
    return bytes(disk)


def write(folder: Path, history: History) -> Iterator[ChainFile]:
    jobs, starts_with_delta = history
    for number, (size, changes) in enumerate(jobs):
        path, is_delta = folder / str(number), number > 0 or starts_with_delta
        path.write_bytes(encode(size, changes) if is_delta else model(jobs[:1]))
        yield ChainFile(path, is_delta=is_delta, size=size)


@settings(deadline=None)
@given(history=histories(), data=st.data())
def test_it_is_the_disk_that_the_jobs_make(
    tmp_path_factory: pytest.TempPathFactory, history: History, data: st.DataObject
) -> None:
    expected = model(history[0])
    with ChainDisk(list(write(tmp_path_factory.mktemp("chain"), history))) as disk:
        assert disk.size == len(expected)
        assert bytes(disk.read(0, disk.size)) == expected
        for _ in range(5):
            offset = data.draw(st.integers(0, len(expected) + 10))
            length = data.draw(st.integers(0, len(expected)))
            found = disk.read(offset, length)
            assert bytes(found) == expected[offset : offset + length].ljust(length, b"\0")
        known = bytearray(len(expected))
        ends = 0
        for begin, end in disk.extents():
            assert ends <= begin < end <= len(expected)
            known[begin:end] = expected[begin:end]
            ends = end
        assert bytes(known) == expected


def image(path: Path, content: bytes = b"x" * UNIT) -> ChainFile:
    path.write_bytes(content)
    return ChainFile(path, is_delta=False, size=len(content))


def test_a_chain_begins_with_a_whole_disk(tmp_path: Path) -> None:
    with pytest.raises(ChainError, match="a whole image or a first delta"):
        ChainDisk([])
    with pytest.raises(ChainError, match="a whole image or a first delta"):
        ChainDisk([image(tmp_path / "a"), image(tmp_path / "b")])


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ChainError, match="gone cannot be read: No such file"):
        ChainDisk([ChainFile(tmp_path / "gone", is_delta=False)])


def test_a_truncated_image_is_refused(tmp_path: Path) -> None:
    file = image(tmp_path / "full")
    os.truncate(file.path, UNIT - 1)
    with pytest.raises(ChainError, match="makes a disk of 4095 bytes, it had 4096"):
        ChainDisk([file])


def test_a_truncated_delta_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "delta"
    path.write_bytes(encode(UNIT, [(0, b"abc")])[:-1])
    with pytest.raises(ChainError, match=r"delta is damaged: .*truncated"):
        ChainDisk([image(tmp_path / "full"), ChainFile(path, is_delta=True)])


def test_a_delta_of_another_disk_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "delta"
    path.write_bytes(encode(10, [(0, b"abc")]))
    with pytest.raises(ChainError, match="makes a disk of 10 bytes of one of 4096"):
        ChainDisk([image(tmp_path / "full"), ChainFile(path, is_delta=True)])


def test_what_is_cut_while_it_is_read_is_not_zeros(tmp_path: Path) -> None:
    file, path = image(tmp_path / "full"), tmp_path / "delta"
    path.write_bytes(encode(UNIT, [(0, b"abc")]))
    with ChainDisk([file, ChainFile(path, is_delta=True)]) as disk:
        os.truncate(path, path.stat().st_size - 1)
        with pytest.raises(ChainError, match="delta is damaged: the stream was cut short"):
            disk.read(0, 10)
        os.truncate(file.path, 5)
        with pytest.raises(ChainError, match="full was cut short while it was read"):
            disk.read(0, 10)


def test_a_storage_that_fails_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ChainDisk([image(tmp_path / "full")]) as disk:
        monkeypatch.setattr(os, "preadv", lambda *_: (_ for _ in ()).throw(OSError(5, "I/O error")))
        with pytest.raises(ChainError, match="full cannot be read: I/O error"):
            disk.read(0, 10)
        monkeypatch.setattr(os, "lseek", lambda *_: (_ for _ in ()).throw(OSError(5, "I/O error")))
        with pytest.raises(ChainError, match="full cannot be read: I/O error"):
            list(disk.extents())


def test_nothing_stays_open(tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    bad = tmp_path / "bad"
    bad.write_bytes(b"no delta")
    with pytest.raises(ChainError, match="damaged"):
        ChainDisk([image(tmp_path / "full"), ChainFile(bad, is_delta=True)])
    disk = ChainDisk([image(tmp_path / "other")])
    disk.close()
    disk.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_other_layouts_can_be_read(tmp_path: Path) -> None:
    layout = phcbt01.Layout(is_big_endian=True)
    path = tmp_path / "delta"
    header = layout.build_header(phcbt01.Header(original_size=UNIT, region_count=1))
    path.write_bytes(header + layout.build_region(phcbt01.Region(1, 2)) + b"ab")
    with ChainDisk([ChainFile(path, is_delta=True, layout=layout)]) as disk:
        assert disk.read(0, 4) == b"\0ab\0"


def test_the_files_by_themselves(tmp_path: Path) -> None:
    path = tmp_path / "delta"
    path.write_bytes(encode(UNIT, [(0, b"abc"), (100, b"defg"), (200, b"hi")]))
    with Delta(path) as opened:
        assert list(opened.within(101, 200)) == [(101, 104, opened.index[1].position + 1)]
        assert list(opened.within(300, 400)) == []
    with ImageFile(image(tmp_path / "full", b"x" * 10).path) as opened:
        assert opened.read(5, 10) == b"xxxxx\0\0\0\0\0"
        assert list(opened.extents()) == [(0, 10)]
        opened.close()
    assert list(steps([(0, 5), (6, 7)], 3)) == [(0, 3), (3, 2), (6, 1)]


def test_what_the_newest_file_changes(tmp_path: Path) -> None:
    path = tmp_path / "delta"
    path.write_bytes(encode(UNIT, [(7, b"abc")]))
    full = image(tmp_path / "full")
    with ChainDisk([full, ChainFile(path, is_delta=True)]) as disk:
        assert list(disk.changes()) == [(7, 10)]
    with ChainDisk([full]) as disk:
        assert list(disk.changes()) == [(0, UNIT)]
