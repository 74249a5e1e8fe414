"""Sparse disks and their differences, against a plain byte-by-byte model."""

from __future__ import annotations

import itertools
import os
import subprocess
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prism_lab import LabError, _regions, _storage

BLOCK = 32768
DISK = 20 * BLOCK + 1536  # the last block is a short one

writes = st.lists(
    st.tuples(
        st.sampled_from(["write", "zero", "discard"]),
        st.integers(0, DISK - 1),
        st.integers(1, 3 * BLOCK),
    ),
    max_size=8,
)


def play(disk: Path, steps: list[tuple[str, int, int]]) -> None:
    for kind, offset, length in steps:
        length = min(length, DISK - offset)  # noqa: PLW2901 - clipped to the disk
        if kind == "discard":
            _storage.discard(disk, offset, length)
            continue
        with disk.open("r+b") as file:
            file.seek(offset)
            file.write(bytes(length) if kind == "zero" else os.urandom(length))


def every_page(new: Path, old: Path | None, limit: int) -> list[_regions.Region]:
    regions: list[_regions.Region] = []
    offset = 0
    while True:
        page = _regions.page(new, old, offset=offset, length=None, block=BLOCK, limit=limit)
        assert page.file_size == DISK
        regions += page.regions
        if page.next_offset == 0:
            return regions
        assert page.next_offset > offset
        offset = page.next_offset


@given(before=writes, after=writes, limit=st.integers(1, 5))
def test_changed_regions_are_exactly_the_blocks_that_differ(
    before: list[tuple[str, int, int]], after: list[tuple[str, int, int]], limit: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        live, old, new = (Path(folder) / name for name in ("live", "old", "new"))
        _storage.create(live, DISK)
        play(live, before)
        _storage.clone(live, old)
        play(live, after)
        _storage.clone(live, new)
        was, now = old.read_bytes(), new.read_bytes()
        assert now == live.read_bytes()
        regions = every_page(new, old, limit)

        listed = {at for region in regions for at in range(region.start, region.end, BLOCK)}
        differ = {
            at for at in range(0, DISK, BLOCK) if was[at : at + BLOCK] != now[at : at + BLOCK]
        }
        assert listed == differ
        for region in regions:
            assert region.start % BLOCK == 0
            assert region.end % BLOCK == 0 or region.end == DISK
            if region.kind == "ZEROED":
                assert not any(now[region.start : region.end])
        for left, right in itertools.pairwise(regions):
            assert left.end <= right.start


@given(steps=writes, limit=st.integers(1, 5))
def test_without_a_reference_everything_not_listed_reads_as_zero(
    steps: list[tuple[str, int, int]], limit: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        disk = Path(folder) / "disk"
        _storage.create(disk, DISK)
        play(disk, steps)
        rebuilt = bytearray(DISK)
        content = disk.read_bytes()
        for region in every_page(disk, None, limit):
            assert region.kind == "REGULAR"
            rebuilt[region.start : region.end] = content[region.start : region.end]
        assert rebuilt == content


def test_a_window_ends_with_its_own_next_offset(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    _storage.create(disk, DISK)
    play(disk, [("write", 0, BLOCK), ("write", 10 * BLOCK, BLOCK)])
    inside = _regions.page(disk, None, offset=0, length=BLOCK, block=BLOCK, limit=9)
    assert (inside.next_offset, len(inside.regions)) == (BLOCK, 1)
    rounded = _regions.page(disk, None, offset=BLOCK + 1, length=1, block=BLOCK, limit=9)
    assert (rounded.next_offset, rounded.regions) == (2 * BLOCK, [])
    last = _regions.page(disk, None, offset=10 * BLOCK, length=DISK, block=BLOCK, limit=9)
    assert (last.next_offset, len(last.regions)) == (0, 1)
    beyond = _regions.page(disk, None, offset=2 * DISK, length=None, block=BLOCK, limit=9)
    assert (beyond.next_offset, beyond.regions) == (0, [])


def test_a_grown_disk_lists_what_was_written_into_the_tail(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    _storage.create(old, BLOCK + 512)
    _storage.clone(old, new)
    _storage.grow(new, DISK)
    play(new, [("write", BLOCK + 1024, 10), ("write", 5 * BLOCK, BLOCK)])
    regions = every_page(new, old, 10)
    assert [(r.start, r.end) for r in regions] == [(BLOCK, 2 * BLOCK), (5 * BLOCK, 6 * BLOCK)]
    with pytest.raises(LabError, match="cannot shrink"):
        _storage.grow(new, BLOCK)


def test_a_clone_keeps_the_holes(tmp_path: Path) -> None:
    source, target = tmp_path / "a", tmp_path / "b"
    _storage.create(source, 1 << 40)
    with source.open("r+b") as disk:
        disk.seek(512 << 30)
        disk.write(b"data")
    _storage.clone(source, target)
    assert target.stat().st_size == 1 << 40
    assert target.stat().st_blocks * 512 < 1 << 20
    page = _regions.page(target, source, offset=0, length=None, block=BLOCK, limit=9)
    assert page.regions == []


def test_the_format_of_an_image_is_told_by_its_first_bytes(tmp_path: Path) -> None:
    raw, qcow2, chained = tmp_path / "raw", tmp_path / "qcow2", tmp_path / "chained"
    raw.write_bytes(os.urandom(1 << 16))
    subprocess.run(["qemu-img", "convert", "-O", "qcow2", raw, qcow2], check=True)
    backed = ["-F", "raw", "-b", str(raw), str(chained)]
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *backed], check=True)
    assert (_storage.image_format(raw), _storage.image_format(qcow2)) == ("raw", "qcow2")
    with pytest.raises(LabError, match="backing file"):
        _storage.image_format(chained)
    _storage.convert_image(qcow2, tmp_path / "disk")
    assert (tmp_path / "disk").read_bytes() == raw.read_bytes()
