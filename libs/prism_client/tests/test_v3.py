"""v3 on its bad days. Its good ones are in the contract suite, against the lab."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import prism_client as pc
import pytest

VM, POINT, RESERVED = (f"00000000-0000-4000-8000-00000000000{n}" for n in range(1, 4))
PATH = "/default/.snapshot/01/1-2-3/.acropolis/vmdisk/vdisk-0"
NAMESPACES = ("clustermgmt", "vmm", "dataprotection", "volumes", "networking", "prism")


def listed(*entities: Any, total: int | None = None) -> dict[str, Any]:
    return {"entities": entities, "metadata": {"total_matches": total or len(entities)}}


def cluster(address: str | None) -> dict[str, Any]:
    network = {"external_ip": address} if address else {}
    resources = {"network": network, "config": {"service_list": ["AOS"]}}
    return {
        "metadata": {"uuid": "c1"},
        "status": {"name": "lab", "resources": resources},
    }


def vm() -> dict[str, Any]:
    disk = {
        "uuid": "disk-0",
        "disk_size_mib": 1,
        "device_properties": {
            "device_type": "DISK",
            "disk_address": {"adapter_type": "SCSI", "device_index": 0},
        },
    }
    resources = {"num_sockets": 1, "memory_size_mib": 1024, "disk_list": [disk]}
    status = {"name": "vm", "cluster_reference": {"uuid": "c1"}, "resources": resources}
    metadata = {"uuid": VM, "kind": "vm", "categories": {"Environment": "Lab"}}
    return {"metadata": metadata, "spec": {"name": "vm"}, "status": status}


def snapshot(state: str = "COMPLETE", **status: Any) -> dict[str, Any]:
    files = [{"file_path": "/default/.acropolis/vmdisk/vdisk-0", "snapshot_file_path": PATH}]
    return {
        "metadata": {"uuid": RESERVED, "kind": "vm_snapshot", "spec_version": 0},
        "spec": {"name": "n", "resources": {"entity_uuid": VM}},
        "status": {"state": state, "snapshot_file_list": files, **status},
    }


@pytest.fixture
def v3(prism: Any, dial: Any) -> Any:
    """A client that speaks v3, and what the server answers to each call."""
    for namespace in (*NAMESPACES, "datapolicies"):
        prism.revisions[namespace] = None
    prism.oldest_only = "v4.99"
    answers: dict[str, Any] = {
        "POST v3/clusters/list": prism.reply(body=listed(cluster(prism.pe))),
        f"GET v3/vms/{VM}": prism.reply(body=vm()),
        "POST v3/idempotence_identifiers": prism.reply(body={"uuid_list": [RESERVED]}),
        "POST v3/vm_snapshots": prism.reply(202, {"metadata": {"uuid": RESERVED}}),
        f"GET v3/vm_snapshots/{RESERVED}": prism.reply(body=snapshot()),
        "GET v2.0/virtual_disks/vdisk-0": prism.reply(
            body={"attached_vm_uuid": VM, "disk_address": "scsi.0"}
        ),
    }

    def answer(request: Any) -> Any:
        found = answers.get(f"{request.method} {request.path.removeprefix('/api/nutanix/')}")
        if isinstance(found, list):
            found = found.pop(0) if len(found) > 1 else found[0]
        return found or prism.reply(404, {"message_list": [{"message": "not here"}]})

    usual = prism.route
    prism.route = lambda r: answer(r) if r.path.startswith("/api/nutanix") else usual(r)
    prism.element = answer
    client = dial()
    prism.requests.clear()
    return client, answers


def take(client: pc.PrismClient, **options: Any) -> pc.RecoveryPoint:
    expires = datetime.now(UTC) + timedelta(days=1)
    return client.recovery_points.create(
        VM, name="n", expires=expires, consistency=pc.Consistency.CRASH, **options
    )


def test_a_snapshot_is_asked_of_the_cluster_with_a_reserved_uuid(prism: Any, v3: Any) -> None:
    client, _ = v3
    point = take(client)
    assert [(d.ext_id, d.disk_ext_id) for d in point.disks] == [(PATH, "disk-0")]
    (sent,) = prism.sent("POST", "/vm_snapshots$")
    assert (sent.host, sent.json["metadata"]["uuid"]) == (prism.pe, RESERVED)
    assert "authorization" in sent.headers


def test_an_answer_that_was_lost_does_not_make_a_second_snapshot(prism: Any, v3: Any) -> None:
    client, answers = v3
    answers["POST v3/vm_snapshots"] = [
        prism.reply(cut=-1),
        prism.reply(409, {"message_list": [{"message": "it exists", "reason": "DUPLICATE"}]}),
    ]
    assert take(client).ext_id == RESERVED
    assert len({r.json["metadata"]["uuid"] for r in prism.sent("POST", "/vm_snapshots$")}) == 1


def test_a_refusal_of_what_does_not_exist_is_raised(prism: Any, v3: Any) -> None:
    client, answers = v3
    del answers[f"GET v3/vm_snapshots/{RESERVED}"]
    answers["POST v3/vm_snapshots"] = prism.reply(422, {"message_list": [{"message": "no quota"}]})
    with pytest.raises(pc.BadRequest, match="422: no quota"):
        take(client)


def test_the_same_request_gets_the_same_uuid(prism: Any, v3: Any) -> None:
    client, _ = v3
    key = uuid.uuid4()
    take(client, request_id=key)
    take(client, request_id=key)
    (asked,) = prism.sent("POST", "idempotence_identifiers")
    assert asked.json["client_identifier"] == str(key)


def test_without_reserved_uuids_a_create_is_sent_once(prism: Any, v3: Any) -> None:
    client, answers = v3
    del answers["POST v3/idempotence_identifiers"]
    take(client)
    answers["POST v3/vm_snapshots"] = prism.reply(cut=-1)
    with pytest.raises(pc.Unreachable):
        take(client)
    assert len(prism.sent("POST", "/vm_snapshots$")) == 2


def test_what_was_sent_without_an_answer_is_not_sent_again(prism: Any, v3: Any) -> None:
    client, answers = v3
    del answers["POST v3/idempotence_identifiers"]
    key = uuid.uuid4()
    answers["POST v3/vm_snapshots"] = [
        prism.reply(422, {"message_list": [{"message": "no quota"}]}),
        prism.reply(cut=-1),
    ]
    for kind in (pc.BadRequest, pc.Unreachable, pc.Timeout):  # a refusal is an answer
        with pytest.raises(kind):
            take(client, request_id=key)
    assert len(prism.sent("POST", "/vm_snapshots$")) == 2


def test_a_group_whose_answer_was_lost_is_looked_for_not_made_again(prism: Any, v3: Any) -> None:
    client, answers = v3
    answers["POST v2.0/volume_groups"] = prism.reply(cut=-1)
    empty, key = prism.reply(body=listed()), uuid.uuid4()
    group = {"metadata": {"uuid": POINT}, "status": {"name": "g", "resources": {}}}
    answers["POST v3/volume_groups/list"] = empty
    answers[f"GET v3/volume_groups/{POINT}"] = prism.reply(body=group)

    def make() -> Any:
        groups = client.volume_groups
        return groups.create("g", "c1", [PATH], chap_secret=None, request_id=key)

    with pytest.raises(pc.Unreachable):
        make()
    with pytest.raises(pc.Timeout, match="volume group g was asked for before"):
        make()
    answers["POST v3/volume_groups/list"] = prism.reply(body=listed(group))
    assert make().ext_id == POINT
    assert make().ext_id == POINT
    assert len(prism.sent("POST", "v2.0/volume_groups$")) == 1


def test_a_snapshot_that_ends_in_error_says_why(prism: Any, v3: Any) -> None:
    client, answers = v3
    answers[f"GET v3/vm_snapshots/{RESERVED}"] = [
        prism.reply(body=snapshot("PENDING")),
        prism.reply(body=snapshot("ERROR", message_list=[{"message": "no\nspace"}])),
    ]
    with pytest.raises(pc.TaskFailed, match="vm_snapshot ended FAILED: no space"):
        take(client)


@pytest.mark.parametrize(
    "plugged",
    [
        {"attached_vm_uuid": "another", "disk_address": "scsi.0"},
        {"attached_vm_uuid": VM, "disk_address": "ide.0"},
        {"attached_vm_uuid": VM},
        None,
    ],
)
def test_a_file_that_is_no_disk_of_the_vm_is_none(prism: Any, v3: Any, plugged: Any) -> None:
    client, answers = v3
    answers["GET v2.0/virtual_disks/vdisk-0"] = plugged and prism.reply(body=plugged)
    assert [d.disk_ext_id for d in take(client).disks] == [None]


def test_a_cluster_without_an_address_says_what_to_do(prism: Any, v3: Any) -> None:
    client, answers = v3
    answers["POST v3/clusters/list"] = prism.reply(body=listed(cluster(None)))
    with pytest.raises(pc.Unsupported, match="has no virtual IP address"):
        take(client)


def test_a_list_that_changes_is_read_again(prism: Any, v3: Any) -> None:
    client, answers = v3
    answers["POST v3/vms/list"] = [
        prism.reply(body=listed(vm(), total=2)),
        prism.reply(body=listed(total=1)),
        prism.reply(body=listed(vm())),
    ]
    assert [found.ext_id for found in client.vms.list()] == [VM]
    assert [r.json["offset"] for r in prism.sent("POST", "/vms/list")] == [0, 1, 0]
    answers["POST v3/vms/list"] = prism.reply(body=listed(vm(), total=7))
    with pytest.raises(pc.BadAnswer, match="repeats what earlier pages listed"):
        list(client.vms.list())


def test_a_404_to_a_delete_has_to_be_said_twice(prism: Any, v3: Any) -> None:
    client, _ = v3
    with pytest.raises(pc.NotFound, match="not here"):
        client.recovery_points.delete(RESERVED)  # the DELETE is not served, the snapshot is
    assert client.recovery_points.delete(POINT) is False


def test_a_404_to_a_detach_has_to_be_said_twice(prism: Any, v3: Any) -> None:
    client, answers = v3
    missing = prism.reply(404, {"message_list": [{"message": "not just now"}]})
    here = prism.reply(body={"metadata": {"uuid": POINT}, "spec": {"name": "g"}})
    answers[f"GET v3/volume_groups/{POINT}"] = [missing, here]
    with pytest.raises(pc.NotFound, match="not just now"):
        client.volume_groups.detach_client(POINT, "iqn.x")
    answers[f"GET v3/volume_groups/{POINT}"] = missing
    assert client.volume_groups.detach_client(POINT, "iqn.x") is False


def test_a_change_that_comes_too_late_is_made_anew(prism: Any, v3: Any) -> None:
    client, answers = v3
    until = datetime(2030, 1, 1, tzinfo=UTC)
    late = prism.reply(409, {"message_list": [{"message": "CONCURRENT_EDIT"}]})
    answers[f"PUT v3/vm_snapshots/{RESERVED}"] = [late, prism.reply(202, {})]
    client.recovery_points.set_expiration(RESERVED, until)
    assert len(prism.sent("PUT")) == 2
    assert prism.sent("PUT")[0].json["spec"]["expiration_time_msecs"] == 1893456000000
    answers[f"PUT v3/vm_snapshots/{RESERVED}"] = late
    with pytest.raises(pc.Conflict, match="CONCURRENT_EDIT"):
        client.recovery_points.set_expiration(RESERVED, until)


def test_no_reference_is_no_field_and_no_list_is_said(prism: Any, v3: Any) -> None:
    client, answers = v3
    disk = pc.DiskSnapshotRef(RESERVED, RESERVED, PATH)
    with pytest.raises(pc.ChangeTrackingUnavailable, match="not here"):
        client.changed_regions.open(disk, None, disk_size=1 << 20)
    regions = [{"offset": 0, "length": 65536}, {"offset": 65536, "length": 1024, "type": "ZEROED"}]
    answers["POST v3/data/changed_regions"] = [
        prism.reply(body={"region_list": regions, "file_size": 1 << 20}),
        prism.reply(body={"file_size": 1 << 20}),
    ]
    found = list(client.changed_regions.open(disk, None, disk_size=1 << 20))
    assert found == [pc.ChangedRegion(0, 65536), pc.ChangedRegion(65536, 1024, zeroed=True)]
    assert [set(r.json) for r in prism.sent("POST", "changed_regions")[1:]] == [
        {"snapshot_file_path", "start_offset"},
        {"snapshot_file_path", "start_offset", "end_offset"},
    ]


def test_categories_tell_where_the_vm_does_not(prism: Any, v3: Any) -> None:
    client, answers = v3
    found = client.vms.get(VM)
    assert client.protection_policies.of_vm(found) is None
    params = {"Environment": ["Lab", "Test"], "Tier": ["1"]}

    def rule(kind: str) -> dict[str, Any]:
        resources = {"category_filter": {"type": kind, "params": params}}
        return {"metadata": {"uuid": "r"}, "status": {"name": kind, "resources": resources}}

    every, some = rule("CATEGORIES_MATCH_ALL"), rule("CATEGORIES_MATCH_ANY")
    answers["POST v3/protection_rules/list"] = prism.reply(body=listed(every))
    assert client.protection_policies.of_vm(found) is None
    answers["POST v3/protection_rules/list"] = prism.reply(body=listed(some))
    assert client.protection_policies.of_vm(found) == "CATEGORIES_MATCH_ANY"
