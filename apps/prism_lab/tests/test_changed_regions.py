"""From a recovery point to its changed regions: PC discover-cluster, then PE with the JWT."""

from __future__ import annotations

import base64
import json
import os
import time
from typing import TYPE_CHECKING, Any

import pytest
import requests
from prism_lab import Lab, NotInLab

if TYPE_CHECKING:
    from pathlib import Path

    from apps.prism_lab.tests.conftest import Api

MIB = 1 << 20


def write(disk: Path, offset: int, data: bytes) -> None:
    with disk.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def told(answer: requests.Response) -> tuple[list[tuple[int, int, str]], int, int]:
    assert answer.status_code == 200, answer.text
    body = answer.json()
    extra = body["metadata"]["extraInfo"]
    assert [entry["name"] for entry in extra] == ["nextOffset", "fileSize"]
    regions = [(r["offset"], r["length"], r["regionType"]) for r in body.get("data", [])]
    return regions, extra[0]["value"], extra[1]["value"]


def test_what_changed_since_the_last_recovery_point(api: Api) -> None:
    vm = api.lab.create_vm("web", [64 * MIB, 32 * MIB])
    disk = api.lab.disk_file("web", 0)
    write(disk, 0, b"boot")
    write(disk, 20 * MIB, os.urandom(MIB))
    first = api.snapshot(vm)
    write(disk, 10 * MIB + 5, b"changed")
    with disk.open("r+b") as file:
        file.truncate(20 * MIB)
        file.truncate(64 * MIB)
    second = api.snapshot(vm)
    assert told(first.changed()) == (
        [(0, 65536, "REGULAR"), (20 * MIB, MIB, "REGULAR")],
        0,
        64 * MIB,
    )
    regions, _, _ = told(second.changed(since=first))
    assert regions == [(10 * MIB, 65536, "REGULAR"), (20 * MIB, MIB, "ZEROED")]
    finer, _, _ = told(second.changed(since=first, blockSizeByte=32768))
    assert finer[0] == (10 * MIB, 32768, "REGULAR")
    unchanged = second.changed(1, since=first)
    assert "data" not in unchanged.json()
    window = told(second.changed(offset=0, length=MIB))
    assert window == ([(0, 65536, "REGULAR")], MIB, 64 * MIB)


def test_pages_join_to_the_whole_list(tmp_path: Path, connect: type[Api]) -> None:
    with Lab.start(tmp_path, regions_per_page=3) as lab:
        api = connect(lab)
        vm = lab.create_vm("web", [64 * MIB])
        for number in range(10):
            write(lab.disk_file(vm, 0), number * 6 * MIB, b"x")
        snapshot = api.snapshot(vm)
        found, offset, pages = [], 0, 0
        while pages == 0 or offset:
            regions, offset, _ = told(snapshot.changed(offset=offset))
            found += regions
            pages += 1
        assert (len(found), pages) == (10, 4)


def test_the_scope_of_the_token_is_checked(api: Api) -> None:
    snapshot = api.snapshot(api.lab.create_vm("web", [MIB]))
    token = snapshot.discover()
    payload = token.split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    assert claims["scope"] == "/api/dataprotection/v4.2/content"
    assert 800 < claims["exp"] - time.time() <= 900
    assert snapshot.changed(token=token).status_code == 200
    wrong = snapshot.changed(token=token, revision="v4.1")
    assert wrong.status_code == 401
    assert "scope claim" in wrong.text
    assert snapshot.changed(token=token[:-2] + "xx").status_code == 401
    assert snapshot.changed(token="junk").status_code == 401
    url = snapshot.changed(token=token).request.url
    assert url is not None

    def post(**options: Any) -> int:
        options["verify"] = str(api.lab.ca_file)
        return requests.post(url, json={}, timeout=10, **options).status_code

    assert post(headers={"Authorization": f"Bearer {token}"}) == 403
    assert post(auth=(api.lab.user, api.lab.password)) == 401
    assert post() == 401


def test_an_expired_token_is_refused(api: Api) -> None:
    snapshot = api.snapshot(api.lab.create_vm("web", [MIB]))
    token = snapshot.discover()
    api.lab.faults.expire_jwt()
    assert snapshot.changed(token=token).status_code == 401
    assert snapshot.changed(token=token).status_code == 401
    assert snapshot.changed().status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        {"blockSizeByte": 4096},
        {"offset": -1},
        {"offset": "0"},
        {"referenceRecoveryPointExtId": "x"},
    ],
)
def test_bad_questions(module_api: Api, body: dict[str, Any]) -> None:
    snapshot = module_api.snapshot(module_api.lab.create_vm("web", [MIB]))
    assert snapshot.changed(**body).status_code == 400


def test_references_must_exist_and_be_of_the_same_disk(api: Api) -> None:
    first = api.snapshot(api.lab.create_vm("one", [MIB]))
    other = api.snapshot(api.lab.create_vm("two", [MIB]))
    assert other.changed(since=first).status_code == 400
    api.delete(first.path)
    assert other.changed(since=first).status_code == 404
    assert api.call("GET", first.path).status_code == 404


def test_non_data_disks_come_first_and_cannot_be_listed(api: Api) -> None:
    uefi = {"$objectType": "vmm.v4.ahv.config.UefiBoot"}
    vm = api.lab.create_vm("uefi", [MIB], bootConfig=uefi)
    snapshot = api.snapshot(vm)
    shown = api.get(f"/vmm/v4.2/ahv/config/vms/{vm}")
    backing = shown["disks"][0]["backingInfo"]["diskExtId"]
    nvram = shown["bootConfig"]["nvramDevice"]["backingStorageInfo"]["diskExtId"]
    assert [disk["diskExtId"] for disk in snapshot.all_disks] == [None, nvram, backing]
    assert shown["disks"][0]["extId"] != backing
    assert snapshot.disks[0]["diskExtId"] == nvram
    assert snapshot.changed(0, token=snapshot.discover(1)).status_code == 400


def test_a_recovery_point_expires(api: Api) -> None:
    vm = api.lab.create_vm("web", [MIB])
    snapshot = api.snapshot(vm, seconds=1.0)
    path = f"{snapshot.path}/$actions/set-expiration-time"
    file = snapshot.file(0)
    deadline = time.monotonic() + 10
    while api.call("GET", snapshot.path).status_code == 200:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert not file.exists()
    assert api.lab.state()["recovery_points"] == []
    with pytest.raises(NotInLab):
        api.lab.recovery_point_file(snapshot.ext_id, snapshot.disks[0]["diskExtId"])
    kept = api.snapshot(vm, seconds=1.5)
    path = f"{kept.path}/$actions/set-expiration-time"
    api.do("POST", path, {"expirationTime": "2099-01-01T00:00:00Z"})
    time.sleep(1.5)
    assert api.get(kept.path)["expirationTime"].startswith("2099-01-01")


def test_lists_of_recovery_points(api: Api) -> None:
    vms = [api.lab.create_vm(name, [MIB]) for name in ("one", "two")]
    mine = [api.snapshot(vm) for vm in vms]
    path = "/dataprotection/v4.3/config/recovery-points"
    found = api.get(f"{path}?$filter=vmRecoveryPoints/any(a:a/vmExtId eq '{vms[1]}')")
    assert [point["extId"] for point in found] == [mine[1].ext_id]
    assert found[0]["vmRecoveryPoints"][0]["diskRecoveryPoints"] is None
    flat = api.get(f"/vmm/v4.2/ahv/config/vm-recovery-points/{mine[0].part}")
    assert flat["vm"]["name"] == "one"
    missing = api.call("GET", "/vmm/v4.2/ahv/config/vm-recovery-points/x")
    assert missing.json()["data"]["error"][0]["code"] == "VMM-32810"


@pytest.mark.parametrize("tracking", [True, False])
def test_other_clusters(tmp_path: Path, connect: type[Api], *, tracking: bool) -> None:
    with Lab.start(tmp_path, content_revision=0, change_tracking=tracking) as lab:
        snapshot = connect(lab).snapshot(lab.create_vm("web", [MIB]))
        assert snapshot.changed(revision="v4.0").status_code == (200 if tracking else 404)
        assert snapshot.changed(revision="v4.2").status_code == 401
