"""Reading VM configurations of any hypervisor into the neutral model.

Each reader knows one format and nothing of where the machine goes. A configuration comes from a
backup: it is data, read strictly enough that nonsense is refused, and nothing in it is opened.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vm_config.errors import ConfigurationError
from vm_config.readers import ahv, hyperv, proxmox, vsphere

if TYPE_CHECKING:
    from collections.abc import Callable

    from vm_config.machine import Machine

_READERS: dict[str, Callable[[bytes], Machine]] = {
    "@nutanix": ahv.read,
    "@proxmox": proxmox.read,
    "@vsphere": vsphere.read,
    "@hyperv": hyperv.read,
}


def read(kind: str, content: bytes) -> Machine:
    """Read the configuration of a VM; `kind` is the namespace of its backup ("@proxmox", ...).

    Raises ConfigurationError, with one line of what is wrong, when no VM can be made from it.
    """
    if kind not in _READERS:
        raise ConfigurationError(f"configurations of {kind} are not known")
    return _READERS[kind](content)
