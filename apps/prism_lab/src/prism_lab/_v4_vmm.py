"""VMs and images of v4."""

from __future__ import annotations

import contextlib
import http.client
import ssl
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import urlsplit

from flask import Response, g

from prism_lab import _snapshots, _transfers, _vms
from prism_lab._api import (
    NEVER,
    ApiError,
    Entity,
    InvalidRequest,
    Json,
    Listing,
    Result,
    V4Api,
    body,
    check_etag,
    future,
    need,
    not_found,
    obj,
    ref,
    stamp,
)
from prism_lab._lazily import Lazily
from prism_lab.errors import LabError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from prism_lab._images import Images
    from prism_lab._model import (
        CdRom,
        Disk,
        EntitySnapshot,
        Image,
        Nic,
        RecoveryPoint,
        Task,
        Vm,
        World,
    )

NS = "vmm"
AHV = f"{NS}.v4.ahv.config"
CONTENT = f"{NS}.v4.content"
VMS = "ahv/config/vms"
IMAGES = "content/images"
VM_REL = "vmm:ahv:config:vm"
POINT_REL = "dataprotection:config:vm-recovery-point"
IMAGE_REL = "vmm:content:image"
_POWER = {
    "power-on": ("PowerOn", "ON"),
    "power-off": ("PowerOff", "OFF"),
    "power-cycle": ("PowerCycle", "ON"),
    "reset": ("Reset", "ON"),
    "reboot": ("Reboot", "ON"),
    "shutdown": ("Shutdown", "OFF"),
}


def register(api: V4Api, images: Images) -> None:
    """Add the calls of Prism Central."""
    _register_vms(api)
    _register_disks(api)
    _register_power(api)
    _register_actions(api)
    _register_vm_recovery_points(api)
    _register_vm_recovery_point_writes(api)
    _register_images(api, images)


def _register_vms(api: V4Api) -> None:
    world = api.world

    @api.get(NS, VMS, f"{AHV}.ListVmsApiResponse")
    def list_vms() -> Result:
        with world.lock:
            known = list(world.vms.values())
        return Listing(Lazily(known, lambda vm: show_vm(world, vm)))

    @api.get(NS, f"{VMS}/<vm_id>", f"{AHV}.GetVmApiResponse")
    def get_vm(vm_id: str) -> Result:
        vm = _find(world, vm_id)
        return Entity(show_vm(world, vm), vm.version)

    @api.task("POST", NS, VMS, f"{AHV}.CreateVmApiResponse")
    def create_vm() -> Result:
        spec = body()
        _check_vm(world, spec)

        def work(task: Task) -> None:
            vm = _vms.create(world, spec)
            task.affected.append((VM_REL, vm.ext_id))

        return api.start("CreateVm", work)

    @api.task("PUT", NS, f"{VMS}/<vm_id>", f"{AHV}.UpdateVmApiResponse")
    def update_vm(vm_id: str) -> Result:
        spec = body()
        need(spec, "name")
        return _change(api, vm_id, "UpdateVm", lambda vm: _vms.update(vm, spec))

    @api.task("DELETE", NS, f"{VMS}/<vm_id>", f"{AHV}.DeleteVmApiResponse")
    def delete_vm(vm_id: str) -> Result:
        return _change(api, vm_id, "DeleteVm", lambda vm: _vms.delete(world, vm))


def _register_disks(api: V4Api) -> None:
    world = api.world
    disks = f"{VMS}/<vm_id>/disks"

    @api.get(NS, disks, f"{AHV}.ListDisksApiResponse")
    def list_disks(vm_id: str) -> Result:
        return Listing([_show_disk(disk) for disk in _find(world, vm_id).disks])

    @api.get(NS, f"{disks}/<disk_id>", f"{AHV}.GetDiskApiResponse")
    def get_disk(vm_id: str, disk_id: str) -> Result:
        vm = _find(world, vm_id)
        return Entity(_show_disk(_find_disk(vm, disk_id)), vm.version)

    @api.get(NS, f"{VMS}/<vm_id>/cd-roms", f"{AHV}.ListCdRomsApiResponse")
    def list_cd_roms(vm_id: str) -> Result:
        return Listing([_show_cd_rom(cd_rom) for cd_rom in _find(world, vm_id).cd_roms])

    _register_nics(api)

    @api.task("POST", NS, disks, f"{AHV}.CreateDiskApiResponse")
    def create_disk(vm_id: str) -> Result:
        spec = body()
        _check_disk(world, spec)
        return _change(api, vm_id, "CreateDisk", lambda vm: _vms.add_disk(world, vm, spec))

    @api.task("DELETE", NS, f"{disks}/<disk_id>", f"{AHV}.DeleteDiskApiResponse")
    def delete_disk(vm_id: str, disk_id: str) -> Result:
        disk = _find_disk(_find(world, vm_id), disk_id)
        return _change(api, vm_id, "DeleteDisk", lambda vm: _vms.remove_disk(vm, disk))


def _register_nics(api: V4Api) -> None:
    world = api.world
    nics = f"{VMS}/<vm_id>/nics"

    @api.get(NS, nics, f"{AHV}.ListNicsApiResponse")
    def list_nics(vm_id: str) -> Result:
        return Listing([_show_nic(nic) for nic in _find(world, vm_id).nics])

    @api.get(NS, f"{nics}/<nic_id>", f"{AHV}.GetNicApiResponse")
    def get_nic(vm_id: str, nic_id: str) -> Result:
        vm = _find(world, vm_id)
        return Entity(_show_nic(_find_nic(vm, nic_id)), vm.version)

    @api.task("POST", NS, nics, f"{AHV}.CreateNicApiResponse")
    def create_nic(vm_id: str) -> Result:
        spec = body()
        _check_nic(world, spec)
        return _change(api, vm_id, "CreateNic", lambda vm: _vms.add_nic(world, vm, spec))

    @api.task("DELETE", NS, f"{nics}/<nic_id>", f"{AHV}.DeleteNicApiResponse")
    def delete_nic(vm_id: str, nic_id: str) -> Result:
        nic = _find_nic(_find(world, vm_id), nic_id)
        return _change(api, vm_id, "DeleteNic", lambda vm: vm.nics.remove(nic))


def _register_power(api: V4Api) -> None:
    for action, (name, state) in _POWER.items():

        @api.task("POST", NS, f"{VMS}/<vm_id>/$actions/{action}", f"{AHV}.{name}VmApiResponse")
        def power(vm_id: str, name: str = name, state: str = state) -> Result:
            return _change(api, vm_id, f"{name}Vm", lambda vm: _vms.switch(api.world, vm, state))


def _register_actions(api: V4Api) -> None:
    world = api.world
    actions = f"{VMS}/<vm_id>/$actions"

    @api.task("POST", NS, f"{actions}/clone", f"{AHV}.CloneVmApiResponse")
    def clone(vm_id: str) -> Result:
        vm = _find(world, vm_id)
        check_etag(vm.version)
        name = body().get("name") or f"{vm.name}-clone"

        def work(task: Task) -> None:
            made = _snapshots.clone_vm(world, vm, name)
            task.affected.append((VM_REL, made.ext_id))
            task.details["vmExtIds"] = made.ext_id

        return api.start("CloneVm", work)

    files = "transfer-files-to-guest"

    @api.task("POST", NS, f"{actions}/{files}", f"{AHV}.TransferFilesToGuestApiResponse", since=3)
    def transfer_files(vm_id: str) -> Result:
        spec = body()
        disk = _transfers.source(world, spec)
        return _change(
            api, vm_id, "TransferFilesToGuest", lambda vm: _transfers.transfer(vm, disk, spec)
        )

    @api.task("POST", NS, f"{actions}/revert", f"{AHV}.RevertVmApiResponse")
    def revert(vm_id: str) -> Result:
        part = _find_part(world, need(body(), "vmRecoveryPointExtId"))
        if part.entity_ext_id != vm_id:
            raise InvalidRequest("vmRecoveryPointExtId", "the recovery point is of another VM")
        return _change(api, vm_id, "RevertVm", lambda vm: _snapshots.revert_vm(world, vm, part))

    for action, wanted in (("associate", True), ("disassociate", False)):
        answer = f"{AHV}.{action.capitalize()}CategoriesApiResponse"

        @api.task("POST", NS, f"{actions}/{action}-categories", answer)
        def categorize(vm_id: str, action: str = action, wanted: bool = wanted) -> Result:  # noqa: FBT001 - bound by the loop
            given = {entry["extId"] for entry in need(body(), "categories")}
            for ext_id in given - set(world.categories):
                raise not_found("Category", ext_id)

            def change(vm: Vm) -> None:
                kept = [ext_id for ext_id in vm.categories if ext_id not in given]
                vm.categories = kept + (sorted(given) if wanted else [])

            return _change(api, vm_id, f"{action.capitalize()}VmCategories", change)


def _register_vm_recovery_points(api: V4Api) -> None:
    """Add the flat list of VM recovery points that carry the VM's configuration (since v4.1)."""
    world = api.world
    points = "ahv/config/vm-recovery-points"

    def every() -> list[tuple[Json, str]]:
        _snapshots.purge_expired(world)
        with world.lock:
            known = list(world.recovery_points.values())
        return [
            (_show_vm_point(world, point, part), part.ext_id)
            for point in known
            for part in point.vms
        ]

    @api.get(NS, points, f"{AHV}.ListVmRecoveryPointsApiResponse", since=1)
    def list_points() -> Result:
        return Listing([shown for shown, _ in every()])

    @api.get(NS, f"{points}/<part_id>", f"{AHV}.GetVmRecoveryPointApiResponse", since=1)
    def get_point(part_id: str) -> Result:
        _find_part(world, part_id)
        shown = {ext_id: shown for shown, ext_id in every()}
        return Entity(shown[part_id], 1)


def _register_vm_recovery_point_writes(api: V4Api) -> None:
    world = api.world
    points = "ahv/config/vm-recovery-points"

    @api.task("POST", NS, points, f"{AHV}.CreateVMRecoveryPointApiResponse", since=1)
    def create_point() -> Result:
        spec = body()
        vm = _find(world, need(spec, "vmExtId"))
        name = spec.get("name") or vm.name
        expires = future(spec) if spec.get("expirationTime") else NEVER

        def work(task: Task) -> None:
            point = _snapshots.take(
                world, name=name, kind="CRASH_CONSISTENT", expires=expires, vms=[vm]
            )
            task.affected.append((POINT_REL, point.vms[0].ext_id))

        return api.start("CreateVmRecoveryPoint", work)

    @api.task(
        "DELETE", NS, f"{points}/<part_id>", f"{AHV}.DeleteVmRecoveryPointApiResponse", since=1
    )
    def delete_point(part_id: str) -> Result:
        _find_part(world, part_id)
        [whole] = [
            point
            for point in world.recovery_points.values()
            if part_id in {part.ext_id for part in point.vms}
        ]

        def work(task: Task) -> None:
            _snapshots.delete(world, whole)
            task.affected.append((POINT_REL, part_id))

        return api.start("DeleteVmRecoveryPoint", work)

    @api.task(
        "POST",
        NS,
        f"{points}/<part_id>/$actions/restore",
        f"{AHV}.RestoreVmRecoveryPointApiResponse",
        since=1,
    )
    def restore_point(part_id: str) -> Result:
        part = _find_part(world, part_id)
        overrides = body().get("vmConfigOverrideSpec") or {}

        def work(task: Task) -> None:
            made = _snapshots.restore_vm(world, part, overrides)
            task.affected.append((VM_REL, made.ext_id))
            task.details["vmExtIds"] = made.ext_id

        return api.start("RestoreVmRecoveryPoint", work)


def _find_part(world: World, ext_id: str) -> EntitySnapshot:
    _snapshots.purge_expired(world)
    with world.lock:
        for point in world.recovery_points.values():
            for part in point.vms:
                if part.ext_id == ext_id:
                    return part
    raise ApiError(
        404,
        f"VM recovery point {ext_id} does not exist.",
        code=32810,
        group="VM_RECOVERY_POINT_NOT_FOUND_ERROR",
    )


def _register_images(api: V4Api, images: Images) -> None:
    world = api.world

    @api.get(NS, IMAGES, f"{CONTENT}.ListImagesApiResponse")
    def list_images() -> Result:
        with world.lock:
            known = list(world.images.values())
        return Listing([_show_image(world, image) for image in known])

    @api.get(NS, f"{IMAGES}/<image_id>", f"{CONTENT}.GetImageApiResponse")
    def get_image(image_id: str) -> Result:
        image = _find_image(world, image_id)
        return Entity(_show_image(world, image), image.version)

    @api.get(NS, f"{IMAGES}/<image_id>/file", f"{CONTENT}.GetImageFileApiResponse")
    def get_file(image_id: str) -> Result:
        """Redirect to the PE, with the token that it wants to see as a cookie."""
        image = _find_image(world, image_id)
        answer = Response(status=302)
        answer.headers["Location"] = (
            f"https://{world.addresses.pe}:9440/entity_download/{image.ext_id}"
        )
        answer.headers["X-Redirect-Token"] = images.download_token(image)
        return answer

    @api.task("POST", NS, IMAGES, f"{CONTENT}.CreateImageApiResponse")
    def create_image() -> Result:
        spec = body()
        fill = _image_source(world, spec)

        def work(task: Task) -> None:
            image = images.create(spec["name"], spec["type"], spec.get("description") or "")
            fill(images, image)
            task.affected.append((IMAGE_REL, image.ext_id))

        return api.start("CreateImage", work)

    @api.task("DELETE", NS, f"{IMAGES}/<image_id>", f"{CONTENT}.DeleteImageApiResponse")
    def delete_image(image_id: str) -> Result:
        image = _find_image(world, image_id)
        check_etag(image.version)

        def work(task: Task) -> None:
            images.delete(image)
            task.affected.append((IMAGE_REL, image.ext_id))

        return api.start("DeleteImage", work)


def _change(api: V4Api, vm_id: str, operation: str, change: Callable[[Vm], object]) -> Result:
    """Start the task of a write to a VM, which always needs its ETag."""
    vm = _find(api.world, vm_id)
    check_etag(vm.version)

    def work(task: Task) -> None:
        change(vm)
        vm.version += 1
        task.affected.append((VM_REL, vm.ext_id))

    return api.start(operation, work)


def _image_source(world: World, spec: Json) -> Callable[[Images, Image], None]:
    need(spec, "name")
    if need(spec, "type") not in {"DISK_IMAGE", "ISO_IMAGE"}:
        raise InvalidRequest("type", f"{spec['type']} is not an image type")
    source = need(spec, "source")
    if url := source.get("url"):
        if not url.startswith(("http://", "https://")):
            raise InvalidRequest("source.url", f"{url} is not an HTTP address")

        digest = (spec.get("checksum") or {}).get("hexDigest")
        checksum = ("SHA_256", digest) if digest else None
        is_insecure = bool(source.get("shouldAllowInsecureUrl"))

        def download(images: Images, image: Image) -> None:
            with _opened(world, url, insecure=is_insecure) as answer:
                images.fill(image, answer, checksum)

        return download
    if disk_id := source.get("extId"):

        def copy(images: Images, image: Image) -> None:
            with _vms.any_disk(world, disk_id).open("rb") as disk:
                images.fill(image, disk)

        return copy
    raise InvalidRequest("source", "the lab knows UrlSource and VmDiskSource")


@contextlib.contextmanager
def _opened(world: World, url: str, *, insecure: bool) -> Iterator[IO[bytes]]:
    """Fetch an address as Prism Central does, from its own address; LabError for a refusal."""
    parts = urlsplit(url)
    connection: http.client.HTTPConnection
    at: dict[str, Any] = {"timeout": 30.0, "source_address": (world.addresses.pc, 0)}
    host, port = parts.hostname or "", parts.port
    if parts.scheme == "https":
        context = ssl.create_default_context()
        if insecure:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection = http.client.HTTPSConnection(host, port, context=context, **at)
    else:
        connection = http.client.HTTPConnection(host, port, **at)
    with contextlib.closing(connection):
        try:
            connection.request("GET", parts.path + (f"?{parts.query}" if parts.query else ""))
            answer = connection.getresponse()
        except (OSError, http.client.HTTPException) as exc:
            raise LabError(f"{url} cannot be fetched: {exc}") from exc
        if answer.status != 200:
            raise LabError(f"{url} answered {answer.status}")
        yield answer


def _check_vm(world: World, spec: Json) -> None:
    if len(need(spec, "name")) > 80:
        raise InvalidRequest("name", "a name has at most 80 characters")
    if need(spec, "cluster").get("extId") != world.ext_id:
        raise not_found("Cluster", str(spec["cluster"].get("extId")))
    for nic in spec.get("nics") or []:
        _check_nic(world, nic)
    for disk in spec.get("disks") or []:
        _check_disk(world, disk)
    _check_settings(spec)


def _check_nic(world: World, spec: Json) -> None:
    subnet = ((spec.get("networkInfo") or {}).get("subnet") or {}).get("extId")
    if subnet is not None and subnet not in world.subnets:
        raise not_found("Subnet", subnet)


_SINCE = {"customAttributes": 2}


def _check_settings(spec: Json) -> None:
    """Refuse what this revision does not know, and what the model does not allow."""
    for field, since in _SINCE.items():
        if spec.get(field) is not None and g.revision < since:
            raise InvalidRequest(field, "this revision does not know it")
    is_uefi = ((spec.get("bootConfig") or {}).get("$objectType") or "").endswith("UefiBoot")
    if (spec.get("vtpmConfig") or {}).get("isVtpmEnabled") and not is_uefi:
        raise InvalidRequest("vtpmConfig", "a vTPM needs UEFI")
    for drive in spec.get("cdRoms") or []:
        if need(need(drive, "diskAddress"), "busType") not in {"IDE", "SATA"}:
            raise InvalidRequest("busType", "a CD-ROM drive is on IDE or SATA")
    for port in spec.get("serialPorts") or []:
        need(port, "index")


def _check_disk(world: World, spec: Json) -> None:
    backing = need(spec, "backingInfo")
    reference = (backing.get("dataSource") or {}).get("reference") or {}
    image_id = reference.get("imageExtId")
    if image_id is not None and image_id not in world.images:
        raise not_found("Image", image_id)
    if "volumeGroupExtId" in reference:
        if not g.revision:
            raise InvalidRequest("reference", "this revision knows no VolumeDiskReference")
        need(reference, "diskExtId")
        if reference["volumeGroupExtId"] not in world.volume_groups:
            raise not_found("Volume group", reference["volumeGroupExtId"])
    container = (backing.get("storageContainer") or {}).get("extId")
    if container is not None and container not in world.containers:
        raise not_found("Storage container", container)


def _find(world: World, ext_id: str) -> Vm:
    with world.lock:
        vm = world.vms.get(ext_id)
    if vm is None:
        raise not_found("VM", ext_id)
    return vm


def _find_disk(vm: Vm, ext_id: str) -> Disk:
    for disk in vm.disks:
        if disk.ext_id == ext_id:
            return disk
    raise not_found("VM disk", ext_id)


def _find_nic(vm: Vm, ext_id: str) -> Nic:
    for nic in vm.nics:
        if nic.ext_id == ext_id:
            return nic
    raise not_found("NIC", ext_id)


def _find_image(world: World, ext_id: str) -> Image:
    with world.lock:
        image = world.images.get(ext_id)
    if image is None:
        raise not_found("Image", ext_id)
    return image


def show_vm(world: World, vm: Vm) -> Json:
    """Show a VM as v4 does."""
    return obj(
        f"{AHV}.Vm",
        extId=vm.ext_id,
        name=vm.name,
        createTime=stamp(vm.created),
        updateTime=stamp(vm.created),
        **_show_hardware(vm),
        generationUuid=vm.ext_id,
        cluster=ref(f"{AHV}.ClusterReference", world.ext_id),
        categories=[ref(f"{AHV}.CategoryReference", ext_id) for ext_id in vm.categories],
        powerState=vm.power_state,
        protectionType=vm.protection,
        **_show_policy(vm),
        disks=[*(_show_disk(disk) for disk in vm.disks), *_show_groups(world, vm)],
        cdRoms=[_show_cd_rom(cd_rom) for cd_rom in vm.cd_roms],
        nics=[_show_nic(nic) for nic in vm.nics],
        **_show_tools(world, vm),
    )


_PARTS = {"gpus": "Gpu", "serialPorts": "SerialPort", "pcieDevices": "PcieDevice"}


def _show_hardware(vm: Vm) -> Json:
    shown = {**vm.hardware, "bootConfig": _show_boot(vm)}
    for field, kind in _PARTS.items():
        if field in shown:
            given = [{k: v for k, v in part.items() if k[0] != "$"} for part in shown[field]]
            shown[field] = [obj(f"{AHV}.{kind}", **part) for part in given]
    return {key: value for key, value in shown.items() if g.revision >= _SINCE.get(key, 0)}


def _show_tools(world: World, vm: Vm) -> Json:
    """Show the guest tools of a VM that runs, once they have answered."""
    if world.guests is None or not world.guests.has_tools(vm):
        return {}
    known = vm.hardware.get("guestTools") or {}
    told = {"isInstalled": True, "isEnabled": True, "isReachable": True}
    return {"guestTools": obj(f"{AHV}.GuestTools", **{**known, **told})}


def _show_policy(vm: Vm) -> Json:
    if vm.protection != "RULE_PROTECTED" or vm.policy is None:
        return {}
    policy = ref(f"{AHV}.PolicyReference", vm.policy)
    return {"protectionPolicyState": obj(f"{AHV}.ProtectionPolicyState", policy=policy)}


def _show_boot(vm: Vm) -> Json:
    given: Json = dict(vm.hardware["bootConfig"])
    kind = given.pop("$objectType", None) or f"{AHV}.LegacyBoot"
    given = {key: value for key, value in given.items() if not key.startswith("$")}
    if vm.nvram:
        storage = obj(f"{AHV}.VmDisk", diskExtId=vm.nvram, diskSizeBytes=540672)
        given["nvramDevice"] = obj(f"{AHV}.NvramDevice", backingStorageInfo=storage)
    return obj(kind, **given)


def _show_disk(disk: Disk) -> Json:
    backing = obj(
        f"{AHV}.VmDisk",
        diskExtId=disk.disk_ext_id,
        diskSizeBytes=disk.size,
        storageContainer=ref(f"{AHV}.VmDiskContainerReference", disk.container),
        **_show_flash(disk),
        **_show_external(disk),
    )
    address = obj(f"{AHV}.DiskAddress", busType=disk.bus, index=disk.index)
    return obj(f"{AHV}.Disk", extId=disk.ext_id, diskAddress=address, backingInfo=backing)


def _show_groups(world: World, vm: Vm) -> list[Json]:
    """Show the volume groups that are attached to a VM, behind its own disks."""
    attached = [group for group in world.volume_groups.values() if vm.ext_id in group.vms]
    kind = f"{AHV}.ADSFVolumeGroupReference"
    return [
        obj(
            f"{AHV}.Disk",
            extId=f"{group.ext_id[:-4]}{number:04x}",
            diskAddress=obj(f"{AHV}.DiskAddress", busType="SCSI", index=100 + number),
            backingInfo=obj(kind, volumeGroupExtId=group.ext_id),
        )
        for number, group in enumerate(attached)
    ]


def _show_flash(disk: Disk) -> Json:
    config = obj(f"{AHV}.VmDiskStorageConfig", isFlashModeEnabled=True)
    return {"storageConfig": config} if disk.flash else {}


def _show_external(disk: Disk) -> Json:
    if disk.external_volume is None or g.revision < 3:
        return {}
    info = obj(f"{AHV}.ExternalStorageInfo", volumeName=disk.external_volume)
    return {"externalStorageInfo": info}


def _show_cd_rom(cd_rom: CdRom) -> Json:
    address = obj(f"{AHV}.CdRomAddress", busType=cd_rom.bus, index=cd_rom.index)
    medium: Json = {}
    if cd_rom.image:
        reference = obj(f"{AHV}.ImageReference", imageExtId=cd_rom.image)
        source = obj(f"{AHV}.DataSource", reference=reference)
        medium = {"backingInfo": obj(f"{AHV}.VmDisk", dataSource=source)}
    return obj(f"{AHV}.CdRom", extId=cd_rom.ext_id, diskAddress=address, **medium)


def _show_nic(nic: Nic) -> Json:
    network: dict[str, Any] = {"nicType": "NORMAL_NIC", "vlanMode": "ACCESS", **nic.network}
    if nic.subnet:
        network["subnet"] = ref(f"{AHV}.SubnetReference", nic.subnet)
    return obj(
        f"{AHV}.Nic",
        extId=nic.ext_id,
        backingInfo=obj(
            f"{AHV}.EmulatedNic",
            model=nic.model,
            macAddress=nic.mac,
            isConnected=nic.connected,
            numQueues=nic.queues,
        ),
        networkInfo=obj(f"{AHV}.NicNetworkInfo", **network),
    )


def _show_vm_point(world: World, point: RecoveryPoint, part: EntitySnapshot) -> Json:
    return obj(
        f"{AHV}.VmRecoveryPoint",
        extId=part.ext_id,
        name=point.name,
        vmExtId=part.entity_ext_id,
        creationTime=stamp(point.created),
        expirationTime=stamp(point.expires),
        recoveryPointType=point.kind,
        status="COMPLETE",
        vm=show_vm(world, part.config),
        diskRecoveryPoints=[
            obj(
                "dataprotection.v4.common.DiskRecoveryPoint",
                diskRecoveryPointExtId=disk.ext_id,
                diskExtId=disk.disk_ext_id,
            )
            for disk in part.disks
        ],
    )


def _show_image(world: World, image: Image) -> Json:
    shown = obj(
        f"{CONTENT}.Image",
        extId=image.ext_id,
        name=image.name,
        description=image.description,
        type=image.kind,
        createTime=stamp(image.created),
        clusterLocationExtIds=[world.ext_id],
    )
    if image.size:
        shown["sizeBytes"] = image.size
    return shown
