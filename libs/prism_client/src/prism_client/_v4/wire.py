"""v4 JSON <-> model. Pure functions; names and shapes as in the official v4.0 to v4.4 clients."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from prism_client._refusal import app_messages
from prism_client._text import one_line
from prism_client.model import (
    BackupType,
    Boot,
    Category,
    Cluster,
    Consistency,
    DiskRecoveryPoint,
    DiskSpec,
    EmptyDisk,
    FileTransfer,
    GpuModel,
    GroupRecoveryPoint,
    GuestTools,
    Image,
    Nic,
    NicSpec,
    RecoveryPoint,
    StorageContainer,
    Subnet,
    Task,
    Vm,
    VmDisk,
    VmSpec,
    VolumeDisk,
    VolumeDiskRef,
    VolumeGroup,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from prism_client._fields import Fields

_CONSISTENCY = {
    Consistency.CRASH: "CRASH_CONSISTENT",
    Consistency.APP: "APPLICATION_CONSISTENT",
}


_STAYS = ("cluster", "disks", "nics", "cdRoms", "serialPorts", "gpus", "vtpmConfig", "categories")
_OF_THE_CARD = ("model", "numQueues")  # the other settings are those of its connection


def cluster(data: Fields) -> Cluster:
    build = data.child("config", "buildInfo")
    return Cluster(
        ext_id=data.text("extId"),
        name=data.text("name"),
        version=build.opt_text("version") or build.opt_text("fullVersion") or "",
        is_prism_central="PRISM_CENTRAL" in data.child("config").texts("clusterFunction"),
        external_address=ip_address(data.child("network", "externalAddress")),
        data_services_ip=ip_address(data.child("network", "externalDataServiceIp")),
    )


def gpu_model(data: Fields) -> GpuModel | None:
    """Read a profile of a graphics card; None for one that names no device."""
    is_virtual = "virtualGpuConfig" in data.value
    config = data.child("virtualGpuConfig" if is_virtual else "physicalGpuConfig")
    device = config.opt_integer("deviceId")
    if device is None:
        return None
    return GpuModel(device, is_virtual, config.opt_text("deviceName") or "")


def subnet(data: Fields) -> Subnet:
    is_vlan = data.opt_text("subnetType") == "VLAN"
    return Subnet(
        ext_id=data.text("extId"),
        name=data.text("name"),
        cluster_ext_id=data.opt_text("clusterReference"),
        vlan=data.opt_integer("networkId") if is_vlan else None,
    )


def storage_container(data: Fields) -> StorageContainer:
    return StorageContainer(
        ext_id=data.opt_text("containerExtId") or data.text("extId"),
        name=data.text("name"),
        cluster_ext_id=data.opt_text("clusterExtId"),
    )


def category(data: Fields) -> Category:
    return Category(data.text("extId"), data.text("key"), data.text("value"))


def newest_free_bytes(stats: Fields) -> int | None:
    """Return the last free space that a container reported; None for none."""
    points = stats.items("storageFreeBytes")
    return points[-1].opt_integer("value") if points else None


def ip_address(data: Fields) -> str | None:
    """Return the address inside an {ipv4: {value}, ipv6: {value}} object."""
    return data.child("ipv4").opt_text("value") or data.child("ipv6").opt_text("value")


def vm(data: Fields) -> Vm:
    disks = data.items("disks")
    return Vm(
        ext_id=data.text("extId"),
        name=data.text("name"),
        description=data.opt_text("description") or "",
        cluster_ext_id=data.need("cluster").text("extId"),
        power_state=data.opt_text("powerState") or "UNDETERMINED",
        sockets=data.integer("numSockets"),
        cores_per_socket=data.integer("numCoresPerSocket"),
        threads_per_core=data.opt_integer("numThreadsPerCore") or 1,
        memory=data.integer("memorySizeBytes"),
        machine_type=data.opt_text("machineType"),
        boot=_boot(data.child("bootConfig")),
        disks=tuple(_vm_disk(disk) for disk in disks if _volume_group_of(disk) is None),
        volume_group_ext_ids=_distinct(_volume_group_of(disk) for disk in disks),
        nics=tuple(_nic(nic) for nic in data.items("nics")),
        category_ext_ids=tuple(item.text("extId") for item in data.items("categories")),
        protection_type=data.opt_text("protectionType"),
        raw=data.value,
        project_ext_id=data.opt_text("projectExtId") or data.child("project").opt_text("extId"),
        custom_attributes=data.texts("customAttributes"),
        guest_tools=_guest_tools(data.child("guestTools")),
    )


def _guest_tools(data: Fields) -> GuestTools | None:
    if not data.value:
        return None
    return GuestTools(
        is_enabled=data.flag("isEnabled"),
        is_reachable=data.flag("isReachable"),
        can_quiesce=data.flag("isVssSnapshotCapable"),
    )


def _boot(data: Fields) -> Boot:
    kind = data.opt_text("$objectType") or ""
    is_uefi = kind.endswith(".UefiBoot") or "isSecureBootEnabled" in data.value
    return Boot(
        firmware="uefi" if is_uefi else "legacy",
        secure=data.flag("isSecureBootEnabled"),
        order=data.texts("bootOrder"),
        disk=_boot_disk(data.child("bootDevice").child("diskAddress")),
    )


def _boot_disk(address: Fields) -> tuple[str, int] | None:
    bus, index = address.opt_text("busType"), address.opt_integer("index")
    return None if bus is None else (bus, index or 0)


def _volume_group_of(disk: Fields) -> str | None:
    return disk.need("backingInfo").opt_text("volumeGroupExtId")


def _vm_disk(data: Fields) -> VmDisk:
    address = data.need("diskAddress")
    backing = data.need("backingInfo")
    return VmDisk(
        ext_id=data.text("extId"),
        disk_ext_id=backing.text("diskExtId"),
        bus=address.text("busType"),
        index=address.integer("index"),
        size=backing.integer("diskSizeBytes"),
        storage_container_ext_id=backing.child("storageContainer").opt_text("extId"),
        external_volume=backing.child("externalStorageInfo").opt_text("volumeName"),
    )


def _nic(data: Fields) -> Nic:
    """Read a NIC; newer servers may use the twin names only."""
    twin = "backingInfo" not in data.value
    backing = data.child("nicBackingInfo" if twin else "backingInfo")
    network = data.child("nicNetworkInfo" if twin else "networkInfo")
    return Nic(
        ext_id=data.opt_text("extId") or "",
        mac=backing.opt_text("macAddress") or "",
        subnet_ext_id=network.child("subnet").opt_text("extId"),
        connected=backing.flag("isConnected", default=True),
        model=backing.opt_text("model") or "",
        addresses=tuple(_addresses(network)),
    )


def _addresses(network: Fields) -> Iterator[str]:
    given = network.child("ipv4Config").child("ipAddress")
    for address in (given, *network.child("ipv4Info").items("learnedIpAddresses")):
        if text := address.opt_text("value"):
            yield text


def vm_body(spec: VmSpec) -> dict[str, Any]:
    """Return the body that creates a VM."""
    body: dict[str, Any] = {
        "$objectType": "vmm.v4.ahv.config.Vm",
        "name": spec.name,
        "description": spec.description,
        "cluster": {"extId": spec.cluster_ext_id},
        "numSockets": spec.sockets,
        "numCoresPerSocket": spec.cores_per_socket,
        "numThreadsPerCore": spec.threads_per_core,
        "memorySizeBytes": spec.memory,
        "machineType": spec.machine_type,
        "bootConfig": _boot_body(spec.boot),
        "disks": [disk_body(disk) for disk in spec.disks] or None,
        "nics": [nic_body(nic) for nic in spec.nics] or None,
        "categories": [{"extId": ext_id} for ext_id in spec.category_ext_ids] or None,
        "project": {"extId": spec.project_ext_id} if spec.project_ext_id else None,
        "biosUuid": spec.bios_uuid,
        **spec.settings,
    }
    return {name: value for name, value in body.items() if value not in (None, "")}


def refit_body(raw: Mapping[str, Any], spec: VmSpec) -> dict[str, Any]:
    """Return the body that changes a VM, which Prism answered as `raw`, to what a spec says.

    What has calls of its own stays as it is, and so do the UEFI variables and the vTPM.
    """
    wanted = {name: value for name, value in vm_body(spec).items() if name not in _STAYS}
    boot = wanted["bootConfig"]
    nvram = (raw.get("bootConfig") or {}).get("nvramDevice")
    if nvram is not None and spec.boot.firmware == "uefi":
        wanted["bootConfig"] = {**boot, "nvramDevice": nvram}
    return {**{name: value for name, value in raw.items() if name[0] != "$"}, **wanted}


def restore_body(part_ext_id: str, cluster_ext_id: str, name: str) -> dict[str, Any]:
    """Return the body that makes a VM of the VM part of a recovery point."""
    spec = {"$objectType": "dataprotection.v4.config.AhvVmOverrideSpec", "name": name}
    override = {
        "$objectType": "dataprotection.v4.config.VmRecoveryPointRestoreOverride",
        "vmRecoveryPointExtId": part_ext_id,
        "vmOverrideSpec": spec,
    }
    return {
        "$objectType": "dataprotection.v4.config.RecoveryPointRestorationSpec",
        "clusterExtId": cluster_ext_id,
        "vmRecoveryPointRestoreOverrides": [override],
    }


def _boot_body(boot: Boot) -> dict[str, Any]:
    kind = "UefiBoot" if boot.firmware == "uefi" else "LegacyBoot"
    body: dict[str, Any] = {"$objectType": f"vmm.v4.ahv.config.{kind}"}
    if boot.firmware == "uefi":
        body["isSecureBootEnabled"] = boot.secure
    if boot.disk is not None:
        bus, index = boot.disk
        body["bootDevice"] = {
            "$objectType": "vmm.v4.ahv.config.BootDeviceDisk",
            "diskAddress": {"busType": bus, "index": index},
        }
    elif boot.order:
        body["bootOrder"] = list(boot.order)
    return body


def disk_body(disk: DiskSpec) -> dict[str, Any]:
    """Return the body of a disk of a VM."""
    backing: dict[str, Any] = {"$objectType": "vmm.v4.ahv.config.VmDisk"}
    if isinstance(disk.source, EmptyDisk):
        backing["diskSizeBytes"] = disk.source.size
    else:
        backing["dataSource"] = {"reference": _disk_source(disk.source)}
    if disk.storage_container_ext_id is not None:
        backing["storageContainer"] = {"extId": disk.storage_container_ext_id}
    if disk.flash:
        backing["storageConfig"] = {"isFlashModeEnabled": True}
    return {
        "$objectType": "vmm.v4.ahv.config.Disk",
        "diskAddress": {"busType": disk.bus, "index": disk.index},
        "backingInfo": backing,
    }


def _disk_source(source: str | VolumeDiskRef) -> dict[str, str]:
    if isinstance(source, str):
        return {"$objectType": "vmm.v4.ahv.config.ImageReference", "imageExtId": source}
    return {
        "$objectType": "vmm.v4.ahv.config.VolumeDiskReference",
        "diskExtId": source.disk_ext_id,
        "volumeGroupExtId": source.volume_group_ext_id,
    }


def transfer_body(
    disk: VolumeDiskRef, files: Iterable[FileTransfer], user: str, password: str
) -> dict[str, Any]:
    """Return the body that has files copied into a guest."""
    return {
        "$objectType": "vmm.v4.ahv.config.TransferFilesToGuestSpec",
        "transferFilesSpec": {
            "$objectType": "vmm.v4.ahv.config.TransferFilesFromVolumeDisk",
            "volumeDiskReference": _disk_source(disk),
            "filesToTransfer": [
                {
                    "$objectType": "vmm.v4.ahv.config.TransferFileAttributes",
                    "sourcePath": file.source,
                    "destinationPath": file.destination,
                    "shouldOverwrite": file.overwrite,
                }
                for file in files
            ],
        },
        "guestAuthentication": {
            "$objectType": "vmm.v4.ahv.config.Credential",
            "username": user,
            "password": password,
        },
    }


def nic_body(nic: NicSpec) -> dict[str, Any]:
    """Return the body of a network card of a VM."""
    backing: dict[str, Any] = {
        "$objectType": "vmm.v4.ahv.config.EmulatedNic",
        "isConnected": nic.connected,
    }
    if nic.mac is not None:
        backing["macAddress"] = nic.mac
    backing |= {name: nic.settings[name] for name in _OF_THE_CARD if name in nic.settings}
    body: dict[str, Any] = {"$objectType": "vmm.v4.ahv.config.Nic", "backingInfo": backing}
    if nic.subnet_ext_id is not None:
        body["networkInfo"] = {
            "nicType": "NORMAL_NIC",
            "subnet": {"extId": nic.subnet_ext_id},
            **{name: value for name, value in nic.settings.items() if name not in _OF_THE_CARD},
        }
    return body


def recovery_point(data: Fields, disks: tuple[DiskRecoveryPoint, ...] = ()) -> RecoveryPoint:
    """Read a recovery point of exactly one VM."""
    parts = data.items("vmRecoveryPoints")
    if len(parts) != 1:
        raise data.fault("vmRecoveryPoints", f"one VM is expected, not {len(parts)}")
    kind = parts[0].opt_text("recoveryPointType") or data.opt_text("recoveryPointType")
    return RecoveryPoint(
        ext_id=data.text("extId"),
        name=data.opt_text("name") or "",
        created=_time(data, "creationTime"),
        expires=_time(data, "expirationTime") if data.value.get("expirationTime") else None,
        # Nothing, or a kind that is not known, promises no more than a crash-consistent state.
        consistency=Consistency.APP if kind == _CONSISTENCY[Consistency.APP] else Consistency.CRASH,
        vm_recovery_point_ext_id=parts[0].text("extId"),
        vm_ext_id=parts[0].text("vmExtId"),
        disks=disks,
        groups=tuple(
            GroupRecoveryPoint(
                part.text("extId"), part.text("volumeGroupExtId"), disk_recovery_points(part)
            )
            for part in data.items("volumeGroupRecoveryPoints")
        ),
    )


def disk_recovery_points(vm_part: Fields) -> tuple[DiskRecoveryPoint, ...]:
    return tuple(
        DiskRecoveryPoint(item.text("diskRecoveryPointExtId"), item.opt_text("diskExtId"))
        for item in vm_part.items("diskRecoveryPoints")
    )


def recovery_point_body(
    vm_ext_id: str, name: str, expires: datetime, consistency: Consistency, backup_type: BackupType
) -> dict[str, Any]:
    """Return the body that takes a recovery point of one VM."""
    part: dict[str, Any] = {"vmExtId": vm_ext_id}
    if consistency is Consistency.APP:
        part["applicationConsistentProperties"] = {
            "$objectType": "dataprotection.v4.common.VssProperties",
            "backupType": f"{backup_type.name}_BACKUP",
            "shouldIncludeWriters": False,
            "shouldStoreVssMetadata": False,
        }
    return {
        "$objectType": "dataprotection.v4.config.RecoveryPoint",
        "name": name,
        "recoveryPointType": _CONSISTENCY[consistency],
        "expirationTime": time_text(expires),
        "vmRecoveryPoints": [part],
    }


def volume_group(data: Fields, disks: Sequence[Fields] = ()) -> VolumeGroup:
    return VolumeGroup(
        ext_id=data.text("extId"),
        name=data.text("name"),
        cluster_ext_id=data.opt_text("clusterReference"),
        target_name=data.opt_text("targetName") or "",
        disks=tuple(sorted((_volume_disk(disk) for disk in disks), key=lambda disk: disk.index)),
        raw=data.value,
    )


def _volume_disk(data: Fields) -> VolumeDisk:
    return VolumeDisk(data.text("extId"), data.integer("index"), data.integer("diskSizeBytes"))


def volume_group_body(
    name: str, cluster_ext_id: str, sources: Sequence[str], chap_secret: str | None
) -> dict[str, Any]:
    """Return the body that creates a volume group of clones of disk recovery points."""
    disks = [
        _volume_disk_body(i, "DISK_RECOVERY_POINT", source) for i, source in enumerate(sources)
    ]
    return _volume_group_body(name, cluster_ext_id, disks, chap_secret)


def blank_volume_group_body(
    name: str,
    cluster_ext_id: str,
    sizes: Sequence[int],
    storage_container_ext_id: str,
    chap_secret: str | None,
) -> dict[str, Any]:
    """Return the body that creates a volume group of new disks on a storage container."""
    disks = [
        _volume_disk_body(i, "STORAGE_CONTAINER", storage_container_ext_id)
        | {"diskSizeBytes": size}
        for i, size in enumerate(sizes)
    ]
    return _volume_group_body(name, cluster_ext_id, disks, chap_secret)


def _volume_group_body(
    name: str, cluster_ext_id: str, disks: list[dict[str, Any]], chap_secret: str | None
) -> dict[str, Any]:
    return {
        "$objectType": "volumes.v4.config.VolumeGroup",
        "name": name,
        "clusterReference": cluster_ext_id,
        "sharingStatus": "NOT_SHARED",
        "iscsiFeatures": _chap("targetSecret", chap_secret),
        "disks": disks,
    }


def _volume_disk_body(index: int, kind: str, source: str) -> dict[str, Any]:
    return {
        "$objectType": "volumes.v4.config.VolumeDisk",
        "index": index,
        "diskDataSourceReference": {"extId": source, "entityType": kind},
    }


def iscsi_client_body(initiator_iqn: str, chap_secret: str | None) -> dict[str, Any]:
    """Return the body that lets an initiator log in to a volume group, through one target."""
    return {
        "$objectType": "volumes.v4.config.IscsiClient",
        "iscsiInitiatorName": initiator_iqn,
        "numVirtualTargets": 1,
        **_chap("clientSecret", chap_secret),
    }


def _chap(secret_name: str, secret: str | None) -> dict[str, str]:
    if secret is None:
        return {"enabledAuthentications": "NONE"}
    return {"enabledAuthentications": "CHAP", secret_name: secret}


def image(data: Fields) -> Image:
    return Image(data.text("extId"), data.text("name"), data.opt_integer("sizeBytes") or 0)


def task(data: Fields) -> Task:
    affected: dict[str, tuple[str, ...]] = {}
    for item in data.items("entitiesAffected"):
        kind = item.opt_text("rel") or ""
        affected[kind] = (*affected.get(kind, ()), item.text("extId"))
    return Task(
        ext_id=data.text("extId"),
        operation=data.opt_text("operation") or data.opt_text("operationDescription") or "task",
        status=data.text("status"),
        progress=data.opt_integer("progressPercentage") or 0,
        affected=affected,
        details={
            item.text("name"): item.value.get("value") for item in data.items("completionDetails")
        },
        error_message=_task_words(data),
    )


def _task_words(data: Fields) -> str:
    words = [text for text, _ in app_messages(data.array("errorMessages")) if text]
    return one_line("; ".join(words) or data.opt_text("legacyErrorMessage") or "")


def time_text(moment: datetime) -> str:
    """Return an aware datetime as v4 writes it, in UTC."""
    if moment.tzinfo is None:
        raise ValueError("a time needs its time zone")
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _time(data: Fields, name: str) -> datetime:
    text = data.text(name)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as exc:
        raise data.fault(name, f"{text!r} is no time") from exc
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _distinct(values: Iterable[str | None]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(value for value in values if value is not None))
