"""Stored files: names that stay below their folder, holes, digests."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import attrs
import hypothesis.strategies as st
import pytest
from hypothesis import given
from ptcomm_runner.errors import StoreDamaged, UnsafeName
from ptcomm_runner.files import HOLE_UNIT, SparseFile, check_size, read_checked, safe_path


@attrs.frozen
class Stored:
    data_bytes: int
    digest: str


def write(path: Path, *pieces: bytes | memoryview) -> Stored:
    with SparseFile(path) as file:
        for piece in pieces:
            file.write(piece)
    return Stored(file.size, file.digest())


@pytest.mark.parametrize(
    "name",
    ["", "/", "/etc/passwd", "..", "../x", "a/../b", "a/..", "./a", "a/.", "a//b", "a/", "a\0b"],
)
def test_a_name_that_is_no_plain_path_is_refused(name: str) -> None:
    with pytest.raises(UnsafeName, match="not a plain path"):
        safe_path(Path("/store"), name)


def test_a_name_that_is_not_utf8_is_refused() -> None:
    with pytest.raises(UnsafeName, match="UTF-8"):
        safe_path(Path("/store"), os.fsdecode(b"a/\xff"))


@given(st.text())
def test_a_name_is_refused_or_lies_below_the_folder_under_its_own_name(name: str) -> None:
    root = Path("/store/files")
    try:
        path = safe_path(root, name)
    except UnsafeName:
        return
    assert path.relative_to(root).as_posix() == name
    assert Path(os.path.normpath(path)) == path


runs = st.lists(
    st.tuples(st.sampled_from([b"\0", b"x"]), st.integers(1, 3 * HOLE_UNIT // 2)), max_size=6
)


@given(runs, st.lists(st.integers(0, 8 * HOLE_UNIT), max_size=4))
def test_a_sparse_file_holds_what_was_written_however_it_was_cut(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[tuple[bytes, int]], cuts: list[int]
) -> None:
    data = b"".join(byte * count for byte, count in pieces)
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    folder = tmp_path_factory.mktemp("sparse")
    parts = [data[a:b] for a, b in itertools.pairwise(edges)]
    stored = write(folder / "cut", *parts)
    assert (folder / "cut").read_bytes() == data
    assert stored == write(folder / "whole", data)
    assert b"".join(map(bytes, read_checked(folder / "cut", stored, 10_000))) == data


def test_zeros_take_no_room(tmp_path: Path) -> None:
    stored = write(tmp_path / "disk", *[memoryview(bytes(983_040))] * 8, b"end")
    status = (tmp_path / "disk").stat()
    assert (stored.data_bytes, status.st_size) == (8 * 983_040 + 3, 8 * 983_040 + 3)
    assert status.st_blocks * 512 <= HOLE_UNIT


def test_a_file_is_never_written_over(tmp_path: Path) -> None:
    write(tmp_path / "a", b"first")
    with pytest.raises(FileExistsError):
        SparseFile(tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == b"first"


def test_a_file_whose_size_changed_is_refused(tmp_path: Path) -> None:
    stored = write(tmp_path / "a", b"first")
    (tmp_path / "a").write_bytes(b"firs")
    with pytest.raises(StoreDamaged, match="4 bytes, 5 were stored"):
        check_size(tmp_path / "a", stored)


def test_a_file_that_is_gone_is_refused(tmp_path: Path) -> None:
    stored = write(tmp_path / "a", b"first")
    (tmp_path / "a").unlink()
    with pytest.raises(StoreDamaged, match="No such file"):
        list(read_checked(tmp_path / "a", stored, 100))


def test_a_file_whose_bytes_changed_is_refused_before_its_end(tmp_path: Path) -> None:
    stored = write(tmp_path / "a", b"first")
    (tmp_path / "a").write_bytes(b"worst")
    pieces = read_checked(tmp_path / "a", stored, 5)
    assert bytes(next(pieces)) == b"worst"
    with pytest.raises(StoreDamaged, match="digest"):
        next(pieces)
