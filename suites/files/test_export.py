"""The disks of a backup as NBD exports: the same bytes as a restore, and a machine that boots."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from prism_lab import Lab
from ptcomm import Level

from apps.nutanix_backend.tests.conftest import Product
from suites.files.conftest import PROJECT, run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from suites.files.conftest import BackedUp, State

FILES = (Path(sys.executable).with_name("podheitor-nutanix-backend"), "files")
MARKER = "from-the-backup"


def test_an_export_is_the_disk(states: list[State], backed_up: BackedUp) -> None:
    choice = ("--store", backed_up.store, "--job", 2)
    for index, disk in enumerate(states[1].disks):
        words = ("--", "qemu-img", "compare", "-f", "raw", "-F", "raw", f"{{{index}}}", disk)
        assert "Images are identical" in run(*FILES, "export", *choice, *words)


def test_an_export_is_what_a_restore_writes(backed_up: BackedUp, tmp_path: Path) -> None:
    copy = tmp_path / "copy.raw"
    choice = ("--store", backed_up.store, "--disk", 0)
    words = ("--", "qemu-img", "convert", "-f", "raw", "-O", "raw", "{0}", copy)
    run(*FILES, "export", *choice, *words)
    said = run(
        FILES[0], "verify", "--store", backed_up.store, "--restored", rename(copy, backed_up)
    )
    assert "as of job" in said
    assert "proven" in said


def rename(copy: Path, backed_up: BackedUp) -> Path:
    """Give an image the name that a restore gives it."""
    disk_id = backed_up.guest.disk_ids()[0]
    copy.rename(copy.with_name(f"disk-0-{disk_id}.raw"))
    return copy.parent


def test_nobody_writes_to_an_export_without_an_overlay(backed_up: BackedUp) -> None:
    choice = ("--store", backed_up.store, "--disk", 0)
    write = ("--", "qemu-io", "-f", "raw", "-c", "write -P 5 0 64k", "{0}")
    with pytest.raises(AssertionError, match="Permission denied"):
        run(*FILES, "export", *choice, *write)
    run(*FILES, "export", "--overlay", *choice, *write)
    assert "is not what was backed up" not in run(FILES[0], "verify", "--store", backed_up.store)


def test_sockets_go_with_the_export(backed_up: BackedUp, tmp_path: Path) -> None:
    choice: tuple[object, ...] = ("--store", backed_up.store, "--sockets", tmp_path / ("x" * 100))
    with pytest.raises(AssertionError, match="is too long for a socket: give a shorter"):
        run(*FILES, "export", *choice, "--", "true")
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        check_sockets(("--store", backed_up.store), Path(name) / "sockets")


def check_sockets(store: tuple[object, ...], folder: Path) -> None:
    choice = (*store, "--sockets", folder)
    run(*FILES, "export", *choice, "--", "true")
    assert list(folder.iterdir()) == []
    with subprocess.Popen(
        [str(word) for word in (*FILES, "export", *choice)], stdout=subprocess.PIPE, text=True
    ) as export:
        assert export.stdout
        lines = [export.stdout.readline() for _ in range(4)]
        assert [re.sub(r".*(disk-\d)\.sock\n", r"\1", line) for line in lines[:3]] == [
            "disk-0", "disk-1", "disk-2",
        ]  # fmt: skip
        export.terminate()
        export.wait()
    assert list(folder.iterdir()) == []


@pytest.fixture(scope="module")
def bootable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A backup of a machine that says on its serial console that it has booted."""
    root = tmp_path_factory.mktemp("bootable")
    image = root / "guest.raw"
    run(PROJECT / ".ci" / "guest" / "build", image, MARKER)
    with Lab.start(root / "lab", task_seconds=0.0) as lab:
        product = Product(lab, root / "host")
        guest = product.guest(image.stat().st_size)
        guest.disk(0).write_bytes(image.read_bytes())
        product.good_backup(Level.FULL, guest)
        yield root / "host" / "store", guest.name


def test_a_machine_boots_from_its_backup(bootable: tuple[Path, str]) -> None:
    store, vm = bootable
    tcg = ("--", "-accel", "tcg", "-display", "none", "-serial", "stdio", "-m", "256")
    said = run(*FILES, "export", "--boot", "--store", store, "--vm", vm, *tcg)
    assert f"PODHEITOR GUEST BOOTED {MARKER}" in said.replace("\r", "")
    assert "proven" in run(FILES[0], "verify", "--store", store), "what it wrote is gone"
