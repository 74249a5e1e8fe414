"""v3 and v2 JSON <-> model. Pure functions; names and shapes as in the official v3 description."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from prism_client import vm_settings
from prism_client._text import one_line
from prism_client.model import (
    Boot,
    Cluster,
    Consistency,
    DiskRecoveryPoint,
    DiskSpec,
    EmptyDisk,
    Image,
    Nic,
    NicSpec,
    PointKind,
    Project,
    RecoveryPoint,
    StorageContainer,
    Subnet,
    Task,
    Vm,
    VmDisk,
    VmSpec,
    VolumeDisk,
    VolumeGroup,
)

if TYPE_CHECKING:
    from prism_client._fields import Fields

_MIB = 1 << 20
_CONSISTENCY = {
    Consistency.CRASH: "CRASH_CONSISTENT",
    Consistency.APP: "APPLICATION_CONSISTENT",
}
# v3's end states of a task or an entity, as the model calls them; others are on their way.
_STATUS = {"ABORTED": "CANCELED", "COMPLETE": "SUCCEEDED", "ERROR": "FAILED"}


def uuid_of(entity: Fields) -> str:
    return entity.need("metadata").text("uuid")


def name_of(entity: Fields) -> str:
    return entity.child("status").opt_text("name") or entity.child("spec").opt_text("name") or ""


def _resources(entity: Fields) -> Fields:
    """Return what the entity is; "spec" is what it was asked to be."""
    status = entity.child("status", "resources")
    return status if status.value else entity.child("spec", "resources")


def _cluster_of(entity: Fields) -> str | None:
    for part in ("status", "spec"):
        found = entity.child(part, "cluster_reference").opt_text("uuid")
        if found is not None:
            return found
    return None


def cluster(entity: Fields) -> Cluster:
    resources = _resources(entity)
    network = resources.child("network")
    build = resources.child("config", "build")
    return Cluster(
        ext_id=uuid_of(entity),
        name=name_of(entity),
        version=build.opt_text("version") or build.opt_text("full_version") or "",
        is_prism_central="PRISM_CENTRAL" in resources.child("config").texts("service_list"),
        external_address=network.opt_text("external_ip"),
        data_services_ip=network.opt_text("external_data_services_ip"),
    )


def subnet(entity: Fields) -> Subnet:
    resources = _resources(entity)
    is_vlan = resources.opt_text("subnet_type") == "VLAN"
    return Subnet(
        ext_id=uuid_of(entity),
        name=name_of(entity),
        cluster_ext_id=_cluster_of(entity),
        vlan=resources.opt_integer("vlan_id") if is_vlan else None,
    )


def storage_container(data: Fields, cluster_ext_id: str) -> StorageContainer:
    """Read a storage container of v2."""
    return StorageContainer(
        ext_id=container_id(data),
        name=data.text("name"),
        cluster_ext_id=data.opt_text("cluster_uuid") or cluster_ext_id,
    )


def container_id(data: Fields) -> str:
    return data.text("storage_container_uuid")


def free_bytes(container: Fields) -> int | None:
    """Return the free space of a storage container of v2, which writes numbers as text."""
    text = str(container.child("usage_stats").value.get("storage.user_free_bytes"))
    return int(text) if text.isdecimal() else None


def vm(entity: Fields) -> Vm:
    resources = _resources(entity)
    cluster_ext_id = _cluster_of(entity)
    if cluster_ext_id is None:
        raise entity.fault("status.cluster_reference", "is missing")
    disks = resources.items("disk_list")
    return Vm(
        ext_id=uuid_of(entity),
        name=name_of(entity),
        description=entity.child("spec").opt_text("description") or "",
        cluster_ext_id=cluster_ext_id,
        power_state=resources.opt_text("power_state") or "UNDETERMINED",
        sockets=resources.integer("num_sockets"),
        cores_per_socket=resources.opt_integer("num_vcpus_per_socket") or 1,
        threads_per_core=resources.opt_integer("num_threads_per_core") or 1,
        memory=resources.integer("memory_size_mib") * _MIB,
        machine_type=resources.opt_text("machine_type"),
        boot=_boot(resources.child("boot_config")),
        disks=tuple(_vm_disk(disk) for disk in disks if _kind_of(disk) == "DISK"),
        volume_group_ext_ids=tuple(
            dict.fromkeys(
                disk.need("volume_group_reference").text("uuid")
                for disk in disks
                if _kind_of(disk) == "VOLUME_GROUP"
            )
        ),
        nics=tuple(_nic(nic) for nic in resources.items("nic_list")),
        category_ext_ids=_categories(entity.need("metadata")),
        protection_type=resources.opt_text("protection_type"),
        raw=entity.value,
        project_ext_id=entity.child("metadata", "project_reference").opt_text("uuid"),
    )


def _kind_of(disk: Fields) -> str:
    return disk.child("device_properties").opt_text("device_type") or "DISK"


def _vm_disk(data: Fields) -> VmDisk:
    address = data.need("device_properties").need("disk_address")
    size = data.opt_integer("disk_size_bytes")
    uuid = data.text("uuid")
    container = data.child("storage_config", "storage_container_reference")
    return VmDisk(
        ext_id=uuid,
        disk_ext_id=uuid,
        bus=address.text("adapter_type"),
        index=address.integer("device_index"),
        size=data.integer("disk_size_mib") * _MIB if size is None else size,
        storage_container_ext_id=container.opt_text("uuid"),
    )


def _nic(data: Fields) -> Nic:
    return Nic(
        ext_id=data.opt_text("uuid") or "",
        mac=data.opt_text("mac_address") or "",
        subnet_ext_id=data.child("subnet_reference").opt_text("uuid"),
        connected=data.flag("is_connected", default=True),
        model=data.opt_text("model") or "",
        addresses=tuple(
            address
            for endpoint in data.items("ip_endpoint_list")
            if (address := endpoint.opt_text("ip"))
        ),
    )


def _boot(data: Fields) -> Boot:
    kind = data.opt_text("boot_type") or "LEGACY"
    return Boot(
        firmware="legacy" if kind == "LEGACY" else "uefi",
        secure=kind == "SECURE_BOOT",
        order=data.texts("boot_device_order_list"),
        disk=_boot_disk(data.child("boot_device").child("disk_address")),
    )


def _boot_disk(address: Fields) -> tuple[str, int] | None:
    bus, index = address.opt_text("adapter_type"), address.opt_integer("device_index")
    return None if bus is None else (bus, index or 0)


def _categories(metadata: Fields) -> tuple[str, ...]:
    """Return the categories as "key/value": v3 has no ids for them."""
    several = metadata.child("categories_mapping")
    if several.value:
        return tuple(f"{key}/{value}" for key in several.value for value in several.texts(key))
    single = metadata.child("categories")
    return tuple(f"{key}/{single.text(key)}" for key in single.value)


def vm_body(spec: VmSpec) -> dict[str, Any]:
    """Return the spec that creates a VM, powered off."""
    resources: dict[str, Any] = {
        "num_sockets": spec.sockets,
        "num_vcpus_per_socket": spec.cores_per_socket,
        "num_threads_per_core": spec.threads_per_core,
        "memory_size_mib": -(-spec.memory // _MIB),
        "power_state": "OFF",
        "boot_config": _boot_body(spec.boot),
        "disk_list": [
            *(_disk_body(disk) for disk in spec.disks),
            *vm_settings.drives_in_v3(spec.settings),
        ],
        "nic_list": [_nic_body(nic) for nic in spec.nics],
        **vm_settings.in_v3(spec.settings),
    }
    if spec.machine_type is not None:
        resources["machine_type"] = spec.machine_type
    body: dict[str, Any] = {
        "name": spec.name,
        "resources": resources,
        "cluster_reference": {"kind": "cluster", "uuid": spec.cluster_ext_id},
    }
    return body | ({"description": spec.description} if spec.description else {})


def _boot_body(boot: Boot) -> dict[str, Any]:
    kind = "LEGACY" if boot.firmware != "uefi" else "SECURE_BOOT" if boot.secure else "UEFI"
    if boot.disk is not None:
        bus, index = boot.disk
        address = {"adapter_type": bus, "device_index": index}
        return {"boot_type": kind, "boot_device": {"disk_address": address}}
    order = {"boot_device_order_list": list(boot.order)} if boot.order else {}
    return {"boot_type": kind} | order


def _disk_body(disk: DiskSpec) -> dict[str, Any]:
    body: dict[str, Any] = {
        "device_properties": {
            "device_type": "DISK",
            "disk_address": {"adapter_type": disk.bus, "device_index": disk.index},
        },
    }
    if isinstance(disk.source, EmptyDisk):
        body["disk_size_bytes"] = disk.source.size
    else:
        body["data_source_reference"] = {"kind": "image", "uuid": disk.source}
    if disk.storage_container_ext_id is not None:
        container = {"kind": "storage_container", "uuid": disk.storage_container_ext_id}
        body["storage_config"] = {"storage_container_reference": container}
    return body


def _nic_body(nic: NicSpec) -> dict[str, Any]:
    body: dict[str, Any] = {
        "nic_type": "NORMAL_NIC",
        "is_connected": nic.connected,
        **vm_settings.nic_in_v3(nic.settings),
    }
    if nic.mac is not None:
        body["mac_address"] = nic.mac
    if nic.subnet_ext_id is not None:
        body["subnet_reference"] = {"kind": "subnet", "uuid": nic.subnet_ext_id}
    return body


def snapshot(entity: Fields, disks: tuple[DiskRecoveryPoint, ...] = ()) -> RecoveryPoint:
    """Read a VM snapshot; it is the whole recovery point and its only VM's part in one."""
    uuid = uuid_of(entity)
    return RecoveryPoint(
        ext_id=uuid,
        name=name_of(entity),
        created=_created(entity.need("metadata")),
        expires=_expires(entity),
        # Nothing, or a kind that is not known, promises no more than a crash-consistent state.
        consistency=(
            Consistency.APP
            if entity.child("status").opt_text("snapshot_type") == _CONSISTENCY[Consistency.APP]
            else Consistency.CRASH
        ),
        vm_recovery_point_ext_id=uuid,
        vm_ext_id=vm_of(entity),
        disks=disks,
        kind=PointKind.VM_SNAPSHOT,
    )


def group_snapshot(entity: Fields) -> RecoveryPoint:
    """Read a snapshot of a volume group; the group stands in the place of the VM."""
    uuid = uuid_of(entity)
    resources = _resources(entity)
    return RecoveryPoint(
        ext_id=uuid,
        name=name_of(entity),
        created=_created(entity.need("metadata")),
        expires=_expires(entity, "resources"),
        consistency=Consistency.CRASH,
        vm_recovery_point_ext_id=uuid,
        vm_ext_id=resources.need("volume_group_reference").text("uuid"),
        disks=tuple(
            DiskRecoveryPoint(item.text("snapshot_file_path"), item.text("volume_group_disk_uuid"))
            for item in resources.items("snapshot_file_list")
        ),
        kind=PointKind.VM_SNAPSHOT,
        of_group=True,
    )


def group_snapshot_body(group_ext_id: str, name: str, expires: datetime) -> dict[str, Any]:
    """Return the spec that takes a snapshot of a volume group."""
    return {
        "name": name,
        "resources": {
            "expiration_time_msecs": milliseconds(expires),
            "volume_group_reference": {"kind": "volume_group", "uuid": group_ext_id},
        },
    }


def vm_of(entity: Fields) -> str:
    """Return the VM that a snapshot is of."""
    for part in ("spec", "status"):
        found = entity.child(part, "resources").opt_text("entity_uuid")
        if found is not None:
            return found
    raise entity.fault("spec.resources.entity_uuid", "is missing")


def snapshot_files(entity: Fields) -> list[tuple[str, str]]:
    """Return (id of the live file, path of its snapshot) of each file; not all are data disks."""
    return [
        (item.text("file_path").rpartition("/")[2], item.text("snapshot_file_path"))
        for item in entity.child("status").items("snapshot_file_list")
    ]


def snapshot_body(
    vm_ext_id: str, name: str, expires: datetime, consistency: Consistency
) -> dict[str, Any]:
    """Return the spec that takes a snapshot of a VM."""
    return {
        "name": name,
        "snapshot_type": _CONSISTENCY[consistency],
        "expiration_time_msecs": milliseconds(expires),
        "resources": {"entity_uuid": vm_ext_id},
    }


def milliseconds(moment: datetime) -> int:
    """Return an aware datetime as v3 writes an expiration."""
    if moment.tzinfo is None:
        raise ValueError("a time needs its time zone")
    return int(moment.timestamp() * 1000)


def _created(metadata: Fields) -> datetime:
    text = metadata.opt_text("creation_time")
    if text is None:
        return datetime.fromtimestamp(0, UTC)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as exc:
        raise metadata.fault("creation_time", f"{text!r} is no time") from exc
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _expires(entity: Fields, *below: str) -> datetime | None:
    for part in ("status", "spec"):
        stamp = entity.child(part, *below).opt_integer("expiration_time_msecs")
        if stamp:
            try:
                return datetime.fromtimestamp(stamp / 1000, UTC)
            except (ValueError, OverflowError, OSError) as exc:
                raise entity.fault(part, f"{stamp} is no time") from exc
    return None


def volume_group(entity: Fields) -> VolumeGroup:
    resources = _resources(entity)
    disks = [
        VolumeDisk(disk.text("uuid"), disk.integer("index"), _disk_size(disk))
        for disk in resources.items("disk_list")
    ]
    return VolumeGroup(
        ext_id=uuid_of(entity),
        name=name_of(entity),
        cluster_ext_id=_cluster_of(entity),
        target_name=resources.opt_text("iscsi_target_name") or "",
        disks=tuple(sorted(disks, key=lambda disk: disk.index)),
        raw=entity.value,
    )


def initiators(entity: Fields) -> tuple[str, ...]:
    """Return the iSCSI initiators outside the cluster that a volume group is attached to."""
    names = (
        item.opt_text("iscsi_initiator_name") or item.opt_text("iscsi_initiator_network_id")
        for item in _resources(entity).items("attachment_list")
    )
    return tuple(name for name in names if name)


def _disk_size(disk: Fields) -> int:
    size = disk.opt_integer("disk_size_bytes")
    return disk.integer("disk_size_mib") * _MIB if size is None else size


def project(entity: Fields) -> Project:
    return Project(uuid_of(entity), name_of(entity))


def image(entity: Fields) -> Image:
    return Image(
        uuid_of(entity), name_of(entity), _resources(entity).opt_integer("size_bytes") or 0
    )


def task(data: Fields, ext_id: str) -> Task:
    affected: dict[str, tuple[str, ...]] = {}
    for item in data.items("entity_reference_list"):
        kind = item.opt_text("kind") or ""
        affected[kind] = (*affected.get(kind, ()), item.text("uuid"))
    status = data.text("status")
    return Task(
        ext_id=ext_id,
        operation=data.opt_text("operation_type") or "task",
        status=_STATUS.get(status, status),
        progress=data.opt_integer("percentage_complete") or 0,
        affected=affected,
        details={},
        error_message=one_line(data.opt_text("error_detail") or ""),
    )


def state_as_task(entity: Fields, kind: str) -> Task:
    """Read how far the making of an entity is: PENDING, COMPLETE or ERROR, with its reasons."""
    status = entity.need("status")
    state = status.text("state")
    words = [item.opt_text("message") or "" for item in status.items("message_list")]
    return Task(
        ext_id=uuid_of(entity),
        operation=kind,
        status=_STATUS.get(state, state),
        progress=0,
        affected={},
        details={},
        error_message=one_line("; ".join(word for word in words if word)),
    )
