"""VMs, recovery points, volume groups: what is sent, what is read, what deleting means."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import prism_client as pc
import pytest

EXPIRES = datetime(2026, 12, 1, 12, 30, tzinfo=timezone(timedelta(hours=2)))
IQN = "iqn.2026-11.example:backup"


def take(client: Any, prism: Any, **changes: Any) -> Any:
    options = {"name": "rp", "expires": EXPIRES, "consistency": pc.Consistency.CRASH} | changes
    return client.recovery_points.create(prism.vm["extId"], **options)


# VMs and inventory


def test_a_vm_as_it_is(prism: Any, client: Any) -> None:
    vm = client.vms.get(prism.vm["extId"])
    assert vm == pc.Vm(
        ext_id=prism.vm["extId"],
        name="vm one",
        description="",
        cluster_ext_id="c1",
        power_state="OFF",
        sockets=2,
        cores_per_socket=4,
        threads_per_core=1,
        memory=8 << 30,
        machine_type="Q35",
        boot=pc.Boot("uefi", secure=True, order=("DISK", "CDROM")),
        disks=(pc.VmDisk("disk-0", "vdisk-0", "SCSI", 0, prism.disk_size, "sc1"),),
        volume_group_ext_ids=("vg-of-the-vm",),
        nics=(pc.Nic("nic-0", "50:6b:8d:00:00:01", "subnet-1", connected=True, model="VIRTIO"),),
        category_ext_ids=("cat-1",),
        protection_type="RULE_PROTECTED",
        raw={},
    )
    assert vm.raw == prism.vm


def test_nics_by_their_newer_names_and_a_legacy_boot(prism: Any, client: Any) -> None:
    nic = {
        "extId": "n",
        "nicBackingInfo": {"macAddress": "m", "isConnected": False, "model": "E1000"},
        "nicNetworkInfo": {"subnet": {"extId": "s"}},
    }
    boot = {"$objectType": "vmm.v4.ahv.config.LegacyBoot", "bootOrder": ["NETWORK"]}
    vm = prism.add_vm("newer", nics=[nic], bootConfig=boot)
    read = client.vms.get(vm["extId"])
    assert read.nics == (pc.Nic("n", "m", "s", connected=False, model="E1000"),)
    assert read.boot == pc.Boot("legacy", secure=False, order=("NETWORK",))


def test_a_data_disk_is_never_left_out_for_want_of_a_field(prism: Any, client: Any) -> None:
    vm = prism.add_vm("odd", disks=[{"extId": "d", "diskAddress": {"busType": "SCSI", "index": 0}}])
    with pytest.raises(pc.BadAnswer, match=r"disks\[0\]\.backingInfo: is missing"):
        client.vms.get(vm["extId"])


def test_a_boot_disk_is_read(prism: Any, client: Any) -> None:
    device = {
        "$objectType": "vmm.v4.ahv.config.BootDeviceDisk",
        "diskAddress": {"busType": "SCSI", "index": 2},
    }
    boot = {"$objectType": "vmm.v4.ahv.config.LegacyBoot", "bootDevice": device}
    vm = prism.add_vm("third", bootConfig=boot)
    assert client.vms.get(vm["extId"]).boot == pc.Boot(disk=("SCSI", 2))


def test_creating_a_vm_sends_what_v4_wants(prism: Any, client: Any) -> None:
    spec = pc.VmSpec(
        name="restored",
        cluster_ext_id="c1",
        sockets=2,
        cores_per_socket=1,
        threads_per_core=1,
        memory=1 << 30,
        machine_type=None,
        boot=pc.Boot("uefi", secure=True, order=("DISK",)),
        disks=(pc.DiskSpec("image-1", "SCSI", 0),),
        nics=(pc.NicSpec("net", "50:6b:8d:00:00:02", True), pc.NicSpec(None, None, False)),
    )
    request_id = uuid.uuid4()
    vm = client.vms.create(spec, request_id=request_id)
    assert (vm.name, vm.power_state) == ("restored", "OFF")
    [sent] = prism.sent("POST", "/vms$")
    assert sent.request_id == str(request_id)
    assert sent.json == {
        "$objectType": "vmm.v4.ahv.config.Vm",
        "name": "restored",
        "cluster": {"extId": "c1"},
        "numSockets": 2,
        "numCoresPerSocket": 1,
        "numThreadsPerCore": 1,
        "memorySizeBytes": 1 << 30,
        "bootConfig": {
            "$objectType": "vmm.v4.ahv.config.UefiBoot",
            "isSecureBootEnabled": True,
            "bootOrder": ["DISK"],
        },
        "disks": [
            {
                "$objectType": "vmm.v4.ahv.config.Disk",
                "diskAddress": {"busType": "SCSI", "index": 0},
                "backingInfo": {
                    "$objectType": "vmm.v4.ahv.config.VmDisk",
                    "dataSource": {
                        "reference": {
                            "$objectType": "vmm.v4.ahv.config.ImageReference",
                            "imageExtId": "image-1",
                        }
                    },
                },
            }
        ],
        "nics": [
            {
                "$objectType": "vmm.v4.ahv.config.Nic",
                "backingInfo": {
                    "$objectType": "vmm.v4.ahv.config.EmulatedNic",
                    "isConnected": True,
                    "macAddress": "50:6b:8d:00:00:02",
                },
                "networkInfo": {"nicType": "NORMAL_NIC", "subnet": {"extId": "net"}},
            },
            {
                "$objectType": "vmm.v4.ahv.config.Nic",
                "backingInfo": {
                    "$objectType": "vmm.v4.ahv.config.EmulatedNic",
                    "isConnected": False,
                },
            },
        ],
    }


def test_power_is_switched_only_where_needed(prism: Any, client: Any) -> None:
    ext_id = prism.vm["extId"]
    client.vms.power_on(ext_id)
    client.vms.power_on(ext_id)
    assert len(prism.sent("POST", "power-on")) == 1
    client.vms.power_off(ext_id)
    client.vms.power_off(ext_id)
    assert len(prism.sent("POST", "power-off")) == 1
    assert client.vms.get(ext_id).power_state == "OFF"


def test_clusters_subnets_and_containers(prism: Any, client: Any) -> None:
    central = prism.lists["clustermgmt:config/clusters"][0] | {
        "extId": "pc",
        "config": {"clusterFunction": ["PRISM_CENTRAL"]},
        "network": {"externalAddress": {"ipv6": {"value": "fd00::1"}}},
    }
    prism.lists["clustermgmt:config/clusters"].append(central)
    assert client.clusters.list() == [
        pc.Cluster("c1", "lab", "7.3", False, prism.pe, "127.0.0.3"),
        pc.Cluster("pc", "lab", "", True, "fd00::1", None),
    ]
    prism.lists["networking:config/subnets"] += [
        {
            "extId": "s1",
            "name": "n",
            "subnetType": "VLAN",
            "networkId": 12,
            "clusterReference": "c1",
        },
        {"extId": "s2", "name": "o", "subnetType": "OVERLAY", "networkId": 9},
    ]
    assert client.subnets.list() == [
        pc.Subnet("s1", "n", "c1", 12),
        pc.Subnet("s2", "o", None, None),
    ]
    prism.lists["clustermgmt:config/storage-containers"].append(
        {"extId": "x", "containerExtId": "sc", "name": "default", "clusterExtId": "c1"}
    )
    assert client.storage_containers.list() == [pc.StorageContainer("sc", "default", "c1")]


# recovery points


@pytest.mark.parametrize("consistency", list(pc.Consistency))
def test_a_recovery_point_comes_with_its_disks(
    prism: Any, client: Any, consistency: pc.Consistency
) -> None:
    point = take(client, prism, consistency=consistency)
    assert point.consistency is consistency
    assert point.created == datetime(2026, 11, 23, 7, 10, 31, 123456, tzinfo=UTC)
    assert point.expires == EXPIRES
    assert point.vm_ext_id == prism.vm["extId"]
    assert point.disks == (
        pc.DiskRecoveryPoint("drp-cdrom", None),
        pc.DiskRecoveryPoint("drp-0", "vdisk-0"),
    )
    assert point.disk_ref(point.disks[1]) == pc.DiskSnapshotRef(
        point.ext_id, point.vm_recovery_point_ext_id, "drp-0"
    )
    sent = prism.sent("POST", "recovery-points$")[0].json
    assert sent["expirationTime"] == "2026-12-01T10:30:00Z"
    asked = sent["vmRecoveryPoints"][0].get("applicationConsistentProperties", {})
    assert asked.get("backupType") == ("COPY_BACKUP" if consistency.value == "app" else None)


def test_less_consistency_than_asked_for_is_visible(prism: Any, client: Any) -> None:
    point = take(client, prism, consistency=pc.Consistency.APP)
    stored = prism.lists["dataprotection:config/recovery-points"][0]
    stored["vmRecoveryPoints"][0]["recoveryPointType"] = "CRASH_CONSISTENT"
    assert client.recovery_points.get(point.ext_id).consistency is pc.Consistency.CRASH
    del stored["vmRecoveryPoints"][0]["recoveryPointType"], stored["recoveryPointType"]
    assert client.recovery_points.get(point.ext_id).consistency is pc.Consistency.CRASH


def test_recovery_points_are_listed_by_vm_and_name(prism: Any, client: Any) -> None:
    take(client, prism, name="a")
    take(client, prism, name="b")
    other = prism.add_vm("other")
    client.recovery_points.create(
        other["extId"], name="a", expires=EXPIRES, consistency=pc.Consistency.CRASH
    )
    stored = prism.lists["dataprotection:config/recovery-points"]
    several = stored[0] | {
        "extId": "several",
        "vmRecoveryPoints": stored[0]["vmRecoveryPoints"] * 2,
    }
    group = stored[0] | {"extId": "group", "vmRecoveryPoints": None}
    stored += [several, group]

    def listed(**by: Any) -> list[tuple[str, str]]:
        points = client.recovery_points.list(**by)
        return [(p.name, p.vm_ext_id) for p in points]

    one, two = prism.vm["extId"], other["extId"]
    assert listed() == [("a", one), ("b", one), ("a", two)]
    assert listed(name="a") == [("a", one), ("a", two)]
    assert listed(vm_ext_id=one) == [("a", one), ("b", one)]
    assert listed(vm_ext_id=two, name="a") == [("a", two)]
    assert prism.requests[-1].query["$filter"] == (
        f"name eq 'a' and vmRecoveryPoints/any(a:a/vmExtId eq '{two}')"
    )
    with pytest.raises(pc.BadAnswer, match="one VM is expected, not 2"):
        client.recovery_points.get("several")


def test_the_expiration_moves_and_deleting_twice_says_so(prism: Any, client: Any) -> None:
    point = take(client, prism)
    later = EXPIRES + timedelta(days=1)
    client.recovery_points.set_expiration(point.ext_id, later)
    assert client.recovery_points.get(point.ext_id).expires == later
    assert client.recovery_points.exists(point.ext_id)
    assert client.recovery_points.delete(point.ext_id) is True
    assert client.recovery_points.delete(point.ext_id) is False
    assert not client.recovery_points.exists(point.ext_id)
    with pytest.raises(pc.NotFound):
        client.recovery_points.get(point.ext_id)
    with pytest.raises(pc.NotFound):
        client.recovery_points.set_expiration(point.ext_id, later)


def test_a_time_without_a_zone_is_refused_before_anything_is_sent(prism: Any, client: Any) -> None:
    with pytest.raises(ValueError, match="time zone"):
        take(client, prism, expires=datetime(2026, 12, 1))  # noqa: DTZ001 - that is the test
    assert prism.requests == []


def test_a_task_that_names_nothing_is_a_bad_answer(prism: Any, client: Any) -> None:
    prism.next_task = {"entitiesAffected": None, "completionDetails": []}
    with pytest.raises(pc.BadAnswer, match="without naming"):
        take(client, prism)


def test_the_id_is_taken_from_the_affected_entities_too(prism: Any, client: Any) -> None:
    prism.next_task = {"completionDetails": None}
    assert take(client, prism).name == "rp"


# what If-Match guards


def test_a_change_in_between_is_met_with_a_fresh_version(prism: Any, client: Any) -> None:
    point = take(client, prism)

    def somebody_else() -> None:
        prism.etags[point.ext_id] += 1

    prism.script("POST", "set-expiration", somebody_else, somebody_else)
    client.recovery_points.set_expiration(point.ext_id, EXPIRES)
    tries = prism.sent("POST", "set-expiration")
    assert len({r.request_id for r in tries}) == 3
    prism.script("POST", "set-expiration", *[somebody_else] * 3)
    with pytest.raises(pc.Conflict):
        client.recovery_points.set_expiration(point.ext_id, EXPIRES)


def test_a_conflict_that_is_no_stale_version_is_not_repeated(prism: Any, client: Any) -> None:
    prism.script("DELETE", "/vms/", prism.refused(409, "in use"))
    with pytest.raises(pc.Conflict, match="in use"):
        client.vms.delete(prism.vm["extId"])
    assert len(prism.sent("DELETE")) == 1


def test_the_version_may_come_in_the_newer_header(prism: Any, client: Any) -> None:
    etag = prism.etag(prism.vm["extId"])
    prism.script(
        "GET", "/vms/", prism.reply(body={"data": prism.vm}, headers={"X-Ntnx-Etag": etag})
    )
    assert client.vms.delete(prism.vm["extId"]) is True


def test_a_failed_delete_of_what_is_gone_nevertheless_is_a_delete(prism: Any, client: Any) -> None:
    prism.task_statuses = ["FAILED"]
    assert client.vms.delete(prism.vm["extId"]) is True


def test_a_failed_delete_of_what_is_still_there_is_a_failure(prism: Any, client: Any) -> None:
    failing = prism.start_task("delete", statuses=["FAILED"], legacyErrorMessage="locked")
    prism.script("DELETE", "/vms/", failing)
    with pytest.raises(pc.TaskFailed, match="locked"):
        client.vms.delete(prism.vm["extId"])


def test_an_entity_that_goes_between_reading_and_deleting(prism: Any, client: Any) -> None:
    vms = prism.lists["vmm:ahv/config/vms"]
    prism.script("DELETE", "/vms/", vms.clear)
    assert client.vms.delete(prism.vm["extId"]) is False


def test_an_id_is_data_not_a_path(prism: Any, client: Any) -> None:
    with pytest.raises(pc.NotFound):
        client.vms.get("../../x?y=1#z")
    assert prism.requests[-1].path.endswith("/vms/..%2F..%2Fx%3Fy%3D1%23z")


# volume groups


def group(client: Any, **changes: Any) -> Any:
    options = {"chap_secret": "twelve-chars-"} | changes
    return client.volume_groups.create("vg", "c1", ["drp-0", "drp-1"], **options)


def test_a_volume_group_of_snapshots(prism: Any, client: Any) -> None:
    made = group(client)
    assert made.target_name == f"volumegroup-{made.ext_id}"
    assert [(d.index, d.size) for d in made.disks] == [(0, prism.disk_size), (1, prism.disk_size)]
    [sent] = prism.sent("POST", "volume-groups$")
    assert sent.json == {
        "$objectType": "volumes.v4.config.VolumeGroup",
        "name": "vg",
        "clusterReference": "c1",
        "sharingStatus": "NOT_SHARED",
        "iscsiFeatures": {"enabledAuthentications": "CHAP", "targetSecret": "twelve-chars-"},
        "disks": [
            {
                "$objectType": "volumes.v4.config.VolumeDisk",
                "index": index,
                "diskDataSourceReference": {
                    "extId": f"drp-{index}",
                    "entityType": "DISK_RECOVERY_POINT",
                },
            }
            for index in (0, 1)
        ],
    }
    assert [g.name for g in client.volume_groups.list()] == ["vg"]
    assert [g.ext_id for g in client.volume_groups.list(name="vg")] == [made.ext_id]
    assert list(client.volume_groups.list(name="other")) == []
    assert client.volume_groups.delete(made.ext_id) is True
    assert client.volume_groups.delete(made.ext_id) is False


def test_a_group_without_chap_sends_no_secret(prism: Any, client: Any) -> None:
    made = group(client, chap_secret=None)
    assert prism.requests[0].json["iscsiFeatures"] == {"enabledAuthentications": "NONE"}
    client.volume_groups.attach_client(made.ext_id, IQN, chap_secret=None)
    sent = prism.sent("POST", "attach-iscsi-client")[0].json
    assert sent == {
        "$objectType": "volumes.v4.config.IscsiClient",
        "iscsiInitiatorName": IQN,
        "numVirtualTargets": 1,
        "enabledAuthentications": "NONE",
    }


def test_an_initiator_is_attached_and_detached(prism: Any, client: Any) -> None:
    made = group(client)
    request_id = uuid.uuid4()
    attach = client.volume_groups.attach_client
    known = attach(made.ext_id, IQN, chap_secret="client-secret", request_id=request_id)
    [sent] = prism.sent("POST", "attach-iscsi-client")
    assert sent.request_id == str(request_id)
    assert sent.json["clientSecret"] == "client-secret"
    assert prism.attached[made.ext_id] == {known}
    assert client.volume_groups.detach_client(made.ext_id, IQN) is True
    assert prism.attached[made.ext_id] == set()
    assert client.volume_groups.detach_client(made.ext_id, IQN) is False
    assert client.volume_groups.detach_client(made.ext_id, "iqn.nobody") is False
    assert client.volume_groups.detach_client("no-such-group", IQN) is False
    with pytest.raises(pc.NotFound):
        attach("no-such-group", IQN, chap_secret=None)


def test_a_client_that_the_task_does_not_name_is_looked_up(prism: Any, client: Any) -> None:
    made = group(client)
    prism.next_task = {"entitiesAffected": None}
    known = client.volume_groups.attach_client(made.ext_id, IQN, chap_secret=None)
    assert prism.attached[made.ext_id] == {known}
    prism.next_task = {"entitiesAffected": None}
    prism.script("GET", "iscsi-clients", prism.reply(body={}))
    with pytest.raises(pc.BadAnswer, match="lists no such"):
        client.volume_groups.attach_client(made.ext_id, IQN, chap_secret=None)


def test_a_failed_detach_of_an_attached_client_is_a_failure(prism: Any, client: Any) -> None:
    made = group(client)
    client.volume_groups.attach_client(made.ext_id, IQN, chap_secret=None)
    failing = prism.start_task("detach", statuses=["FAILED"], legacyErrorMessage="busy")
    prism.script("POST", "detach-iscsi-client", failing)
    with pytest.raises(pc.TaskFailed, match="busy"):
        client.volume_groups.detach_client(made.ext_id, IQN)


def test_a_404_to_a_detach_has_to_be_said_twice(prism: Any, client: Any) -> None:
    groups = client.volume_groups
    made = groups.create("g", "c1", ["drp-0"], chap_secret=None)
    groups.attach_client(made.ext_id, IQN, chap_secret=None)
    prism.script("GET", f"volume-groups/{made.ext_id}$", prism.refused(404, "not just now"))
    with pytest.raises(pc.NotFound, match="not just now"):
        groups.detach_client(made.ext_id, IQN)
    assert groups.detach_client(made.ext_id, IQN) is True
