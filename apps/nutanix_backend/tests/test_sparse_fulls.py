"""`full_format=sparse`: a full that sends only what is allocated restores as a raw one does."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest
from command_line import program
from nutanix_backend.__main__ import command_line
from nutanix_backend.cli.verify import StoreProof
from nutanix_backend.files.stored import vms_of
from phcbt01 import HEADER_SIZE, REGION_HEADER_SIZE
from prism_lab import Lab
from ptcomm import Level, Phase, Severity
from ptcomm_runner import jobs
from ptcomm_runner.catalog import Kind, Status

from apps.nutanix_backend.tests.conftest import said

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ptcomm_runner.jobs import Result

    from apps.nutanix_backend.tests.conftest import Guest, Product

KIB, MIB = 1 << 10, 1 << 20
FULL, INCREMENTAL, DIFFERENTIAL = Level.FULL, Level.INCREMENTAL, Level.DIFFERENTIAL
SPARSE = {"full_format": "sparse"}


def thin(product: Product, *sizes: int) -> Guest:
    """A VM whose disks have holes, one of which begins and ends within blocks of 1 MiB."""
    guest = product.guest(*sizes)
    for index, size in enumerate(sizes):
        guest.discard(index, MIB + 256 * KIB, 512 * KIB)
        guest.discard(index, size - MIB, MIB)
    return guest


def full_of(product: Product, guest: Guest) -> Result:
    return product.good_backup(FULL, guest, **SPARSE)


def test_each_point_of_a_chain_is_restored_and_proven(product: Product) -> None:
    guest = thin(product, 8 * MIB, 3 * MIB)
    full = full_of(product, guest)
    guest.write(0, MIB + 300 * KIB, 100 * KIB)
    guest.discard(1, 0, MIB)
    first = product.good_backup(INCREMENTAL, guest, **SPARSE)
    guest.grow(1, 4 * MIB)
    guest.write(1, 3 * MIB + 1, 10)
    second = product.good_backup(INCREMENTAL, guest, **SPARSE)
    differential = product.good_backup(DIFFERENTIAL, guest, **SPARSE)

    assert set(product.files(full, guest)) == {"0-phcbt01", "1-phcbt01"}
    for entry in product.manifest(full, guest).disks:
        assert (entry.kind, entry.base) == ("phcbt01", "")
        assert entry.data_bytes <= entry.size - MIB - 512 * KIB
        headers = HEADER_SIZE + entry.regions * REGION_HEADER_SIZE
        assert entry.stream_bytes == headers + entry.data_bytes
    for result in (full, first, second, differential):
        product.assert_restores(result, guest)
    verdicts = list(StoreProof(product.store).verdicts())
    assert [verdict.proof for verdict in verdicts if not verdict.fault] == ["proven"] * 8
    backups = [job for job in product.jobs() if job.kind is Kind.BACKUP]
    for job in backups:
        (vm,) = vms_of(product.store, job, backups)
        for chain in vm.plan().disks:
            digests = vm.digests(chain)
            assert digests is not None
            assert digests.root() == chain.image_root


def test_no_block_is_read_again_for_the_digest_list(product: Product) -> None:
    guest = thin(product, 4 * MIB)
    full_of(product, guest)
    guest.write(0, 0, MIB)
    result = product.good_backup(INCREMENTAL, guest)
    log = "\n".join(said(result, Severity.INFO))
    assert "read as a whole once" not in log
    assert "0 B with changes in part read for the digest lists" in log
    assert guest.name in log


def test_a_disk_without_data_is_a_stream_of_no_regions(product: Product) -> None:
    guest = product.guest(2 * MIB, 2 * MIB)
    guest.discard(0, 0, 2 * MIB)
    full = full_of(product, guest)
    assert product.files(full, guest)["0-phcbt01"] == HEADER_SIZE
    product.assert_restores(full, guest)
    guest.write(0, MIB, 512)
    product.assert_restores(product.good_backup(INCREMENTAL, guest), guest)


@pytest.mark.parametrize(("old", "new"), [("raw", "sparse"), ("sparse", "raw"), ("sparse",) * 2])
def test_a_full_in_place_of_an_incremental(product: Product, old: str, new: str) -> None:
    guest = thin(product, 4 * MIB)
    full = product.good_backup(FULL, guest, full_format=old)
    guest.write(0, 2 * MIB, 64 * KIB)
    before = product.good_backup(INCREMENTAL, guest, full_format=old)
    shutil.rmtree(product.root / "state")
    product.references += 2  # nobody knows the old ones any more
    guest.write(0, 3 * MIB, 64 * KIB)
    instead = product.backup(INCREMENTAL, guest, full_format=new)
    assert instead.status is Status.GOOD
    guest.write(0, 0, 64 * KIB)
    last = product.good_backup(INCREMENTAL, guest, full_format=new)
    for result in (full, before, instead, last):
        product.assert_restores(result, guest)
    assert not [verdict for verdict in StoreProof(product.store).verdicts() if verdict.fault]


@pytest.mark.parametrize("way", ["volume_group", "image"])
def test_a_new_vm(product: Product, lab: Lab, way: str) -> None:
    guest = thin(product, 6 * MIB, 2 * MIB)
    full_of(product, guest)
    guest.write(0, 2 * MIB, 300 * KIB)
    last = product.good_backup(INCREMENTAL, guest)
    name = f"{guest.name}-{way}"
    product.good_restore("/", restore_vm_name=name, restore_via=way)
    made = next(vm for vm in lab.state()["vms"] if vm["name"] == name)
    for index, point in enumerate(product.points(last, guest)):
        assert lab.disk_file(made["ext_id"], index).read_bytes() == point.read_bytes()


def test_another_cluster(
    product: Product, make_product: Callable[[Lab, Path], Product], tmp_path: Path
) -> None:
    guest = thin(product, 4 * MIB)
    full = full_of(product, guest)
    with Lab.start(tmp_path / "other") as other:
        there = make_product(other, tmp_path / "other-host")
        settings = there.settings(restore_vm_name="moved", target_cluster="lab-cluster")
        result = jobs.restore(product.store, "job", settings, where="/")
        assert result.status is Status.GOOD, result.log
        made = next(vm for vm in other.state()["vms"] if vm["name"] == "moved")
        (point,) = product.points(full, guest)
        assert other.disk_file(made["ext_id"], 0).read_bytes() == point.read_bytes()


def test_what_was_not_allocated_is_zero_in_place(product: Product) -> None:
    guest = thin(product, 5 * MIB)
    full = full_of(product, guest)
    guest.write(0, MIB + 300 * KIB, 100 * KIB)  # into a hole of the full
    guest.write(0, 5 * MIB - 10 * KIB, 10 * KIB)  # and behind its last region
    guest.write(0, 0, 5)
    vm = product.lab._world.vms[guest.ext_id]
    vm.power_state = "OFF"
    product.good_restore(restore_to="inplace")
    (point,) = product.points(full, guest)
    assert vm.disks[0].file.read_bytes() == point.read_bytes()


def test_what_was_not_allocated_is_zero_on_a_device(
    product: Product, loop_device: Callable[[int], Path]
) -> None:
    guest = thin(product, 4 * MIB)
    full = full_of(product, guest)
    device = loop_device(5 * MIB)
    device.write_bytes(b"\xee" * (5 * MIB))
    product.good_restore("/", restore_to="disk", disk_path=device, overwrite="yes", verify="yes")
    (point,) = product.points(full, guest)
    assert device.read_bytes() == point.read_bytes() + b"\xee" * MIB


def test_damage_and_a_lost_full_are_found(product: Product, tmp_path: Path) -> None:
    guest = thin(product, 4 * MIB)
    full_of(product, guest)
    guest.write(0, 0, 10)
    product.good_backup(INCREMENTAL, guest)
    (whole,) = (product.root / "store" / "job" / "1-full").rglob("disk-0-*.phcbt01")
    content = bytearray(whole.read_bytes())
    content[-1] ^= 1
    whole.write_bytes(content)
    faults = [verdict.fault for verdict in StoreProof(product.store).verdicts()]
    assert all("is damaged" in fault for fault in faults)
    assert len(faults) == 2
    failed = product.restore(tmp_path / "out")
    assert failed.status is Status.FAILED
    assert not list((tmp_path / "out").rglob("*.raw"))


def test_images_in_a_folder_are_known_again(
    product: Product, capsys: pytest.CaptureFixture[str]
) -> None:
    guest = thin(product, 4 * MIB)
    where = product.assert_restores(full_of(product, guest), guest)
    words = ["verify", "--store", str(product.root / "store"), "--restored", str(where)]
    assert program.run(command_line(), words) == 0
    assert "proven" in capsys.readouterr().out


def test_an_estimate_names_the_files_of_a_sparse_full(product: Product) -> None:
    guest = product.guest(2 * MIB)
    estimate = jobs.listing("job", product.settings(vm=guest.name, **SPARSE), Phase.ESTIMATE)
    (disk,) = (file for file in estimate.files if "/disks/" in file.name)
    assert disk.name.endswith("Z.phcbt01")
    assert disk.stat.size == 2 * MIB
