"""A VM as no hypervisor in particular has it: readers produce it, the AHV writer consumes it.

Only records live here, and how the disks of a machine find the files of a backup. Nothing here
knows where a machine came from or where it goes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@attrs.frozen
class MachineDisk:
    """A data disk: `key` is its name in the backup, a disk id or the stem of its file.

    `bus` is "SCSI", "IDE", "SATA" or "PCI" (virtio and NVMe), `size` in bytes when the
    configuration says it. `aliases` are other stems that a backup may have used for its file.
    `is_saved` is False for a disk that its hypervisor leaves out of backups.
    """

    key: str
    bus: str
    index: int
    size: int | None = None
    aliases: tuple[str, ...] = ()
    is_saved: bool = True


@attrs.frozen
class MachineNic:
    """A network card, on a `network` as its source calls it (bridge, port group, switch, subnet).

    `mac` is empty when the source chooses one at each start; `vlan` is None for an untagged card;
    `model` is the source's word for it. `network_id` is set where the source is AHV: a subnet's.
    """

    mac: str
    network: str
    vlan: int | None = None
    connected: bool = True
    model: str = ""
    network_id: str = ""


@attrs.frozen
class Machine:
    """A VM without its bytes: memory in bytes, firmware "legacy" or "uefi".

    Disks are in boot order as far as the source has one, else in the order of their buses.
    `boot_order` holds "DISK", "NETWORK" and "CDROM"; `boot_disk` is the key of the disk that the
    machine boots from, when the source names one. `left_out` has a line for each thing that cannot
    be carried over, for the job log. `volume_groups` are the ids of those that the source has
    attached to it, whose disks are not among `disks`. `prism` is what Prism answered about
    a VM of AHV, unread.
    """

    name: str
    description: str
    sockets: int
    cores_per_socket: int
    threads_per_core: int
    memory: int
    firmware: str
    secure_boot: bool
    machine_type: str
    boot_order: tuple[str, ...]
    disks: tuple[MachineDisk, ...]
    nics: tuple[MachineNic, ...]
    categories: tuple[str, ...] = ()
    project: str = ""
    bios_uuid: str = ""
    left_out: tuple[str, ...] = ()
    boot_disk: str = ""
    volume_groups: tuple[str, ...] = ()
    prism: Mapping[str, Any] = attrs.field(factory=dict, repr=False)


def match_disks(disks: Sequence[MachineDisk], stems: Sequence[str]) -> dict[str, MachineDisk]:
    """Which disk of a machine each file of a backup is, by the stem of the file.

    A stem is a disk's key or one of its aliases, without regard to case; what remains is matched
    in order when as many disks as stems are left, since then there is nothing to choose: of disks
    that backups leave out none is expected. A stem that is nobody's is not in the result.
    """
    by_name: dict[str, list[int]] = {}
    for number, disk in enumerate(disks):
        for name in dict.fromkeys(name.casefold() for name in (disk.key, *disk.aliases)):
            by_name.setdefault(name, []).append(number)
    numbers: dict[str, int] = {}
    free = set(range(len(disks)))
    for stem in stems:
        for number in by_name.get(stem.casefold(), ()):
            if number in free:
                numbers[stem] = number
                free.remove(number)
                break
    other_stems = [stem for stem in stems if stem not in numbers]
    expected = [number for number in sorted(free) if disks[number].is_saved]
    if len(other_stems) == len(expected):
        numbers |= dict(zip(other_stems, expected, strict=True))
    return {stem: disks[number] for stem, number in numbers.items()}
