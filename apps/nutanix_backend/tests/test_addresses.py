"""Where the disks of other hypervisors go on AHV, whose buses have less room."""

from __future__ import annotations

import attrs
import pytest
from nutanix_backend.ahv.make_vm import _address
from vm_config.machine import Machine, MachineDisk

MACHINE = Machine("m", "", 1, 1, 1, 1 << 30, "legacy", False, "", (), (), ())


@pytest.mark.parametrize(
    ("bus", "index", "machine_type", "expected"),
    [
        ("SCSI", 65, "", ("SCSI", 65)),
        ("IDE", 3, "", ("IDE", 3)),
        ("IDE", 0, "Q35", ("SATA", 0)),
        ("SATA", 5, "Q35", ("SATA", 5)),
        ("SATA", 29, "", ("SCSI", 0)),
        ("PCI", 6, "", ("PCI", 6)),
        ("PCI", 15, "", ("SCSI", 0)),
        ("SCSI", 256, "", ("SCSI", 0)),
    ],
)
def test_a_disk_keeps_its_address_where_ahv_has_it(
    bus: str, index: int, machine_type: str, expected: tuple[str, int]
) -> None:
    machine = attrs.evolve(MACHINE, machine_type=machine_type)
    assert _address(machine, MachineDisk("d", bus, index), set()) == expected


def test_no_two_disks_share_an_address() -> None:
    machine = attrs.evolve(MACHINE, secure_boot=True)
    taken: set[tuple[str, int]] = {("SATA", 0), ("SCSI", 0)}
    for index in range(9):
        disk = MachineDisk(str(index), "IDE", index)
        address = _address(machine, disk, taken)
        assert address not in taken
        taken.add(address)
    assert len([bus for bus, _ in taken if bus == "SATA"]) == 6
    assert _address(machine, None, taken) == ("SCSI", 5)
