"""One of many: what fails in a restore fails alone, and a disk that is missing is an error."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import attrs
import pytest
from nutanix_backend.restore import refusal
from ptcomm import Ack, Answer, Finish, Level, Reply, Severity
from ptcomm_runner.catalog import Status

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ptcomm_runner.jobs import Result

    from apps.nutanix_backend.tests.conftest import Daemon, MadeUp, Product

KIB, MIB = 1 << 10, 1 << 20
IDS = {
    "web01": "11111111-1111-4111-8111-111111111111",
    "db01": "22222222-2222-4222-8222-222222222222",
}


@pytest.fixture
def two(made_up: Callable[..., MadeUp]) -> tuple[MadeUp, MadeUp]:
    """Backups of two VMs with one disk each."""
    found = tuple(made_up(vm_id, name) for name, vm_id in IDS.items())
    for backup in found:
        backup.full(os.urandom(256 * KIB))
    web, db = found
    return web, db


def give(wire: Daemon, where: Path, *backups: MadeUp) -> list[Answer]:
    """All files of the backups, as they are; what the backend said in the end."""
    return [
        wire.give_file(f"{where}/{name}", content)
        for backup in backups
        for name, content in backup.files.items()
    ]


def texts(wire: Daemon, severity: Severity) -> list[str]:
    return [m.text for m in wire.messages if m.severity is severity]


def said(result: Result, severity: Severity) -> str:
    return "\n".join(m.text for m in result.log if m.severity is severity)


def disks(where: Path) -> dict[str, bytes]:
    """The restored disks by the id of their VM, and whatever looks like one."""
    found = [*where.rglob("*.raw"), *where.rglob("*.partial")]
    return {path.parent.parent.name: path.read_bytes() for path in found}


@pytest.mark.parametrize("victim", [0, 1])
def test_a_vm_that_is_refused_does_not_stop_the_other(
    daemon: Callable[..., Daemon], two: tuple[MadeUp, MadeUp], tmp_path: Path, victim: int
) -> None:
    where, refused, other = tmp_path / "out", two[victim], two[1 - victim]
    path = where / next(iter(refused.files))
    path.parent.mkdir(parents=True)
    path.write_bytes(b"mine")
    wire = daemon()
    wire.start_restore(where)
    wire.give_manifests(*two)
    answers = give(wire, where, *two)
    assert sorted(answers, key=lambda a: a.name) == [Answer.OK, Answer.SKIP]
    (line,) = texts(wire, Severity.NONFATAL)
    assert line == (
        f"VM {refused.vm_name} is not restored: {path} exists: "
        "give overwrite=yes to replace its content"
    )
    wire.finish()
    assert disks(where) == {other.folder.vm: other.images[0], refused.folder.vm: b"mine"}


@pytest.mark.parametrize("victim", [0, 1])
def test_a_vm_that_is_damaged_does_not_stop_the_other(
    daemon: Callable[..., Daemon], two: tuple[MadeUp, MadeUp], tmp_path: Path, victim: int
) -> None:
    where, damaged, other = tmp_path / "out", two[victim], two[1 - victim]
    ((name, content),) = damaged.files.items()
    damaged.files[name] = content[:-1] + bytes([content[-1] ^ 1])
    wire = daemon()
    wire.start_restore(where)
    wire.give_manifests(*two)
    give(wire, where, *two)
    wire.finish()
    (line,) = texts(wire, Severity.NONFATAL)
    assert line.startswith(
        f"VM {damaged.vm_name} is not restored: {name} is not what was backed up"
    )
    assert disks(where) == {other.folder.vm: other.images[0]}


def test_a_damaged_manifest_concerns_its_vm_only(
    daemon: Callable[..., Daemon], two: tuple[MadeUp, MadeUp], tmp_path: Path
) -> None:
    web, db = two
    where = tmp_path / "out"
    lines = []
    for asked in ((db,), (web, db)):
        wire = daemon()
        wire.start_restore(where, overwrite="yes")
        (saved,) = web.manifests
        wire.offer_object(saved.object_name, saved.encode()[:-9])
        wire.hear(Reply)
        wire.give_manifests(db)
        give(wire, where, *asked)
        wire.finish()
        lines.append(texts(wire, Severity.NONFATAL))
        assert disks(where) == {db.folder.vm: db.images[0]}
    nothing, (line,) = lines
    assert not nothing, "web01 was not asked for"
    assert f"VM {web.folder.vm} is not restored: a manifest in the backup is damaged: " in line


def test_nothing_restored_is_a_failure(
    daemon: Callable[..., Daemon], two: tuple[MadeUp, MadeUp], tmp_path: Path
) -> None:
    wire = daemon()
    wire.start_restore("", disk_path=f"7:{tmp_path / 'x'}")
    wire.give_manifests(*two)
    for backup in two:
        assert wire.give_file(next(iter(backup.files)), b"") is Answer.SKIP
    wire.say(Finish())
    assert wire.fatal() == "no VM is restored: the reasons are above"
    assert len(texts(wire, Severity.NONFATAL)) == 2
    wire.end()


def test_abort_on_error_skips_the_others(
    daemon: Callable[..., Daemon], two: tuple[MadeUp, MadeUp], tmp_path: Path
) -> None:
    where = tmp_path / "out"
    path = where / next(iter(two[0].files))
    path.parent.mkdir(parents=True)
    path.write_bytes(b"mine")
    wire = daemon()
    wire.start_restore(where, abort_on_error="yes")
    wire.give_manifests(*two)
    assert give(wire, where, *two) == [Answer.SKIP, Answer.SKIP]
    wire.say(Finish())
    assert wire.fatal() == f"{path} exists: give overwrite=yes to replace its content"
    assert not texts(wire, Severity.NONFATAL)
    wire.end()
    assert disks(where) == {two[0].folder.vm: b"mine"}


def test_a_parameter_that_is_wrong_fails_a_restore_at_its_end(
    daemon: Callable[..., Daemon], two: tuple[MadeUp, MadeUp]
) -> None:
    """Everything is skipped before: see refusal."""
    wire = daemon()
    wire.start_restore("", restore_via="pigeon")
    wire.give_manifests(*two)
    for name in two[0].files:
        assert wire.give_file(name, b"") is Answer.SKIP
    wire.say(Finish())
    assert wire.fatal().startswith("restore_via=pigeon is not one of auto, ")
    wire.end()


def test_a_failed_job_does_not_wait_for_what_takes_longer_than_its_end(
    daemon: Callable[..., Daemon], two: tuple[MadeUp, MadeUp]
) -> None:
    web, _ = two
    (name,) = web.files
    wire = daemon()
    wire.start_restore("", restore_to="disk")
    wire.give_manifests(web)
    wire.offer_file(name, refusal.LONGEST_SKIP)
    assert wire.hear(Reply).answer is Answer.SKIP
    wire.offer_file(name, 1)
    assert wire.fatal() == (
        "restore_to=disk needs disk_path, or where=/a/folder; "
        "the errors about connections that follow come from ending the job at once"
    )
    wire.say(Finish())
    wire.hear(Ack)
    wire.end()


# --- what was asked for and is missing -----------------------------------------------------------


def test_a_vm_is_not_made_without_a_disk_that_was_asked_for(product: Product) -> None:
    guest = product.guest(MIB, MIB)
    product.good_backup(Level.FULL, guest)
    before = len(product.lab.state()["vms"])
    only_first = ("*.json", "*disk-0-*")
    failed = product.restore(include=only_first, restore_vm_name="half")
    assert failed.status is Status.FAILED
    assert "did not arrive, so disk 1 of VM" in said(failed, Severity.FATAL)
    assert len(product.lab.state()["vms"]) == before
    product.good_restore(include=only_first, restore_vm_name=f"{guest.name}-half", disk="0")


def test_disks_in_a_folder_are_kept_and_what_is_missing_is_reported(
    product: Product, tmp_path: Path
) -> None:
    guest = product.guest(MIB, MIB)
    product.good_backup(Level.FULL, guest)
    result = product.restore(tmp_path / "out", include=("*disk-0-*",))
    assert result.status is Status.WARNINGS
    assert "so disk 1 of VM" in said(result, Severity.NONFATAL)
    assert "say with disk= which disks you want" in said(result, Severity.NONFATAL)
    assert product.restored(tmp_path / "out", guest, 0).read_bytes() == guest.disk(0).read_bytes()
    product.good_restore(tmp_path / "asked", include=("*disk-0-*",), disk="0")


PROXMOX = b"name: web01\nmemory: 512\nscsi0: local:vm-1-disk-0,size=1M\nscsi1: local:vm-1-disk-1\n"


def test_a_disk_that_a_siblings_configuration_names_is_missed(
    daemon: Callable[..., Daemon], product: Product, tmp_path: Path
) -> None:
    where = tmp_path / "out"
    words = "scsi1 did not arrive, so disk 1 of VM 100 is not restored: select all of its files"
    for target, severity in ((where, Severity.NONFATAL), ("", Severity.FATAL)):
        wire = daemon()
        wire.start_restore(target, **dict(product.parameters()))
        for name, content in (("100.conf", PROXMOX), ("disks/scsi0.raw", bytes(MIB))):
            wire.give_file(f"{target}{'/' if target else ''}@proxmox/100/{name}", content)
        if severity is Severity.FATAL:
            wire.say(Finish())
            assert wire.fatal().startswith(words)
            wire.end()
        else:
            wire.finish()
            assert texts(wire, severity)[0].startswith(words)
    assert not any(vm["name"].startswith("web01-restore") for vm in product.lab.state()["vms"])


def test_a_vm_without_disks_is_made(product: Product, tmp_path: Path) -> None:
    pxe, web = product.guest(), product.guest(MIB)
    product.good_backup(Level.FULL, pxe, web)
    before = len(product.lab.requests)
    restored = product.good_restore(include=(f"*{pxe.ext_id}*",), restore_vm_name="pxe-back")
    assert "it has no disks" in said(restored, Severity.INFO)
    assert [vm["disks"] for vm in product.lab.state()["vms"] if vm["name"] == "pxe-back"] == [[]]
    asked = {path.rpartition("/")[2] for _, path, _ in product.lab.requests[before:]}
    assert "volume-groups" not in asked, "nothing is tried for disks that there are not"
    both = product.good_restore()
    assert said(both, Severity.INFO).count(" is restored as ") == 2
    product.good_restore(tmp_path / "out", include=(f"*{pxe.ext_id}*",))
    refused = product.restore(include=(f"*{pxe.ext_id}*",), disk_path=tmp_path / "disk")
    assert "has no disk that could go to disk_path" in said(refused, Severity.NONFATAL)


# --- space, and disks that are too small ---------------------------------------------------------


def test_the_space_check_can_be_overruled(
    daemon: Callable[..., Daemon], made_up: Callable[..., MadeUp], tmp_path: Path
) -> None:
    backup = made_up()
    backup.full(os.urandom(64 * KIB))
    (saved,) = backup.manifests
    entry = attrs.evolve(saved.disks[0], data_bytes=1 << 60, size=1 << 60, stream_bytes=1 << 60)
    backup.manifests = [attrs.evolve(saved, disks=(entry,))]
    wire = daemon()
    wire.start_restore(tmp_path / "out")
    wire.give_manifests(backup)
    assert give(wire, tmp_path / "out", backup) == [Answer.SKIP]
    wire.say(Finish())
    assert wire.fatal().endswith(
        "free, the restore needs 1048576.0 TiB: check_space=no restores without this check"
    )
    wire.end()
    wire = daemon()
    wire.start_restore(tmp_path / "out", check_space="no")
    wire.give_manifests(backup)
    (name,) = backup.files
    wire.offer_file(f"{tmp_path}/out/{name}")
    assert wire.hear(Reply).answer is Answer.OK
    wire.end()


def test_a_disk_that_is_too_small_for_a_volume_group_goes_by_image(product: Product) -> None:
    guest = product.guest(MIB, 366 * KIB)
    product.good_backup(Level.FULL, guest)
    name = f"{guest.name}-back"
    restored = product.good_restore(restore_vm_name=name)
    assert "disks through volume groups over iSCSI" in said(restored, Severity.INFO)
    assert (
        f"disk 1 of VM {guest.name} has 366.0 KiB, less than the 512.0 KiB that a disk of a volume "
        "group has at least: it goes through the image service"
    ) in said(restored, Severity.INFO)
    for index in range(2):
        assert product.lab.disk_file(name, index).read_bytes() == guest.disk(index).read_bytes()
    before = len(product.lab.state()["vms"])
    refused: Any = product.restore(restore_vm_name="no", restore_via="volume_group")
    assert "leave restore_via=volume_group out" in said(refused, Severity.FATAL)
    assert len(product.lab.state()["vms"]) == before
