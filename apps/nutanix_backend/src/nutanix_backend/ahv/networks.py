"""Which subnet each network card of a restored VM is connected to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from nutanix_backend.errors import RestoreRefused

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import prism_client
    from vm_config.machine import MachineNic

OTHERS = "*"


@attrs.frozen
class NetworkMap:
    """`network_map`, read against the subnets of the cluster that receives the VM."""

    subnets: tuple[prism_client.Subnet, ...]
    chosen: Mapping[str, prism_client.Subnet]

    def subnet_of(self, nic: MachineNic) -> prism_client.Subnet | None:
        """Where a card goes: by its MAC, network or VLAN, else `*`, else the subnet it was on."""
        names = [nic.mac, nic.network, nic.network_id, "" if nic.vlan is None else str(nic.vlan)]
        for name in (*names, OTHERS):
            if name and name.casefold() in self.chosen:
                return self.chosen[name.casefold()]
        return next((s for s in self.subnets if s.ext_id == nic.network_id), None)


def read(text: str, subnets: Sequence[prism_client.Subnet]) -> NetworkMap:
    """Read `source:subnet,...`; a source may hold colons, as a MAC address does.

    Raises RestoreRefused for what is no such list, and for a subnet that is not there.
    """
    chosen = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        source, colon, wanted = part.rpartition(":")
        if not colon or not source or not wanted:
            raise RestoreRefused(f"network_map: {part!r} is not source:subnet")
        chosen[source.strip().casefold()] = _find(wanted.strip(), subnets)
    return NetworkMap(tuple(subnets), chosen)


def _find(wanted: str, subnets: Sequence[prism_client.Subnet]) -> prism_client.Subnet:
    found = [subnet for subnet in subnets if wanted in {subnet.name, subnet.ext_id}]
    if len(found) == 1:
        return found[0]
    known = ", ".join(sorted(subnet.name for subnet in subnets)) or "none"
    what = f"{len(found)} subnets are called" if found else "there is no subnet"
    raise RestoreRefused(f"network_map: {what} {wanted} on that cluster, which has {known}")
