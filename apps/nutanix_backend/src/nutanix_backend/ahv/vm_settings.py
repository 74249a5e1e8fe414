"""What a new VM on AHV takes over from a VM of AHV, besides processors, memory and disks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import prism_client
from prism_client import vm_settings

from nutanix_backend.ahv import vm_fields

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from vm_config.machine import Machine, MachineNic

    from nutanix_backend.ahv.identity import Identity
    from nutanix_backend.ahv.site import Site

CONNECTION = ("vlanMode", "trunkedVlans", "shouldAllowUnknownMacs")


class SourceSettings:
    """The settings of the source, as far as they can be had on a site."""

    def __init__(self, site: Site, machine: Machine, identity: Identity) -> None:
        """Read what Prism once answered about `machine`; other hypervisors have none."""
        self._site = site
        self._identity = identity
        self._raw = _answer(machine) if machine.prism else {}
        self._lines = list(vm_fields.lines(self._raw))

    def lines(self) -> Iterator[str]:
        """What the new VM will not have, one line each; complete when everything was asked for."""
        yield from self._lines

    def point_lines(self) -> Iterator[str]:
        """What it will not have besides, unless it is made of a recovery point."""
        yield from vm_fields.lines(self._raw, in_point=True)

    def of_vm(self) -> dict[str, Any]:
        """The further settings of the VM."""
        settings = vm_fields.copied(self._raw)
        settings |= self._of_this_cluster() | self._ports() | self._drives() | self._gpus()
        if (self._raw.get("vtpmConfig") or {}).get("isVtpmEnabled"):
            settings["vtpmConfig"] = {"isVtpmEnabled": True}
        for name in self._site.client.vms.not_taken(settings):
            del settings[name]
            self._lines.append(f"{name} is not restored: the API of that Prism does not know it")
        return settings

    def of_nic(self, nic: MachineNic, subnet: prism_client.Subnet | None) -> dict[str, Any]:
        """The settings of a network card that goes to `subnet`; on none, only its own."""
        source = self._nic(nic)
        backing, network = source.get("backingInfo") or {}, source.get("networkInfo") or {}
        found = {name: backing[name] for name in ("model", "numQueues") if backing.get(name)}
        if subnet is None:
            return found
        found |= {name: network[name] for name in CONNECTION if network.get(name)}
        fixed = network.get("ipv4Config") or {}
        address = (fixed.get("ipAddress") or {}).get("value")
        if address and self._identity.keeps and subnet.ext_id == nic.network_id:
            found["ipv4Config"] = fixed
        elif address:
            reason = "its subnet is another" if self._identity.keeps else self._identity.reason
            self._lines.append(f"address {address} is not assigned to it: {reason}")
        return {name: _plain(value) for name, value in found.items()}

    def is_on_flash(self, disk_id: str) -> bool:
        """Whether a disk was pinned to the hot tier."""
        return is_on_flash(self._raw, disk_id)

    def _nic(self, nic: MachineNic) -> Mapping[str, Any]:
        for source in self._raw.get("nics") or []:
            mac = (source.get("backingInfo") or {}).get("macAddress") or ""
            if nic.mac and mac.lower() == nic.mac.lower():
                found: Mapping[str, Any] = source
                return found
        return {}

    def _of_this_cluster(self) -> dict[str, Any]:
        """A CPU model is one of the cluster that the VM was on."""
        config = self._raw.get("apcConfig") or {}
        if not config.get("isApcEnabled"):
            return {}
        if (self._raw.get("cluster") or {}).get("extId") == self._site.cluster.ext_id:
            return {"apcConfig": _plain(config)}
        self._lines.append("its CPU model is not restored: it is one of the cluster it was on")
        return {}

    def _ports(self) -> dict[str, Any]:
        ports = [
            {"index": port.get("index"), "isConnected": bool(port.get("isConnected"))}
            for port in self._raw.get("serialPorts") or []
        ]
        return {"serialPorts": ports} if ports else {}

    def _drives(self) -> dict[str, Any]:
        """Empty CD-ROM drives; one whose address is not told is left out, Prism chooses none."""
        places = [_plain(d.get("diskAddress") or {}) for d in self._raw.get("cdRoms") or []]
        drives = [{"diskAddress": place} for place in places if place.get("busType")]
        return {"cdRoms": drives} if drives else {}

    def _gpus(self) -> dict[str, Any]:
        """The graphics cards that the cluster has."""
        wanted = self._raw.get("gpus") or []
        if not wanted:
            return {}
        there = self._site.client.clusters.gpus(self._site.cluster.ext_id)
        known = {(gpu.device_id, gpu.is_virtual) for gpu in there or []}
        found = []
        for gpu in wanted:
            if (gpu.get("deviceId"), gpu.get("mode") == "VIRTUAL") in known:
                found.append({name: gpu.get(name) for name in ("mode", "deviceId", "vendor")})
                continue
            why = "has no such card" if there is not None else "does not say which cards it has"
            self._lines.append(
                f"graphics card {gpu.get('name') or gpu.get('deviceId')} is not restored: cluster "
                f"{self._site.cluster.name} {why}"
            )
        console = self._raw.get("isGpuConsoleEnabled")
        more = {"isGpuConsoleEnabled": console} if found and console is not None else {}
        return {"gpus": found, **more} if found else {}


def is_on_flash(raw: Mapping[str, Any], disk_id: str) -> bool:
    """Whether a disk of a VM, as v4 answers about it, is pinned to the hot tier."""
    for disk in raw.get("disks") or []:
        backing = disk.get("backingInfo") or {}
        if disk_id in {disk.get("extId"), backing.get("diskExtId")}:
            return bool((backing.get("storageConfig") or {}).get("isFlashModeEnabled"))
    return False


def _answer(machine: Machine) -> Mapping[str, Any]:
    """The answer of Prism, which does not always say that firmware of UEFI has variables."""
    raw = vm_settings.of_answer(machine.prism)
    if machine.firmware != "uefi":
        return raw
    boot = {"nvramDevice": True, **(raw.get("bootConfig") or {})}
    return {**raw, "bootConfig": boot}


def _plain(value: object) -> Any:  # noqa: ANN401 - a JSON value
    """A value without what the server adds to its objects."""
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items() if name[:1] != "$"}
    return [_plain(inner) for inner in value] if isinstance(value, list) else value
