"""The main job on the lab: Full, Incrementals, Differentials and restores, proven bit for bit."""

from __future__ import annotations

import json
import sys
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from nutanix_backend.references import state
from ptcomm import Level, Severity
from ptcomm import Phase as JobPhase
from ptcomm_runner import jobs
from ptcomm_runner.catalog import Status

if TYPE_CHECKING:
    from collections.abc import Callable

    from prism_lab import Lab
    from ptcomm import Message

    from apps.nutanix_backend.tests.conftest import Guest, Product

KIB, MIB = 1 << 10, 1 << 20
FULL, INCREMENTAL, DIFFERENTIAL = Level.FULL, Level.INCREMENTAL, Level.DIFFERENTIAL


def texts(log: tuple[Message, ...], severity: Severity) -> str:
    """The messages of one kind, as one text."""
    return "\n".join(message.text for message in log if message.severity is severity)


# --- the main job --------------------------------------------------------------------------------


def test_each_point_in_time_is_restored_bit_for_bit(product: Product) -> None:
    guest = product.guest(16 * MIB, 5 * MIB)
    full = product.good_backup(FULL, guest)
    guest.write(0, 3 * MIB + 123, 400 * KIB)
    guest.discard(0, 8 * MIB, MIB)
    first = product.good_backup(INCREMENTAL, guest)
    guest.zero(0, 3 * MIB, 100 * KIB)
    guest.write(1, 5 * MIB - 512, 512)
    second = product.good_backup(INCREMENTAL, guest)

    for result in (full, first):
        product.assert_restores(result, guest)
    where = product.assert_restores(second, guest)
    assert product.files(full, guest) == {"0-raw": 16 * MIB, "1-raw": 5 * MIB}
    assert set(product.files(second, guest)) == {"0-phcbt01", "1-phcbt01"}
    assert product.files(first, guest)["0-phcbt01"] < 2 * MIB
    (metadata,) = where.rglob("vm-metadata.json")
    assert json.loads(metadata.read_bytes())["name"] == guest.name


def test_a_chain_becomes_a_new_vm(product: Product, lab: Lab) -> None:
    guest = product.guest(6 * MIB, 2 * MIB)
    product.good_backup(FULL, guest)
    guest.write(0, 2 * MIB, 300 * KIB)
    last = product.good_backup(INCREMENTAL, guest)

    product.good_restore("/", restore_vm_name=f"{guest.name}-new", restore_powerstate="on")
    made = next(vm for vm in lab.state()["vms"] if vm["name"] == f"{guest.name}-new")
    assert made["power"] == "ON"
    for index, point in enumerate(product.points(last, guest)):
        assert lab.disk_file(made["ext_id"], index).read_bytes() == point.read_bytes()
    old, new = lab._vm(guest.ext_id), lab._vm(made["ext_id"])
    assert [nic.subnet for nic in new.nics] == [nic.subnet for nic in old.nics]
    assert {nic.mac for nic in new.nics}.isdisjoint(nic.mac for nic in old.nics)

    refused = product.restore("/", restore_vm_name=f"{guest.name}-new")
    assert refused.status is Status.FAILED
    assert "exists: choose another name" in texts(refused.log, Severity.FATAL)


def test_one_disk_goes_to_the_file_named(product: Product, tmp_path: Path) -> None:
    guest = product.guest(3 * MIB, 2 * MIB)
    product.good_backup(FULL, guest)
    guest.write(1, MIB, 70 * KIB)
    last = product.good_backup(INCREMENTAL, guest)

    target = tmp_path / "deep" / "folder" / "disk.img"
    product.good_restore("/", disk_path=target, disk=1)
    assert target.read_bytes() == product.points(last, guest)[1].read_bytes()
    assert list(target.parent.iterdir()) == [target]


def test_a_device_receives_a_disk_and_zeros_where_the_disk_has_none(
    product: Product, loop_device: Callable[[int], Path]
) -> None:
    guest = product.guest(3 * MIB)
    last = product.good_backup(FULL, guest)
    device = loop_device(4 * MIB)
    with device.open("r+b", buffering=0) as file:
        file.write(b"\xee" * 4 * MIB)

    product.good_restore("/", disk_path=device, overwrite="yes")
    content = device.read_bytes()
    assert content[: 3 * MIB] == product.points(last, guest)[0].read_bytes()
    assert content[3 * MIB :] == b"\xee" * MIB, "what lies behind the disk is not ours"


def test_a_differential_stands_on_its_full(product: Product) -> None:
    product.references = 4  # of the full, its base, this job, and the one before: it may have to do
    guest = product.guest(4 * MIB)
    product.good_backup(FULL, guest)
    results = []
    for number in range(2):
        guest.write(0, number * MIB, 65 * KIB)
        results.append(product.good_backup(DIFFERENTIAL, guest))
    guest.write(0, 3 * MIB, 65 * KIB)
    results.append(product.good_backup(INCREMENTAL, guest))

    sizes = [product.files(result, guest)["0-phcbt01"] for result in results]
    assert sizes[1] > sizes[0], "the second differential holds the changes of the first too"
    assert sizes[2] < sizes[1], "the incremental holds only its own"
    for result in results:
        product.assert_restores(result, guest)


# --- disks that come, grow, stay or hold nothing -------------------------------------------------


def test_disks_may_come_grow_and_go_within_a_chain(product: Product) -> None:
    guest = product.guest(2 * MIB, MIB)
    full = product.good_backup(FULL, guest)
    guest.add_disk(3 * MIB)
    guest.write(2, MIB, 300 * KIB)
    guest.grow(0, 4 * MIB)
    guest.write(0, 2 * MIB - 4 * KIB, 8 * KIB)  # across the old end
    guest.write(0, 4 * MIB - 512, 512)
    grown = product.good_backup(INCREMENTAL, guest)
    assert set(product.files(grown, guest)) == {"0-phcbt01", "1-phcbt01", "2-raw"}
    guest.remove_disk(1)
    guest.write(1, 0, 10 * KIB)  # what was disk 2
    last = product.good_backup(INCREMENTAL, guest)
    assert set(product.files(last, guest)) == {"0-phcbt01", "1-phcbt01"}

    for result in (full, grown, last):
        product.assert_restores(result, guest)


def test_disks_without_news_are_deltas_of_nothing(product: Product) -> None:
    """One that did not change, one that is empty, and one that grew without data."""
    guest = product.guest(2 * MIB, MIB, MIB)
    guest.discard(1, 0, MIB)
    full = product.good_backup(FULL, guest)
    guest.grow(2, 3 * MIB)
    last = product.good_backup(INCREMENTAL, guest)
    assert product.files(last, guest) == {"0-phcbt01": 24, "1-phcbt01": 24, "2-phcbt01": 24}
    for result in (full, last):
        product.assert_restores(result, guest)


def test_only_what_is_allocated_is_read(product: Product) -> None:
    guest = product.guest(64 * MIB)
    guest.discard(0, 0, 64 * MIB)
    guest.write(0, 30 * MIB, 100 * KIB)
    result = product.good_backup(FULL, guest)
    assert product.files(result, guest) == {"0-raw": 64 * MIB}
    (summary,) = (m.text for m in result.log if m.text.startswith(f"VM {guest.name}: 1 disks"))
    assert "192.0 KiB read, 64.0 MiB sent" in summary or "128.0 KiB read" in summary


def test_an_estimate_names_the_files_and_touches_nothing(product: Product, lab: Lab) -> None:
    guest = product.guest(3 * MIB, 2 * MIB)
    result = jobs.listing("job", product.settings(vm=guest.name), JobPhase.ESTIMATE)
    assert result.status is Status.GOOD
    sizes = {file.name.rpartition("/")[2].split("-")[1]: file.size for file in result.files[1:]}
    assert sizes == {"0": 3 * MIB, "1": 2 * MIB}
    assert result.files[0].name.endswith("/vm-metadata.json")
    assert not guest.recovery_points()


# --- VMs that fail -------------------------------------------------------------------------------


def test_a_vm_that_fails_is_reported_and_walked_past(product: Product, lab: Lab) -> None:
    """The next incremental of the VM that failed stands on the job before; the other goes on."""
    guests = [product.guest(2 * MIB), product.guest(2 * MIB)]
    product.good_backup(FULL, *guests)
    for guest in guests:
        guest.write(0, 0, 66 * KIB)
    lab.faults.fail_task("POST */volume-groups", skip=1, message="no space for a clone")
    middle = product.backup(INCREMENTAL, *guests)
    assert middle.status is Status.WARNINGS
    report = texts(middle.log, Severity.NONFATAL)
    (failed,) = (guest for guest in guests if guest.name in report)
    assert report.startswith(f"VM {failed.name} is not backed up: ")
    assert "no space for a clone" in report
    assert len(failed.recovery_points()) == 1, "the recovery point of the failed job is gone"
    assert not product.files(middle, failed)

    failed.write(0, MIB, 66 * KIB)
    last = product.good_backup(INCREMENTAL, *guests)
    assert set(product.files(last, failed)) == {"0-phcbt01"}, "no full was needed"
    product.assert_restores(last, *guests)


def test_a_recovery_point_that_fails_after_its_effect_is_removed(
    product: Product, lab: Lab
) -> None:
    guests = [product.guest(MIB), product.guest(MIB)]
    lab.faults.fail_task("POST */recovery-points", message="internal error of the snapshot")
    result = product.backup(FULL, *guests)
    assert result.status is Status.WARNINGS
    assert "internal error of the snapshot" in texts(result.log, Severity.NONFATAL)
    assert sorted(len(guest.recovery_points()) for guest in guests) == [0, 1]


@pytest.mark.parametrize(("more", "sent"), [({}, "COPY"), ({"backup_type": "full"}, "FULL")])
def test_what_a_snapshot_is_to_the_applications(
    product: Product, more: dict[str, str], sent: str
) -> None:
    guest = product.guest(MIB)
    product.good_backup(FULL, guest, consistency="app", **more)
    bodies = [
        exchange.body
        for exchange in product.lab.exchanges
        if exchange.method == "POST" and exchange.target.endswith("/config/recovery-points")
    ]
    assert f"{sent}_BACKUP" in str(bodies)


def test_a_volume_group_of_a_vm_is_not_passed_over_in_silence(product: Product, lab: Lab) -> None:
    guest = product.guest(MIB)
    group = {
        "$objectType": "vmm.v4.ahv.config.ADSFVolumeGroupReference",
        "volumeGroupExtId": "vg-1",
    }

    def attach(body: dict[str, Any]) -> None:
        data = body["data"]
        for vm in data if isinstance(data, list) else [data]:
            vm["disks"].append({"extId": "vg-1", "backingInfo": group})

    lab.faults.edit("GET */ahv/config/vms*", attach, times=20)
    result = product.backup(FULL, guest)
    estimated = jobs.listing("job", product.settings(vm=guest.name), JobPhase.ESTIMATE)
    lab.faults.clear()
    words = "the disks of the attached volume group vg-1 are NOT in this backup"
    assert words in texts(result.log, Severity.WARNING)
    assert any("volume group vg-1 of VM" in message.text for message in result.log)
    assert any("is not counted: " in message.text for message in estimated.log)

    lab.faults.edit("GET */ahv/config/vms*", attach, times=20)
    result = product.backup(FULL, guest, volume_groups="no")
    left_out = product.settings(vm=guest.name, volume_groups="no")
    estimated = jobs.listing("job", left_out, JobPhase.ESTIMATE)
    lab.faults.clear()
    assert words in texts(result.log, Severity.WARNING)
    assert words in texts(estimated.log, Severity.WARNING)


def test_app_or_crash_takes_the_lesser_snapshot_and_leaves_no_other(
    product: Product, lab: Lab
) -> None:
    guest = product.guest(MIB)
    lab.faults.fail_task("POST */recovery-points", message="the guest tools do not answer")
    product.good_backup(FULL, guest, consistency="app_or_crash")
    assert len(guest.recovery_points()) == 1

    lab.faults.fail_task("POST */recovery-points", message="the guest tools do not answer")
    refused = product.backup(FULL, guest, consistency="app")
    assert refused.status is Status.FAILED
    assert "the guest tools do not answer" in texts(refused.log, Severity.FATAL)


def test_the_job_fails_when_every_vm_does(product: Product, lab: Lab) -> None:
    guests = [product.guest(MIB), product.guest(MIB)]
    lab.faults.fail_task(
        "POST */recovery-points", times=2, message="out of licences", after_effect=False
    )
    result = product.backup(FULL, *guests)
    assert result.status is Status.FAILED
    assert "out of licences" in texts(result.log, Severity.FATAL)
    assert not any(guest.recovery_points() for guest in guests)


def test_abort_on_error_fails_the_job_with_the_first_vm(product: Product, lab: Lab) -> None:
    guests = [product.guest(MIB), product.guest(MIB)]
    lab.faults.status("POST */recovery-points", 422)
    result = product.backup(FULL, *guests, abort_on_error=1)
    assert result.status is Status.FAILED
    assert "answered 422" in texts(result.log, Severity.FATAL)
    left = [point for guest in guests for point in guest.recovery_points()]
    assert set(left) <= set(state.recorded_points(product.root / "state"))
    assert len(left) < len(guests)


def test_a_disk_that_breaks_in_its_middle_fails_the_job(product: Product, lab: Lab) -> None:
    """A truncated disk must never look good; the other VM's backup is lost with it."""
    guests = [product.guest(24 * MIB), product.guest(MIB)]
    guests[0].write(0, 0, 24 * MIB)

    def kill() -> None:
        for group in lab.state()["volume_groups"]:
            lab.kill_target(group["ext_id"])

    product.watcher.on_data = kill
    product.command = (sys.executable, "-c", IMPATIENT)
    result = product.backup(FULL, *guests)
    assert result.status is Status.FAILED
    line = texts(result.log, Severity.FATAL)
    assert "not restored in 2 s" in line
    assert not any(guest.recovery_points() for guest in guests)
    assert not list((product.root / "store").rglob("*.raw"))


IMPATIENT = """
import functools, runpy
import iscsi_attach
iscsi_attach.attach = functools.partial(iscsi_attach.attach, recovery_timeout=2.0)
runpy.run_module("nutanix_backend", run_name="__main__")
"""
"""The backend, ready to wait two seconds for a lost session, where the product waits longer."""


def test_a_clean_up_that_fails_does_not_spoil_the_backup(product: Product, lab: Lab) -> None:
    """All of it was sent: the VM is backed up, and what is left on the cluster is reported."""
    guest = product.guest(MIB)
    lab.faults.fail_task("DELETE */volume-groups/*", message="it is busy", after_effect=False)
    result = jobs.backup(product.store, "job", FULL, product.settings(vm=guest.name))
    assert result.status is Status.WARNINGS
    report = texts(result.log, Severity.NONFATAL)
    assert report.startswith(
        f"VM {guest.name} is backed up, but temporary objects could not be removed: "
    )
    assert "it is busy" in report
    assert "while undoing: volume group" in report
    assert len(lab.state()["volume_groups"]) == 1
    product.clear_away()
    guest.write(0, 0, 66 * KIB)
    product.assert_restores(product.good_backup(INCREMENTAL, guest), guest)


def test_a_whole_disk_in_an_incremental_must_not_hide_an_older_one_for_nothing(
    product: Product, lab: Lab
) -> None:
    """It has the name of the older one, which the catalog would give up for it: the job fails."""
    guests = [product.guest(MIB), product.guest(MIB)]
    full = product.good_backup(FULL, *guests)
    del lab._world.recovery_points[guests[0].recovery_points()[0]]
    (known,) = (product.root / "state").rglob(f"{guests[0].ext_id}.json")
    known.with_suffix(".new").mkdir()  # nothing can be recorded
    failed = product.backup(INCREMENTAL, *guests)
    assert failed.status is Status.FAILED
    assert "the state of the VM cannot be saved" in texts(failed.log, Severity.FATAL)
    assert not guests[0].recovery_points()
    product.assert_restores(full, *guests)

    again = product.backup(FULL, *guests)
    assert again.status is Status.WARNINGS, "in a full nothing older is hidden"


def test_a_reference_that_cannot_be_prolonged_is_one_all_the_same(
    product: Product, lab: Lab
) -> None:
    guest = product.guest(MIB)
    lab.faults.status("POST */set-expiration-time", 422)
    result = product.backup(FULL, guest)
    assert result.status is Status.GOOD
    assert "its recovery point still expires in 7 days" in texts(result.log, Severity.WARNING)
    guest.write(0, 0, 70 * KIB)
    product.assert_restores(product.good_backup(INCREMENTAL, guest), guest)


def test_a_reference_that_is_gone_costs_a_full_and_says_so(product: Product, lab: Lab) -> None:
    guest = product.guest(2 * MIB)
    product.good_backup(FULL, guest)
    del lab._world.recovery_points[guest.recovery_points()[0]]
    guest.write(0, 0, 70 * KIB)
    result = product.backup(INCREMENTAL, guest)
    assert result.status is Status.GOOD
    assert "is gone from the cluster" in texts(result.log, Severity.WARNING)
    assert set(product.files(result, guest)) == {"0-raw"}
    product.assert_restores(result, guest)


def test_without_a_base_no_full_is_made_where_none_is_wanted(product: Product, lab: Lab) -> None:
    guest = product.guest(MIB)
    product.good_backup(FULL, guest)
    del lab._world.recovery_points[guest.recovery_points()[0]]
    result = product.backup(INCREMENTAL, guest, fallback_to_full="no")
    assert result.status is Status.FAILED
    line = texts(result.log, Severity.FATAL)
    assert "has no base" in line
    assert "run a full backup, or set fallback_to_full=yes" in line
    assert not guest.recovery_points()


def test_what_stays_expires_by_itself_when_the_product_is_gone(product: Product, lab: Lab) -> None:
    """A reference after more than a year; what a killed job leaves behind, within days."""
    guest = product.guest(MIB)
    lives: list[timedelta] = []
    product.watcher.on_data = lambda: lives.append(life(lab, guest))
    product.good_backup(FULL, guest)
    assert timedelta(days=1) < lives[0] < timedelta(days=8)
    assert timedelta(days=366) < life(lab, guest) < timedelta(days=401)


def life(lab: Lab, guest: Guest) -> timedelta:
    """How long the only recovery point of a VM will live."""
    (point,) = (p for p in lab.state()["recovery_points"] if guest.ext_id in p["vms"])
    return datetime.fromisoformat(point["expires"]) - datetime.now(UTC)


# --- the law of the main job ---------------------------------------------------------------------


@attrs.frozen
class Write:
    """Random bytes."""

    offset: int
    length: int
    seed: int

    def apply(self, guest: Guest, size: int) -> None:
        """Do it within the disk."""
        offset = self.offset % size
        guest.write(0, offset, min(self.length, size - offset), self.seed)


@attrs.frozen
class Zero:
    """Zeros written, or space given back."""

    offset: int
    length: int
    discard: bool

    def apply(self, guest: Guest, size: int) -> None:
        """Do it within the disk."""
        offset = self.offset % size
        act = guest.discard if self.discard else guest.zero
        act(0, offset, min(self.length, size - offset))


@attrs.frozen
class Grow:
    """More space at the end, in sectors."""

    sectors: int

    def apply(self, guest: Guest, size: int) -> None:
        """Do it."""
        guest.grow(0, size + 512 * self.sectors)


offsets = st.integers(0, 6 * MIB)
lengths = st.integers(1, 300 * KIB) | st.just(4 * KIB) | st.integers(1, 3 * MIB)
actions = st.one_of(
    st.builds(Write, offsets, lengths, st.integers(0, 2**32)),
    st.builds(Zero, offsets, lengths, st.booleans()),
    st.builds(Grow, st.integers(1, 4096)),
)
workload = st.lists(actions, max_size=6)


@settings(
    max_examples=3,
    phases=[Phase.explicit, Phase.generate],  # a smaller workload would tell no more
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.integers(2048, 8192), workload, workload, workload)
def test_a_restore_is_what_was_there_whatever_the_guest_did(
    product: Product, sectors: int, before: list[Any], between: list[Any], after: list[Any]
) -> None:
    """Full and two Incrementals over a random workload: each point in time comes back."""
    product.root.mkdir(exist_ok=True)
    fresh = attrs.evolve(product, root=Path(tempfile.mkdtemp(dir=product.root)))
    guest = fresh.guest(512 * sectors)
    results = []
    for level, work in ((FULL, before), (INCREMENTAL, between), (INCREMENTAL, after)):
        for action in work:
            action.apply(guest, guest.disk(0).stat().st_size)
        results.append(fresh.good_backup(level, guest))
    for result in results:
        fresh.assert_restores(result, guest)
