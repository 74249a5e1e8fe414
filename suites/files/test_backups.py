"""The same files out of a Full with two Incrementals, and out of the points of a replica."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import tempfile
from typing import TYPE_CHECKING, Any

import phcbt01
import pytest
from chain_disk import DamagedBlock
from command_line import program
from nutanix_backend.__main__ import command_line
from nutanix_backend.files import choice
from vm_replica.protocol.manifest import SCHEMA, Configuration, CycleDisk, CycleManifest
from vm_replica.store.replica import Store

from suites.files.conftest import run
from suites.files.test_trees import assert_equal

if TYPE_CHECKING:
    from pathlib import Path

    from vm_replica.store.replica import Replica

    from suites.files.conftest import BackedUp, State

UUID = "11111111-1111-4111-8111-111111111111"


def chosen(*words: object) -> Any:
    """The options of `files stat`, which choose a VM."""
    return command_line().parse_args(["files", "stat", *map(str, words), "--", "/"])


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_full_with_two_incrementals(
    states: list[State], backed_up: BackedUp, number: int
) -> None:
    with choice.opened(chosen("--store", backed_up.store, "--job", number)) as vm:
        assert vm.name == backed_up.guest.name
        assert_equal(list(vm.disks.values()), states[number - 1].truth)


def test_damage_is_an_error_and_never_data(backed_up: BackedUp, tmp_path: Path) -> None:
    store = tmp_path / "store"
    run("cp", "-r", "--sparse=always", backed_up.store, store)
    (whole,) = store.rglob("1-full/**/disk-0-*.raw")
    with choice.opened(chosen("--store", store)) as vm, whole.open("r+b") as file:
        begin, end = next(iter(vm.disks[0].extents()))
        file.seek((begin + end) // 2)
        file.write(b"\xff\x00damage")
        file.flush()
        with pytest.raises(DamagedBlock, match="is not what was backed up"):
            vm.disks[0].read((begin + end) // 2, 1)


@pytest.fixture(scope="session")
def replica(states: list[State], tmp_path_factory: pytest.TempPathFactory) -> Replica:
    """A replica with a generation of each of the three times."""
    replica = Store(tmp_path_factory.mktemp("receiver")).replica("cluster", UUID)
    base = ""
    for number, state in enumerate(states):
        before = states[number - 1].disks if number else (None,) * len(state.disks)
        streams = [delta(old, new) for old, new in zip(before, state.disks, strict=True)]
        disks = tuple(
            CycleDisk(f"d{index}", index, path.stat().st_size, not base, len(stream), count)
            for index, (path, (stream, count)) in enumerate(zip(state.disks, streams, strict=True))
        )
        manifest = CycleManifest(
            SCHEMA, "cluster", UUID, "web", base, 1000 + number, 60, "crash", "point",
            Configuration("@proxmox", "cores: 1\n"), disks,
        )  # fmt: skip
        with replica.begin_cycle(manifest, "a" * 64) as cycle:
            for disk, (stream, _) in zip(disks, streams, strict=True):
                with cycle.disk(disk.disk_id, 0) as arriving:
                    arriving.write(stream)
                    arriving.finish()
            cycle.commit(manifest.digest())
        base = manifest.digest()
    return replica


def delta(old: Path | None, new: Path) -> tuple[bytes, int]:
    """The stream from one state of a disk (or from zeros) to the next, and its regions."""
    out = io.BytesIO()
    with new.open("rb") as after:
        if old:
            with old.open("rb") as before:
                phcbt01.diff(before, after, out)
        else:
            with tempfile.TemporaryFile() as before:
                before.truncate(new.stat().st_size)
                phcbt01.diff(before, after, out)
    return out.getvalue(), len(phcbt01.read_index(out))


@pytest.mark.parametrize("number", [1, 2, 3])
def test_points_of_a_replica(states: list[State], replica: Replica, number: int) -> None:
    store = replica.files.path.parents[2]
    with choice.opened(chosen("--store", store, "--vm", "web", "--point", number)) as vm:
        assert_equal(list(vm.disks.values()), states[number - 1].truth)


def test_get_and_tar_give_the_files(
    states: list[State], backed_up: BackedUp, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    choice_of_vm = ("--store", backed_up.store, "--job", 2, "--volume", "disk0p2")
    tar, got, untarred = tmp_path / "files.tar", tmp_path / "got", tmp_path / "untarred"
    for words in (("tar", "--output", tar), ("get", "--to", got)):
        line = ["files", *words, *choice_of_vm, "/docs"]
        assert program.run(command_line(), list(map(str, line))) == program.DONE
    untarred.mkdir()
    run("tar", "-xpf", tar, "-C", untarred, "--numeric-owner")
    for row in states[1].truth["disk0p2"]:
        name = bytes.fromhex(row["path"])
        if not name.startswith(b"docs"):
            continue
        kind, from_tar = stat.S_IFMT(row["mode"]), os.lstat(os.fsencode(untarred) + b"/" + name)
        assert from_tar.st_mtime_ns == row["modified"] or kind == stat.S_IFLNK
        assert stat.S_IFMT(from_tar.st_mode) == kind
        if os.geteuid() == 0:
            assert [from_tar.st_uid, from_tar.st_gid] == row["owner"]
            assert from_tar.st_mode == row["mode"]
        if kind in {stat.S_IFIFO, stat.S_IFCHR}:
            continue
        path = os.fsencode(got) + b"/" + name
        assert os.lstat(path).st_mtime_ns == row["modified"]
        if kind == stat.S_IFREG:
            for found in (path, os.fsencode(untarred) + b"/" + name):
                with open(found, "rb") as file:
                    assert hashlib.file_digest(file, "sha256").hexdigest() == row["digest"]
                assert os.stat(found).st_size == row["size"]
    sparse = os.stat(untarred / "docs" / "sparse")
    assert sparse.st_blocks * 512 < sparse.st_size // 2, "holes stay holes"
    assert "left out: it is a special file (fifo)" in capfd.readouterr().err
