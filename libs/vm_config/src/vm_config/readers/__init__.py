"""Reading VM configurations of any hypervisor into the neutral model.

Each reader knows one format and nothing of where the machine goes. A configuration comes from a
backup: it is data, read strictly enough that nonsense is refused, and nothing in it is opened.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from vm_config.errors import ConfigurationError
from vm_config.readers import ahv, hyperv, ovf, proxmox, vsphere

if TYPE_CHECKING:
    from collections.abc import Callable

    from vm_config.machine import Machine

MIB = 1 << 20
_MAX_DEVICES = 1024
_MAX_LINES, _MAX_LINE = 100, 300
_READERS: dict[str, tuple[Callable[[bytes], Machine], int]] = {
    "@nutanix": (ahv.read, 4 * MIB),
    "@proxmox": (proxmox.read, MIB),
    "@vsphere": (vsphere.read, MIB),
    "@hyperv": (hyperv.read, 4 * MIB),
    "ovf": (ovf.read, 4 * MIB),
}
"""Each with the bytes that it reads at most: a hundred times what real ones have."""


def read(kind: str, content: bytes) -> Machine:
    """Read the configuration of a VM; `kind` is the namespace of its backup ("@proxmox", ...).

    In "@vsphere" it may be an OVF descriptor, of whatever product. Raises ConfigurationError, with
    one line of what is wrong, when no VM can be made from it.
    """
    if kind not in _READERS:
        raise ConfigurationError(f"configurations of {kind} are not known")
    is_ovf = kind == "@vsphere" and ovf.is_descriptor(content)
    reader, budget = _READERS["ovf" if is_ovf else kind]
    if len(content) > budget:
        raise ConfigurationError(
            f"the configuration has {len(content)} bytes: none is as large, {budget} are read"
        )
    machine = reader(content)
    if max(len(machine.disks), len(machine.nics)) > _MAX_DEVICES:
        raise ConfigurationError(
            f"the configuration has {len(machine.disks)} disks and {len(machine.nics)} network "
            f"cards: no machine has more than {_MAX_DEVICES}"
        )
    return attrs.evolve(machine, left_out=_shortened(machine.left_out))


def _shortened(lines: tuple[str, ...]) -> tuple[str, ...]:
    """What is left out, as far as a person would read it."""
    shown = tuple(dict.fromkeys(line[:_MAX_LINE] for line in lines))
    if len(shown) <= _MAX_LINES:
        return shown
    return (*shown[:_MAX_LINES], f"{len(shown) - _MAX_LINES} more things of this kind")
