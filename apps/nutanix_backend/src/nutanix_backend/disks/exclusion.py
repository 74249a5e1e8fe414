"""Which disks of a VM a backup leaves out: the job says it for all of its VMs, or the VM itself.

A job says it with `exclude_disk`. A VM says it with a category of the key Podheitor-Exclude-Disk,
or with a custom attribute `Podheitor-Exclude-Disk:VALUE` (API v4.2 and later). The values are the
same:

    scsi:1   scsi.1     the disk at this address of a bus
    1                   the disk of this number: its place among the disks in the order of the buses
    >2T      over-2T    disks that are larger (K, M, G, T: powers of 1024; without: bytes)

A value that leaves nothing out is an error for that value, and costs no disk its backup.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import attrs
from command_line.text import size

from nutanix_backend.errors import ParameterError, SelectionError
from nutanix_backend.manifest import ExcludedDisk
from nutanix_backend.vm_record import in_bus_order

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from prism_client import Vm, VmDisk

KEY = "Podheitor-Exclude-Disk"
"""The key of the category or custom attribute with which a VM asks for it, in any case."""
_FORMS = re.compile(
    r"(?P<bus>[a-z]{2,8})[.:](?P<address>[0-9]{1,4})"
    r"|(?P<number>[0-9]{1,4})"
    r"|(?:>|over-)\s*(?P<above>[0-9]{1,15}(?:\.[0-9]{1,6})?)(?P<unit>[kmgt]?)",
    re.IGNORECASE,
)
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


@attrs.frozen
class Rule:
    """A value that leaves disks out; `asked_by` is what the job log calls it."""

    asked_by: str
    fits: Callable[[int, VmDisk], bool] = attrs.field(eq=False)

    def fits_any(self, disks: Iterable[VmDisk]) -> bool:
        """Whether it leaves out a disk of a VM."""
        return any(self.fits(number, disk) for number, disk in enumerate(in_bus_order(disks)))


def parse(asked_by: str, text: str) -> Rule:
    """Read a value; raise ParameterError for what is none."""
    match = _FORMS.fullmatch(text.strip())
    if match is None:
        raise ParameterError(
            f"{asked_by} names no disk: write its bus address (scsi:1), its number (1), or a size "
            "(>2T) for all that are larger"
        )
    if bus := match["bus"]:
        place = (bus.upper(), int(match["address"]))
        return Rule(asked_by, lambda _, disk: (disk.bus, disk.index) == place)
    if match["number"]:
        wanted = int(match["number"])
        return Rule(asked_by, lambda number, _: number == wanted)
    limit = float(match["above"]) * _UNITS[match["unit"].lower()]
    return Rule(asked_by, lambda _, disk: disk.size > limit)


class DiskExclusion:
    """What the VMs of a job leave out.

    `names` says by id what categories are called ("key/value").
    """

    def __init__(self, values: Sequence[str], names: Mapping[str, str]) -> None:
        """Leave out what the `exclude_disk` of a job says; raise ParameterError."""
        self._rules = [parse(f"exclude_disk={value}", value) for value in values]
        self._names = names

    def vain(self, vms: Sequence[Vm]) -> Iterator[str]:
        """Say of each value of the job that leaves out no disk of any VM that it does not."""
        for rule in self._rules:
            if not any(rule.fits_any(vm.disks) for vm in vms):
                yield (
                    f"{rule.asked_by} leaves out nothing: no VM of this job has such a disk; see "
                    "the disks with .query parameter=disks, and correct or remove the value"
                )

    def of(self, vm: Vm, report: Callable[[str], object]) -> tuple[ExcludedDisk, ...]:
        """The disks of a VM that are not read; `report` hears of requests of it that are in vain.

        Raises SelectionError when no disk would be left of those that it has.
        """
        rules = [*self._rules, *self._of_vm(vm, report)]
        found = tuple(_excluded(vm.disks, rules))
        if found and len(found) == len(vm.disks):
            reasons = ", ".join(dict.fromkeys(disk.reason for disk in found))
            raise SelectionError(
                f"all of its {len(found)} disks are left out ({reasons}): use exclude_vm if nobody "
                "needs this VM"
            )
        return found

    def _of_vm(self, vm: Vm, report: Callable[[str], object]) -> Iterator[Rule]:
        for asked_by, value in self._requests(vm):
            try:
                rule = parse(asked_by, value)
            except ParameterError as error:
                report(f"VM {vm.name}: all of its disks are saved: {error}")
                continue
            if rule.fits_any(vm.disks):
                yield rule
            else:
                report(
                    f"VM {vm.name}: {asked_by} leaves out nothing: it has no such disk; correct or "
                    "remove it in Prism"
                )

    def _requests(self, vm: Vm) -> Iterator[tuple[str, str]]:
        """What a VM asks for: how the job log calls it, and the value."""
        given = [("category", self._names.get(i, i), "/") for i in vm.category_ext_ids]
        given += [("custom attribute", text, ":") for text in vm.custom_attributes]
        for kind, text, separator in given:
            key, found, value = text.partition(separator)
            if found and key.strip().casefold() == KEY.casefold():
                yield f"{kind} {KEY}:{value}", value


def _excluded(disks: Iterable[VmDisk], rules: Sequence[Rule]) -> Iterator[ExcludedDisk]:
    for number, disk in enumerate(in_bus_order(disks)):
        rule = next((rule for rule in rules if rule.fits(number, disk)), None)
        if rule is not None:
            yield ExcludedDisk(number, disk.disk_ext_id, disk.size, rule.asked_by)


def described(disk: ExcludedDisk) -> str:
    """A disk for the job log."""
    return f"disk {disk.index} ({size(disk.size)})"
