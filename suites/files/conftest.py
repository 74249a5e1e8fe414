"""Single files, out of file systems that real tools made and real drivers filled.

A guest of User Mode Linux makes them (see fill.py), so that nothing is mounted on this machine.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import pytest
from chain_disk import CachedDisk, ChainDisk, ChainFile
from prism_lab import Lab
from ptcomm import Level

from apps.nutanix_backend.tests.conftest import Guest, Product

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from chain_disk import Disk

PROJECT = Path(__file__).parents[2]
DISKS = ("linux", "second", "windows")
MODULES = ("loop", "fuse", "fat", "vfat", "nls_utf8", "nls_cp437", "nls_iso8859-1", "xfs", "dm_mod")
PATIENCE = 1200
"""Seconds after which a guest hangs: a quiet machine needs 60."""


@attrs.frozen
class State:
    """The disks as of one time, and what the drivers said of their files, by volume."""

    disks: tuple[Path, ...]
    truth: Mapping[str, list[dict[str, Any]]]


def last_words(out: Path) -> str:
    return "".join(
        path.read_text(errors="replace")[-2000:]
        for name in ("boot", "console", "output")
        if (path := out / name).exists()
    )


@pytest.fixture(scope="session")
def states(tmp_path_factory: pytest.TempPathFactory) -> list[State]:
    """The disks at three times."""
    made = os.environ.get("FILES_SUITE_DISKS")  # what an earlier run made, while a test is written
    out = Path(made) if made else fill(tmp_path_factory.mktemp("guest"))
    return [
        State(
            tuple(out / str(number) / f"{name}.raw" for name in DISKS),
            json.loads((out / str(number) / "truth.json").read_text()),
        )
        for number in (1, 2, 3)
    ]


@attrs.frozen
class BackedUp:
    """A store of backups, and the VM in it."""

    store: Path
    guest: Guest


@pytest.fixture(scope="session")
def backed_up(states: list[State], tmp_path_factory: pytest.TempPathFactory) -> Iterator[BackedUp]:
    """A Full with two Incrementals of the disks at three times."""
    root = tmp_path_factory.mktemp("backups")
    with Lab.start(root / "lab", task_seconds=0.0) as lab:
        product = Product(lab, root / "host", references=9)
        guest = product.guest(*(disk.stat().st_size for disk in states[0].disks))
        levels = (Level.FULL, Level.INCREMENTAL, Level.INCREMENTAL)
        for level, state in zip(levels, states, strict=True):
            for index, disk in enumerate(state.disks):
                shutil.copyfile(disk, guest.disk(index))
            product.good_backup(level, guest)
        yield BackedUp(root / "host" / "store", guest)


def fill(out: Path) -> Path:
    """Make the disks in a guest."""
    cache = PROJECT / ".cache" / "kernel"
    cache.mkdir(parents=True, exist_ok=True)
    kernel = PROJECT / ".ci" / "kernel"
    subprocess.run([str(kernel / "prepare-uml"), str(cache)], check=True)
    (out / "command").write_text(
        f"export PATH=$PATH:/usr/sbin:/sbin\n"
        f"for module in {' '.join(MODULES)}; do modprobe -d {cache}/uml/modules -q $module; done\n"
        "python suites/files/fill.py /mnt\n"
    )
    with (out / "boot").open("wb") as boot:
        subprocess.run(
            [str(kernel / "start-uml"), str(PROJECT), str(cache), str(out)],
            stdin=subprocess.DEVNULL,
            stdout=boot,
            stderr=subprocess.STDOUT,
            timeout=PATIENCE,
            check=False,
        )
    status, output = out / "status", out / "output"
    assert status.exists(), f"the guest did not end: {last_words(out)}"
    assert status.read_text().strip() == "0", output.read_text()[-4000:]
    return out


def raw_disk(path: Path) -> Disk:
    """A raw image as a disk."""
    return CachedDisk(ChainDisk([ChainFile(path, is_delta=False)]))


def run(*words: object, **options: Any) -> str:
    """Run a program; its output."""
    done = subprocess.run(
        [os.fspath(word) if isinstance(word, Path) else str(word) for word in words],
        capture_output=True,
        text=True,
        errors="backslashreplace",  # tar repeats the names of files
        check=False,
        **options,
    )
    assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
    output: str = done.stdout
    return output


def copy(source: Path, target: Path) -> None:
    """Copy a disk, with its holes."""
    shutil.copyfile(source, target)
