"""Creating a VM on AHV from a machine of any source and its written disks."""

from __future__ import annotations

import secrets
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import attrs
import prism_client
from command_line.text import with_notes
from vm_config.machine import match_disks

from nutanix_backend.ahv.vm_settings import SourceSettings
from nutanix_backend.cluster.guards import RefittedVmGuard, ShellGuard, VmGuard
from nutanix_backend.errors import RestoreRefused, SourceError
from nutanix_backend.names import FIRMWARE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from vm_config.machine import Machine, MachineDisk, MachineNic

    from nutanix_backend.ahv.creation import Creation, NewDisk, WrittenDisk
    from nutanix_backend.ahv.identity import Identity
    from nutanix_backend.ahv.site import Site
    from nutanix_backend.ahv.upload import UploadMethod
    from nutanix_backend.cluster.guards import FirmwarePoint
    from nutanix_backend.report import Report

LONGEST_NAME = 80
"""Characters of the name of a VM."""
LONGEST_DESCRIPTION = 800
"""Characters of the old description that a new VM takes over; Prism holds about 1000."""
PLACES = {"SCSI": 256, "SATA": 6, "PCI": 7, "IDE": 4}
"""How many disks AHV takes on each bus."""


def refuse_taken(site: Site, name: str) -> None:
    """Raise RestoreRefused when a VM of this name exists, or the name is too long."""
    if name in site.names:
        raise RestoreRefused(f"a VM called {name} exists: choose another name")
    if len(name) > LONGEST_NAME:
        raise RestoreRefused(f"{name!r} is too long for the name of a VM: choose a shorter one")


@attrs.frozen
class Isolation:
    """A VM that reaches nobody: its network cards are disconnected, and it has no categories.

    With a `subnet`, its id, the first card is connected there.
    """

    subnet: str | None = None


@attrs.frozen
class VmOrder:
    """A VM to create: where, from which machine, under which name, and how its disks get there.

    Without disks there is no `upload`. With `firmware` it is made of that recovery point.
    """

    site: Site
    machine: Machine
    name: str
    identity: Identity
    upload: UploadMethod | None
    power_on: bool = False
    isolation: Isolation | None = None
    firmware: FirmwarePoint | None = None


DiskSource = str | prism_client.VolumeDiskRef | prism_client.EmptyDisk


def create_vm(
    creation: Creation, order: VmOrder, disks: Iterable[WrittenDisk], empty: Sequence[NewDisk] = ()
) -> prism_client.Vm:
    """Create the VM from its disks, then remove the temporary objects that they were cloned from.

    It gets the `empty` disks besides. Each disk is taken over before the next is asked for. A VM
    that exists stays: an error behind that is reported and does not fail the work. Raises
    PrismError, RestoreFailed.
    """
    guard = None
    try:
        with ExitStack() as stack:
            guard = _open_guard(stack, creation, order, disks, empty)
            guard.keep()
        if order.power_on:
            order.site.client.vms.power_on(guard.vm.ext_id)
    except prism_client.PrismError as error:
        if guard is None or not guard.is_kept:
            raise
        tell_late(creation.report, order.name, error)
    return guard.vm


def tell_late(report: Report, name: str, error: prism_client.PrismError) -> None:
    """Report an error that came when the VM was there, and had its disks."""
    report.report(
        f"VM {name} is complete, but a step after its creation failed: {with_notes(error)}"
    )


@contextmanager
def temporary_vm(
    creation: Creation, order: VmOrder, disks: Iterable[WrittenDisk], empty: Sequence[NewDisk] = ()
) -> Iterator[prism_client.Vm]:
    """Create the VM for the time of the context; raise PrismError, RestoreFailed."""
    with ExitStack() as stack:
        yield _open_guard(stack, creation, order, disks, empty).vm


def _open_guard(
    stack: ExitStack,
    creation: Creation,
    order: VmOrder,
    disks: Iterable[WrittenDisk],
    empty: Iterable[NewDisk],
) -> VmGuard:
    """Create the VM; `stack` removes it, and what its disks were cloned from."""
    sources: dict[str, DiskSource] = {
        written.disk.disk_id: order.upload.source(stack, written)
        for written in disks
        if order.upload
    }
    sources |= {disk.disk_id: prism_client.EmptyDisk(disk.size) for disk in empty}
    source = SourceSettings(order.site, order.machine, order.identity)
    spec = _specification(creation, order, sources, source)
    if order.firmware is not None:
        try:
            return _with_firmware(creation, order, order.firmware, spec, stack)
        except (prism_client.PrismError, SourceError) as error:
            creation.report.warn(
                f"VM {order.name}: recovery point {order.firmware.ext_id} still has its UEFI "
                f"variables and its vTPM, but could not be used: {with_notes(error)}: if the guest "
                "needs them, restore that recovery point in Prism while it is there"
            )
    for line in source.point_lines():
        creation.report.warn(f"VM {order.name}: {line}")
    client, journal = order.site.client, creation.journal
    return _created(
        creation, order, spec, lambda spec: stack.enter_context(VmGuard(client, journal, spec))
    )


def _with_firmware(
    creation: Creation,
    order: VmOrder,
    point: FirmwarePoint,
    spec: prism_client.VmSpec,
    stack: ExitStack,
) -> VmGuard:
    """Create the VM of a recovery point; its disks are those that were written all the same."""
    client, journal, cluster = order.site.client, creation.journal, order.site.cluster.ext_id
    with ExitStack() as inner:
        name = f"{FIRMWARE}{secrets.token_hex(8)}"
        shell = inner.enter_context(ShellGuard(client, journal, point, cluster, name))
        guard = _created(
            creation, order, spec, lambda spec: inner.enter_context(RefittedVmGuard(shell, spec))
        )
        stack.push(inner.pop_all())
    source = f"recovery point {point.ext_id} of {point.created:%Y-%m-%d %H:%M} UTC"
    if point.is_own:
        creation.report.say(
            f"VM {order.name}: its UEFI variables and its vTPM are those of this backup, from "
            f"{source}"
        )
    else:
        creation.report.warn(
            f"VM {order.name}: its UEFI variables and its vTPM are not of this backup, whose "
            f"recovery point is gone, but from {source}, with its CD-ROM drives, serial ports and "
            "graphics cards"
        )
    _tell_identity(creation, order, guard.vm)
    return guard


def _tell_identity(creation: Creation, order: VmOrder, vm: prism_client.Vm) -> None:
    """Warn when Prism has not taken the wish for an old or a new BIOS UUID."""
    old, has = order.machine.bios_uuid or "", str(vm.raw.get("biosUuid") or "")
    if old and has and (old.lower() == has.lower()) is not order.identity.keeps:
        wish = "the old one was asked for" if order.identity.keeps else "a new one was asked for"
        creation.report.warn(f"VM {order.name}: its BIOS UUID is {has}, though {wish}")


def _created(
    creation: Creation,
    order: VmOrder,
    spec: prism_client.VmSpec,
    make: Callable[[prism_client.VmSpec], VmGuard],
) -> VmGuard:
    """Make the VM; where Prism refuses it, without what is not needed to have its data back."""
    try:
        return make(spec)
    except (prism_client.BadRequest, prism_client.TaskFailed) as error:
        names = sorted({*spec.settings, *(name for nic in spec.nics for name in nic.settings)})
        if not names:
            raise
        nics = tuple(attrs.evolve(nic, settings={}) for nic in spec.nics)
        guard = make(attrs.evolve(spec, settings={}, nics=nics))
        creation.report.warn(
            f"VM {order.name}: Prism refused it with all its settings ({with_notes(error)}); it is "
            f"created without {', '.join(names)}: set them in Prism"
        )
        return guard


def _specification(
    creation: Creation,
    order: VmOrder,
    sources: dict[str, DiskSource],
    source: SourceSettings,
) -> prism_client.VmSpec:
    site, machine = order.site, order.machine
    categories, project = _categories_and_project(creation, order)
    disks = _disks(site, machine, sources, source)
    nics = tuple(_nics(creation, order, source))
    settings = source.of_vm()
    for line in source.lines():
        creation.report.warn(f"VM {order.name}: {line}")
    return prism_client.VmSpec(
        name=order.name,
        description=_description(machine.description, creation.description),
        cluster_ext_id=site.cluster.ext_id,
        sockets=machine.sockets,
        cores_per_socket=machine.cores_per_socket,
        threads_per_core=machine.threads_per_core,
        memory=machine.memory,
        machine_type=machine.machine_type or ("Q35" if machine.secure_boot else None),
        boot=_boot(machine, disks),
        disks=tuple(disks.values()),
        nics=nics,
        category_ext_ids=categories,
        project_ext_id=project,
        bios_uuid=machine.bios_uuid or None if order.identity.keeps else None,
        settings=settings,
    )


def _description(old: str, ours: str) -> str:
    """The description of the source, and behind it which job made the VM."""
    return "\n".join(filter(None, (old[:LONGEST_DESCRIPTION], ours)))


def _boot(machine: Machine, disks: dict[str, prism_client.DiskSpec]) -> prism_client.Boot:
    """The order of the source, or the one of several disks that it names.

    Prism takes either: a disk is named unless the machine looks to the network first. Without one
    AHV would start what it finds on the first disk.
    """
    known = match_disks(machine.disks, list(disks))
    named = [disks[key] for key, disk in known.items() if disk.key == machine.boot_disk]
    is_clear = len(disks) == 1 or machine.boot_order[:1] == ("NETWORK",)
    disk = None if is_clear or not named else (named[0].bus, named[0].index)
    return prism_client.Boot(machine.firmware, machine.secure_boot, machine.boot_order, disk)


def _disks(
    site: Site, machine: Machine, sources: dict[str, DiskSource], settings: SourceSettings
) -> dict[str, prism_client.DiskSpec]:
    """The disks on their addresses; one that has none there goes behind the others."""
    known = match_disks(machine.disks, list(sources))
    chosen = site.container.ext_id if site.container else None
    taken = {(disk.bus, disk.index) for disk in machine.disks}
    found = {}
    for key, source in sources.items():
        bus, index = _address(machine, known.get(key), taken)
        taken.add((bus, index))
        is_empty = isinstance(source, prism_client.EmptyDisk)
        container = site.place().container_id if is_empty else chosen
        flash = settings.is_on_flash(key)
        found[key] = prism_client.DiskSpec(source, bus, index, container, flash)
    return found


def _address(
    machine: Machine, disk: MachineDisk | None, taken: set[tuple[str, int]]
) -> tuple[str, int]:
    """Where a disk goes: AHV has fewer places on some buses than others, and Q35 has no IDE."""
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


def _nics(
    creation: Creation, order: VmOrder, settings: SourceSettings
) -> Iterator[prism_client.NicSpec]:
    for number, nic in enumerate(order.machine.nics):
        if order.isolation is None:
            yield _nic(creation, order, nic, settings)
        elif order.isolation.subnet and number == 0:
            yield prism_client.NicSpec(order.isolation.subnet, None, connected=True)
        else:
            yield prism_client.NicSpec(_any_subnet(order.site), None, connected=False)


def _any_subnet(site: Site) -> str | None:
    """Where a card is named that is disconnected."""
    return site.networks.subnets[0].ext_id if site.networks.subnets else None


def _nic(
    creation: Creation, order: VmOrder, nic: MachineNic, settings: SourceSettings
) -> prism_client.NicSpec:
    """A card on its subnet; one without is created disconnected, on any subnet, with a warning."""
    networks = order.site.networks
    subnet = networks.subnet_of(nic)
    mac = nic.mac or None if order.identity.keeps else None
    if subnet is not None:
        more = settings.of_nic(nic, subnet)
        return prism_client.NicSpec(subnet.ext_id, mac, nic.connected, more)
    source = nic.network or nic.network_id or nic.mac or "of a network card"
    creation.report.warn(
        f"VM {order.name}: network {source} has no subnet on cluster {order.site.cluster.name}; "
        "its network card is disconnected. Use network_map= to connect it."
    )
    anywhere = _any_subnet(order.site)
    return prism_client.NicSpec(anywhere, mac, connected=False, settings=settings.of_nic(nic, None))


def _categories_and_project(
    creation: Creation, order: VmOrder
) -> tuple[tuple[str, ...], str | None]:
    """The categories and the project that exist there; the others are reported."""
    site, machine = order.site, order.machine
    if order.isolation:  # by its categories it would be protected, or saved
        return (), machine.project or None if site.has_project(machine.project) else None
    categories, unknown = site.categories_of(machine)
    if unknown:
        creation.report.say(f"categories that do not exist there: {', '.join(unknown)}")
    project = machine.project or None
    if project and not site.has_project(project):
        creation.report.say(f"project {project} does not exist there: the VM is in no project")
        project = None
    return categories, project
