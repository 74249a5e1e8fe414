"""Connections that stay, calls and tasks that take their time, and 5,000 VMs."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest
import requests
from prism_lab import PERSONALITIES, Lab, LabError, Latency

if TYPE_CHECKING:
    from pathlib import Path

MIB = 1 << 20
VMS = "/vmm/v4.0/ahv/config/vms"


def connections(api: Any) -> int:
    """How many connections the client has made."""
    adapter = api.http.get_adapter(api.base)
    pools = adapter.poolmanager.pools
    return sum(pools[key].num_connections for key in pools.keys())  # noqa: SIM118 - no mapping


def test_a_connection_serves_many_calls(api: Any) -> None:
    for _ in range(10):
        api.get(VMS)
        assert api.call("GET", f"{VMS}/nobody").status_code == 404
    assert connections(api) == 1


def test_a_client_that_wants_to_close_is_let_go(api: Any) -> None:
    answer = api.call("GET", VMS, Connection="close")
    assert answer.headers["Connection"] == "close"
    assert "Connection" not in api.call("GET", VMS).headers


def test_a_body_that_nobody_read_is_not_taken_for_the_next_request(api: Any) -> None:
    api.lab.faults.status("PUT */file", 503)
    url = f"{api.base}/nutanix/v3/images/x/file"
    assert api.http.put(url, data=b"x" * (3 * MIB), timeout=30).status_code == 503
    assert api.call("GET", VMS).status_code == 200
    assert connections(api) == 1


@pytest.mark.parametrize("kind", ["drop", "reset", "truncate"])
def test_a_fault_ends_only_its_own_connection(api: Any, kind: str) -> None:
    getattr(api.lab.faults, kind)(f"GET */{VMS.rpartition('/')[2]}")
    with pytest.raises(requests.RequestException):
        api.get(VMS)
    api.get(VMS)


def test_no_connection_outlives_its_server(api: Any) -> None:
    api.get(VMS)
    api.lab.upgrade("2023.4")
    assert api.call("GET", VMS).status_code == 404
    api.lab.upgrade("7.6")
    assert api.call("GET", VMS).status_code == 200


# --- latency


@pytest.mark.parametrize(
    ("text", "latency"),
    [
        ("", Latency()),
        ("none", Latency()),
        ("prism", Latency(0.08, 2.0, 3.0, 1.0, 2.0, 1.0)),
        ("prism,snapshot=5", Latency(0.08, 5.0, 3.0, 1.0, 2.0, 1.0)),
        ("call=0.2,delete=0", Latency(call=0.2)),
    ],
)
def test_a_profile_is_read(text: str, latency: Latency) -> None:
    assert Latency.parse(text) == latency


@pytest.mark.parametrize("text", ["fast", "call", "call=x", "call=-1", "call=nan", "call=9999"])
def test_what_is_no_profile_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(LabError, match="is none of none, prism, call=SECONDS, "):
        Latency.parse(text)
    with pytest.raises(LabError):
        Lab.start(tmp_path, latency=text)


@pytest.mark.parametrize(
    ("operation", "field"),
    [
        ("CreateRecoveryPoint", "snapshot"),
        ("create_vm_snapshot", "snapshot"),
        ("VolumeGroupCreate", "volume_group"),
        ("VolumeGroupAttachExternal", "attach"),
        ("VolumeGroupDetachExternal", "attach"),
        ("update_volume_group", "attach"),
        ("DeleteRecoveryPoint", "delete"),
        ("VolumeGroupDelete", "delete"),
        ("delete_image", "delete"),
        ("CreateVm", "other"),
    ],
)
def test_each_task_has_its_time(operation: str, field: str) -> None:
    assert Latency(**{field: 7.0}).of_task(operation) == 7.0
    others = dict.fromkeys(("snapshot", "volume_group", "attach", "delete", "other"), 7.0)
    assert Latency(**(others | {field: 0.0})).of_task(operation) == 0.0


@pytest.mark.parametrize("personality", ["7.6", "2023.4"])
def test_calls_and_tasks_take_the_time_of_the_profile(
    tmp_path: Path, connect: Any, personality: str
) -> None:
    latency = Latency(call=0.1, snapshot=0.7)
    with Lab.start(tmp_path, personality=personality, latency=latency) as lab:
        api = connect(lab)
        vm = lab.create_vm("slow", [MIB])
        began = time.monotonic()
        assert api.call("POST", "/nutanix/v3/vms/list", {"kind": "vm"}).status_code == 200
        assert time.monotonic() - began >= 0.1
        if personality == "7.6":
            began = time.monotonic()
            api.snapshot(vm)
            assert time.monotonic() - began >= 0.7
    assert personality in PERSONALITIES


# --- many VMs


def test_five_thousand_vms_are_paged_in_linear_time(api: Any) -> None:
    began = time.thread_time()
    ids = api.lab.create_vms("many", 5000, [64 * MIB, MIB])
    assert len(set(ids)) == 5000
    assert not list(api.lab.disk_file(ids[0], 0).parent.parent.rglob("*00002*"))
    seen: list[str] = []
    spent = []
    for half in (range(25), range(25, 50)):
        began = time.process_time()
        for number in half:
            page = api.get(f"{VMS}?$page={number}&$limit=100")
            seen += [vm["extId"] for vm in page]
        spent.append(time.process_time() - began)
    assert seen == ids
    assert spent[1] < 2 * spent[0], f"the last pages cost more: {spent}"


def test_a_disk_gets_its_file_when_it_is_wanted(api: Any) -> None:
    vm, other = api.lab.create_vms("lazy", 2, [4 * MIB])
    files = {entry["name"]: entry["disks"][0]["file"] for entry in api.lab.state()["vms"]}
    assert api.get(f"{VMS}/{vm}")["disks"][0]["backingInfo"]["diskSizeBytes"] == 4 * MIB
    assert api.lab.disk_file(vm, 0).read_bytes() == bytes(4 * MIB)
    assert str(api.lab.disk_file(vm, 0)) == files["lazy-00001"]
    point = api.snapshot(other)
    disk = api.get(f"{VMS}/{other}")["disks"][0]["backingInfo"]["diskExtId"]
    assert api.lab.recovery_point_file(point.ext_id, disk).stat().st_size == 4 * MIB
