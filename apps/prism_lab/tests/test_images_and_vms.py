"""Images uploaded over v3, VMs made from them over v4, and restores from recovery points."""

from __future__ import annotations

import hashlib
import os
import subprocess
import time
from typing import TYPE_CHECKING, Any

import pytest
import requests
from prism_lab import Lab

if TYPE_CHECKING:
    from pathlib import Path

    from apps.prism_lab.tests.conftest import Api

MIB = 1 << 20
VMS = "/vmm/v4.2/ahv/config/vms"
IMAGES = "/vmm/v4.2/content/images"
GROUPS = "/volumes/v4.2/config/volume-groups"


def new_image(api: Api, name: str = "disk") -> str:
    body = {
        "spec": {"name": name, "resources": {"image_type": "DISK_IMAGE"}},
        "metadata": {"kind": "image"},
    }
    answer = api.call("POST", "/nutanix/v3/images", body)
    assert answer.status_code == 202, answer.text
    assert answer.json()["status"]["state"] == "PENDING"
    task = answer.json()["status"]["execution_context"]["task_uuid"]
    for _ in range(1000):
        shown = api.call("GET", f"/nutanix/v3/tasks/{task}").json()
        assert shown["operation_type"] == "create_image"
        if shown["status"] == "SUCCEEDED":
            break
        time.sleep(0.01)
    return str(answer.json()["metadata"]["uuid"])


def upload(api: Api, image: str, file: Path, sha256: str | None = None) -> requests.Response:
    headers = {"Content-Type": "application/octet-stream"}
    if sha256:
        headers |= {"X-Nutanix-Checksum-Type": "SHA_256", "X-Nutanix-Checksum-Bytes": sha256}
    with file.open("rb") as content:
        url = f"{api.base}/nutanix/v3/images/{image}/file"
        answer: requests.Response = api.http.put(url, data=content, headers=headers, timeout=30)
        return answer


def vm_body(api: Api, image: str, **more: Any) -> dict[str, Any]:
    source = {"reference": {"$objectType": "vmm.v4.ahv.config.ImageReference", "imageExtId": image}}
    disk = {
        "diskAddress": {"busType": "SCSI", "index": 0},
        "backingInfo": {"$objectType": "vmm.v4.ahv.config.VmDisk", "dataSource": source},
    }
    subnet = api.get("/networking/v4.3/config/subnets")[0]["extId"]
    nic = {
        "backingInfo": {"macAddress": "50:6b:8d:00:00:01", "isConnected": False},
        "networkInfo": {"subnet": {"extId": subnet}},
    }
    body = {
        "name": "made",
        "cluster": {"extId": api.lab.cluster_ext_id},
        "numSockets": 2,
        "memorySizeBytes": 2 << 30,
        "disks": [disk],
        "nics": [nic],
    }
    return body | more


@pytest.mark.parametrize("image_format", ["raw", "qcow2"])
def test_a_vm_is_made_from_an_uploaded_image(api: Api, tmp_path: Path, image_format: str) -> None:
    raw, file = tmp_path / "raw", tmp_path / "file"
    raw.write_bytes(os.urandom(3 * MIB) + bytes(5 * MIB))
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", image_format, raw, file], check=True)
    image = new_image(api)
    assert "sizeBytes" not in api.get(f"{IMAGES}/{image}")
    body = vm_body(api, image)
    early = api.wait(api.start("POST", VMS, body))
    assert early["status"] == "FAILED"
    assert "no content yet" in early["errorMessages"][0]["message"]
    assert upload(api, image, file, hashlib.sha256(file.read_bytes()).hexdigest()).ok
    assert api.get(f"{IMAGES}/{image}")["sizeBytes"] == file.stat().st_size
    vm = api.do("POST", VMS, body)["vmm:ahv:config:vm"]
    assert api.lab.disk_file(vm, 0).read_bytes() == raw.read_bytes()
    shown = api.get(f"{VMS}/{vm}")
    assert (shown["numSockets"], shown["memorySizeBytes"], shown["powerState"]) == (
        2,
        2 << 30,
        "OFF",
    )
    assert shown["nics"][0]["backingInfo"]["macAddress"] == "50:6b:8d:00:00:01"
    assert shown["nics"][0]["backingInfo"]["isConnected"] is False
    api.delete(f"{IMAGES}/{image}")
    assert api.call("GET", f"{IMAGES}/{image}").status_code == 404
    assert api.lab.disk_file(vm, 0).read_bytes() == raw.read_bytes()
    assert [vm["name"] for vm in api.lab.state()["vms"]] == ["made"]


def test_a_wrong_checksum_is_refused(module_api: Api, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"content")
    image = new_image(module_api)
    answer = upload(module_api, image, file, "0" * 64)
    assert answer.status_code == 422
    assert "SHA_256" in answer.json()["message_list"][0]["message"]
    assert "sizeBytes" not in module_api.get(f"{IMAGES}/{image}")


def test_images_are_downloaded_whole(module_api: Api, tmp_path: Path) -> None:
    api = module_api
    file = tmp_path / "file"
    file.write_bytes(os.urandom(MIB))
    image = new_image(api)
    url = f"{api.base}/nutanix/v3/images/{image}/file"
    assert api.http.get(url, timeout=10).status_code == 404
    assert upload(api, image, file).ok
    part = api.http.get(url, headers={"Range": "bytes=0-9"}, timeout=10)
    assert (part.status_code, part.content) == (200, file.read_bytes())
    redirect = api.http.get(f"{api.base}{IMAGES}/{image}/file", allow_redirects=False, timeout=10)
    assert redirect.status_code == 302
    target = redirect.headers["Location"]
    assert target.startswith(api.pe)
    ca = str(api.lab.ca_file)
    assert requests.get(target, verify=ca, timeout=10).status_code == 401
    cookie = {"Cookie": redirect.headers["X-Redirect-Token"]}
    assert requests.get(target, headers=cookie, verify=ca, timeout=10).content == file.read_bytes()


def test_v3_lists_deletes_and_errors(api: Api) -> None:
    image = new_image(api, "listed")
    listed = api.call("POST", "/nutanix/v3/images/list", {"kind": "image", "length": 5}).json()
    assert [entity["metadata"]["uuid"] for entity in listed["entities"]] == [image]
    gone = api.call("DELETE", f"/nutanix/v3/images/{image}")
    assert gone.status_code == 202
    task = gone.json()["status"]["execution_context"]["task_uuid"]
    api.wait(f"ZXJnb24=:{task}")
    missing = api.call("GET", f"/nutanix/v3/images/{image}")
    assert missing.status_code == 404
    assert missing.json()["message_list"][0]["reason"] == "ENTITY_NOT_FOUND"
    assert api.call("POST", "/nutanix/v3/images", {"spec": {}}).status_code == 422
    assert api.call("GET", "/nutanix/v3/tasks/x").status_code == 404


def test_an_image_of_a_vm_disk(api: Api) -> None:
    vm = api.lab.create_vm("web", [MIB])
    api.lab.disk_file(vm, 0).write_bytes(os.urandom(MIB))
    disk = api.get(f"{VMS}/{vm}")["disks"][0]["extId"]
    body = {"name": "copy", "type": "DISK_IMAGE", "source": {"extId": disk}}
    image = api.do("POST", IMAGES, body)["vmm:content:image"]
    assert api.get(f"{IMAGES}/{image}")["sizeBytes"] == MIB
    bad = {"name": "copy", "type": "DISK_IMAGE", "source": {"url": "file:///etc/passwd"}}
    assert api.call("POST", IMAGES, bad).status_code == 400


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"name": "x" * 81}, 400),
        ({"cluster": {"extId": "elsewhere"}}, 404),
        ({"nics": [{"networkInfo": {"subnet": {"extId": "nowhere"}}}]}, 404),
        ({"disks": [{}]}, 400),
        ({"disks": [{"backingInfo": {"storageContainer": {"extId": "none"}}}]}, 404),
    ],
)
def test_bad_vms(module_api: Api, change: dict[str, Any], status: int) -> None:
    image = new_image(module_api)
    body = vm_body(module_api, image) | change
    assert module_api.call("POST", VMS, body).status_code == status


def test_disks_come_and_go(api: Api) -> None:
    vm = api.lab.create_vm("web", [MIB])
    path = f"{VMS}/{vm}"
    api.lab.disk_file(vm, 0).write_bytes(os.urandom(MIB))
    snapshot = api.snapshot(vm)
    source = {"diskRecoveryPointExtId": snapshot.disks[0]["diskRecoveryPointExtId"]}
    added = {"backingInfo": {"dataSource": {"reference": source}, "diskSizeBytes": 2 * MIB}}
    api.do("POST", f"{path}/disks", added, If_Match=api.etag(path))
    disks = api.get(f"{path}/disks")
    assert [disk["diskAddress"]["index"] for disk in disks] == [0, 1]
    assert api.lab.disk_file(vm, 1).read_bytes() == snapshot.file(0).read_bytes() + bytes(MIB)
    api.do("DELETE", f"{path}/disks/{disks[0]['extId']}", If_Match=api.etag(path))
    assert [disk["extId"] for disk in api.get(f"{path}/disks")] == [disks[1]["extId"]]
    api.lab.grow_disk("web", 0, 3 * MIB)
    assert api.get(f"{path}/disks")[0]["backingInfo"]["diskSizeBytes"] == 3 * MIB
    clash = {"backingInfo": {"diskSizeBytes": MIB}, "diskAddress": {"busType": "SCSI", "index": 1}}
    task = api.wait(api.start("POST", f"{path}/disks", clash, If_Match=api.etag(path)))
    assert task["status"] == "FAILED"


def test_update_changes_the_plain_settings(api: Api) -> None:
    vm = api.lab.create_vm("web", [MIB])
    path = f"{VMS}/{vm}"
    changed = api.get(path) | {"name": "renamed", "numSockets": 4}
    api.do("PUT", path, changed, If_Match=api.etag(path))
    shown = api.get(path)
    assert (shown["name"], shown["numSockets"], len(shown["disks"])) == ("renamed", 4, 1)
    assert api.get(f"{path}/nics")
    assert api.get(f"{path}/cd-roms")


def test_restore_makes_a_new_vm(api: Api) -> None:
    vm = api.lab.create_vm("web", [MIB, MIB])
    api.lab.disk_file(vm, 1).write_bytes(os.urandom(MIB))
    snapshot = api.snapshot(vm)
    api.delete(f"{VMS}/{vm}")
    overrides = [{"vmRecoveryPointExtId": snapshot.part, "vmOverrideSpec": {"name": "back"}}]
    body = {"vmRecoveryPointRestoreOverrides": overrides}
    task = api.wait(api.start("POST", f"{snapshot.path}/$actions/restore", body))
    assert task["operation"] == "RestoreRecoveryPoint"
    details = {detail["name"]: detail["value"] for detail in task["completionDetails"]}
    shown = api.get(f"{VMS}/{details['vmExtIds']}")
    assert (shown["name"], shown["powerState"], len(shown["disks"])) == ("back", "OFF", 2)
    assert api.lab.disk_file("back", 1).read_bytes() == snapshot.file(1).read_bytes()


def test_a_recovery_point_tells_of_the_vm_of_its_time(api: Api) -> None:
    vm = api.lab.create_vm("gone", [3 << 20])
    snapshot = api.snapshot(vm)
    api.lab.grow_disk(vm, 0, 4 << 20)
    api.delete(f"/vmm/v4.2/ahv/config/vms/{vm}")
    shown = api.get(f"/vmm/v4.2/ahv/config/vm-recovery-points/{snapshot.part}")
    assert shown["vm"]["disks"][0]["backingInfo"]["diskSizeBytes"] == 3 << 20


def test_a_task_is_canceled_only_before_it_begins(tmp_path: Path, connect: type[Api]) -> None:
    with Lab.start(tmp_path / "slow", task_seconds=1.0) as lab:
        api = connect(lab)
        vm = lab.create_vm("guest", [1 << 20])
        body = {
            "name": "x",
            "expirationTime": "2099-01-01T00:00:00Z",
            "vmRecoveryPoints": [{"vmExtId": vm}],
        }
        task = api.start("POST", "/dataprotection/v4.3/config/recovery-points", body)
        path = f"/prism/v4.3/config/tasks/{task}"
        assert api.call("POST", f"{path}/$actions/cancel").ok
        assert api.get(path)["status"] == "CANCELED"
        assert api.call("POST", f"{path}/$actions/cancel").status_code == 409
        time.sleep(1.2)
        assert lab.state()["recovery_points"] == []


@pytest.mark.parametrize("action", ["associate", "disassociate"])
def test_categories(api: Api, action: str) -> None:
    vm = api.lab.create_vm("guest", [1 << 20])
    path = f"/vmm/v4.2/ahv/config/vms/{vm}"
    [category] = api.get("/prism/v4.3/config/categories")
    body = {"categories": [{"extId": category["extId"]}]}
    for each in ("associate", action):
        call = f"{path}/$actions/{each}-categories"
        api.do("POST", call, body, If_Match=api.etag(path))
    expected = [category["extId"]] if action == "associate" else []
    assert [entry["extId"] for entry in api.get(path)["categories"]] == expected


def test_a_revert_brings_the_bytes_back(api: Api) -> None:
    vm = api.lab.create_vm("guest", [1 << 20])
    api.lab.disk_file(vm, 0).write_bytes(b"before".ljust(1 << 20, b"\0"))
    snapshot = api.snapshot(vm)
    api.lab.disk_file(vm, 0).write_bytes(b"after".ljust(1 << 20, b"\0"))
    path = f"/vmm/v4.2/ahv/config/vms/{vm}"
    body = {"vmRecoveryPointExtId": snapshot.part}
    api.do("POST", f"{path}/$actions/revert", body, If_Match=api.etag(path))
    assert api.lab.disk_file(vm, 0).read_bytes().startswith(b"before")


# --- disks of volume groups as sources -----------------------------------------------------------


def group_with_a_disk(api: Api) -> tuple[str, str]:
    container = api.get("/clustermgmt/v4.2/config/storage-containers")[0]["extId"]
    disk = {
        "index": 0,
        "diskSizeBytes": MIB,
        "diskDataSourceReference": {"extId": container, "entityType": "STORAGE_CONTAINER"},
    }
    body = {"name": "blank", "clusterReference": api.lab.cluster_ext_id, "disks": [disk]}
    task = api.wait(api.start("POST", GROUPS, body))
    group = task["entitiesAffected"][0]["extId"]
    return group, api.get(f"{GROUPS}/{group}/disks")[0]["extId"]


def body_from_volume(api: Api, group: str, disk: str) -> dict[str, Any]:
    kind = "vmm.v4.ahv.config.VolumeDiskReference"
    source = {"reference": {"$objectType": kind, "diskExtId": disk, "volumeGroupExtId": group}}
    return {
        "name": "made",
        "cluster": {"extId": api.lab.cluster_ext_id},
        "disks": [{"backingInfo": {"dataSource": source}}],
    }


def test_a_vm_is_made_from_a_disk_of_a_volume_group(api: Api) -> None:
    group, disk = group_with_a_disk(api)
    written = api.lab._world.volume_groups[group].disks[0].file
    written.write_bytes(b"x" * MIB)
    task = api.wait(api.start("POST", VMS, body_from_volume(api, group, disk)))
    assert task["status"] == "SUCCEEDED", task
    vm = task["entitiesAffected"][0]["extId"]
    assert api.lab.disk_file(vm, 0).read_bytes() == b"x" * MIB
    assert api.lab.disk_file(vm, 0) != written


def test_a_volume_group_that_is_not_there_or_attached_is_no_source(api: Api) -> None:
    group, disk = group_with_a_disk(api)
    answer = api.call("POST", VMS, body_from_volume(api, "nobody", disk))
    assert answer.status_code == 404
    api.lab._world.volume_groups[group].clients.append("somebody")
    task = api.wait(api.start("POST", VMS, body_from_volume(api, group, disk)))
    assert task["status"] == "FAILED"
    assert "it may be written to" in task["errorMessages"][0]["message"]
    api.lab._world.volume_groups[group].clients.clear()


def test_a_cluster_may_refuse_disks_of_volume_groups(connect: type[Api], tmp_path: Path) -> None:
    with Lab.start(tmp_path / "refusing", volume_disk_clones=False) as lab:
        api = connect(lab)
        group, disk = group_with_a_disk(api)
        task = api.wait(api.start("POST", VMS, body_from_volume(api, group, disk)))
    assert task["status"] == "FAILED"
    assert "cannot be the source" in task["errorMessages"][0]["message"]


def test_the_first_revision_knows_no_such_reference(api: Api) -> None:
    group, disk = group_with_a_disk(api)
    answer = api.call("POST", VMS.replace("v4.2", "v4.0"), body_from_volume(api, group, disk))
    assert answer.status_code == 400


def test_a_container_says_what_is_free(api: Api) -> None:
    container = api.get("/clustermgmt/v4.2/config/storage-containers")[0]["extId"]
    path = f"/clustermgmt/v4.2/stats/storage-containers/{container}"
    times = "$startTime=2026-11-23T10:00:00Z&$endTime=2026-11-23T10:15:00Z"
    (point,) = api.get(f"{path}?{times}")["storageFreeBytes"]
    assert point["value"] == 1 << 44
    assert api.call("GET", path).status_code == 400
