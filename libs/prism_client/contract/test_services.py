"""What each service promises, whatever API is behind it: one set of tests for every personality."""

from __future__ import annotations

import hashlib
import uuid
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import attrs
import prism_client as pc
import pytest
from prism_client._http import Call

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

KIB, MIB = 1 << 10, 1 << 20
NOBODY = "00000000-0000-4000-8000-000000000000"


def soon(days: int = 1) -> datetime:
    return datetime.now(UTC).replace(microsecond=0) + timedelta(days=days)


@pytest.fixture
def snapshot(prism: Any) -> Iterator[Callable[..., pc.RecoveryPoint]]:
    """Take recovery points, which are deleted again."""
    made: list[str] = []

    def take(vm: str, name: str = "", **options: Any) -> pc.RecoveryPoint:
        chosen = {"expires": soon(), "consistency": pc.Consistency.CRASH} | options
        point: pc.RecoveryPoint = prism.client.recovery_points.create(
            vm, name=name or f"point {uuid.uuid4()}", **chosen
        )
        made.append(point.ext_id)
        return point

    yield take
    for ext_id in made:
        prism.client.recovery_points.delete(ext_id)


def disk_of(prism: Any, vm: str, point: pc.RecoveryPoint, index: int = 0) -> pc.DiskRecoveryPoint:
    """The snapshot of a VM's disk inside a recovery point."""
    disk = sorted(prism.client.vms.get(vm).disks, key=lambda d: (d.bus, d.index))[index]
    (found,) = [d for d in point.disks if d.disk_ext_id in (disk.disk_ext_id, disk.ext_id)]
    return found


# --- what is there


def test_the_clusters_are_listed(prism: Any) -> None:
    (cluster,) = [c for c in prism.client.clusters.list() if not c.is_prism_central]
    assert cluster.ext_id == prism.lab.cluster_ext_id
    assert (cluster.name, cluster.external_address) == (prism.lab.cluster_name, prism.lab.pe_host)
    assert cluster.data_services_ip == prism.lab.data_services_ip
    assert cluster.version
    assert prism.client.clusters.get(cluster.ext_id) == cluster
    with pytest.raises(pc.NotFound):
        prism.client.clusters.get(NOBODY)


def test_prism_central_lists_itself(prism: Any) -> None:
    assert sum(c.is_prism_central for c in prism.client.clusters.list()) == 1


def test_subnets_and_containers_are_listed(prism: Any) -> None:
    subnets = prism.client.subnets.list()
    assert {"lab-net", "lab-net-2"} <= {subnet.name for subnet in subnets}
    containers = prism.client.storage_containers.list()
    assert [c.name for c in containers] == ["default-container"]
    assert containers[0].cluster_ext_id == prism.lab.cluster_ext_id


def test_a_vm_is_read_found_and_listed(prism: Any) -> None:
    name = "web 'one' & ümlaut"
    ext_id = prism.vm(name, 4 * MIB, MIB)
    vm = prism.client.vms.get(ext_id)
    assert (vm.ext_id, vm.name, vm.cluster_ext_id) == (ext_id, name, prism.lab.cluster_ext_id)
    assert [(d.bus, d.index, d.size) for d in vm.disks] == [
        ("SCSI", 0, 4 * MIB),
        ("SCSI", 1, MIB),
    ]
    assert vm.sockets >= 1
    assert vm.memory >= MIB
    assert len(vm.nics) == 1
    assert vm.nics[0].subnet_ext_id in {s.ext_id for s in prism.client.subnets.list()}
    assert prism.client.vms.find(name) == [vm]
    assert [v for v in prism.client.vms.list() if v.ext_id == ext_id] == [vm]
    assert prism.client.vms.find("nobody") == []


def test_a_list_of_several_pages_is_whole(prism: Any) -> None:
    made = {prism.vm(f"many {number}", MIB) for number in range(103)}
    listed = [vm.ext_id for vm in prism.client.vms.list()]
    assert len(listed) == len(set(listed))
    assert made <= set(listed)


def test_the_clusters_are_not_asked_for_with_each_call(prism: Any, snapshot: Any) -> None:
    point = snapshot(prism.vm("asked for once"))
    for _ in range(3):
        prism.client.recovery_points.get(point.ext_id)
    before = len(prism.lab.requests)
    prism.client.recovery_points.get(point.ext_id)
    calls = [path for _, path, _ in prism.lab.requests[before:]]
    assert not [path for path in calls if "clusters" in path]
    assert len(calls) <= (8 if prism.generation == "v3" else 2), calls


@pytest.mark.parametrize("field", ["name", "cluster", "disk"])
def test_one_unreadable_vm_does_not_hide_the_others(prism: Any, field: str) -> None:
    odd, good = prism.vm("odd"), prism.vm("good")

    def harm(body: dict[str, Any]) -> None:
        for entry in body.get("data", ()):
            if entry["extId"] == odd:
                victim = entry["disks"][0] if field == "disk" else entry
                del victim["backingInfo" if field == "disk" else field]
        for entry in body.get("entities", ()):
            if entry["metadata"]["uuid"] == odd:
                harm_v3(entry["status"], entry["spec"])

    def harm_v3(*parts: dict[str, Any]) -> None:
        for part in parts:
            if field == "disk":
                del part["resources"]["disk_list"][0]["device_properties"]
            else:
                part[{"cluster": "cluster_reference"}.get(field, field)] = 7

    prism.lab.faults.edit("*/vms" if prism.generation == "v4" else "*/vms/list", harm, times=9)
    try:
        listed = {vm.ext_id for vm in prism.client.vms.list()}
        (entry,) = prism.client.unreadable.of("VM")
    finally:
        prism.lab.faults.clear()
    assert good in listed
    assert odd not in listed
    assert entry.ext_id == odd
    assert entry.field
    assert odd in {vm.ext_id for vm in prism.client.vms.list()}
    assert prism.client.unreadable.of() == ()


@pytest.mark.parametrize("service", ["vms", "recovery_points", "volume_groups", "images", "tasks"])
def test_what_is_not_there_is_not_found(prism: Any, service: str) -> None:
    with pytest.raises(pc.NotFound):
        getattr(prism.client, service).get(NOBODY)


@pytest.mark.parametrize("service", ["vms", "recovery_points", "volume_groups", "images"])
def test_deleting_what_is_gone_is_false(prism: Any, service: str) -> None:
    assert getattr(prism.client, service).delete(NOBODY) is False


def test_a_wrong_password_is_said(prism: Any) -> None:
    with pytest.raises(pc.AuthFailed, match="check user, password or key"):
        pc.connect(
            pc.Endpoint(prism.lab.pc_host, prism.lab.port),
            pc.Basic(prism.lab.user, "wrong"),
            pc.Trust(ca_file=prism.lab.ca_file),
        )


def test_an_api_key_is_a_login_for_v4(prism: Any) -> None:
    def dial() -> pc.PrismClient:
        return pc.connect(
            pc.Endpoint(prism.lab.pc_host, prism.lab.port),
            pc.ApiKey(prism.lab.api_key),
            pc.Trust(ca_file=prism.lab.ca_file),
        )

    if prism.generation == "v3":
        with pytest.raises(pc.AuthFailed, match="check user, password or key"):
            dial()
        return
    vm = prism.vm("by key")
    with dial() as client:
        point = client.recovery_points.create(
            vm, name="by key", expires=soon(), consistency=pc.Consistency.CRASH
        )
        assert [p.ext_id for p in client.recovery_points.list(vm_ext_id=vm)] == [point.ext_id]
        assert client.recovery_points.delete(point.ext_id) is True
        with pytest.raises(pc.Unsupported, match="does not take this login"):
            client.images.check_upload()
    prism.client.images.check_upload()


# --- recovery points


def test_a_recovery_point_has_the_disks_of_its_vm(prism: Any, snapshot: Any) -> None:
    vm = prism.vm("two disks", 4 * MIB, MIB)
    until = soon()
    point = snapshot(vm, "nightly", expires=until)
    assert (point.name, point.vm_ext_id, point.expires) == ("nightly", vm, until)
    assert point.consistency is pc.Consistency.CRASH
    assert abs(point.created - datetime.now(UTC)) < timedelta(minutes=1)
    assert {disk_of(prism, vm, point, n).ext_id for n in (0, 1)} < {d.ext_id for d in point.disks}
    assert None in {d.disk_ext_id for d in point.disks}, "the CD-ROM is no data disk"
    assert prism.client.recovery_points.get(point.ext_id) == point
    assert prism.client.recovery_points.exists(point.ext_id)


def test_an_application_consistent_recovery_point(prism: Any, snapshot: Any) -> None:
    point = snapshot(prism.vm("app"), consistency=pc.Consistency.APP)
    assert point.consistency is pc.Consistency.APP


def test_an_application_consistent_copy_or_full_backup(prism: Any, snapshot: Any) -> None:
    vm = prism.vm("truncated")
    options = {"consistency": pc.Consistency.APP, "backup_type": pc.BackupType.FULL}
    if prism.generation == "v3":
        with pytest.raises(pc.Unsupported, match="a full backup in the guest"):
            snapshot(vm, **options)
        return
    before = len(prism.lab.exchanges)
    snapshot(vm, **options)
    snapshot(vm, consistency=pc.Consistency.APP)
    asked = [
        e.body["vmRecoveryPoints"][0]["applicationConsistentProperties"]["backupType"]
        for e in prism.lab.exchanges[before:]
        if e.method == "POST" and e.target.endswith("recovery-points")
    ]
    assert asked == ["FULL_BACKUP", "COPY_BACKUP"]


def test_a_recovery_point_of_a_vm_in_a_project(prism: Any, snapshot: Any) -> None:
    project = {"$objectType": "vmm.v4.ahv.config.ProjectReference", "extId": NOBODY}
    ext_id = prism.lab.create_vm("in a project", [MIB], project=project)
    vm = prism.client.vms.get(ext_id)
    assert vm.project_ext_id == NOBODY
    assert prism.client.vms.get(prism.vm("in none")).project_ext_id is None
    assert snapshot(ext_id, project_ext_id=vm.project_ext_id).vm_ext_id == ext_id
    if prism.client.revisions.get("dataprotection") == "v4.4":
        with pytest.raises(pc.BadRequest, match="is in project"):
            snapshot(ext_id)


def test_what_a_vm_tells_about_itself(prism: Any) -> None:
    tools = {
        "$objectType": "vmm.v4.ahv.config.GuestTools",
        "isEnabled": True,
        "isReachable": True,
        "isVssSnapshotCapable": False,
    }
    hardware = {"customAttributes": ["backup:no", "owner:me"], "guestTools": tools}
    ext_id = prism.lab.create_vm("talkative", [MIB, MIB], **hardware)
    prism.lab.put_on_array(ext_id, 1, "volume-17")
    vm = prism.client.vms.get(ext_id)
    if prism.generation == "v3":
        assert (vm.custom_attributes, vm.guest_tools) == ((), None)
        return
    has_attributes = prism.client.revisions["vmm"] not in {"v4.0", "v4.1"}
    assert vm.custom_attributes == (("backup:no", "owner:me") if has_attributes else ())
    assert vm.guest_tools == pc.GuestTools(is_enabled=True, is_reachable=True, can_quiesce=False)
    known = prism.client.revisions["vmm"] == "v4.3"
    assert [disk.external_volume for disk in vm.disks] == [None, "volume-17" if known else None]


def test_the_revisions_are_told(prism: Any) -> None:
    revisions = prism.client.revisions
    assert ("vmm" in revisions) is (prism.generation == "v4")
    assert ("multidomain" in revisions) is (revisions.get("vmm") == "v4.3")


def test_recovery_points_are_listed_by_vm_and_name(prism: Any, snapshot: Any) -> None:
    vm, other = prism.vm("one"), prism.vm("other")
    first, second = snapshot(vm, "it's a name"), snapshot(vm, "b")
    third = snapshot(other, "it's a name")

    def listed(**by: str) -> set[str]:
        return {p.ext_id for p in prism.client.recovery_points.list(**by)}

    assert listed(vm_ext_id=vm) == {first.ext_id, second.ext_id}
    assert listed(name="it's a name") == {first.ext_id, third.ext_id}
    assert listed(vm_ext_id=vm, name="b") == {second.ext_id}
    assert listed() >= {first.ext_id, second.ext_id, third.ext_id}
    assert listed(vm_ext_id=NOBODY) == set()


def test_the_life_of_a_recovery_point_can_be_prolonged(prism: Any, snapshot: Any) -> None:
    point = snapshot(prism.vm("long lived"))
    until = soon(400)
    prism.client.recovery_points.set_expiration(point.ext_id, until)
    prism.client.recovery_points.set_expiration(point.ext_id, until)
    assert prism.client.recovery_points.get(point.ext_id).expires == until
    with pytest.raises(pc.NotFound):
        prism.client.recovery_points.set_expiration(NOBODY, until)


def test_a_recovery_point_is_deleted_once(prism: Any, snapshot: Any) -> None:
    point = snapshot(prism.vm("short lived"))
    assert prism.client.recovery_points.delete(point.ext_id) is True
    assert prism.client.recovery_points.delete(point.ext_id) is False
    assert not prism.client.recovery_points.exists(point.ext_id)
    with pytest.raises(pc.NotFound):
        prism.client.recovery_points.get(point.ext_id)


def test_a_vm_is_made_of_a_recovery_point_and_then_into_another(prism: Any, snapshot: Any) -> None:
    client, lab = prism.client, prism.lab
    source = client.vms.get(lab.create_vm("firmware", [MIB], description="old"))
    point = snapshot(source.ext_id)
    ids = (point.ext_id, point.vm_recovery_point_ext_id)
    target = {"cluster_ext_id": lab.cluster_ext_id, "name": f"shell {uuid.uuid4()}"}
    spec = pc.VmSpec(
        name=f"refitted {uuid.uuid4()}",
        description="new",
        cluster_ext_id=lab.cluster_ext_id,
        sockets=2,
        cores_per_socket=1,
        threads_per_core=1,
        memory=2 << 30,
        machine_type=None,
        boot=pc.Boot(order=("DISK",)),
        disks=(pc.DiskSpec(pc.EmptyDisk(2 * MIB), "SCSI", 3),),
        nics=(pc.NicSpec(client.subnets.list()[0].ext_id, "50:6b:8d:00:00:09", connected=False),),
        category_ext_ids=(client.categories.list()[0].ext_id,) if client.categories.list() else (),
    )
    if prism.generation == "v3":
        with pytest.raises(pc.Unsupported):
            client.recovery_points.restore(*ids, **target)
        with pytest.raises(pc.Unsupported):
            client.vms.refit(source.ext_id, spec)
        return
    key = uuid.uuid4()
    restored = client.recovery_points.restore(*ids, **target, request_id=key)
    assert client.recovery_points.restore(*ids, **target, request_id=key) == restored
    assert restored.volume_group_ext_ids == ()
    made = restored.vm_ext_id
    assert client.vms.get(made).name == target["name"]
    for _ in range(2):  # again it is the same
        vm = client.vms.refit(made, spec)
        assert (vm.ext_id, vm.name, vm.description) == (made, spec.name, "new")
        assert (vm.sockets, vm.memory, vm.category_ext_ids) == (2, 2 << 30, spec.category_ext_ids)
        assert [(d.bus, d.index, d.size) for d in vm.disks] == [("SCSI", 3, 2 * MIB)]
        assert [(nic.mac, nic.connected) for nic in vm.nics] == [("50:6b:8d:00:00:09", False)]
    client.vms.refit(made, attrs.evolve(spec, category_ext_ids=()))
    assert client.vms.delete(made)


def test_the_same_request_makes_one_recovery_point(prism: Any, snapshot: Any) -> None:
    vm, key, until = prism.vm("once"), uuid.uuid4(), soon()
    first = snapshot(vm, "once", request_id=key, expires=until)
    second = snapshot(vm, "once", request_id=key, expires=until)
    assert first.ext_id == second.ext_id
    assert len(list(prism.client.recovery_points.list(vm_ext_id=vm))) == 1


def test_a_vm_that_is_gone_has_no_new_recovery_point(prism: Any) -> None:
    with pytest.raises(pc.PrismError) as caught:
        prism.client.recovery_points.create(
            NOBODY, name="x", expires=soon(), consistency=pc.Consistency.CRASH
        )
    assert not isinstance(caught.value, pc.TransportError)


# --- changed regions


def regions(
    prism: Any, vm: str, new: pc.RecoveryPoint, old: pc.RecoveryPoint | None
) -> list[pc.ChangedRegion]:
    reference = old and old.disk_ref(disk_of(prism, vm, old))
    ref = new.disk_ref(disk_of(prism, vm, new))
    return list(prism.client.changed_regions.open(ref, reference, disk_size=4 * MIB))


def covered(found: list[pc.ChangedRegion], *, zeroed: bool) -> set[int]:
    """The 64-KiB blocks that the regions of one kind touch."""
    blocks: set[int] = set()
    for region in found:
        if region.zeroed == zeroed:
            last = (region.offset + region.length - 1) // (64 * KIB)
            blocks |= set(range(region.offset // (64 * KIB), last + 1))
    return blocks


def test_what_is_allocated_is_listed_page_by_page(prism: Any, snapshot: Any) -> None:
    vm = prism.vm("allocated")
    written = set(range(1, 60, 6))
    for block in written:
        prism.write(vm, block * 64 * KIB, b"x" * 64 * KIB)
    point = snapshot(vm)
    if not prism.tracks_changes:
        with pytest.raises(pc.ChangeTrackingUnavailable, match="no list of changes"):
            regions(prism, vm, point, None)
        return
    found = regions(prism, vm, point, None)
    assert covered(found, zeroed=False) == written
    assert covered(found, zeroed=True).isdisjoint(written)


def test_what_changed_is_listed(prism: Any, snapshot: Any) -> None:
    vm = prism.vm("changed")
    for block in range(0, 40, 4):
        prism.write(vm, block * 64 * KIB, b"x" * 64 * KIB)
    before = snapshot(vm)
    changed, zeroed = {1, 9, 12, 33, 50, 60}, {0, 20}
    for block in changed:
        prism.write(vm, block * 64 * KIB, b"y" * 64 * KIB)
    for block in zeroed:
        prism.write(vm, block * 64 * KIB, bytes(64 * KIB))
    after = snapshot(vm)
    if not prism.tracks_changes:
        with pytest.raises(pc.ChangeTrackingUnavailable):
            regions(prism, vm, after, before)
        return
    found = regions(prism, vm, after, before)
    assert covered(found, zeroed=False) | covered(found, zeroed=True) == changed | zeroed
    assert covered(found, zeroed=False) >= changed
    assert regions(prism, vm, after, after) == []


def test_a_token_or_session_that_expires_twice_on_the_way_is_renewed(
    prism: Any, snapshot: Any
) -> None:
    if not prism.tracks_changes:
        return  # there is no list to be on the way in
    vm = prism.vm("long list")
    written = set(range(1, 60, 3))
    for block in written:
        prism.write(vm, block * 64 * KIB, b"x" * 64 * KIB)
    point = snapshot(vm)
    discovered = len([1 for _, path, _ in prism.lab.requests if path.endswith("discover-cluster")])
    for skip in (2, 5):
        prism.lab.faults.expire_jwt("*changed?regions", skip=skip)
    prism.lab.expire_sessions()
    assert covered(regions(prism, vm, point, None), zeroed=False) == written
    assert not prism.lab.faults.pending()
    again = [1 for _, path, _ in prism.lab.requests if path.endswith("discover-cluster")]
    assert len(again) - discovered >= (3 if prism.generation == "v4" else 0)


def test_bytes_of_a_snapshot_by_range_where_a_cluster_offers_them(
    prism: Any, snapshot: Any
) -> None:
    vm = prism.vm("ranged")
    prism.write(vm, 65536, b"changed")
    point = snapshot(vm)
    ref, buffer = point.disk_ref(disk_of(prism, vm, point)), memoryview(bytearray(7))
    if prism.generation == "v3":
        with pytest.raises(pc.Unsupported):
            prism.client.snapshot_data.open(ref, disk_size=4 * MIB)
        return
    data = prism.client.snapshot_data.open(ref, disk_size=4 * MIB)
    with pytest.raises(pc.NotFound):  # no public release is known to offer it
        data.fill(65536, buffer)
    if not prism.tracks_changes:
        return
    prism.lab.answer_ranges("yes")
    try:
        data.fill(65536, buffer)
    finally:
        prism.lab.answer_ranges("no")
    assert bytes(buffer) == b"changed"


def test_a_reference_that_is_gone_means_no_list(prism: Any, snapshot: Any) -> None:
    vm = prism.vm("forgotten")
    before, after = snapshot(vm), snapshot(vm)
    ref, reference = (p.disk_ref(disk_of(prism, vm, p)) for p in (after, before))
    prism.client.recovery_points.delete(before.ext_id)
    with pytest.raises(pc.ChangeTrackingUnavailable):
        prism.client.changed_regions.open(ref, reference, disk_size=4 * MIB)


Lie = Any


def _pages_of(body: dict[str, Any]) -> list[dict[str, Any]]:
    """The regions of an answer, of either generation."""
    found: list[dict[str, Any]] = body.get("region_list", body.get("data")) or []
    return found


def lose_a_page(body: dict[str, Any]) -> None:
    _pages_of(body).clear()


def overlap(body: dict[str, Any]) -> None:
    _pages_of(body)[0]["offset"] -= 4 * 64 * KIB
    _pages_of(body)[0]["length"] += 4 * 64 * KIB


def beyond_the_end(body: dict[str, Any]) -> None:
    _pages_of(body)[-1]["length"] = 8 * MIB


def end_early(body: dict[str, Any]) -> None:
    body.pop("next_offset", None)
    for item in body.get("metadata", {}).get("extraInfo", []):
        if item["name"] == "nextOffset":
            item["value"] = 0


class Repeat:
    """Answers the second page with the first."""

    def __init__(self) -> None:
        self.first: list[dict[str, Any]] = []

    def remember(self, body: dict[str, Any]) -> None:
        self.first = [dict(region) for region in _pages_of(body)]

    def repeat(self, body: dict[str, Any]) -> None:
        _pages_of(body)[:] = self.first


@pytest.mark.parametrize(
    "lies",
    [
        pytest.param(lambda: (None, lose_a_page), id="a missing page"),
        pytest.param(lambda: (lose_a_page,), id="a missing first page"),
        pytest.param(lambda: (end_early,), id="an end that is none"),
        pytest.param(lambda: ((r := Repeat()).remember, r.repeat), id="a repeated page"),
        pytest.param(lambda: (None, overlap), id="an overlap"),
        pytest.param(lambda: (None, beyond_the_end), id="a region past the end"),
    ],
)
@pytest.mark.parametrize("is_incremental", [False, True], ids=["full", "incremental"])
def test_a_list_that_is_not_whole_is_refused(
    prism: Any, snapshot: Any, lies: Any, is_incremental: bool
) -> None:
    if not prism.tracks_changes:
        return  # there is no list to lie with
    vm = prism.vm("lied about")
    before = snapshot(vm) if is_incremental else None
    for block in range(2, 60, 3):
        prism.write(vm, block * 64 * KIB, b"x" * 64 * KIB)
    point = snapshot(vm)
    pattern = "POST */changed_regions" if prism.generation == "v3" else "*/compute-changed-regions"
    pages = 0  # the proof of what lies before a page is a call of its own

    def lie(body: dict[str, Any]) -> None:
        nonlocal pages
        is_proof = not _pages_of(body)
        if not is_proof and pages < len(chosen) and chosen[pages]:
            chosen[pages](body)
        pages += not is_proof

    chosen = lies()
    prism.lab.faults.edit(pattern, lie, times=6)
    try:
        with pytest.raises(pc.IncompleteChangeList):
            regions(prism, vm, point, before)
    finally:
        prism.lab.faults.clear()


# --- volume groups


def test_a_volume_group_of_snapshots_is_offered_to_one_initiator(prism: Any, snapshot: Any) -> None:
    vm = prism.vm("offered", 4 * MIB, MIB)
    prism.write(vm, 0, b"before" * 1000)
    point = snapshot(vm)
    groups, name = prism.client.volume_groups, f"group {uuid.uuid4()}"
    sources = [disk_of(prism, vm, point, n).ext_id for n in (0, 1)]
    iqn, secret = "iqn.2026-11.com.example:Host", "0123456789abcdef"
    group = groups.create(name, prism.lab.cluster_ext_id, sources, chap_secret=secret)
    try:
        assert group.name == name
        assert group.target_name
        assert [(d.index, d.size) for d in group.disks] == [(0, 4 * MIB), (1, MIB)]
        assert groups.get(group.ext_id) == group
        (listed,) = groups.list(name=name)
        assert (listed.ext_id, listed.disks) == (group.ext_id, ())
        assert groups.detach_client(group.ext_id, iqn) is False
        assert groups.attach_client(group.ext_id, iqn, chap_secret=secret)
        assert groups.attach_client(group.ext_id, iqn, chap_secret=secret)
        (state,) = [g for g in prism.lab.state()["volume_groups"] if g["name"] == name]
        assert [client.lower() for client in state["clients"]] == [iqn.lower()]
        assert groups.detach_client(group.ext_id, iqn) is True
        assert groups.detach_client(group.ext_id, iqn) is False
    finally:
        assert groups.delete(group.ext_id) is True
    assert groups.delete(group.ext_id) is False
    assert groups.detach_client(group.ext_id, iqn) is False
    assert list(groups.list(name=name)) == []


@pytest.fixture
def alone(prism: Any) -> Iterator[str]:
    """A volume group with two disks."""
    ext_id = prism.lab.create_volume_group(f"alone {uuid.uuid4()}", [2 * MIB, MIB], [])
    yield ext_id
    prism.lab._groups.delete(prism.lab._world.volume_groups[ext_id])


def test_a_snapshot_of_a_volume_group_alone(prism: Any, alone: str) -> None:
    lab, points, groups = prism.lab, prism.client.recovery_points, prism.client.volume_groups
    ext_id, vm, key = alone, prism.vm("beside"), uuid.uuid4()
    name = f"of a group {key}"
    groups.attach_vm(ext_id, vm)
    groups.attach_vm(ext_id, vm)
    assert prism.client.vms.get(vm).volume_group_ext_ids == (ext_id,)
    assert groups.clients(ext_id) == ()
    assert points.groups_apart is (prism.generation == "v3")
    if not points.groups_apart:
        with pytest.raises(pc.Unsupported):
            points.create_of_group(ext_id, name=name, expires=soon())
        return
    with pytest.raises(pc.NotFound):
        points.create_of_group(NOBODY, name=name, expires=soon())
    made = points.create_of_group(ext_id, name=name, expires=soon(), request_id=key)
    assert points.create_of_group(ext_id, name=name, expires=soon(), request_id=key) == made
    assert (made.name, made.vm_ext_id, made.of_group) == (name, ext_id, True)
    disks = groups.get(ext_id).disks
    assert {part.disk_ext_id for part in made.disks} == {disk.ext_id for disk in disks}
    with lab.volume_disk_file(ext_id, disks[1].index).open("r+b") as file:
        file.write(b"after" * 100)
    later = points.create_of_group(ext_id, name=f"{name} later", expires=soon())
    disk = disks[1]
    paths = [
        next(part.ext_id for part in point.disks if part.disk_ext_id == disk.ext_id)
        for point in (made, later)
    ]
    old, new = (
        pc.DiskSnapshotRef(point.ext_id, point.vm_recovery_point_ext_id, path, of_group=True)
        for point, path in zip((made, later), paths, strict=True)
    )
    changes = prism.client.changed_regions.open(new, old, disk_size=disk.size)
    assert [(region.offset, region.zeroed) for region in changes] == [(0, False)]
    assert points.exists(made.ext_id)
    assert points.get(made.ext_id) == made
    assert [p.ext_id for p in points.list(vm_ext_id=ext_id, name=name)] == [made.ext_id]
    until = datetime.now(UTC).replace(microsecond=0) + timedelta(days=9)
    points.set_expiration(made.ext_id, until)
    assert points.get(made.ext_id).expires == until
    group = groups.create(f"read {name}", lab.cluster_ext_id, paths[:1], chap_secret=None)
    assert [each.size for each in group.disks] == [MIB]
    assert groups.delete(group.ext_id)
    assert points.delete(later.ext_id)
    assert points.delete(made.ext_id) is True
    assert points.delete(made.ext_id) is False
    assert not points.exists(made.ext_id)


def test_what_a_vm_may_belong_to_is_listed(prism: Any) -> None:
    categories = prism.client.categories.list()
    assert [(c.key, c.value) for c in categories] == (
        [] if prism.generation == "v3" else [("Environment", "Lab")]
    )
    assert len(prism.client.projects.list()) == 1


def test_a_container_says_what_is_free(prism: Any) -> None:
    containers = prism.client.storage_containers
    assert containers.free_bytes(containers.list()[0].ext_id) == 1 << 44
    assert containers.free_bytes(NOBODY) is None


def test_a_group_of_new_disks_and_a_vm_of_one_of_them(prism: Any) -> None:
    client, name = prism.client, f"blank {uuid.uuid4()}"
    container = client.storage_containers.list()[0].ext_id
    group = client.volume_groups.create_blank(
        name, prism.lab.cluster_ext_id, [2 * MIB, MIB], container, chap_secret=None
    )
    try:
        assert [(d.index, d.size) for d in group.disks] == [(0, 2 * MIB), (1, MIB)]
        written = prism.lab.volume_disk_file(group.ext_id, 1)
        written.write_bytes(b"written" * 1000 + bytes(MIB - 7000))
        source = pc.VolumeDiskRef(group.ext_id, group.disks[1].ext_id)
        spec = pc.VmSpec(
            name=name,
            cluster_ext_id=prism.lab.cluster_ext_id,
            sockets=1,
            cores_per_socket=1,
            threads_per_core=1,
            memory=1 << 30,
            machine_type=None,
            boot=pc.Boot(),
            disks=(pc.DiskSpec(source, "SCSI", 0, container),),
            nics=(),
        )
        if not client.vms.takes_volume_disks:
            with pytest.raises(pc.PrismError):
                client.vms.create(spec)
            return
        vm = client.vms.create(spec)
        assert prism.lab.disk_file(vm.ext_id, 0).read_bytes() == written.read_bytes()
        client.vms.delete(vm.ext_id)
    finally:
        assert client.volume_groups.delete(group.ext_id)


# --- images, VMs made of them, tasks


@pytest.fixture
def image(prism: Any, tmp_path: Path) -> Iterator[tuple[pc.Image, bytes]]:
    content = b"boot" * 1000 + bytes(MIB - 4000)
    path = tmp_path / "disk.raw"
    path.write_bytes(content)
    sent: list[int] = []
    made = prism.client.images.upload(
        f"image {uuid.uuid4()}",
        path,
        sha256=hashlib.sha256(content).hexdigest(),
        progress=sent.append,
    )
    assert sum(sent) == MIB
    yield made, content
    prism.client.images.delete(made.ext_id)


def test_an_image_is_uploaded_listed_and_deleted(prism: Any, image: Any) -> None:
    made, _ = image
    assert made.size == MIB
    assert prism.client.images.get(made.ext_id) == made
    assert list(prism.client.images.list(name=made.name)) == [made]
    assert made in list(prism.client.images.list())
    assert prism.client.images.delete(made.ext_id) is True
    assert prism.client.images.delete(made.ext_id) is False
    assert list(prism.client.images.list(name=made.name)) == []


def test_an_upload_whose_answer_is_lost_is_not_sent_again(prism: Any, tmp_path: Path) -> None:
    path = tmp_path / "lost.raw"
    path.write_bytes(b"x" * MIB)
    before = len(prism.lab.requests)
    prism.lab.faults.drop("PUT */file", after_effect=True)
    image = prism.client.images.upload(f"lost {uuid.uuid4()}", path)
    puts = [path for method, path, _ in prism.lab.requests[before:] if method == "PUT"]
    assert len(puts) == 1
    assert image.size == MIB
    assert prism.client.images.delete(image.ext_id)


def test_what_lies_behind_a_redirection_with_a_token_is_read(prism: Any, image: Any) -> None:
    if prism.generation == "v3":
        return  # it sends nobody elsewhere
    made, content = image
    api = prism.client.images.api
    answer = api.http.send(Call("GET", api.path(f"content/images/{made.ext_id}/file")))
    assert answer.body == content
    assert f"https://{prism.lab.pe_host}" in answer.where


def test_a_vm_is_made_of_an_image_and_lives(prism: Any, image: Any) -> None:
    made, content = image
    container = prism.client.storage_containers.list()[0].ext_id
    subnet = prism.client.subnets.list()[0].ext_id
    spec = pc.VmSpec(
        name=f"restored {uuid.uuid4()}",
        cluster_ext_id=prism.lab.cluster_ext_id,
        sockets=2,
        cores_per_socket=3,
        threads_per_core=1,
        memory=2 << 30,
        machine_type="Q35",
        boot=pc.Boot("uefi", secure=True, order=("CDROM", "DISK"), disk=("SATA", 1)),
        disks=(
            pc.DiskSpec(made.ext_id, "SATA", 1),
            pc.DiskSpec(pc.EmptyDisk(3 * MIB), "SCSI", 4, container),
        ),
        nics=(pc.NicSpec(subnet, None, connected=False),),
    )
    key = uuid.uuid4()
    vms = prism.client.vms
    vm = vms.create(spec, request_id=key)
    assert vms.create(spec, request_id=key).ext_id == vm.ext_id
    assert (vm.sockets, vm.cores_per_socket, vm.memory) == (2, 3, 2 << 30)
    assert (vm.boot.firmware, vm.boot.secure, vm.power_state) == ("uefi", True, "OFF")
    assert (vm.boot.disk, vm.boot.order) == (("SATA", 1), ()), "Prism takes one or the other"
    assert [(d.bus, d.index, d.size) for d in vm.disks] == [("SATA", 1, MIB), ("SCSI", 4, 3 * MIB)]
    assert [(n.subnet_ext_id, n.connected) for n in vm.nics] == [(subnet, False)]
    assert prism.lab.disk_file(vm.ext_id, 0).read_bytes() == content
    assert prism.lab.disk_file(vm.ext_id, 1).read_bytes() == bytes(3 * MIB)
    vms.power_on(vm.ext_id)
    vms.power_on(vm.ext_id)
    assert vms.get(vm.ext_id).power_state == "ON"
    vms.power_off(vm.ext_id)
    assert vms.get(vm.ext_id).power_state == "OFF"
    vms.power_on(vm.ext_id)
    vms.shut_down(vm.ext_id)
    vms.shut_down(vm.ext_id)
    assert vms.get(vm.ext_id).power_state == "OFF"
    assert vms.delete(vm.ext_id) is True
    assert vms.delete(vm.ext_id) is False


def test_a_task_that_fails_says_so_in_the_servers_words(prism: Any) -> None:
    vm = prism.vm("fails")
    where = "vm_snapshots" if prism.generation == "v3" else "recovery-points"
    prism.lab.faults.fail_task(f"POST */{where}", message="no space left", after_effect=False)
    with pytest.raises(pc.TaskFailed, match="no space left"):
        prism.client.recovery_points.create(
            vm, name="x", expires=soon(), consistency=pc.Consistency.CRASH
        )


# --- protection policies


def test_a_vm_under_a_policy_is_noticed(prism: Any) -> None:
    vms, policies = prism.client.vms, prism.client.protection_policies
    free, ruled, domain = prism.vm("free"), prism.vm("ruled"), prism.vm("in a domain")
    prism.lab.protect_vm(ruled, "RULE_PROTECTED", policy="gold")
    prism.lab.protect_vm(domain, "PD_PROTECTED")
    assert policies.of_vm(vms.get(free)) is None
    assert policies.of_vm(vms.get(ruled)) == "gold"
    assert policies.of_vm(vms.get(domain)) == "a protection domain"
    assert policies.names() in (["gold"], [])  # a release without policies has none


def test_the_generation_is_told(prism: Any) -> None:
    assert prism.client.recovery_points.generation == prism.generation


def test_only_ids_of_its_own_kind_are_understood(prism: Any, snapshot: Any) -> None:
    points, point = prism.client.recovery_points, snapshot(prism.vm("kind"))
    own, other = pc.PointKind.RECOVERY_POINT, pc.PointKind.VM_SNAPSHOT
    if prism.generation == "v3":
        own, other = other, own
    assert point.id == pc.PointId(own, point.ext_id)
    assert [p.id for p in points.list(vm_ext_id=point.vm_ext_id)] == [point.id]
    assert points.understands(point.id)
    assert not points.understands(pc.PointId(other, point.ext_id))
    assert str(point.id) == f"{own.value} {point.ext_id}"
