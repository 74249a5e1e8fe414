"""A libvirt domain has the hardware of the VM."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import uuid4
from xml.etree import ElementTree as ET

import attrs
from vm_config import libvirt, readers
from vm_config.ahv_record import ConfigDisk, ConfigNic, VmConfig
from vm_config.libvirt import DomainDisk

if TYPE_CHECKING:
    from pathlib import Path

MIB = 1 << 20
MAC = "50:6b:8d:00:00:01"


def config(**changes: Any) -> VmConfig:
    """A VM with three disks on two buses and two cards."""
    plain = VmConfig(
        schema=1,
        vm_id="11111111-1111-4111-8111-111111111111",
        name="web01",
        description="",
        cluster_id="cluster-1",
        sockets=2,
        cores_per_socket=2,
        threads_per_core=1,
        memory=1 << 30,
        machine_type="PC",
        firmware="legacy",
        secure_boot=False,
        boot_order=("DISK",),
        disks=(
            ConfigDisk("disk-a", "SCSI", 0, 8 * MIB),
            ConfigDisk("disk-b", "SCSI", 1, 4 * MIB),
            ConfigDisk("disk-c", "IDE", 0, MIB),
        ),
        nics=(ConfigNic(MAC, "subnet-1", True), ConfigNic("50:6b:8d:00:00:02", "subnet-2", True)),
        prism={},
    )
    return attrs.evolve(plain, **changes)


# --- the domain ----------------------------------------------------------------------------------


def describe(wanted: VmConfig, bridges: dict[str, str], tmp_path: Path) -> ET.Element:
    disks = [
        DomainDisk(disk.disk_id, tmp_path / f"{n}.qcow2", "qcow2")
        for n, disk in enumerate(wanted.disks)
    ]
    key = str(uuid4())
    machine = readers.read("@nutanix", wanted.encode())
    text = libvirt.describe(machine, "a/<name>", key, disks, bridges, accelerated=False)
    root = ET.fromstring(text)
    assert (root.findtext("name"), root.findtext("uuid")) == ("a-<name>", key)
    return root


def test_the_domain_has_the_hardware(tmp_path: Path) -> None:
    root = describe(config(), {MAC: "br1", "subnet-2": "br2"}, tmp_path)
    assert root.findtext("memory") == str(1 << 30)
    assert root.findtext("vcpu") == "4"
    found = root.findall("devices/disk")
    targets = [(d.find("target").attrib["dev"], d.find("target").attrib["bus"]) for d in found]  # type: ignore[union-attr]
    assert targets == [("sda", "scsi"), ("sdb", "scsi"), ("hda", "ide")]
    assert [d.find("boot").attrib["order"] for d in found] == ["1", "2", "3"]  # type: ignore[union-attr]
    assert root.find("devices/controller[@model='virtio-scsi']") is not None
    bridges = [s.attrib["bridge"] for s in root.findall("devices/interface/source")]
    assert bridges == ["br1", "br2"]
    assert root.find("os").attrib == {}  # type: ignore[union-attr]


def test_a_card_without_a_network_is_left_out(tmp_path: Path) -> None:
    assert len(describe(config(), {MAC: "br1"}, tmp_path).findall("devices/interface")) == 1
    assert not describe(config(), {}, tmp_path).findall("devices/interface")
    assert len(describe(config(), {"*": "br0"}, tmp_path).findall("devices/interface")) == 2


def test_uefi_and_secure_boot(tmp_path: Path) -> None:
    root = describe(config(firmware="uefi", secure_boot=True), {}, tmp_path)
    system = root.find("os")
    assert system is not None
    assert system.attrib == {"firmware": "efi"}
    assert system.find("type").attrib["machine"] == "q35"  # type: ignore[union-attr]
    assert root.find("features/smm") is not None
    buses = [target.attrib["bus"] for target in root.findall("devices/disk/target")]
    assert buses == ["scsi", "scsi", "sata"]  # a q35 has no IDE


def test_many_disks_have_names(tmp_path: Path) -> None:
    disks = tuple(ConfigDisk(f"d{n}", "PCI", n, MIB) for n in range(28))
    root = describe(config(disks=disks), {}, tmp_path)
    names = [target.attrib["dev"] for target in root.findall("devices/disk/target")]
    assert (names[25], names[26], names[27]) == ("vdz", "vdaa", "vdab")


def test_a_machine_of_another_hypervisor(tmp_path: Path) -> None:
    """Disks are found by their names there; one that is not in the configuration is not lost."""
    text = (
        b"cores: 2\nmemory: 512\nmachine: pc-q35-8.1\nscsi0: a:vm-1-disk-0,size=1G\n"
        b"net0: virtio=50:6B:8D:00:00:09,bridge=vmbr3\n"
    )
    machine = readers.read("@proxmox", text)
    disks = [DomainDisk(name, tmp_path / f"{name}.raw", "raw") for name in ("other", "scsi0")]
    described = libvirt.describe(
        machine, "web", str(uuid4()), disks, {"vmbr3": "br7"}, accelerated=False
    )
    root = ET.fromstring(described)
    files = [source.attrib["file"] for source in root.findall("devices/disk/source")]
    assert files == [str(tmp_path / "scsi0.raw"), str(tmp_path / "other.raw")]
    targets = [target.attrib["dev"] for target in root.findall("devices/disk/target")]
    assert targets == ["sda", "vda"]
    assert [s.attrib["bridge"] for s in root.findall("devices/interface/source")] == ["br7"]
    assert root.find("os/type").attrib["machine"] == "q35"  # type: ignore[union-attr]
