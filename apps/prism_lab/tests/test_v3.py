"""v3 and v2: inventory, snapshots, changed regions, VMs and volume groups of an old cluster."""

from __future__ import annotations

import os
import time
import uuid
from typing import TYPE_CHECKING, Any

import pytest
import requests
from prism_lab import Lab

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from apps.prism_lab.tests.conftest import Api

MIB = 1 << 20


@pytest.fixture
def old_lab(tmp_path: Path) -> Iterator[Lab]:
    with Lab.start(tmp_path / "lab", personality="2023.4", regions_per_page=3) as lab:
        yield lab


class V3:
    """Prism Element and Prism Central over v3 and v2."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.http = requests.Session()
        self.http.trust_env = False
        self.http.verify = str(lab.ca_file)
        self.http.auth = (lab.user, lab.password)

    def call(
        self, method: str, path: str, body: Any = None, *, pc: bool = False
    ) -> requests.Response:
        host = self.lab.pc_host if pc else self.lab.pe_host
        url = f"https://{host}:{self.lab.port}/api/nutanix/{path}"
        return self.http.request(method, url, json=body, timeout=20)

    def get(self, path: str, *, pc: bool = False) -> Any:
        answer = self.call("GET", path, pc=pc)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def list(self, plural: str, *, pc: bool = False, **query: Any) -> list[Any]:
        answer = self.call("POST", f"v3/{plural}/list", query, pc=pc)
        assert answer.status_code == 200, answer.text
        return list(answer.json()["entities"])

    def done(self, answer: requests.Response) -> dict[str, Any]:
        """Wait for the task of an accepted write; return the answer."""
        assert answer.status_code == 202, answer.text
        accepted: dict[str, Any] = answer.json()
        task = self.ended(accepted["status"]["execution_context"]["task_uuid"])
        assert task["status"] == "SUCCEEDED", task
        return accepted

    def ended(self, task: str) -> dict[str, Any]:
        body = {"task_uuid_list": [task], "poll_timeout_seconds": 10}
        answer = self.call("POST", "v3/tasks/poll", body)
        assert answer.status_code == 200, answer.text
        [ended] = answer.json()["entities"]
        return dict(ended)

    def snapshot(self, vm: str, ext_id: str | None = None) -> dict[str, Any]:
        created = self.done(self.call("POST", "v3/vm_snapshots", self.snapshot_body(vm, ext_id)))
        return dict(self.get(f"v3/vm_snapshots/{created['metadata']['uuid']}"))

    @staticmethod
    def snapshot_body(vm: str, ext_id: str | None = None, seconds: float = 3600) -> dict[str, Any]:
        metadata = {"kind": "vm_snapshot"} | ({"uuid": ext_id} if ext_id else {})
        spec = {
            "name": "test",
            "snapshot_type": "CRASH_CONSISTENT",
            "expiration_time_msecs": int((time.time() + seconds) * 1000),
            "resources": {"entity_uuid": vm},
        }
        return {"metadata": metadata, "spec": spec}

    def path(self, snapshot: dict[str, Any], address: str = "scsi.0") -> str:
        """Find the file of a disk as a client has to: through v2."""
        for file in snapshot["status"]["snapshot_file_list"]:
            vdisk = file["file_path"].rpartition("/")[2]
            known = self.call("GET", f"v2.0/virtual_disks/{vdisk}")
            if known.ok and known.json()["disk_address"] == address:
                return str(file["snapshot_file_path"])
        raise AssertionError(f"no {address} in {snapshot}")

    def changed(self, path: str, **body: Any) -> requests.Response:
        return self.call("POST", "v3/data/changed_regions", {"snapshot_file_path": path, **body})


@pytest.fixture
def v3(old_lab: Lab) -> V3:
    return V3(old_lab)


def write(lab: Lab, vm: str, offset: int, length: int) -> None:
    with lab.disk_file(vm, 0).open("r+b") as disk:
        disk.seek(offset)
        disk.write(os.urandom(length))


def test_the_element_is_found_through_the_central(v3: V3, old_lab: Lab) -> None:
    clusters = v3.list("clusters", pc=True, kind="cluster")
    by_service = {
        cluster["status"]["resources"]["config"]["service_list"][0]: cluster for cluster in clusters
    }
    assert set(by_service) == {"AOS", "PRISM_CENTRAL"}
    resources = by_service["AOS"]["status"]["resources"]
    assert resources["network"]["external_ip"] == old_lab.pe_host
    assert resources["network"]["external_data_services_ip"] == old_lab.data_services_ip
    assert resources["config"]["build"]["version"] == "6.5.2"
    assert [c["metadata"]["uuid"] for c in v3.list("clusters")] == [old_lab.cluster_ext_id]


def test_vms_are_listed_page_by_page(v3: V3, old_lab: Lab) -> None:
    ids = {old_lab.create_vm(f"guest-{number}", [MIB]) for number in range(5)}
    seen = []
    for offset in range(0, 6, 2):
        page = v3.list("vms", pc=True, kind="vm", offset=offset, length=2)
        seen += [vm["metadata"]["uuid"] for vm in page]
    assert len(seen) == 5
    assert set(seen) == ids
    [one] = v3.list("vms", kind="vm", filter="vm_name==guest-3")
    assert one["status"]["name"] == "guest-3"
    assert v3.call("POST", "v3/vms/list", {"length": 501}).status_code == 422
    assert v3.call("POST", "v3/vms/list", {"offset": "1"}).status_code == 422
    assert v3.call("POST", "v3/vms/list", {"filter": "name=lt=x"}).status_code == 422


def test_a_vm_is_shown_with_its_hardware(v3: V3, old_lab: Lab) -> None:
    boot = {"$objectType": "vmm.v4.ahv.config.UefiBoot", "isSecureBootEnabled": True}
    vm = old_lab.create_vm("guest", [3 * MIB], numSockets=2, bootConfig=boot)
    resources = v3.get(f"v3/vms/{vm}", pc=True)["status"]["resources"]
    assert resources["num_sockets"] == 2
    assert resources["memory_size_mib"] == 1024
    assert resources["boot_config"] == {"boot_type": "SECURE_BOOT"}
    disk, cd_rom = resources["disk_list"]
    assert disk["disk_size_bytes"] == 3 * MIB
    assert cd_rom["device_properties"]["device_type"] == "CDROM"


def test_a_vm_lives_its_life(v3: V3, old_lab: Lab) -> None:
    subnet = v3.list("subnets", pc=True)[0]["metadata"]["uuid"]
    disk = {
        "device_properties": {
            "device_type": "DISK",
            "disk_address": {"adapter_type": "SCSI", "device_index": 0},
        },
        "disk_size_mib": 2,
    }
    resources = {
        "num_sockets": 1,
        "memory_size_mib": 512,
        "disk_list": [disk],
        "nic_list": [{"subnet_reference": {"kind": "subnet", "uuid": subnet}}],
    }
    body = {"metadata": {"kind": "vm"}, "spec": {"name": "made", "resources": resources}}
    vm = v3.done(v3.call("POST", "v3/vms", body, pc=True))["metadata"]["uuid"]
    assert old_lab.disk_file(vm, 0).stat().st_size == 2 * MIB
    shown = v3.get(f"v3/vms/{vm}", pc=True)
    assert shown["status"]["resources"]["power_state"] == "OFF"

    shown["spec"]["resources"]["power_state"] = "ON"
    change = {"metadata": shown["metadata"], "spec": shown["spec"]}
    v3.done(v3.call("PUT", f"v3/vms/{vm}", change, pc=True))
    assert v3.get(f"v3/vms/{vm}")["status"]["resources"]["power_state"] == "ON"
    again = v3.call("PUT", f"v3/vms/{vm}", change, pc=True)
    assert again.status_code == 409
    assert again.json()["message_list"][0]["reason"] == "CONCURRENT_EDIT"

    off = v3.call("POST", f"v2.0/vms/{vm}/set_power_state", {"transition": "OFF"})
    assert off.status_code == 201
    v3.ended(off.json()["task_uuid"])
    assert v3.get(f"v3/vms/{vm}")["status"]["resources"]["power_state"] == "OFF"
    assert v3.get(f"v2.0/tasks/{off.json()['task_uuid']}")["progress_status"] == "Succeeded"

    v3.done(v3.call("DELETE", f"v3/vms/{vm}", pc=True))
    assert v3.call("GET", f"v3/vms/{vm}", pc=True).status_code == 404


def test_a_snapshot_keeps_bytes_and_names_files(v3: V3, old_lab: Lab) -> None:
    vm = old_lab.create_vm("guest", [MIB, 2 * MIB])
    write(old_lab, vm, 0, 4096)
    before = old_lab.disk_file(vm, 0).read_bytes()
    snapshot = v3.snapshot(vm)
    write(old_lab, vm, 0, 4096)
    status = snapshot["status"]
    assert status["state"] == "COMPLETE"
    assert len(status["snapshot_file_list"]) == 4  # two disks, a CD-ROM drive, a configuration
    path = v3.path(snapshot)
    number = path.split("/")[3]
    assert path.split("/")[4].endswith(number)
    point = snapshot["metadata"]["uuid"]
    disk = path.rpartition("/")[2]
    assert old_lab.recovery_point_file(point, disk).read_bytes() == before
    assert [entry["ext_id"] for entry in old_lab.state()["vm_snapshots"]] == [point]
    [listed] = v3.list("vm_snapshots", filter=f"entity_uuid=={vm}")
    assert listed["metadata"]["uuid"] == point
    assert v3.list("vm_snapshots", filter="entity_uuid==other") == []

    body = V3.snapshot_body(vm, seconds=0.3)
    body["metadata"] = snapshot["metadata"]
    v3.done(v3.call("PUT", f"v3/vm_snapshots/{point}", body))
    time.sleep(0.4)
    assert v3.call("GET", f"v3/vm_snapshots/{point}").status_code == 404


def test_a_central_has_no_snapshots_of_v3(v3: V3, old_lab: Lab) -> None:
    vm = old_lab.create_vm("guest", [MIB])
    answer = v3.call("POST", "v3/vm_snapshots", V3.snapshot_body(vm), pc=True)
    assert answer.status_code == 404
    assert answer.json()["state"] == "ERROR"
    assert v3.call("POST", "v3/data/changed_regions", {}, pc=True).status_code == 404


def test_the_same_uuid_makes_one_snapshot(v3: V3, old_lab: Lab) -> None:
    vm = old_lab.create_vm("guest", [MIB])
    reserved = v3.call("POST", "v3/idempotence_identifiers", {"count": 1})
    [wanted] = reserved.json()["uuid_list"]
    first = v3.call("POST", "v3/vm_snapshots", V3.snapshot_body(vm, wanted)).json()
    second = v3.call("POST", "v3/vm_snapshots", V3.snapshot_body(vm, wanted)).json()
    assert first["metadata"]["uuid"] == second["metadata"]["uuid"] == wanted
    task = first["status"]["execution_context"]["task_uuid"]
    assert second["status"]["execution_context"]["task_uuid"] == task
    v3.ended(task)
    assert len(old_lab.state()["vm_snapshots"]) == 1


def test_a_snapshot_is_pending_and_may_end_in_error(tmp_path: Path) -> None:
    with Lab.start(tmp_path, personality="2023.4", task_seconds=0.3) as lab:
        v3 = V3(lab)
        vm = lab.create_vm("guest", [MIB])
        lab.faults.fail_task("POST */vm_snapshots", message="no space", after_effect=False)
        accepted = v3.call("POST", "v3/vm_snapshots", V3.snapshot_body(vm)).json()
        path = f"v3/vm_snapshots/{accepted['metadata']['uuid']}"
        assert v3.get(path)["status"]["state"] == "PENDING"
        task = v3.ended(accepted["status"]["execution_context"]["task_uuid"])
        assert (task["status"], task["error_detail"]) == ("FAILED", "no space")
        status = v3.get(path)["status"]
        assert status["state"] == "ERROR"
        assert status["message_list"][0]["message"] == "no space"


def regions(answer: requests.Response) -> list[tuple[int, int, str]]:
    assert answer.status_code == 200, answer.text
    listed = answer.json()["region_list"]
    return [(region["offset"], region["length"], region["type"]) for region in listed]


def test_changed_regions_are_paged_until_next_offset_is_absent(v3: V3, old_lab: Lab) -> None:
    vm = old_lab.create_vm("guest", [4 * MIB])
    reference = v3.path(v3.snapshot(vm))
    for number in range(5):
        write(old_lab, vm, number * 512 * 1024, 100)
    path = v3.path(v3.snapshot(vm))
    seen: list[tuple[int, int, str]] = []
    offset: int | None = 0
    while offset is not None:
        answer = v3.changed(path, reference_snapshot_file_path=reference, start_offset=offset)
        seen += regions(answer)
        assert answer.json()["file_size"] == 4 * MIB
        offset = answer.json().get("next_offset")
    assert seen == [(number * 512 * 1024, 65536, "REGULAR") for number in range(5)]
    assert regions(v3.changed(path, reference_snapshot_file_path=path)) == []


def test_a_window_ends_at_the_next_change(v3: V3, old_lab: Lab) -> None:
    vm = old_lab.create_vm("guest", [4 * MIB])
    write(old_lab, vm, 0, 65536 * 2)
    write(old_lab, vm, 3 * MIB, 65536)
    path = v3.path(v3.snapshot(vm))
    inside = v3.changed(path, start_offset=0, end_offset=65536)
    assert regions(inside) == [(0, 65536, "REGULAR")]
    assert inside.json()["next_offset"] == 65536
    beyond = v3.changed(path, start_offset=0, end_offset=MIB)
    assert beyond.json()["next_offset"] == 3 * MIB
    assert "next_offset" not in v3.changed(path, start_offset=3 * MIB + 65536).json()


@pytest.mark.parametrize("holes", [False, True])
def test_both_readings_of_a_listing_without_reference(tmp_path: Path, *, holes: bool) -> None:
    with Lab.start(tmp_path, personality="2023.4", v3_lists_holes=holes) as lab:
        v3 = V3(lab)
        vm = lab.create_vm("guest", [MIB])
        write(lab, vm, 131072, 65536)
        found = regions(v3.changed(v3.path(v3.snapshot(vm))))
    data = (131072, 65536, "REGULAR")
    if holes:
        assert found == [(0, 131072, "ZEROED"), data, (196608, MIB - 196608, "ZEROED")]
    else:
        assert found == [data]


def test_changed_regions_refuse_what_clusters_refuse(v3: V3, old_lab: Lab) -> None:
    vm = old_lab.create_vm("guest", [MIB, MIB])
    snapshot = v3.snapshot(vm)
    path = v3.path(snapshot)
    assert v3.changed(path, start_offset="0").status_code == 422
    assert v3.changed(path, reference_snapshot_file_path=None).status_code == 422
    bad = v3.changed(path + "x")
    assert bad.status_code == 400
    assert bad.json()["message_list"][0]["reason"] == "ENTITY_NOT_FOUND"
    other = v3.path(snapshot, "scsi.1")
    assert v3.changed(path, reference_snapshot_file_path=other).status_code == 400


def test_a_volume_group_of_v3_serves_a_snapshot(
    v3: V3, old_lab: Lab, tmp_path: Path, connect: type[Api]
) -> None:
    vm = old_lab.create_vm("guest", [MIB])
    write(old_lab, vm, 0, 4096)
    snapshot = v3.snapshot(vm)
    source = {
        "kind": "vm_snapshot",
        "uuid": snapshot["metadata"]["uuid"],
        "name": v3.path(snapshot),
    }
    resources: dict[str, Any] = {
        "target_secret": connect.secret,
        "disk_list": [{"index": 0, "data_source_reference": source}],
    }
    body = {"metadata": {"kind": "volume_group"}, "spec": {"name": "vg", "resources": resources}}
    group = v3.done(v3.call("POST", "v3/volume_groups", body))["metadata"]["uuid"]
    shown = v3.get(f"v3/volume_groups/{group}")
    assert shown["status"]["resources"]["enabled_authentications"] == "CHAP"
    assert "target_secret" not in str(shown)

    spec = shown["spec"]
    spec["resources"]["attachment_list"] = [{"iscsi_initiator_name": connect.initiator}]
    v3.done(v3.call("PUT", f"v3/volume_groups/{group}", shown))
    target = shown["status"]["resources"]["iscsi_target_name"]
    copied = tmp_path / "copy.raw"
    read = connect(old_lab).read_target(target, 1, copied)
    assert read.returncode == 0, read.stderr
    assert copied.read_bytes() == old_lab.disk_file(vm, 0).read_bytes()

    current = v3.get(f"v3/volume_groups/{group}")
    assert current["spec"]["resources"]["attachment_list"] == spec["resources"]["attachment_list"]
    current["spec"]["resources"]["attachment_list"] = []
    v3.done(v3.call("PUT", f"v3/volume_groups/{group}", current))
    v3.done(v3.call("DELETE", f"v3/volume_groups/{group}"))
    assert old_lab.state()["volume_groups"] == []


def test_a_volume_group_of_v2_is_opened_and_closed(v3: V3, old_lab: Lab) -> None:
    vm = old_lab.create_vm("guest", [MIB])
    path = v3.path(v3.snapshot(vm))
    disk = {"clone_config": {"disk_address": {"ndfs_filepath": path}}}
    made = v3.call("POST", "v2.0/volume_groups", {"name": "vg", "disk_list": [disk]})
    assert made.status_code == 201, made.text
    [entity] = v3.ended(made.json()["task_uuid"])["entity_reference_list"]
    name = f"v2.0/volume_groups/{entity['uuid']}"
    client = {"iscsi_client": {"client_address": "iqn.2026-01.test:old"}, "operation": "ATTACH"}
    v3.ended(v3.call("POST", f"{name}/open", client).json()["task_uuid"])
    assert v3.get(name)["attachment_list"] != []
    v3.ended(v3.call("POST", f"{name}/close", client).json()["task_uuid"])
    assert v3.get(name)["attachment_list"] == []
    v3.ended(v3.call("DELETE", name).json()["task_uuid"])
    assert v3.call("GET", name).status_code == 404


def test_v2_on_a_central_needs_to_know_for_which_cluster(v3: V3, old_lab: Lab) -> None:
    assert v3.call("GET", "v2.0/storage_containers", pc=True).status_code == 404
    good = f"v2.0/storage_containers?proxyClusterUuid={old_lab.cluster_ext_id}"
    assert v3.get(good, pc=True)["metadata"]["grand_total_entities"] == 1
    bad = f"v2.0/storage_containers?proxyClusterUuid={uuid.uuid4()}"
    assert v3.call("GET", bad, pc=True).status_code == 404


def test_a_protected_vm_is_told_by_every_generation(tmp_path: Path, connect: type[Api]) -> None:
    with Lab.start(tmp_path) as lab:
        v3, api = V3(lab), connect(lab)
        ruled, legacy = lab.create_vm("ruled", [MIB]), lab.create_vm("legacy", [MIB])
        lab.protect_vm("ruled", policy="gold")
        lab.protect_vm("legacy", "PD_PROTECTED", policy="domain")
        seen = v3.get(f"v3/vms/{ruled}", pc=True)["status"]["resources"]
        assert seen["protection_type"] == "RULE_PROTECTED"
        assert seen["protection_policy_state"]["policy_reference"]["name"] == "gold"
        on_element = v3.get(f"v3/vms/{ruled}")["status"]["resources"]
        assert "protection_policy_state" not in on_element
        [rule] = v3.list("protection_rules", pc=True, filter="name==gold")
        vm = api.get(f"/vmm/v4.0/ahv/config/vms/{ruled}")
        assert vm["protectionPolicyState"]["policy"]["extId"] == rule["metadata"]["uuid"]
        assert api.get(f"/vmm/v4.0/ahv/config/vms/{legacy}")["protectionType"] == "PD_PROTECTED"
        [domain] = v3.get("v2.0/protection_domains")["entities"]
        assert domain["name"] == "domain"
        resource = f"/dataprotection/v4.0/config/protected-resources/{ruled}"
        assert api.get(resource)["replicationStates"][0]["protectionPolicyExtId"]


def test_an_api_key_is_for_v4_only(old_lab: Lab) -> None:
    for path in ("v3/images/list", "v3/vms/list"):
        answer = requests.post(
            f"https://{old_lab.pc_host}:{old_lab.port}/api/nutanix/{path}",
            json={},
            headers={"X-ntnx-api-key": old_lab.api_key},
            verify=str(old_lab.ca_file),
            timeout=10,
        )
        assert answer.status_code == 401


def test_errors_have_the_envelope_of_v3(v3: V3) -> None:
    v3.http.auth = ("admin", "wrong")
    answer = v3.call("GET", "v3/vms/x")
    assert answer.status_code == 401
    assert answer.json()["message_list"][0]["reason"] == "AUTHENTICATION_REQUIRED"
