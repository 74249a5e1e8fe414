"""Every file of every file system: bytes, names, times, modes, owners, links and holes."""

from __future__ import annotations

import hashlib
import os
import random
import stat
from typing import TYPE_CHECKING, Any

import pytest
from guest_files import GuestFiles

from suites.files.conftest import raw_disk, run

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from chain_disk import Disk
    from guest_files import Entry, FoundFile

    from suites.files.conftest import State

VOLUMES = ("disk0p1", "disk0p2", "vg0/data", "vg0/striped", "disk2p1", "disk2p5", "disk2p6")
KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "folder",
    stat.S_IFLNK: "link",
    stat.S_IFIFO: "fifo",
    stat.S_IFCHR: "character",
}


def disks_of(state: State) -> list[Disk]:
    return [raw_disk(path) for path in state.disks]


def assert_equal(disks: Sequence[Disk], truth: Mapping[str, list[dict[str, Any]]]) -> None:
    """Every file of the disks is what the drivers said."""
    warnings: list[str] = []
    with GuestFiles(disks, warn=warnings.append) as files:
        for volume, rows in truth.items():
            found: dict[str, tuple[Entry, str]] = {}
            for file in files.files(["/**"], volume):
                found[os.fsencode("/".join(file.entry.path)).hex()] = (
                    file.entry,
                    digest(file.entry.size, file.pieces),
                )
            found.pop("", None)
            expected = {row["path"]: row for row in rows}
            assert set(found) == set(expected), volume
            for path, row in expected.items():
                assert_same(*found[path], row, is_unix=volume in VOLUMES[1:4])
    assert warnings == []


def digest(size: int, pieces: Any) -> str:
    total, at = hashlib.sha256(), 0
    for offset, piece in pieces:
        total.update(bytes(offset - at))
        total.update(piece)
        at = offset + len(piece)
    total.update(bytes(size - at))
    return total.hexdigest()


def assert_same(entry: Entry, found: str, row: dict[str, Any], *, is_unix: bool) -> None:
    kind = KINDS[stat.S_IFMT(row["mode"])]
    assert entry.kind == kind, row
    assert entry.modified == row["modified"], (entry, row)
    if kind == "file":
        assert entry.size == row["size"]
        assert found == row["digest"], entry
    if kind == "link":
        assert os.fsencode(entry.target).hex() == row["target"]
    if is_unix:
        assert entry.mode == stat.S_IMODE(row["mode"])
        assert [entry.owner, entry.group] == row["owner"]
        assert (entry.inode, entry.links) == (row["inode"], row["links"])


@pytest.mark.parametrize("number", [0, 1, 2])
def test_every_file_is_what_the_drivers_say(states: list[State], number: int) -> None:
    state = states[number]
    assert set(state.truth) == set(VOLUMES)
    assert_equal(disks_of(state), state.truth)


@pytest.mark.parametrize("nrext64", [0, 1])
@pytest.mark.parametrize("count", [2, 60, 1400])
def test_names_of_xfs_that_are_not_utf8(tmp_path: Path, nrext64: int, count: int) -> None:
    """In the inode, in one block and in many; nrext64 moves the number of extents in the inode."""
    image, prototype = tmp_path / "image", tmp_path / "prototype"
    names = [b"caf\xe9-%d" % number for number in range(count)]
    lines = [
        b"/",
        b"0 0",
        b"d--755 0 0",
        *(name + b" ---644 0 0 /dev/null" for name in names),
        b"$",
    ]
    prototype.write_bytes(b"\n".join(lines) + b"\n")
    run(
        "mkfs.xfs",
        "-q",
        "-i",
        f"nrext64={nrext64}",
        "-p",
        prototype,
        f"-dfile,name={image},size=320m",
    )
    with GuestFiles([raw_disk(image)], warn=pytest.fail) as files:
        found = {os.fsencode(entry.path[-1]) for entry in files.entries(["/*"])}
    assert found == set(names)


def test_files_that_only_windows_writes(states: list[State]) -> None:
    """What has its bytes on the disk is read; of the others it is said where the bytes are."""
    image = states[0].disks[0].parents[1] / "of windows.raw"
    with GuestFiles([raw_disk(image)], warn=pytest.fail) as files:
        found = {
            file.entry.path[-1]: file.entry.reason or read(file) for file in files.files(["/*"])
        }
    for name in ("compressed", "in the cloud and here"):
        assert found.pop(name) == random.Random(name).randbytes(10_000)
    assert found == {
        "in the cloud": "its content is not on the disk: a cloud service or an archive keeps it",
        "deduplicated": "its content is deduplicated by Windows",
    }


def read(file: FoundFile) -> bytes:
    content = bytearray(file.entry.size)
    for offset, piece in file.pieces:
        content[offset : offset + len(piece)] = piece
    return bytes(content)
