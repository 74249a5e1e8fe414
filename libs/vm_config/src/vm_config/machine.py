"""A VM as no hypervisor in particular has it: readers produce it, the AHV writer consumes it.

Only records live here, and how the disks of a machine find the files of a backup. Nothing here
knows where a machine came from or where it goes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from collections.abc import Sequence


@attrs.frozen
class MachineDisk:
    """A data disk: `key` is its name in the backup, a disk id or the stem of its file.

    `bus` is "SCSI", "IDE", "SATA" or "PCI" (virtio and NVMe), `size` in bytes when the
    configuration says it. `aliases` are other stems that a backup may have used for its file.
    """

    key: str
    bus: str
    index: int
    size: int | None = None
    aliases: tuple[str, ...] = ()


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
    `boot_order` holds "DISK", "NETWORK" and "CDROM". `left_out` has a line for each thing that
    cannot be carried over, for the job log.
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


def match_disks(disks: Sequence[MachineDisk], stems: Sequence[str]) -> dict[str, MachineDisk]:
    """Which disk of a machine each file of a backup is, by the stem of the file.

    A stem is a disk's key or one of its aliases, without regard to case; what remains is matched
    in order when as many disks as stems are left, since then there is nothing to choose. A stem
    that is nobody's is not in the result.
    """
    found: dict[str, MachineDisk] = {}
    for stem in stems:
        for disk in disks:
            names = {name.casefold() for name in (disk.key, *disk.aliases)}
            if stem.casefold() in names and disk not in found.values():
                found[stem] = disk
                break
    other_stems = [stem for stem in stems if stem not in found]
    other_disks = [disk for disk in disks if disk not in found.values()]
    if len(other_stems) == len(other_disks):
        found |= dict(zip(other_stems, other_disks, strict=True))
    return found
