"""The settings of a VM that a copy of it takes over as they are, in the words of v4.

v3 knows a part of them, in other words; the tables below say which. Names as in the official v4
clients and the official v3 description (3.1.0).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_PLAIN = {
    "hardwareClockTimezone": "hardware_clock_timezone",
    "isCpuPassthroughEnabled": "enable_cpu_passthrough",
    "isVcpuHardPinningEnabled": "is_vcpu_hard_pinned",
    "isVgaConsoleEnabled": "vga_console_enabled",
    "isAgentVm": "is_agent_vm",
}
_NIC = {"model": "model", "numQueues": "num_queues"}
_VLAN_MODES = {"ACCESS": "ACCESS", "TRUNK": "TRUNKED"}
_BY_HAND = {"isBrandingEnabled", "numNumaNodes", "serialPorts", "cdRoms", "gpus"}
KNOWN_TO_V3 = frozenset(_PLAIN) | _BY_HAND
"""The settings that v3 has words for."""
SINCE = {"customAttributes": 2}
"""Settings that not every v4 has: the revision of vmm that brought them."""


def of_answer(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what Prism answered about a VM, v3 or v4, in the words of v4.

    Of an answer of v3 there are the settings that v3 knows, and nothing else.
    """
    if "metadata" not in raw or not ("spec" in raw or "status" in raw):
        return {**raw, "nics": [_one_kind(nic) for nic in raw.get("nics") or []]}
    status = (raw.get("status") or {}).get("resources")
    return _from_v3(status or (raw.get("spec") or {}).get("resources") or {})


def _one_kind(nic: Mapping[str, Any]) -> Mapping[str, Any]:
    """Let the older names have what only stands under the newer ones."""
    twins = {"backingInfo": "nicBackingInfo", "networkInfo": "nicNetworkInfo"}
    merged = {
        older: {**(nic.get(newer) or {}), **(nic.get(older) or {})}
        for older, newer in twins.items()
    }
    return {**nic, **merged}


def _from_v3(resources: Mapping[str, Any]) -> dict[str, Any]:
    found = {v4: resources[v3] for v4, v3 in _PLAIN.items() if resources.get(v3) is not None}
    if resources.get("disable_branding") is not None:
        found["isBrandingEnabled"] = not resources["disable_branding"]
    nodes = (resources.get("vnuma_config") or {}).get("num_vnuma_nodes")
    if nodes is not None:
        found["numNumaNodes"] = nodes
    found["serialPorts"] = [
        {"index": port.get("index"), "isConnected": port.get("is_connected")}
        for port in resources.get("serial_port_list") or []
    ]
    found["gpus"] = [
        {"vendor": gpu.get("vendor"), "mode": gpu.get("mode"), "deviceId": gpu.get("device_id")}
        for gpu in resources.get("gpu_list") or []
    ]
    found["cdRoms"] = [
        _drive_from_v3(device)
        for device in resources.get("disk_list") or []
        if (device.get("device_properties") or {}).get("device_type") == "CDROM"
    ]
    found["nics"] = [_nic_from_v3(nic) for nic in resources.get("nic_list") or []]
    return found


def _drive_from_v3(device: Mapping[str, Any]) -> dict[str, Any]:
    address = device["device_properties"].get("disk_address") or {}
    place = {"busType": address.get("adapter_type"), "index": address.get("device_index")}
    medium: dict[str, Any] = (
        {"backingInfo": {"dataSource": {}}} if device.get("data_source_reference") else {}
    )
    return {"diskAddress": place, **medium}


def _nic_from_v3(nic: Mapping[str, Any]) -> dict[str, Any]:
    backing = {v4: nic[v3] for v4, v3 in _NIC.items() if nic.get(v3) is not None}
    network: dict[str, Any] = {}
    for v4, v3 in _VLAN_MODES.items():
        if nic.get("vlan_mode") == v3:
            network["vlanMode"] = v4
    if nic.get("trunked_vlan_list"):
        network["trunkedVlans"] = nic["trunked_vlan_list"]
    fixed = [
        entry.get("ip")
        for entry in nic.get("ip_endpoint_list") or []
        if entry.get("type") == "ASSIGNED"
    ]
    if fixed:
        network["ipv4Config"] = {"shouldAssignIp": True, "ipAddress": {"value": fixed[0]}}
    return {
        "backingInfo": {"macAddress": nic.get("mac_address"), **backing},
        "networkInfo": {"nicType": nic.get("nic_type"), **network},
    }


def in_v3(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the resources of a v3 spec for those of `settings` that v3 knows; no CD-ROM drives."""
    found = {v3: settings[v4] for v4, v3 in _PLAIN.items() if v4 in settings}
    if "isBrandingEnabled" in settings:
        found["disable_branding"] = not settings["isBrandingEnabled"]
    if settings.get("numNumaNodes"):
        found["vnuma_config"] = {"num_vnuma_nodes": settings["numNumaNodes"]}
    if settings.get("serialPorts"):
        found["serial_port_list"] = [
            {"index": port["index"], "is_connected": port["isConnected"]}
            for port in settings["serialPorts"]
        ]
    if settings.get("gpus"):
        found["gpu_list"] = [
            {"vendor": gpu["vendor"], "mode": gpu["mode"], "device_id": gpu["deviceId"]}
            for gpu in settings["gpus"]
        ]
    return found


def drives_in_v3(settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the empty CD-ROM drives of `settings` as entries of a v3 disk list."""
    return [
        {
            "device_properties": {
                "device_type": "CDROM",
                "disk_address": {
                    "adapter_type": drive["diskAddress"]["busType"],
                    "device_index": drive["diskAddress"]["index"],
                },
            }
        }
        for drive in settings.get("cdRoms") or []
    ]


def nic_in_v3(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a v3 card for `settings`, those of a NicSpec."""
    found = {v3: settings[v4] for v4, v3 in _NIC.items() if v4 in settings}
    if settings.get("vlanMode") in _VLAN_MODES:
        found["vlan_mode"] = _VLAN_MODES[settings["vlanMode"]]
    if settings.get("trunkedVlans"):
        found["trunked_vlan_list"] = list(settings["trunkedVlans"])
    address = ((settings.get("ipv4Config") or {}).get("ipAddress") or {}).get("value")
    if address:
        found["ip_endpoint_list"] = [{"ip": address, "type": "ASSIGNED"}]
    return found


def not_known(settings: Iterable[str], revision: str | None) -> tuple[str, ...]:
    """Return the names that an API has no words for; `revision` is vmm's, None for v3."""
    if revision is None:
        return tuple(name for name in settings if name not in KNOWN_TO_V3)
    number = int(revision.removeprefix("v4."))
    return tuple(name for name in settings if SINCE.get(name, 0) > number)
