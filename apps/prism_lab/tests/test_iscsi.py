"""Volume groups from recovery points, read and written by a real initiator (qemu's libiscsi)."""

from __future__ import annotations

import os
import subprocess
import time
from typing import TYPE_CHECKING

import pytest
import requests
from prism_lab import Lab, NotInLab

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from apps.prism_lab.tests.conftest import Api

MIB = 1 << 20
GROUPS = "/volumes/v4.2/config/volume-groups"


def fill(disk: Path, offset: int, length: int) -> None:
    with disk.open("r+b") as file:
        file.seek(offset)
        file.write(os.urandom(length))


def failed(run: subprocess.CompletedProcess[str], words: str) -> bool:
    return run.returncode != 0 and words in run.stderr


@pytest.fixture
def reader() -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that hold a session; ended with the test."""
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        process.kill()
        process.communicate()


def hold_session(api: Api, group: str, lun: int) -> subprocess.Popen[str]:
    """Log in and stay: qemu-io waits for its next command."""
    name = f"{api.iscsi(group, lun)},user={api.initiator},password-secret=s"
    process = subprocess.Popen(
        ["qemu-io", "--object", f"secret,id=s,data={api.secret}", "--image-opts", name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    deadline = time.monotonic() + 10
    while not api.lab.state()["sessions"]:
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    return process


def test_a_snapshot_is_read_over_iscsi(api: Api, tmp_path: Path) -> None:
    vm = api.lab.create_vm("web", [16 * MIB, 8 * MIB])
    for index in (0, 1):
        fill(api.lab.disk_file(vm, index), MIB, 3 * MIB)
    snapshot = api.snapshot(vm)
    expected = [snapshot.file(index).read_bytes() for index in (0, 1)]
    fill(api.lab.disk_file(vm, 0), 0, MIB)  # the guest goes on
    group = api.volume_group([disk["diskRecoveryPointExtId"] for disk in snapshot.disks])
    out = tmp_path / "out"
    assert failed(api.read_lun(group, 1, out), "Target not found")  # attached to nobody
    client = api.attach(group)
    assert failed(api.read_lun(group, 1, out, secret="wrongwrong12"), "Authentication failure")
    assert failed(api.read_lun(group, 1, out, user="iqn.other:x"), "Authentication failure")
    assert failed(api.read_lun(group, 1, out, initiator="iqn.2026-01.x:other"), "Target not found")
    api.delete(snapshot.path)  # the disks of a volume group are copies
    disks = sorted(api.get(f"{GROUPS}/{group}/disks"), key=lambda disk: disk["index"])
    assert [disk["diskSizeBytes"] for disk in disks] == [16 * MIB, 8 * MIB]
    for lun, content in enumerate(expected, start=1):  # LUN 0 is tgt's controller
        done = api.read_lun(group, lun, out)
        assert done.returncode == 0, done.stderr
        assert out.read_bytes() == content
    api.detach(group, client)
    assert failed(api.read_lun(group, 1, out), "Target not found")
    api.delete(f"{GROUPS}/{group}")
    assert api.lab.state()["volume_groups"] == []


def test_without_chap_no_secret_is_asked(api: Api, tmp_path: Path) -> None:
    snapshot = api.snapshot(api.lab.create_vm("web", [MIB]))
    group = api.volume_group([snapshot.disks[0]["diskRecoveryPointExtId"]], chap=False)
    api.attach(group)
    run = subprocess.run(
        ["qemu-img", "info", "--image-opts", api.iscsi(group, 1)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert "1 MiB" in run.stdout


def test_two_groups_with_one_initiator_keep_their_own_secrets(api: Api, tmp_path: Path) -> None:
    snapshot = api.snapshot(api.lab.create_vm("web", [MIB]))
    disk = snapshot.disks[0]["diskRecoveryPointExtId"]
    plain, locked = api.volume_group([disk], chap=False), api.volume_group([disk])
    for group in (plain, locked):
        api.attach(group)
    assert api.read_lun(locked, 1, tmp_path / "out").returncode == 0
    addresses = {group["target"] for group in api.lab.state()["volume_groups"]}
    assert len(addresses) == 2


def test_a_session_is_seen_and_ended_by_detach(
    api: Api, reader: list[subprocess.Popen[str]]
) -> None:
    snapshot = api.snapshot(api.lab.create_vm("web", [MIB]))
    group = api.volume_group([snapshot.disks[0]["diskRecoveryPointExtId"]])
    client = api.attach(group)
    reader.append(hold_session(api, group, 1))
    (session,) = api.lab.state()["sessions"]
    assert session["initiator"] == api.initiator
    assert session["target"].endswith(group)
    path = f"{GROUPS}/{group}"
    task = api.wait(api.start("DELETE", path, If_Match=api.etag(path)))
    assert task["status"] == "FAILED"
    assert "attached" in task["legacyErrorMessage"]
    api.detach(group, client)
    deadline = time.monotonic() + 5
    while api.lab.state()["sessions"]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    api.delete(path)


def test_a_killed_target_is_gone_for_good(api: Api, tmp_path: Path) -> None:
    snapshot = api.snapshot(api.lab.create_vm("web", [MIB]))
    group = api.volume_group([snapshot.disks[0]["diskRecoveryPointExtId"]])
    client = api.attach(group)
    api.lab.kill_target(group)
    assert api.read_lun(group, 1, tmp_path / "out").returncode != 0
    assert api.lab.state()["sessions"] == []
    api.detach(group, client)
    api.delete(f"{GROUPS}/{group}")
    with pytest.raises(NotInLab):
        api.lab.kill_target(group)


def test_a_blank_disk_is_written_over_iscsi(api: Api, tmp_path: Path) -> None:
    body = {"name": "target", "clusterReference": api.lab.cluster_ext_id}
    group = api.do("POST", GROUPS, body)["volumes:config:volume-group"]
    path = f"{GROUPS}/{group}"
    made = api.do("POST", f"{path}/disks", {"diskSizeBytes": 4 * MIB})
    api.attach(group)
    source = tmp_path / "source"
    source.write_bytes(os.urandom(4 * MIB))
    write = ["qemu-img", "convert", "-n", "-f", "raw", str(source), "--target-image-opts"]
    subprocess.run([*write, api.iscsi(group, 1)], check=True, timeout=30)
    disk = made["volumes:config:volume-group:disk"]
    copied = {"diskDataSourceReference": {"extId": disk, "entityType": "VOLUME_DISK"}}
    twin = api.do("POST", GROUPS, body | {"disks": [copied]})["volumes:config:volume-group"]
    api.attach(twin)
    read = ["qemu-img", "convert", "-O", "raw", "--image-opts", api.iscsi(twin, 1)]
    subprocess.run([*read, str(tmp_path / "out")], check=True, timeout=30)
    assert (tmp_path / "out").read_bytes() == source.read_bytes()
    api.delete(f"{path}/disks/{disk}")
    assert api.get(f"{path}/disks") is None


def test_changed_regions_of_a_volume_group(api: Api) -> None:
    body = {"name": "data", "clusterReference": api.lab.cluster_ext_id}
    disks = {"disks": [{"diskSizeBytes": 4 * MIB}]}
    group = api.do("POST", GROUPS, body | disks)["volumes:config:volume-group"]
    api.attach(group)

    def snapshot() -> tuple[str, str, str]:
        body = {
            "name": "x",
            "expirationTime": "2099-01-01T00:00:00Z",
            "volumeGroupRecoveryPoints": [{"volumeGroupExtId": group}],
        }
        path = "/dataprotection/v4.3/config/recovery-points"
        point = api.do("POST", path, body)["dataprotection:config:recovery-point"]
        part = api.get(f"{path}/{point}")["volumeGroupRecoveryPoints"][0]
        return point, part["extId"], part["diskRecoveryPoints"][0]["diskRecoveryPointExtId"]

    names = ("recoveryPointExtId", "volumeGroupRecoveryPointExtId", "diskRecoveryPointExtId")
    old = snapshot()
    write = ["qemu-io", "-c", "write 1M 64k", "--image-opts", api.iscsi(group, 1)]
    subprocess.run(write, check=True, capture_output=True, timeout=30)
    new = snapshot()
    path = f"/dataprotection/v4.3/config/recovery-points/{new[0]}/$actions/discover-cluster"
    spec = {"diskRecoveryPoint": dict(zip(names, new, strict=True))}
    found = api.call("POST", path, {"operation": "COMPUTE_CHANGED_REGIONS", "spec": spec}).json()
    answer = requests.post(
        f"{api.pe}/api/dataprotection/v4.2/content/recovery-points/{new[0]}"
        f"/volume-group-recovery-points/{new[1]}/disk-recovery-points/{new[2]}"
        "/$actions/compute-changed-regions",
        json={f"reference{n[0].upper()}{n[1:]}": i for n, i in zip(names, old, strict=True)},
        headers={"Cookie": f"NTNX_IGW_SESSION={found['data']['jwtToken']}"},
        verify=str(api.lab.ca_file),
        timeout=20,
    ).json()
    assert answer["$objectType"].endswith("ChangedVolumeGroupRegionsApiResponse")
    assert [(r["offset"], r["length"]) for r in answer["data"]] == [(MIB, 65536)]


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"clusterReference": "elsewhere"}, 404),
        ({"name": None}, 400),
        ({"iscsiFeatures": {"targetSecret": "secretsecret12"}}, 400),
        ({"disks": [{"diskSizeBytes": 512}]}, 400),
        ({"disks": [{"diskDataSourceReference": {"entityType": "TAPE", "extId": "x"}}]}, 400),
        (
            {
                "disks": [
                    {"diskDataSourceReference": {"entityType": "DISK_RECOVERY_POINT", "extId": "x"}}
                ]
            },
            404,
        ),
    ],
)
def test_bad_volume_groups(module_api: Api, change: dict[str, object], status: int) -> None:
    body = {"name": "x", "clusterReference": module_api.lab.cluster_ext_id} | change
    assert module_api.call("POST", GROUPS, body).status_code == status


def test_attach_needs_the_etag_and_a_good_name(module_api: Api) -> None:
    body = {"name": "x", "clusterReference": module_api.lab.cluster_ext_id}
    group = module_api.do("POST", GROUPS, body)["volumes:config:volume-group"]
    path = f"{GROUPS}/{group}"
    action = f"{path}/$actions/attach-iscsi-client"
    good = {"iscsiInitiatorName": "iqn.2026-01.x:y"}
    assert module_api.call("POST", action, good).status_code == 428
    etag = module_api.etag(path)
    for name in ("nonsense", f"iqn.{'x' * 64}", ""):
        bad = {"iscsiInitiatorName": name}
        assert module_api.call("POST", action, bad, If_Match=etag).status_code == 400
    client = module_api.attach(group, "iqn.2026-01.x:y")
    assert module_api.attach(group, "iqn.2026-01.x:y") == client
    listed = module_api.get(
        "/volumes/v4.2/config/iscsi-clients?$filter=iscsiInitiatorName eq 'iqn.2026-01.x:y'"
    )
    assert [entry["extId"] for entry in listed] == [client]
    attached = module_api.get(f"{path}/external-iscsi-attachments")
    assert [entry["extId"] for entry in attached] == [client]
    assert module_api.call("GET", path).json()["data"]["attachmentType"] == "EXTERNAL"


def test_an_initiator_is_one_client_however_quickly_it_is_attached(
    tmp_path: Path, connect: type[Api]
) -> None:
    with Lab.start(tmp_path, task_seconds=0.3) as lab:
        api = connect(lab)
        body = {"name": "x", "clusterReference": lab.cluster_ext_id}
        groups = [api.do("POST", GROUPS, body)["volumes:config:volume-group"] for _ in range(2)]
        tasks = [
            api.start(
                "POST",
                f"{GROUPS}/{group}/$actions/attach-iscsi-client",
                {"iscsiInitiatorName": api.initiator},
                If_Match=api.etag(f"{GROUPS}/{group}"),
            )
            for group in groups
        ]
        for task in tasks:
            assert api.wait(task)["status"] == "SUCCEEDED"
        (client,) = api.get("/volumes/v4.2/config/iscsi-clients")
        assert len(client["attachedTargets"]) == 2


def test_a_cluster_without_data_services(tmp_path: Path, connect: type[Api]) -> None:
    with Lab.start(tmp_path, data_services=False) as lab:
        api = connect(lab)
        clusters = api.get("/clustermgmt/v4.2/config/clusters")
        assert not any("externalDataServiceIp" in cluster["network"] for cluster in clusters)
        body = {"name": "x", "clusterReference": lab.cluster_ext_id}
        group = api.do("POST", GROUPS, body)["volumes:config:volume-group"]
        client = api.attach(group)
        api.detach(group, client)
        api.delete(f"{GROUPS}/{group}")
