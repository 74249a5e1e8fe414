"""`file=`: the user gets files below `where`, and what was staged for them goes."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from ptcomm import Level, Severity
from ptcomm_runner.catalog import Status

from apps.nutanix_backend.tests.conftest import said, words

if TYPE_CHECKING:
    from pathlib import Path

    from apps.nutanix_backend.tests.conftest import Guest, Product

pytestmark = pytest.mark.quick
MIB = 1 << 20


def fill(disk: Path, root: Path) -> None:
    size = disk.stat().st_size
    disk.write_bytes(bytes(size))
    command = ["mke2fs", "-q", "-F", "-d", root, disk, f"{size // MIB}m"]
    subprocess.run([str(word) for word in command], check=True)


@pytest.fixture
def guest(product: Product, tmp_path: Path) -> Guest:
    """A VM of two disks with an ext4 each, in a full and an incremental."""
    root = tmp_path / "root"
    (root / "etc" / "nginx").mkdir(parents=True)
    (root / "etc" / "hosts").write_text("old")
    guest = product.guest(8 * MIB, 8 * MIB)
    for content, level in (("old", Level.FULL), ("new", Level.INCREMENTAL)):
        (root / "etc" / "nginx" / "nginx.conf").write_text(content)
        for disk in (0, 1):
            fill(guest.disk(disk), root)
        product.good_backup(level, guest)
    return guest


def test_files_are_restored_and_nothing_stays(
    product: Product, guest: Guest, tmp_path: Path
) -> None:
    where = tmp_path / "out"
    result = product.good_restore(where, file="/etc/nginx/**,/none")
    assert sorted(str(path.relative_to(where)) for path in where.rglob("*.conf")) == [
        f"{guest.name}/disk0/etc/nginx/nginx.conf",
        f"{guest.name}/disk1/etc/nginx/nginx.conf",
    ]
    assert not list(where.rglob("hosts"))
    assert (where / guest.name / "disk0/etc/nginx/nginx.conf").read_text() == "new"
    log = words(result)
    assert log.index("the files are read from staged disks, which need up to") < log.index(
        f"2 files of VM {guest.name} as of job"
    )
    assert "/staging/podheitor-nutanix-" in log
    older = tmp_path / "older"
    product.good_restore(older, job_id=1, file="/etc/nginx", disk="1")
    assert (older / guest.name / "disk1/etc/nginx/nginx.conf").read_text() == "old"
    assert not (older / guest.name / "disk0").exists()


@pytest.mark.parametrize(
    ("where", "options", "message"),
    [
        ("/", {"file": "/etc/**"}, "file= needs a folder of this host for the files"),
        ("out", {"file": "/etc/**", "restore_to": "disk"}, "do not give restore_to or disk_path"),
        ("out", {"file": "/none/**"}, "is meant by file=/none/**"),
        ("out", {"file": "/../x"}, "cannot be a path"),
        ("out", {"file": "/etc", "key_file": "/none"}, "/none"),
    ],
)
def test_what_cannot_be_is_refused(
    product: Product,
    guest: Guest,
    tmp_path: Path,
    where: str,
    options: dict[str, Any],
    message: str,
) -> None:
    place = where if where == "/" else tmp_path / where
    result = product.restore(place, **options)
    assert result.status is Status.FAILED
    assert message in words(result)


def test_files_that_are_there_stay(product: Product, guest: Guest, tmp_path: Path) -> None:
    where = tmp_path / "out"
    product.good_restore(where, file="/etc/hosts")
    (where / guest.name / "disk0/etc/hosts").write_text("mine")
    result = product.restore(where, file="/etc/hosts")
    assert result.status is Status.FAILED
    assert "give another where=, or overwrite=yes" in words(result)
    assert (where / guest.name / "disk0/etc/hosts").read_text() == "mine"
    product.good_restore(where, file="/etc/hosts", overwrite="yes")
    assert (where / guest.name / "disk0/etc/hosts").read_text() == "old"


def test_two_vms_of_one_name_have_folders_of_their_own(product: Product, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    twins = [product.guest(8 * MIB, name="twin") for _ in range(2)]
    for guest in twins:
        (root / "who").write_text(guest.ext_id)
        fill(product.lab._world.vms[guest.ext_id].disks[0].file, root)
    product.backup(Level.FULL, *twins, vm=[guest.ext_id for guest in twins])
    where = tmp_path / "out"
    product.good_restore(where, file="/who", overwrite="yes")
    for guest in twins:
        assert (where / f"twin {guest.ext_id}" / "disk0/who").read_text() == guest.ext_id


def test_a_volume_that_cannot_be_read_is_named(
    product: Product, guest: Guest, tmp_path: Path
) -> None:
    with guest.disk(1).open("r+b") as disk:
        disk.write(bytes(2 * MIB))
        disk.seek(0x10040)
        disk.write(b"_BHRfS_M")
    product.good_backup(Level.FULL, guest)
    result = product.good_restore(tmp_path / "out", file="/etc/hosts")
    (line,) = [text for text in said(result, Severity.INFO) if "btrfs" in text]
    assert "volume disk1: btrfs btrfs cannot be read here: restore the disk" in line
