"""Whether a new VM gets the BIOS UUID and the MAC addresses of its source."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

import attrs
import prism_client

from nutanix_backend.cluster import inventory
from nutanix_backend.errors import RestoreRefused

if TYPE_CHECKING:
    from vm_config.machine import Machine

    from nutanix_backend.ahv.creation import Origin
    from nutanix_backend.ahv.site import Site
    from nutanix_backend.settings.parameters import Settings


class SourceState(Enum):
    """Whether the source VM still exists; the values go into the job log."""

    EXISTS = "the source VM still exists"
    GONE = "the source VM no longer exists"
    UNKNOWN = (
        "cannot tell whether the source VM still exists; set restore_identity=old to keep them"
    )


@attrs.frozen
class Identity:
    """`keeps` the identity of the source or not, why, and whether the user asked for it."""

    keeps: bool
    reason: str
    was_asked_for: bool = False

    def refuse_conflict(self, site: Site, machine: Machine) -> Identity:
        """The identity, unless a MAC address is in use: then a new one, or RestoreRefused."""
        used = sorted({nic.mac for nic in machine.nics if nic.mac.lower() in site.owners})
        if not self.keeps or not used:
            return self
        conflict = f"MAC address {used[0]} is in use by VM {site.owners[used[0].lower()]}"
        if self.was_asked_for:
            raise RestoreRefused(f"{conflict}: restore_identity=old is not possible")
        return Identity(keeps=False, reason=conflict)


def choose(wanted: str, site: Site, origin: Origin, source: Settings | None) -> Identity:
    """Decide for `restore_identity`; `source` is how to reach the source's Prism, if another.

    Raises RestoreRefused when the old identity is asked for and the source VM exists.
    """
    if wanted == "new":
        return Identity(keeps=False, reason="restore_identity=new", was_asked_for=True)
    state = _state_of_source(site, origin, source)
    if wanted == "old":
        if state is SourceState.EXISTS:
            raise RestoreRefused(
                f"VM {origin.vm_name} still exists; restore_identity=old would duplicate its UUID "
                "and MAC addresses. Remove that option."
            )
        return Identity(keeps=True, reason="restore_identity=old", was_asked_for=True)
    return Identity(keeps=state is SourceState.GONE, reason=state.value)


def _state_of_source(site: Site, origin: Origin, source: Settings | None) -> SourceState:
    if origin.vm_id in site.vm_ids:
        return SourceState.EXISTS
    if not origin.cluster_id:  # of another hypervisor, which we cannot ask
        return SourceState.UNKNOWN
    if source is None:  # Prism may list a VM whose record, with its id, cannot be read
        return SourceState.UNKNOWN if "" in site.vm_ids else SourceState.GONE
    try:
        with inventory.connect(source) as client:
            client.vms.get(origin.vm_id)
    except prism_client.NotFound:
        return SourceState.GONE
    except prism_client.PrismError:
        return SourceState.UNKNOWN
    return SourceState.EXISTS
