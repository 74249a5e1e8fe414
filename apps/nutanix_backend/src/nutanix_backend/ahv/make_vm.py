"""Making a VM on AHV from a machine of any source and its restored disks."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import attrs
import prism_client
from command_line.text import with_notes
from vm_config.machine import match_disks

from nutanix_backend.cluster import inventory
from nutanix_backend.cluster.guards import VmGuard
from nutanix_backend.errors import RestoreRefused

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vm_config.machine import Machine, MachineDisk, MachineNic

    from nutanix_backend.ahv.site import Site
    from nutanix_backend.ahv.ways import Way
    from nutanix_backend.cluster.journal import Journal
    from nutanix_backend.job import JobContext
    from nutanix_backend.restore.plan import Origin
    from nutanix_backend.restore.writer import DiskWriter
    from nutanix_backend.settings.parameters import Settings


def vm_name(job: JobContext, old_name: str) -> str:
    """The name of the restored VM: the one asked for, or the old one marked with the job."""
    return job.settings.restore_vm_name or f"{old_name}-restore-{job.info.job_id}"


def refuse_taken(site: Site, name: str) -> None:
    """Raise RestoreRefused when a VM of this name exists, or cannot."""
    if name in site.names:
        raise RestoreRefused(f"a VM called {name} exists: give another restore_vm_name")
    if len(name) > 80:
        raise RestoreRefused(f"{name!r} is too long for the name of a VM: give restore_vm_name")


@attrs.frozen
class Identity:
    """Whether the VM gets the BIOS UUID and MAC addresses of its source, and why."""

    keeps: bool
    reason: str

    def refuse_conflict(self, site: Site, machine: Machine) -> Identity:
        """The identity, unless a MAC address is in use: then new ones, or RestoreRefused."""
        used = sorted({nic.mac for nic in machine.nics if nic.mac.lower() in site.owners})
        if not self.keeps or not used:
            return self
        owner = site.owners[used[0].lower()]
        if self.reason == ASKED_FOR:
            raise RestoreRefused(
                f"MAC address {used[0]} is in use by VM {owner}: restore_identity=old cannot be"
            )
        return Identity(keeps=False, reason=f"MAC address {used[0]} is in use by VM {owner}")


PLACES = {"SCSI": 256, "SATA": 6, "PCI": 7, "IDE": 4}
"""How many disks AHV takes on each bus."""
ASKED_FOR = "restore_identity says so"


def identity(wanted: str, site: Site, origin: Origin, source: Settings | None) -> Identity:
    """Decide for `restore_identity`; `source` is how to reach the source's Prism, if another.

    Raises RestoreRefused when the old identity is asked for and the source lives.
    """
    if wanted == "new":
        return Identity(keeps=False, reason=ASKED_FOR)
    state = _state_of_source(site, origin, source)
    if wanted == "old":
        if state == LIVES:
            raise RestoreRefused(
                f"VM {origin.vm_name} lives: a second one with its UUID and MAC addresses is not "
                "made, leave restore_identity=old out"
            )
        return Identity(keeps=True, reason=ASKED_FOR)
    return Identity(keeps=state == GONE, reason=f"the source {state}")


LIVES, GONE, UNKNOWN = "lives", "is gone", "may live: restore_identity=old keeps them all the same"


def _state_of_source(site: Site, origin: Origin, source: Settings | None) -> str:
    if origin.vm_id in site.vm_ids:
        return LIVES
    if not origin.cluster_id:
        return UNKNOWN  # a sibling's: its hypervisor is not ours to ask
    if source is None:
        return GONE
    try:
        with inventory.connect(source) as client:
            client.vms.get(origin.vm_id)
    except prism_client.NotFound:
        return GONE
    except prism_client.PrismError:
        return UNKNOWN
    return LIVES


@attrs.frozen
class Order:
    """A VM to be made: of what, where, and which way its disks came."""

    site: Site
    origin: Origin
    machine: Machine
    name: str
    identity: Identity
    way: Way


def create_vm(job: JobContext, journal: Journal, order: Order, disks: Sequence[DiskWriter]) -> None:
    """Make the VM from its disks, then remove what they were cloned from.

    A VM that is made stays: what fails behind that is reported, and does not cost the restore.
    """
    site, origin = order.site, order.origin
    guard = None
    try:
        with ExitStack() as stack:
            sources = {
                writer.chain.newest.disk_id: order.way.source(stack, writer) for writer in disks
            }
            spec = _specification(job, order, sources)
            guard = stack.enter_context(VmGuard(site.client, journal, spec))
            guard.keep()
        if job.settings.restore_powerstate == "on":
            site.client.vms.power_on(guard.vm.ext_id)
    except prism_client.PrismError as error:
        if guard is None or not guard.is_kept:
            raise
        job.report(f"VM {order.name} is restored, but: {with_notes(error)}")
    job.say(
        f"{origin} is restored as {order.name} ({guard.vm.ext_id}) "
        f"with {len(disks)} of {max(len(order.machine.disks), len(disks))} disks"
    )


def _specification(
    job: JobContext, order: Order, sources: dict[str, str | prism_client.VolumeDiskRef]
) -> prism_client.VmSpec:
    site, machine = order.site, order.machine
    as_of = f" from {order.origin.job}" if order.origin.job else ""
    categories, project = _belonging(job, site, machine)
    return prism_client.VmSpec(
        name=order.name,
        description=f"restored by job {job.info.name}{as_of}",
        cluster_ext_id=site.cluster.ext_id,
        sockets=machine.sockets,
        cores_per_socket=machine.cores_per_socket,
        threads_per_core=machine.threads_per_core,
        memory=machine.memory,
        machine_type=machine.machine_type or ("Q35" if machine.secure_boot else None),
        boot=prism_client.Boot(machine.firmware, machine.secure_boot, machine.boot_order),
        disks=tuple(_disks(site, machine, sources)),
        nics=tuple(_nic(job, order, nic) for nic in machine.nics),
        category_ext_ids=categories,
        project_ext_id=project,
        bios_uuid=machine.bios_uuid or None if order.identity.keeps else None,
    )


def _disks(
    site: Site, machine: Machine, sources: dict[str, str | prism_client.VolumeDiskRef]
) -> list[prism_client.DiskSpec]:
    """The disks on their addresses; one that has none there goes behind the others."""
    known = match_disks(machine.disks, list(sources))
    container = site.container.ext_id if site.container else None
    taken = {(disk.bus, disk.index) for disk in machine.disks}
    found = []
    for key, source in sources.items():
        bus, index = _address(machine, known.get(key), taken)
        taken.add((bus, index))
        found.append(prism_client.DiskSpec(source, bus, index, container))
    return found


def _address(
    machine: Machine, disk: MachineDisk | None, taken: set[tuple[str, int]]
) -> tuple[str, int]:
    """Where a disk goes: AHV has less room on some buses than others, and Q35 has no IDE."""
    if disk is None:
        return _free("SCSI", taken)
    is_q35 = machine.machine_type == "Q35" or machine.secure_boot
    if disk.index < PLACES[disk.bus] and not (is_q35 and disk.bus == "IDE"):
        return disk.bus, disk.index
    return _free("SATA" if disk.bus == "IDE" else "SCSI", taken)


def _free(bus: str, taken: set[tuple[str, int]]) -> tuple[str, int]:
    return next(
        (bus, index)
        for bus in dict.fromkeys((bus, "SCSI"))
        for index in range(PLACES[bus])
        if (bus, index) not in taken
    )


def _nic(job: JobContext, order: Order, nic: MachineNic) -> prism_client.NicSpec:
    """A card on its subnet; one without is made disconnected, on any subnet, with a warning."""
    networks = order.site.networks
    subnet = networks.subnet_of(nic)
    mac = nic.mac or None if order.identity.keeps else None
    if subnet is not None:
        return prism_client.NicSpec(subnet.ext_id, mac, nic.connected)
    source = nic.network or nic.network_id or nic.mac or "a network card"
    job.warn(
        f"VM {order.name}: network {source} has no subnet on cluster {order.site.cluster.name}: "
        "its card is disconnected; network_map= would connect it"
    )
    first = networks.subnets[0].ext_id if networks.subnets else None
    return prism_client.NicSpec(first, mac, connected=False)


def _belonging(job: JobContext, site: Site, machine: Machine) -> tuple[tuple[str, ...], str | None]:
    """The categories and the project that exist there; what does not is said."""
    categories, unknown = site.categories_of(machine)
    if unknown:
        job.say(f"categories that are not known there are left out: {', '.join(unknown)}")
    project = machine.project or None
    if project and not site.has_project(project):
        job.say(f"project {project} is not known there and left out")
        project = None
    return categories, project
