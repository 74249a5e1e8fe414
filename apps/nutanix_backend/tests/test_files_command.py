"""`files`: what an administrator types, and what comes of it. All file systems: suites/files."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest
from command_line import program
from nutanix_backend.__main__ import command_line
from nutanix_backend.restore.single_files import read_key
from ptcomm import Level

if TYPE_CHECKING:
    from pathlib import Path

    from apps.nutanix_backend.tests.conftest import Guest, Product

MIB = 1 << 20


def run(*words: object) -> int:
    return program.run(command_line(), ["files", *map(str, words)])


@pytest.fixture
def guest(product: Product, tmp_path: Path) -> Guest:
    """A VM with an ext4 on its disk, in a full and an incremental."""
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (root / "etc" / "hosts").write_text("127.0.0.1 localhost")
    guest = product.guest(8 * MIB)
    for name, level in (("first", Level.FULL), ("second", Level.INCREMENTAL)):
        (root / "etc" / name).write_text(name)
        guest.disk(0).write_bytes(bytes(8 * MIB))
        words = ["mke2fs", "-q", "-F", "-d", root, guest.disk(0), "8m"]
        subprocess.run([str(word) for word in words], check=True)
        product.good_backup(level, guest)
    return guest


def test_files_of_a_job(
    product: Product, guest: Guest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vm = ("--store", product.root / "store", "--vm", guest.name)
    assert run("ls", *vm) == 0
    assert "ext4" in capsys.readouterr().out
    assert run("ls", *vm, "/etc") == 0
    assert [line.split()[-1] for line in capsys.readouterr().out.splitlines()] == [
        "disk0:/etc", "disk0:/etc/first", "disk0:/etc/hosts", "disk0:/etc/second",
    ]  # fmt: skip
    assert run("find", *vm, "--job", 1, "/**/second") == program.NOT_DONE
    assert run("find", *vm, "/**/second") == 0
    assert capsys.readouterr().out == "disk0:/etc/second\n"
    assert run("stat", *vm, "/etc/hosts") == 0
    assert "19 bytes, 19 of them not holes" in capsys.readouterr().out
    assert run("get", *vm, "--to", tmp_path / "got", "/etc") == 0
    assert (tmp_path / "got/disk0/etc/hosts").read_text() == "127.0.0.1 localhost"
    assert "3 files, 30 B, are in" in capsys.readouterr().out
    assert run("get", *vm, "--to", tmp_path / "got", "/etc") == program.NOT_DONE
    assert "exists: give another folder, or --overwrite" in capsys.readouterr().err
    assert run("tar", *vm, "--volume", "disk0", "--output", tmp_path / "a.tar", "/etc/hosts") == 0
    listed = subprocess.run(["tar", "tf", tmp_path / "a.tar"], check=True, capture_output=True)
    assert listed.stdout == b"etc/hosts\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--vm", "other"), "has no backup of VM other by a good job: see `job list`"),
        (("--job", "77"), "has no backup of a VM by job 77"),
        (("--disk", "7"), "has no disk 7"),
        (("--volume", "vg0/root"), "there is no volume vg0/root: known are disk0"),
        (("--key-file", "/none"), "/none"),
    ],
)
def test_what_is_not_there_is_told(
    product: Product,
    guest: Guest,
    words: tuple[str, str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("stat", "--store", product.root / "store", *words, "/etc") != 0
    assert message in capsys.readouterr().err


def test_images_of_a_restore(
    product: Product, guest: Guest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    product.good_restore(tmp_path / "restored")
    assert run("find", "--restored", tmp_path / "restored", "/etc/*") == 0
    (image,) = (tmp_path / "restored").rglob("*.raw")
    assert run("find", "--image", image, "/etc/*") == 0
    assert capsys.readouterr().out.count("disk0:/etc/hosts") == 2
    assert run("tar", "--image", image, "--output", tmp_path / "a.tar", "/none") != 0
    assert "no volume has '/none'" in capsys.readouterr().err
    assert not (tmp_path / "a.tar").exists()
    assert run("ls", "--restored", tmp_path / "none", "/") != 0
    assert "has the images of no VM" in capsys.readouterr().err


def test_a_key_is_the_only_line_of_a_file_or_all_of_it(tmp_path: Path) -> None:
    for content, key in ((b"word\n", b"word"), (b"word", b"word"), (b"\0\n\n", b"\0\n\n")):
        path = tmp_path / "key"
        path.write_bytes(content)
        assert read_key(path) == key
