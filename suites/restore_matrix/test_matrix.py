"""Every source to every target: each cell is bit-identical, or refused with the stated reason."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from suites.restore_matrix.conftest import (
    IMAGES,
    assert_file_systems,
    of_a_sibling,
    run,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from prism_lab import Lab

    from suites.restore_matrix.conftest import Bench, Source

SOURCES = [
    "AHV full", "AHV full + 2 incrementals", "AHV full + differential",
    "Proxmox raw", "Proxmox raw + delta", *IMAGES, "Hyper-V .vmcx", "vmdk of a snapshot",
]  # fmt: skip
VM_TARGETS = {
    "same cluster": {},
    "other cluster": {},
    "volume group": {"restore_via": "volume_group"},
    "image": {"restore_via": "image"},
}
TARGETS = [*VM_TARGETS, "files", "block device"]
GUEST = Path(__file__).parents[2] / ".ci" / "guest"


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("label", SOURCES)
def test_cell(
    bench: Bench,
    devices: tuple[Path, Path],
    table: dict[tuple[str, str], str],
    label: str,
    target: str,
) -> None:
    table[label, target] = "FAILED"
    source = bench.sources[label]
    if target in VM_TARGETS:
        word = into_a_vm(bench, source, target)
    elif target == "files":
        word = into_files(bench, source)
    else:
        word = onto_devices(source, devices)
    assert_nothing_left(bench)
    table[label, target] = word


def into_a_vm(bench: Bench, source: Source, target: str) -> str:
    lab: Lab = bench.other if target == "other cluster" else bench.lab
    name = f"{source.label} to {target}"
    parameters: dict[str, object] = {
        "restore_vm_name": name, "network_map": "*:lab-net-2", **VM_TARGETS[target],
    }  # fmt: skip
    if lab is bench.other:
        parameters["target_config_file"] = bench.config
    outcome = source.restore("/", parameters)
    found = [vm for vm in lab._world.vms.values() if vm.name == name]
    if source.reason:
        assert source.reason in outcome.refused, outcome
        assert not found
        return "refused"
    assert not outcome.refused, outcome
    way = "the image service" if target == "image" else "volume groups over iSCSI"
    assert f"through {way}" in outcome.log
    disks = sorted(found[0].disks, key=lambda disk: (disk.bus, disk.index))
    compare([disk.file for disk in disks], source.disks)
    (nic,) = found[0].nics
    assert lab._world.subnets[str(nic.subnet)].name == "lab-net-2"
    return "identical"


def into_files(bench: Bench, source: Source) -> str:
    where = bench.root / "restored"
    outcome = source.restore(str(where), {"verify": "yes"})
    try:
        if outcome.refused:
            assert source.reason, outcome
            assert source.reason in outcome.refused
            assert not list(where.rglob("*.raw*"))
            return "refused"
        found = sorted(where.rglob("disk-*.raw"), key=lambda path: path.name)
        compare(found, source.disks[: len(found)])
        assert found
        for path in found:
            assert path.stat().st_blocks * 512 < path.stat().st_size, "holes are kept"
        if len(found) == 2:
            assert_file_systems(*found)
        return "identical"
    finally:
        shutil.rmtree(where, ignore_errors=True)


def onto_devices(source: Source, devices: tuple[Path, Path]) -> str:
    for device in devices:
        with device.open("r+b") as file:
            file.write(b"\xee" * (1 << 20))
    paths = f"0:{devices[0]},1:{devices[1]}"
    outcome = source.restore("/", {"disk_path": paths, "overwrite": "yes", "verify": "yes"})
    if outcome.refused:
        assert source.reason, outcome
        assert source.reason in outcome.refused
        return "refused"
    compare(devices[: 1 if source.reason else 2], source.disks)
    return "identical"


def compare(found: Sequence[Path], wanted: Sequence[Path]) -> None:
    assert found
    for one, other in zip(found, wanted, strict=False):
        with one.open("rb") as left, other.open("rb") as right:
            assert left.read() == right.read(), f"{one} is not {other}"


def assert_nothing_left(bench: Bench) -> None:
    for lab in (bench.lab, bench.other):
        state = lab.state()
        left = {kind: state[kind] for kind in ("volume_groups", "images", "sessions", "tasks")}
        assert not any(left.values()), left
    assert not list((bench.product.root / "working").glob("*"))
    assert not list(bench.root.glob("siblings/*/working/*"))


def test_a_guest_of_vmware_boots_on_the_other_cluster(bench: Bench, tmp_path: Path) -> None:
    """A Linux guest, exported as a stream, restored into a volume group, and switched on."""
    if not shutil.which("qemu-system-x86_64"):
        pytest.skip("needs qemu-system-x86")
    raw, vmdk, vmx = tmp_path / "g.raw", tmp_path / "guest.vmdk", tmp_path / "guest.vmx"
    run(GUEST / "build", raw, "matrix")
    options = "subformat=streamOptimized"
    run("qemu-img", "convert", "-f", "raw", "-O", "vmdk", "-o", options, raw, vmdk)
    vmx.write_text(
        'displayName = "guest"\nmemSize = "256"\nscsi0:0.present = "TRUE"\n'
        'scsi0.present = "TRUE"\nscsi0:0.fileName = "guest.vmdk"\n'
    )
    files = [("@vsphere/guest/guest.vmx", vmx), ("@vsphere/guest/disks/guest.vmdk", vmdk)]
    restore = of_a_sibling(bench.product, tmp_path / "daemon", files)
    outcome = restore("/", {"restore_vm_name": "booted", "target_config_file": bench.config})
    assert not outcome.refused, outcome
    (vm,) = (vm for vm in bench.other._world.vms.values() if vm.name == "booted")
    done = subprocess.run(
        [GUEST / "boot", vm.disks[0].file, "raw", "matrix"],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "PODHEITOR GUEST BOOTED matrix" in done.stdout
