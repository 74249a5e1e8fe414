"""Every setting of a VM comes back, or the job log says that it does not."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import pytest
from nutanix_backend.ahv import vm_fields
from nutanix_backend.ahv.vm_fields import Fate
from nutanix_backend.cluster import inventory
from nutanix_backend.settings.parameters import parse
from prism_lab import Lab, _snapshots
from prism_lab._model import CdRom, Named
from ptcomm import Level, Severity
from ptcomm_runner import jobs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ptcomm_runner.jobs import Result

    from apps.nutanix_backend.tests.conftest import FaultyProduct, Guest, Product

pytestmark = pytest.mark.quick
MIB = 1 << 20
AHV = "vmm.v4.ahv.config"
GPU = {"mode": "PASSTHROUGH_COMPUTE", "deviceId": 4318, "vendor": "NVIDIA", "name": "A30"}
PLAIN: dict[str, Any] = {
    "description": "the books of the firm",
    "hardwareClockTimezone": "Europe/Vienna",
    "isCpuPassthroughEnabled": True,
    "isVcpuHardPinningEnabled": True,
    "isVgaConsoleEnabled": False,
    "isBrandingEnabled": False,
    "isAgentVm": True,
    "numNumaNodes": 2,
}
V4_ONLY: dict[str, Any] = {
    "isCpuHotplugEnabled": True,
    "isScsiControllerEnabled": True,
    "isMemoryOvercommitEnabled": True,
    "isGpuConsoleEnabled": True,
    "enabledCpuFeatures": ["HARDWARE_VIRTUALIZATION"],
    "customAttributes": ["owner:ana"],
    "storageConfig": {"isFlashModeEnabled": True, "qosConfig": {"throttledIops": 300}},
    "apcConfig": {"isApcEnabled": True, "cpuModel": {"extId": "5c9c2f4e-0000-4000-8000-1"}},
}
DEVICES: dict[str, Any] = {
    "serialPorts": [{"index": 0, "isConnected": True}, {"index": 1, "isConnected": False}],
    "gpus": [GPU],
    "vtpmConfig": {"isVtpmEnabled": True},
    "bootConfig": {"$objectType": f"{AHV}.UefiBoot", "isSecureBootEnabled": True},
    "machineType": "Q35",
    "pcieDevices": [{"extId": "a"}],
    "guestTools": {"isEnabled": True},
}
CARD: dict[str, Any] = {
    "vlanMode": "TRUNK",
    "trunkedVlans": [10, 20],
    "shouldAllowUnknownMacs": True,
    "ipv4Config": {"shouldAssignIp": True, "ipAddress": {"value": "10.0.0.7"}},
}


@pytest.fixture
def newest(tmp_path: Path) -> Iterator[Lab]:
    """A cluster of the newest revisions."""
    with Lab.start(tmp_path / "newest", personality="newest") as lab:
        yield lab


def said(result: Result, severity: Severity = Severity.WARNING) -> str:
    return "\n".join(m.text for m in result.log if m.severity is severity)


def vm_of(lab: Lab, name: str) -> Any:
    (found,) = (vm for vm in lab._world.vms.values() if vm.name == name)
    return found


def full_house(lab: Lab, guest: Guest) -> Any:
    """Let a VM use every setting that there is."""
    vm = vm_of(lab, guest.name)
    vm.hardware |= copy.deepcopy(PLAIN | V4_ONLY | DEVICES)
    vm.nvram = "4d1e0ab8-6d6f-4a5e-9d3c-0d9c7c1f2a3b"
    vm.cd_roms = [CdRom(bus="SATA", index=3, image="an-image"), CdRom(bus="SATA", index=4)]
    vm.nics[0].model, vm.nics[0].queues = "E1000", 4
    vm.nics[0].network = copy.deepcopy(CARD)
    vm.disks[0].flash = True
    return vm


def shown(lab: Lab, product: Product, name: str) -> Any:
    """What Prism answers about a VM."""
    with inventory.connect(parse(product.parameters())) as client:
        return client.vms.get(vm_of(lab, name).ext_id).raw


def without_marks(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: without_marks(v) for name, v in value.items() if name[0] != "$"}
    return [without_marks(v) for v in value] if isinstance(value, list) else value


def forget_points(lab: Lab) -> None:
    for point in list(lab._world.recovery_points.values()):
        _snapshots.delete(lab._world, point)


@pytest.mark.parametrize("has_point", [True, False], ids=["of its recovery point", "anew"])
def test_every_copied_field_comes_back(
    newest: Lab, make_product: Callable[..., Product], tmp_path: Path, *, has_point: bool
) -> None:
    product = make_product(newest, tmp_path / "host")
    guest = product.guest(2 * MIB)
    source = full_house(newest, guest)
    product.good_backup(Level.FULL, guest)
    before = without_marks(shown(newest, product, guest.name))
    newest._world.vms.pop(source.ext_id)
    if not has_point:
        forget_points(newest)
    result = product.restore(restore_vm_name="again", restore_identity="old")
    after = without_marks(shown(newest, product, "again"))
    checked = [field.path for field in vm_fields.FIELDS if field.copied]
    for path in [*checked, "serialPorts", "isGpuConsoleEnabled", "apcConfig", "vtpmConfig"]:
        was = list(vm_fields.values_at(before, path))
        assert was, f"{path}: the VM of this test has it"
        assert list(vm_fields.values_at(after, path)) == was, path
    assert [drive["diskAddress"] for drive in after["cdRoms"]] == [
        {"busType": "SATA", "index": 3},
        {"busType": "SATA", "index": 4},
    ]
    assert [gpu["deviceId"] for gpu in after["gpus"]] == [4318]
    card = after["nics"][0]
    assert card["networkInfo"] == before["nics"][0]["networkInfo"]
    assert card["backingInfo"] == before["nics"][0]["backingInfo"]
    assert after["disks"][0]["backingInfo"]["storageConfig"] == {"isFlashModeEnabled": True}
    assert after["description"].startswith("the books of the firm\nrestored by job ")
    warned = said(result)
    assert (vm_of(newest, "again").firmware == source.firmware) is has_point
    lost = ["Guest Tools are not enabled"]
    if not has_point:
        lost += ["its UEFI variables are new", "its vTPM is new and empty"]
        lost += ["its PCIe devices are not restored", "its CD-ROM drives are empty"]
    for words in lost:
        assert words in warned, words
    assert warned.count("VM again") == len(lost)


def test_what_the_source_still_uses_is_not_taken_from_it(
    newest: Lab, make_product: Callable[..., Product], tmp_path: Path
) -> None:
    product = make_product(newest, tmp_path / "host")
    guest = product.guest(MIB)
    full_house(newest, guest)
    product.backup(Level.FULL, guest)
    result = product.restore(restore_vm_name="copy")
    copy, source = vm_of(newest, "copy"), vm_of(newest, guest.name)
    assert "ipv4Config" not in copy.nics[0].network
    assert "address 10.0.0.7 is not assigned to it: the source VM still exists" in said(result)
    assert copy.firmware == source.firmware, "what its vTPM has sealed is opened by the copy's"
    assert copy.hardware["biosUuid"] != source.hardware["biosUuid"]
    assert {nic.mac for nic in copy.nics}.isdisjoint(nic.mac for nic in source.nics)
    assert "its vTPM are those of this backup, from recovery point" in said(result, Severity.INFO)


@pytest.mark.parametrize("has_point", [True, False], ids=["of its recovery point", "anew"])
def test_what_prism_refuses_costs_the_settings_and_not_the_vm(
    newest: Lab, make_product: Callable[..., Product], tmp_path: Path, *, has_point: bool
) -> None:
    product = make_product(newest, tmp_path / "host")
    guest = product.guest(MIB)
    source = full_house(newest, guest)
    backup = product.backup(Level.FULL, guest)
    if has_point:
        newest.faults.status("PUT */ahv/config/vms/*", 400, message="no such thing here")
    else:
        forget_points(newest)
        trial = 1
        newest.faults.status("POST */ahv/config/vms", 400, skip=trial, message="no such thing here")
    result = product.restore(restore_vm_name="plain")
    warned = said(result)
    assert "Prism refused it with all its settings (" in warned
    assert "no such thing here" in warned
    assert "it is created without apcConfig, cdRoms, " in warned
    vm = vm_of(newest, "plain")
    assert vm.disks[0].file.read_bytes() == product.points(backup, guest)[0].read_bytes()
    assert ("serialPorts" in vm.hardware) is has_point
    assert (vm.firmware == source.firmware) is has_point


def lose_the_recovery_point(lab: Lab, _guest: Guest) -> None:
    lab.faults.status("POST */recovery-points/*/$actions/restore", 500, times=9)


def let_the_task_fail_behind_its_effect(lab: Lab, _guest: Guest) -> None:
    lab.faults.fail_task("POST */recovery-points/*/$actions/restore", times=9)


def refuse_the_disks(lab: Lab, _guest: Guest) -> None:
    lab.faults.status("DELETE */vms/*/disks/*", 500, times=9)


@pytest.mark.parametrize(
    "spoil", [lose_the_recovery_point, let_the_task_fail_behind_its_effect, refuse_the_disks]
)
def test_without_the_firmware_the_vm_is_made_anew(
    newest: Lab,
    make_product: Callable[..., Product],
    tmp_path: Path,
    spoil: Callable[[Lab, Guest], None],
) -> None:
    product = make_product(newest, tmp_path / "host")
    guest = product.guest(MIB)
    source = full_house(newest, guest)
    backup = product.backup(Level.FULL, guest)
    spoil(newest, guest)
    result = product.restore(restore_vm_name="plain")
    assert "still has its UEFI variables and its vTPM, but could not be used" in said(result)
    assert "its vTPM is new and empty" in said(result)
    vm = vm_of(newest, "plain")
    assert vm.firmware != source.firmware
    assert vm.disks[0].file.read_bytes() == product.points(backup, guest)[0].read_bytes()
    assert {each.name for each in newest._world.vms.values()} == {guest.name, "plain"}


def test_the_firmware_of_another_moment_is_named(
    newest: Lab, make_product: Callable[..., Product], tmp_path: Path
) -> None:
    product = make_product(newest, tmp_path / "host")
    guest = product.guest(MIB)
    source = full_house(newest, guest)
    first = product.backup(Level.FULL, guest)
    guest.write(0, 0, 4096)
    product.backup(Level.FULL, guest)
    oldest = min(newest._world.recovery_points.values(), key=lambda point: point.created)
    _snapshots.delete(newest._world, oldest)
    settings = product.settings(restore_vm_name="older")
    result = jobs.restore(product.store, "job", settings, where="/", job_id=first.job_id)
    assert "are not of this backup, whose recovery point is gone, but from" in said(result)
    vm = vm_of(newest, "older")
    assert vm.firmware == source.firmware
    assert vm.disks[0].file.read_bytes() == product.points(first, guest)[0].read_bytes()


def test_no_policy_acts_on_what_is_half_made(
    newest: Lab, make_product: Callable[..., Product], tmp_path: Path
) -> None:
    """The categories go before anything else is done, and come when all else is there."""
    product = make_product(newest, tmp_path / "host")
    guest = product.guest(MIB)
    source = full_house(newest, guest)
    gold, old = Named("Protection", value="gold"), Named("Protection", value="old")
    newest._world.categories |= {named.ext_id: named for named in (gold, old)}
    source.categories = [gold.ext_id, old.ext_id]
    product.backup(Level.FULL, guest)
    known = len(newest.requests)
    product.restore(restore_vm_name="again")
    again = vm_of(newest, "again")
    assert again.firmware == source.firmware
    assert set(again.categories) == {gold.ext_id, old.ext_id}
    calls = newest.requests[known:]
    changes = [path for method, path, _ in calls if method != "GET" and again.ext_id in path]
    assert changes[0].endswith("$actions/disassociate-categories")
    assert changes[-1].endswith("$actions/associate-categories")
    assert len(changes) > 4


def let_it_be(_lab: Lab, _guest: Guest) -> None:
    """Nothing fails."""


@pytest.mark.parametrize(
    ("spoil", "copies"),
    [(let_it_be, 0), (refuse_the_disks, 0), (let_the_task_fail_behind_its_effect, 1)],
)
def test_a_copy_of_a_volume_group_that_prism_makes_besides_is_removed(
    make_product: Callable[..., Product],
    tmp_path: Path,
    spoil: Callable[[Lab, Guest], None],
    copies: int,
) -> None:
    """That of a task that fails is only named: nobody can tell whose it is."""
    with Lab.start(tmp_path / "all", personality="newest", restores_every_group=True) as lab:
        product = make_product(lab, tmp_path / "host")
        guest = product.guest(MIB)
        full_house(lab, guest)
        product.volume_group("data", [MIB, MIB], guest)
        product.good_backup(Level.FULL, guest)
        (point,) = lab._world.recovery_points.values()
        assert [part.name for part in point.volume_groups] == ["data"]
        spoil(lab, guest)
        result = jobs.restore(
            product.store, "job", product.settings(restore_vm_name="again"), where="/"
        )
        groups = sorted(group.name for group in lab._world.volume_groups.values())
        assert groups == ["data"] * (1 + copies) + [f"data-restore-{result.job_id}"]
        named = "volume groups called data have come meanwhile" in said(result)
        assert named is bool(copies)
        assert {vm.name for vm in lab._world.vms.values()} == {guest.name, "again"}
        had_firmware = vm_of(lab, "again").firmware == vm_of(lab, guest.name).firmware
        assert had_firmware is (spoil is let_it_be)


@pytest.mark.parametrize("personality", ["2024.3", "2023.4"])
def test_another_cluster_that_lacks_the_half(
    newest: Lab, make_product: Callable[..., Product], tmp_path: Path, personality: str
) -> None:
    product = make_product(newest, tmp_path / "host")
    guest = product.guest(2 * MIB)
    full_house(newest, guest)
    backup = product.backup(Level.FULL, guest)
    with Lab.start(tmp_path / "poor", personality=personality, gpus=()) as poor:
        config = tmp_path / "poor.conf"
        config.write_text(
            f"prism={poor.pc_host}\nuser={poor.user}\npassword={poor.password}\n"
            f"ca={poor.ca_file}\ntransport=userspace\n"
        )
        config.chmod(0o600)
        result = product.restore(
            restore_vm_name="moved", target_config_file=config, network_map="*:lab-net"
        )
        vm = vm_of(poor, "moved")
        points = product.points(backup, guest)
        assert vm.disks[0].file.read_bytes() == points[0].read_bytes()
    kept = {name: vm.hardware.get(name) for name in PLAIN if name != "description"}
    assert kept == {name: value for name, value in PLAIN.items() if name != "description"}
    assert vm.hardware["serialPorts"] == DEVICES["serialPorts"]
    assert "gpus" not in vm.hardware
    assert len(vm.cd_roms) == 2
    assert vm.nics[0].network["trunkedVlans"] == [10, 20]
    warned = said(result)
    for words in (
        "graphics card A30 is not restored: cluster lab-cluster",
        "customAttributes is not restored: the API of that Prism does not know it",
        "its CPU model is not restored: it is one of the cluster it was on",
    ):
        assert words in warned, words
    is_v3 = personality == "2023.4"
    assert ("vtpmConfig is not restored" in warned) is is_v3
    assert ("isCpuHotplugEnabled is not restored" in warned) is is_v3
    assert "still has the old ones" not in warned, "that Prism has no such recovery point"


def test_the_table_has_each_path_once_and_says_what_is_lost() -> None:
    paths = [field.path for field in vm_fields.FIELDS]
    assert len(paths) == len(set(paths))
    for field in vm_fields.FIELDS:
        assert bool(field.line) >= (field.fate is Fate.NOT_RESTORED), field.path
        assert not (field.copied and field.line), field.path
    covered = vm_fields.covering("nics[].networkInfo.ipv4Config.ipAddress.value")
    assert covered is not None
    assert covered.fate is Fate.IDENTITY
    assert vm_fields.covering("somethingNew.below") is None


def test_a_killed_restore_with_its_firmware_leaves_a_whole_vm_or_none(
    faulty: FaultyProduct, tell: Callable[[str], None]
) -> None:
    """Kill the restore after each write to Prism: disks of the recovery point stay in no VM."""
    guest = faulty.guest(MIB)
    lab, source = faulty.lab, vm_of(faulty.lab, guest.name)
    source.hardware["bootConfig"] = {"$objectType": f"{AHV}.UefiBoot"}
    faulty.job(Level.FULL, guest)
    saved = source.disks[0].file.read_bytes()
    for point in lab._world.recovery_points.values():
        held = point.vms[0].disks[-1].file
        assert held is not None
        held.write_bytes(bytes(MIB))  # not what the backup has
    wholes = kills = ended = 0
    for number in range(1, 60):
        faulty.order(act="kill", place="prism", when="after", call=number)
        jobs.restore(faulty.store, "job", faulty.settings(restore_vm_name="new"))
        was_killed = bool(faulty.sprung())
        faulty.sweep()
        faulty.let_an_hour_pass()
        made = [vm for vm in lab._world.vms.values() if vm.ext_id != source.ext_id]
        for vm in made:
            assert (vm.name, vm.firmware) == ("new", source.firmware)
            assert vm.disks[0].file.read_bytes() == saved
        wholes, kills = wholes + len(made), kills + was_killed
        assert made or was_killed
        faulty.take_vm("new")
        faulty.assert_nothing_left()
        ended += not was_killed  # this call failed, as it may, or there was none
        if ended == 2:
            break
    tell(f"\nkilled with firmware: {kills} times, {wholes} whole VMs")
    assert kills > 8
    assert wholes > 1
