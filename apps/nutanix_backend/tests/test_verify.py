"""`verify`: each backup of a store is put together and compared, and nothing is written."""

from __future__ import annotations

import re
from contextlib import ExitStack
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from command_line import program
from nutanix_backend import manifest
from nutanix_backend.__main__ import command_line
from nutanix_backend.cli.verify import StoreProof
from nutanix_backend.disks.targets import NoTarget
from nutanix_backend.errors import RestoreFailed, RestoreRefused
from nutanix_backend.restore import sources
from nutanix_backend.restore.destination import Proof
from nutanix_backend.restore.plan import plan_sibling, plan_vm
from nutanix_backend.restore.writer import DiskWriter
from prism_lab import tracking
from ptcomm import Level, Severity
from ptcomm_runner.catalog import Status
from vm_replica.errors import ReplicaDamaged

from apps.nutanix_backend.tests.conftest import said

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from apps.nutanix_backend.tests.conftest import Guest, JobByHand, MadeUp, Product

pytestmark = pytest.mark.quick
KIB, MIB = 1 << 10, 1 << 20
FULL, INCREMENTAL, DIFFERENTIAL = Level.FULL, Level.INCREMENTAL, Level.DIFFERENTIAL


def run(*words: object) -> int:
    return program.run(command_line(), ["verify", *map(str, words)])


def lines(product: Product) -> list[str]:
    return [str(verdict) for verdict in StoreProof(product.store).verdicts()]


def tree(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def a_chain(product: Product) -> Guest:
    """A VM with two disks in a full, two incrementals and a differential."""
    guest = product.guest(5 * MIB, 2 * MIB)
    product.good_backup(FULL, guest)
    guest.write(0, MIB + 64 * KIB, 64 * KIB)
    guest.discard(0, 3 * MIB, MIB)
    product.good_backup(INCREMENTAL, guest)
    guest.write(0, MIB + 128 * KIB, 64 * KIB)
    guest.grow(1, 3 * MIB)
    product.good_backup(INCREMENTAL, guest)
    product.good_backup(DIFFERENTIAL, guest)
    return guest


def test_each_disk_of_each_job_is_proven_and_nothing_is_written(
    product: Product, capsys: pytest.CaptureFixture[str]
) -> None:
    guest = a_chain(product)
    before = tree(product.root / "store")
    assert run("--store", product.root / "store") == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed == [
        f"job {job}, VM {guest.name} disk {disk}: proven" for job in range(1, 5) for disk in (0, 1)
    ]
    assert tree(product.root / "store") == before
    assert run("--store", product.root / "store", "--name", "other") == 0
    assert not capsys.readouterr().out
    assert run("--store", product.root / "none") == 1
    assert "is not a folder" in capsys.readouterr().err


def test_damage_and_loss_are_told_for_each_job_that_needs_the_file(product: Product) -> None:
    guest = a_chain(product)
    store = product.root / "store"
    (delta,) = (store / "job" / "2-incremental").rglob("disk-0-*.phcbt01")
    content = bytearray(delta.read_bytes())
    content[-1] ^= 1
    delta.write_bytes(content)
    (whole,) = (store / "job" / "1-full").rglob("disk-1-*.raw")
    whole.unlink()
    found = lines(product)
    assert found[0] == f"job 1, VM {guest.name} disk 0: proven"
    assert all("No such file" in line for line in found[1::2])
    assert [("is not what was backed up" in line) for line in found[::2]] == [
        False,
        True,
        True,
        False,
    ], "the differential stands on the full"
    assert run("--store", store) == program.UNUSABLE


def test_changes_that_were_left_out_are_found_with_their_place(product: Product) -> None:
    guest = product.guest(4 * MIB)
    product.good_backup(FULL, guest)
    guest.write(0, 2 * MIB, 64 * KIB)
    guest.write(0, 2 * MIB + 192 * KIB, 64 * KIB)
    product.lab.spoil_changes(tracking.forget(1))
    product.good_backup(INCREMENTAL, guest)
    product.lab.spoil_changes(None)
    guest.write(0, 3 * MIB, 64 * KIB)
    product.good_backup(INCREMENTAL, guest)
    first, *others = lines(product)
    assert first.endswith(": proven")
    for line in others:
        assert (
            f"2 files is as it was saved: 1 blocks of 1 MiB differ, the first at byte {2 * MIB}"
            in (line.replace("3 files", "2 files"))
        ), "what stands on it is wrong too"
    assert len(others) == 2


def test_a_backup_of_before_there_were_lists_is_undamaged_at_best(
    product: Product, monkeypatch: pytest.MonkeyPatch
) -> None:
    guest = product.guest(MIB)
    product.good_backup(FULL, guest)
    real = manifest.decode

    def old(data: bytes) -> manifest.Manifest:
        return real(re.sub(rb'"image_root":"[^"]*",', b"", data))

    monkeypatch.setattr(manifest, "decode", old)
    assert lines(product) == [
        f"job 1, VM {guest.name} disk 0: undamaged; it was saved without a digest list"
    ]


def test_a_chain_without_its_full_and_a_manifest_that_is_none(product: Product) -> None:
    guest = product.guest(MIB)
    product.good_backup(FULL, guest)
    guest.write(0, 0, KIB)
    product.good_backup(INCREMENTAL, guest)
    (path,) = (product.root / "store" / "job" / "2-incremental" / "objects").iterdir()
    path.write_bytes(b"{}")
    assert "job 2, all VMs: a manifest in the backup is damaged" in lines(product)[1]


def test_a_restored_folder_is_proven_by_the_store(
    product: Product, capsys: pytest.CaptureFixture[str]
) -> None:
    guest = a_chain(product)
    where = product.root / "restored"
    product.good_restore(where, job_id=2)
    store = product.root / "store"
    assert run("--store", store, "--restored", where) == 0
    name = next(job.job_name for job in product.jobs() if job.job_id == 2)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith(f".raw: VM {guest.name} as of job {name}, proven")
    assert len(lines) == 2
    image = product.restored(where, guest, 0)
    with image.open("r+b") as file:
        file.seek(4 * MIB)
        file.write(b"x")
    assert run("--store", store, "--restored", where) == program.UNUSABLE
    printed = capsys.readouterr().out
    assert f"{image}: it is not the disk of any backup with a digest list" in printed


def test_points_of_replicas_are_proven(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Replica:
        name = "web01"

        def points(self) -> list[SimpleNamespace]:
            return [SimpleNamespace(number=1), SimpleNamespace(number=2)]

        def verify(self, number: int) -> None:
            if number == 2:
                raise ReplicaDamaged("a byte is another")

    (tmp_path / "replicas").mkdir()
    monkeypatch.setattr(
        "nutanix_backend.cli.verify.open_store",
        lambda _root: SimpleNamespace(replicas=lambda: [Replica()]),
    )
    assert run("--store", tmp_path) == program.UNUSABLE
    assert capsys.readouterr().out.splitlines() == [
        "replica web01 generation 1: proven",
        "replica web01 generation 2: a byte is another",
    ]


# --- through the daemon --------------------------------------------------------------------------


def test_a_restore_that_makes_nothing_proves_each_job(product: Product) -> None:
    guest = a_chain(product)
    images, vms = set(product.root.rglob("*.raw")), len(product.lab.state()["vms"])
    for job in range(1, 5):
        result = product.good_restore("/", job_id=job, restore_to="verify")
        told = [text for text in said(result, Severity.INFO) if text.endswith(" is proven")]
        assert [text.split(" (")[0] for text in told] == [
            f"VM {guest.name} disk {disk}" for disk in (0, 1)
        ]
        assert not said(result, Severity.SKIPPED)
    assert set(product.root.rglob("*.raw")) == images
    assert len(product.lab.state()["vms"]) == vms


def test_a_restore_that_makes_nothing_finds_what_is_wrong(product: Product) -> None:
    guest = product.guest(4 * MIB)
    product.good_backup(FULL, guest)
    guest.write(0, 2 * MIB, 64 * KIB)
    guest.write(0, 2 * MIB + 192 * KIB, 64 * KIB)
    product.lab.spoil_changes(tracking.forget(1))
    product.good_backup(INCREMENTAL, guest)
    product.lab.spoil_changes(None)
    result = product.restore("/", restore_to="verify")
    assert result.status is Status.FAILED
    assert "disk 0 is not the one that was backed up" in said(result, Severity.FATAL)[0]
    product.good_restore("/", restore_to="verify", job_id=1)


def test_a_siblings_backup_has_nothing_to_be_compared_with(
    job_by_hand: Callable[..., JobByHand],
) -> None:
    with ExitStack() as stack:
        proof = Proof(job_by_hand().context, stack)
        plan = plan_sibling(sources.recognise("@proxmox/100/disks/scsi0.raw"))
        with pytest.raises(RestoreRefused, match="proves backups of this plugin only"):
            proof.prepare(plan)


def test_a_whole_disk_is_proven_without_a_file(made_up: type[MadeUp]) -> None:
    backup = made_up(with_roots=True)
    backup.full(bytes(range(256)) * 8192)
    (chain,) = plan_vm(backup.manifests).disks
    writer = DiskWriter(chain, NoTarget())
    ((name, content),) = backup.files.items()
    writer.begin(name)
    writer.write(memoryview(content))
    writer.end()
    assert writer.complete
    with pytest.raises(RestoreFailed, match="read back from nothing"):
        writer.target.read_into(0, memoryview(bytearray(1)))
