"""Restore in place: only what changed is written, with a way back, or what is unfit is said."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
from prism_lab import Lab, _snapshots, tracking
from ptcomm import Level, Severity
from ptcomm_runner import jobs
from ptcomm_runner.catalog import Status

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ptcomm_runner.jobs import Result

    from apps.nutanix_backend.tests.conftest import FaultyProduct, Guest, Product

KIB, MIB = 1 << 10, 1 << 20


def said(result: Result, *severities: Severity) -> str:
    wanted = severities or tuple(Severity)
    return "\n".join(m.text for m in result.log if m.severity in wanted)


def vm_of(lab: Lab, guest: Guest) -> Any:
    return lab._world.vms[guest.ext_id]


def content(lab: Lab, guest: Guest) -> list[bytes]:
    return [disk.file.read_bytes() for disk in vm_of(lab, guest).disks]


def saved(product: Product, *sizes: int) -> tuple[Guest, Result]:
    """A VM with a full and an incremental, switched off."""
    guest = product.guest(*sizes)
    product.good_backup(Level.FULL, guest)
    guest.write(0, 700 * KIB, 100 * KIB)
    guest.zero(0, 0, 64 * KIB)
    result = product.good_backup(Level.INCREMENTAL, guest)
    vm_of(product.lab, guest).power_state = "OFF"
    return guest, result


def spoil(guest: Guest) -> None:
    """What the backup is there for."""
    guest.write(0, 3 * MIB + 5, 70 * KIB)
    guest.write(0, 10, 10)
    guest.discard(0, 1 * MIB, 256 * KIB)


def test_only_what_changed_is_written(product: Product) -> None:
    guest, backup = saved(product, 6 * MIB, 2 * MIB)
    addresses = [(d.bus, d.index) for d in vm_of(product.lab, guest).disks]
    spoil(guest)
    spoilt = content(product.lab, guest)
    result = product.good_restore(restore_to="inplace")
    points = [point.read_bytes() for point in product.points(backup, guest)]
    vm = vm_of(product.lab, guest)
    assert [(d.bus, d.index) for d in vm.disks] == addresses
    assert content(product.lab, guest) == points
    log = said(result)
    assert "disk 0 (6.0 MiB) is in place as of job" in log
    (written,) = re.findall(r"disk 0 .*proven; ([0-9.]+) KiB were written", log)
    assert 192 <= float(written) <= 256, "three blocks differ; one is written twice"
    assert "disk 1 (2.0 MiB) is in place" in log
    assert "proven; 0 B were written" in log
    (safety,) = (
        point
        for point in product.lab._world.recovery_points.values()
        if "before restoring" in point.name
    )
    assert f"revert the VM to recovery point {safety.ext_id} in Prism" in log
    _snapshots.revert_vm(product.lab._world, vm, safety.vms[0])
    assert content(product.lab, guest) == spoilt, "there is a way back"
    _snapshots.delete(product.lab._world, safety)


def test_the_next_incremental_saves_the_new_disks(product: Product) -> None:
    guest, _ = saved(product, 4 * MIB)
    spoil(guest)
    product.good_restore(restore_to="inplace")
    product.references += 1
    guest.write(0, 2 * MIB, 10 * KIB)
    result = product.backup(Level.INCREMENTAL, guest)
    product.assert_restores(result, guest)


def switch_on(product: Product, guest: Guest) -> None:
    vm_of(product.lab, guest).power_state = "ON"


def lose_a_disk(product: Product, guest: Guest) -> None:
    del vm_of(product.lab, guest).disks[0]


def grow(product: Product, guest: Guest) -> None:
    guest.grow(0, 5 * MIB)


def lose_the_reference(product: Product, guest: Guest) -> None:
    for ext_id in guest.recovery_points():
        _snapshots.delete(product.lab._world, product.lab._world.recovery_points[ext_id])


def lose_the_vm(product: Product, guest: Guest) -> None:
    del product.lab._world.vms[guest.ext_id]


def lose_the_list(product: Product, guest: Guest) -> None:
    product.lab.faults.status("POST *compute-changed-regions", 404, times=2)


def lose_the_clones(product: Product, guest: Guest) -> None:
    object.__setattr__(product.lab._world.settings, "volume_disk_clones", False)


UNFIT = [
    (switch_on, "is switched on: switch it off to restore it in place"),
    (lose_a_disk, "no longer has disk 0 of the backup"),
    (grow, "disk 0 of the backup has 4.0 MiB, that of VM"),
    (lose_the_reference, "is gone from the cluster, which cannot say what changed since"),
    (lose_the_vm, "no longer exists: leave restore_to=inplace out"),
    (lose_the_list, "cannot say what changed of VM"),
    (lose_the_clones, "gives a VM no disk from a volume group"),
]


@pytest.mark.parametrize(("unfit", "words"), UNFIT, ids=[case[0].__name__ for case in UNFIT])
def test_what_the_cluster_does_not_allow_is_said_before_anything_is_written(
    make_product: Callable[..., Product],
    tmp_path: Path,
    unfit: Callable[[Product, Guest], None],
    words: str,
) -> None:
    with Lab.start(tmp_path / "lab") as lab:
        product = make_product(lab, tmp_path / "host")
        guest, _ = saved(product, 4 * MIB)
        spoil(guest)
        unfit(product, guest)
        before = {
            vm.ext_id: [d.file.read_bytes() for d in vm.disks] for vm in lab._world.vms.values()
        }
        result = product.restore(restore_to="inplace")
        assert words in said(result, Severity.FATAL)
        assert before == {
            vm.ext_id: [d.file.read_bytes() for d in vm.disks] for vm in lab._world.vms.values()
        }
        left = [p.name for p in lab._world.recovery_points.values() if "before" in p.name]
        assert not left, "nothing was changed, so nothing is kept"


@pytest.mark.parametrize("personality", ["2024.3", "2023.4"])
def test_an_api_without_such_disks_says_so(
    make_product: Callable[..., Product], tmp_path: Path, personality: str
) -> None:
    with Lab.start(tmp_path / "lab", personality=personality) as lab:
        product = make_product(lab, tmp_path / "host")
        guest = product.guest(MIB)
        product.backup(Level.FULL, guest)
        result = product.restore(restore_to="inplace")
        assert "Prism needs API v4.1 to give a VM another disk" in said(result, Severity.FATAL)


def test_options_of_new_vms_are_refused(product: Product) -> None:
    saved(product, MIB)
    result = product.restore(restore_to="inplace", restore_vm_name="other")
    assert "makes no new VM: leave restore_vm_name out" in said(result, Severity.FATAL)
    result = product.restore(restore_to="inplace", storage_container="fast")
    assert "makes no new VM: leave storage_container out" in said(result, Severity.FATAL)
    result = product.restore(restore_to="inplace", restore_identity="new")
    assert "changes no UUID and no MAC addresses" in said(result, Severity.FATAL)


def test_a_vm_that_does_not_start_is_restored_all_the_same(product: Product) -> None:
    guest, _ = saved(product, 4 * MIB)
    before = content(product.lab, guest)
    spoil(guest)
    product.lab.faults.status("POST */$actions/power-on", 403, message="no power here")
    result = product.restore(restore_to="inplace", restore_powerstate="on")
    assert result.status is Status.WARNINGS, said(result)
    assert "is restored in place, but it was not started: " in said(result)
    assert content(product.lab, guest) == before


def test_changes_that_prism_left_out_are_found_before_a_disk_is_replaced(product: Product) -> None:
    guest, _ = saved(product, 4 * MIB)
    spoil(guest)
    spoilt = content(product.lab, guest)
    product.lab.spoil_changes(tracking.forget(0))
    try:
        result = product.restore(restore_to="inplace")
    finally:
        product.lab.spoil_changes(None)
    assert (
        "Prism left changes out of its list, or the backup is not sound; nothing of the VM"
        in said(result, Severity.FATAL)
    )
    assert content(product.lab, guest) == spoilt


def test_a_failure_between_two_disks_says_how_to_return(product: Product) -> None:
    guest, _ = saved(product, 4 * MIB)
    spoil(guest)
    spoilt = content(product.lab, guest)
    product.lab.faults.status(f"POST */vms/{guest.ext_id}/disks", 500, message="no room")
    result = product.restore(restore_to="inplace")
    log = said(result, Severity.FATAL)
    assert "are incomplete" in log
    assert "no room" in log
    (safety,) = (
        point
        for point in product.lab._world.recovery_points.values()
        if "before restoring" in point.name and point.ext_id in log
    )
    _snapshots.revert_vm(product.lab._world, vm_of(product.lab, guest), safety.vms[0])
    assert content(product.lab, guest) == spoilt
    _snapshots.delete(product.lab._world, safety)


def test_killed_at_every_call_there_is_the_old_disk_the_new_one_or_a_way_back(
    faulty: FaultyProduct, tell: Callable[[str], None]
) -> None:
    """Kill the restore after each write to Prism; the next job names the way back."""
    guest = faulty.guest(2 * MIB)
    lab, vm = faulty.lab, vm_of(faulty.lab, guest)
    vm.power_state = "OFF"
    found = {"as it was": 0, "restored": 0, "the way back": 0}
    wanted: list[bytes] = []
    ended = 0
    for number in range(1, 60):
        if not wanted:
            faulty.order()
            faulty.job(Level.FULL, guest)
            wanted = content(lab, guest)
            guest.write(0, number * 4096, 10)
        spoilt = content(lab, guest)
        faulty.order(act="kill", place="prism", when="after", call=number)
        result = jobs.restore(faulty.store, "job", faulty.settings(restore_to="inplace"))
        if not faulty.sprung():  # this call failed, as it may, or there was none
            assert result.status is Status.GOOD, said(result)
            ended += 1
            if ended == 2:
                break
        swept = "\n".join(faulty.sweep())
        faulty.let_an_hour_pass()
        points = [p for p in lab._world.recovery_points.values() if "before" in p.name]
        now = content(lab, guest)
        if now == spoilt:
            found["as it was"] += 1
        elif now == wanted:
            found["restored"] += 1
        else:
            assert now == []
            assert any(f"recovery point {p.ext_id} in Prism" in swept for p in points), swept
            found["the way back"] += 1
        if now != spoilt:
            _snapshots.revert_vm(lab._world, vm, points[-1].vms[0])
            assert content(lab, guest) == spoilt
            wanted = []  # it is another disk now, which no backup has
        for point in points:
            _snapshots.delete(lab._world, point)
        faulty.assert_nothing_left()
    tell(f"\nkilled in place: {found}")
    assert found["as it was"] > 5
    assert found["the way back"]
