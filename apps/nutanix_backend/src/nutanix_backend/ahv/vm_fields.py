"""Every field of a VM that the official v4 models know (4.0 to 4.3), and what a restore does to it.

A field without a line below it covers all below it. The newer names of a card's parts,
nicBackingInfo and nicNetworkInfo, stand for the older ones. docs/vm-settings.md is made from this
table; the SDK's check fails when its models have a field that no line covers.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Any

import attrs

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


class Fate(Enum):
    """What becomes of a field; the values are for the documents."""

    RESTORED = "restored"
    IF_THERE = "restored if the target has it"
    IDENTITY = "by `restore_identity`"
    NEW = "new on purpose"
    NOT_RESTORED = "not restored, the job log says so"
    STATE = "a state, nothing to restore"


@attrs.frozen
class VmField:
    """A field by its path in a v4 answer; "[]" stands behind the name of a list.

    `note` says more, for the documents. A field that is `copied` goes into the new VM as it is.
    `line` is the warning for a VM that has the field, if the field is not restored.
    """

    path: str
    fate: Fate
    note: str = ""
    copied: bool = False
    line: str = ""
    in_point: bool = False
    """A recovery point of the VM has it, and a VM that is made of that keeps it."""


_TWINS = {"nicBackingInfo": "backingInfo", "nicNetworkInfo": "networkInfo"}


def values_at(raw: object, path: str) -> Iterator[Any]:
    """Yield what an answer has at a path, of each entry of the lists on the way."""
    name, _, rest = path.partition(".")
    if not isinstance(raw, dict):
        return
    value = raw.get(name.removesuffix("[]"))
    for found in value if isinstance(value, list) and name.endswith("[]") else [value]:
        if rest:
            yield from values_at(found, rest)
        elif found is not None:
            yield found


def covering(path: str) -> VmField | None:
    """The line of the table that covers a path."""
    known = {field.path: field for field in FIELDS}
    for newer, older in _TWINS.items():
        path = path.replace(newer, older)
    above = path.split(".")
    found = known.get(path.removesuffix("[]"))
    while found is None and above:
        above.pop()
        upper = ".".join(above).removesuffix("[]")
        found = known.get(upper) if _is_leaf(upper) else None
    return found


def _is_leaf(path: str) -> bool:
    return not any(field.path.startswith((f"{path}.", f"{path}[].")) for field in FIELDS)


def copied(raw: Mapping[str, Any]) -> dict[str, Any]:
    """What of an answer goes into a new VM as it is."""
    found: dict[str, Any] = {}
    for field in FIELDS:
        if field.copied:
            for value in values_at(raw, field.path):
                _put(found, field.path.split("."), value)
    return found


def _put(into: dict[str, Any], names: list[str], value: object) -> None:
    for name in names[:-1]:
        into = into.setdefault(name, {})
    into[names[-1]] = value


def lines(raw: Mapping[str, Any], *, in_point: bool = False) -> Iterator[str]:
    """What a VM has and its copy will not have, one line each.

    in_point: those of what a VM that is made of a recovery point keeps, instead of the others.
    """
    for field in FIELDS:
        if field.in_point is not in_point:
            continue
        if field.line and any(values_at(raw, field.path)):
            yield field.line


_RESTORED, _IF_THERE, _IDENTITY = Fate.RESTORED, Fate.IF_THERE, Fate.IDENTITY
_NEW, _NOT_RESTORED, _STATE = Fate.NEW, Fate.NOT_RESTORED, Fate.STATE

FIELDS = (
    # --- what it is called, and to whom it belongs
    VmField("extId", _NEW),
    VmField("tenantId", _STATE),
    VmField("links", _STATE),
    VmField("name", _RESTORED, "with `-restore-JOBID`, or `restore_vm_name`"),
    VmField("description", _RESTORED, "and behind it which job restored the VM"),
    VmField("categories", _IF_THERE, "by key and value, else by id"),
    VmField("customAttributes", _RESTORED, "v4.2 and later", copied=True),
    VmField("project", _IF_THERE, "by id"),
    VmField("projectExtId", _IF_THERE, "by id"),
    VmField("ownershipInfo", _NEW, "the account that restores"),
    VmField("cluster", _RESTORED, "or `target_cluster`"),
    VmField("host", _NEW, "Prism chooses one when the VM is switched on"),
    VmField("availabilityZone", _STATE),
    VmField("createTime", _NEW),
    VmField("updateTime", _NEW),
    VmField("source", _STATE, "what the VM was once cloned from"),
    VmField("sourceVmProfile", _STATE, "what the VM was once deployed from"),
    VmField("biosUuid", _IDENTITY, "v3 gives no choice"),
    VmField("generationUuid", _NEW, "a guest sees by it that it is a copy"),
    # --- processors and memory
    VmField("numSockets", _RESTORED),
    VmField("numCoresPerSocket", _RESTORED),
    VmField("numThreadsPerCore", _RESTORED),
    VmField("numNumaNodes", _RESTORED, copied=True),
    VmField("memorySizeBytes", _RESTORED),
    VmField("isVcpuHardPinningEnabled", _RESTORED, copied=True),
    VmField("isCpuPassthroughEnabled", _RESTORED, copied=True),
    VmField("isCpuHotplugEnabled", _RESTORED, copied=True),
    VmField("enabledCpuFeatures", _RESTORED, copied=True),
    VmField("isMemoryOvercommitEnabled", _RESTORED, copied=True),
    VmField("apcConfig", _IF_THERE, "on the cluster that it was saved from"),
    VmField("machineType", _RESTORED),
    # --- firmware
    VmField("bootConfig", _RESTORED, "firmware, Secure Boot, boot disk or order"),
    VmField("bootConfig.isSecureBootEnabled", _RESTORED),
    VmField("bootConfig.bootOrder", _RESTORED),
    VmField("bootConfig.bootDevice", _RESTORED, "one disk"),
    VmField("bootConfig.bootDevice.diskAddress", _RESTORED),
    VmField(
        "bootConfig.nvramDevice",
        _IF_THERE,
        "from a recovery point of the VM that is still on the cluster",
        line="its UEFI variables are new: boot entries and keys that the guest had added are gone",
        in_point=True,
    ),
    VmField(
        "bootConfig.bootDevice.macAddress",
        _NOT_RESTORED,
        "a boot from one network card",
        line="that it boots from one certain network card is not restored: choose it in Prism",
    ),
    VmField("vtpmConfig", _IF_THERE, "as the UEFI variables; else a new, empty vTPM"),
    VmField("vtpmConfig.version", _IF_THERE),
    VmField("vtpmConfig.vtpmDevice", _IF_THERE),
    VmField(
        "vtpmConfig.isVtpmEnabled",
        _RESTORED,
        "with v4",
        line="its vTPM is new and empty: what the old one had sealed needs its recovery key, such "
        "as that of BitLocker",
        in_point=True,
    ),
    VmField("hardwareClockTimezone", _RESTORED, copied=True),
    # --- devices
    VmField("isVgaConsoleEnabled", _RESTORED, copied=True),
    VmField("isGpuConsoleEnabled", _IF_THERE, "with its graphics cards"),
    VmField("isScsiControllerEnabled", _RESTORED, copied=True),
    VmField("isBrandingEnabled", _RESTORED, copied=True),
    VmField("isAgentVm", _RESTORED, copied=True),
    VmField("serialPorts", _RESTORED),
    VmField("serialPorts[].index", _RESTORED),
    VmField("serialPorts[].isConnected", _RESTORED),
    VmField("serialPorts[].extId", _NEW),
    VmField("serialPorts[].tenantId", _STATE),
    VmField("serialPorts[].links", _STATE),
    VmField("gpus", _IF_THERE, "by device id; v3 does not say what a cluster has: not restored"),
    VmField("gpus[].mode", _IF_THERE),
    VmField("gpus[].deviceId", _IF_THERE),
    VmField("gpus[].vendor", _IF_THERE),
    VmField("gpus[].name", _STATE),
    VmField("gpus[].backingInfo", _STATE, "Prism chooses a card of that device id"),
    VmField("gpus[].assignedDeviceInfo", _STATE),
    VmField("gpus[].pciAddress", _STATE),
    VmField("gpus[].guestDriverVersion", _STATE),
    VmField("gpus[].frameBufferSizeBytes", _STATE),
    VmField("gpus[].numVirtualDisplayHeads", _STATE),
    VmField("gpus[].fraction", _STATE),
    VmField("gpus[].extId", _NEW),
    VmField("gpus[].tenantId", _STATE),
    VmField("gpus[].links", _STATE),
    VmField(
        "pcieDevices",
        _NOT_RESTORED,
        "a device of one certain host",
        line="its PCIe devices are not restored: assign them in Prism",
        in_point=True,
    ),
    VmField("cdRoms", _RESTORED, "an empty drive at the same address"),
    VmField("cdRoms[].diskAddress", _RESTORED),
    VmField("cdRoms[].isoType", _STATE, "what the medium in it is"),
    VmField("cdRoms[].extId", _NEW),
    VmField("cdRoms[].tenantId", _STATE),
    VmField("cdRoms[].links", _STATE),
    VmField(
        "cdRoms[].backingInfo",
        _NOT_RESTORED,
        "the medium in it",
        line="its CD-ROM drives are empty: the media that were in them are not restored",
        in_point=True,
    ),
    # --- disks
    VmField("disks", _RESTORED, "address, size and content"),
    VmField("disks[].diskAddress", _RESTORED),
    VmField("disks[].backingInfo", _RESTORED),
    VmField("disks[].backingInfo.diskSizeBytes", _RESTORED),
    VmField("disks[].extId", _NEW),
    VmField("disks[].tenantId", _STATE),
    VmField("disks[].links", _STATE),
    VmField(
        "disks[].customAttributes",
        _NOT_RESTORED,
        line="the custom attributes of its disks are not restored",
    ),
    VmField("disks[].backingInfo.diskExtId", _NEW),
    VmField("disks[].backingInfo.serialId", _NEW),
    VmField("disks[].backingInfo.storageContainer", _NEW, "Prism's choice, or `storage_container`"),
    VmField("disks[].backingInfo.storageConfig", _RESTORED, "pinned to the hot tier; v4"),
    VmField("disks[].backingInfo.dataSource", _STATE, "what the disk was once cloned from"),
    VmField("disks[].backingInfo.isMigrationInProgress", _STATE),
    VmField("disks[].backingInfo.vmDiskHydrationInfo", _STATE),
    VmField("disks[].backingInfo.externalStorageInfo", _STATE),
    VmField(
        "disks[].backingInfo.volumeGroupExtId",
        _NOT_RESTORED,
        "an attached volume group: attached again where it is restored in the same job",
        line="volume groups are attached to it only if they are restored, or replicated, with it",
    ),
    VmField("storageConfig", _RESTORED, "v4"),
    VmField("storageConfig.isFlashModeEnabled", _RESTORED, copied=True),
    VmField("storageConfig.qosConfig", _RESTORED, copied=True),
    VmField("storageConfig.storageLocationInfo", _STATE),
    VmField("storageConfig.hydrationInfo", _STATE),
    # --- network cards
    VmField("nics", _RESTORED, "connected by `network_map`"),
    VmField("nics[].extId", _NEW),
    VmField("nics[].tenantId", _STATE),
    VmField("nics[].links", _STATE),
    VmField("nics[].backingInfo", _RESTORED),
    VmField("nics[].backingInfo.isConnected", _RESTORED),
    VmField("nics[].networkInfo", _RESTORED),
    VmField(
        "nics[].networkInfo.vlanId",
        _NOT_RESTORED,
        "of SR-IOV",
        line="the VLAN of its SR-IOV network cards is not restored",
    ),
    VmField("nics[].networkInfo.ipv6Info", _STATE, "addresses that were seen"),
    VmField("nics[].backingInfo.macAddress", _IDENTITY),
    VmField("nics[].backingInfo.model", _RESTORED),
    VmField("nics[].backingInfo.numQueues", _RESTORED),
    VmField("nics[].networkInfo.subnet", _IF_THERE, "or as `network_map` says"),
    VmField("nics[].networkInfo.vlanMode", _RESTORED),
    VmField("nics[].networkInfo.trunkedVlans", _RESTORED),
    VmField("nics[].networkInfo.shouldAllowUnknownMacs", _RESTORED),
    VmField("nics[].networkInfo.ipv4Config", _IDENTITY, "on the subnet that it was saved on"),
    VmField("nics[].networkInfo.ipv4Info", _STATE, "addresses that were seen"),
    VmField("nics[].networkInfo.nicType", _RESTORED, "a normal card"),
    VmField(
        "nics[].networkInfo.networkFunctionChain",
        _NOT_RESTORED,
        line="its network function chains are not restored",
    ),
    VmField(
        "nics[].networkInfo.networkFunctionNicType",
        _NOT_RESTORED,
        line="the part of its network cards in network functions is not restored",
    ),
    VmField(
        "nics[].backingInfo.sriovProfileReference",
        _NOT_RESTORED,
        line="its SR-IOV network cards are virtual ones now",
    ),
    VmField(
        "nics[].backingInfo.dpOffloadProfileReference",
        _NOT_RESTORED,
        line="its network cards with offload are virtual ones now",
    ),
    VmField(
        "nics[].backingInfo.pciePassthroughProfileReference",
        _NOT_RESTORED,
        line="its network cards that were passed through are virtual ones now",
    ),
    VmField("nics[].backingInfo.hostPcieDeviceReference", _STATE),
    # --- what Prism and the guest say about each other
    VmField("guestCustomization", _STATE, "for the first start of a VM only"),
    VmField("vmGuestCustomizationStatus", _STATE),
    VmField("guestTools", _STATE, "what the tools in the guest report"),
    *(
        VmField(f"guestTools.{name}", _STATE)
        for name in (
            "version",
            "availableVersion",
            "isInstalled",
            "isIsoInserted",
            "capabilities",
            "guestOsVersion",
            "isReachable",
            "isVssSnapshotCapable",
            "guestInfo",
            "isVmMobilityDriversInstalled",
            "isCommunicationActiveOverSerialPort",
        )
    ),
    VmField(
        "guestTools.isEnabled",
        _NOT_RESTORED,
        line="Nutanix Guest Tools are not enabled for it: enable them in Prism",
    ),
    VmField("powerState", _NEW, "off, or `restore_powerstate`"),
    VmField("nextScheduledReboot", _STATE),
    VmField("isLiveMigrateCapable", _STATE),
    VmField("isCrossClusterMigrationInProgress", _STATE),
    VmField("protectionType", _STATE, "policies protect by category"),
    VmField("protectionPolicyState", _STATE, "policies protect by category"),
)
