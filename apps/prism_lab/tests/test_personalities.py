"""Which generation of the API each personality serves, and where."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import requests
from prism_lab import PERSONALITIES, Lab, StartFailed

if TYPE_CHECKING:
    from pathlib import Path

    from apps.prism_lab.tests.conftest import Api

EXPECTED: dict[str, dict[str, Any]] = {
    "2023.4": {"info": None, "revisions": {}},
    "2024.3": {"info": None, "revisions": {"v4.0": 200, "v4.1": 404}},
    "7.3": {"info": "v4.1", "revisions": {"v4.0": 200, "v4.1": 200, "v4.2": 404}},
    "7.6": {"info": "v4.2", "revisions": {"v4.0": 200, "v4.1": 200, "v4.2": 200}},
    "newest": {"info": "v4.3", "revisions": dict.fromkeys(("v4.0", "v4.1", "v4.2", "v4.3"), 200)},
}


def test_every_personality_is_described_here() -> None:
    assert set(EXPECTED) == set(PERSONALITIES)


@pytest.mark.parametrize("name", EXPECTED)
def test_v4_revisions(tmp_path: Path, connect: type[Api], name: str) -> None:
    with Lab.start(tmp_path, personality=name) as lab:
        api = connect(lab)
        info = api.call("OPTIONS", "/vmm/unversioned/info")
        assert (info.json()["data"] if info.ok else None) == EXPECTED[name]["info"]
        for revision in ("v4.0", "v4.1", "v4.2", "v4.3"):
            expected = EXPECTED[name]["revisions"].get(revision, 404)
            answer = api.call("GET", f"/vmm/{revision}/ahv/config/vms")
            assert answer.status_code == expected, revision
        assert api.call("POST", "/nutanix/v3/vms/list", {"kind": "vm"}).status_code == 200


def test_vm_recovery_points_came_with_v4_1(tmp_path: Path, connect: type[Api]) -> None:
    with Lab.start(tmp_path, personality="7.3") as lab:
        api = connect(lab)
        assert api.call("GET", "/vmm/v4.0/ahv/config/vm-recovery-points").status_code == 404
        assert api.call("GET", "/vmm/v4.1/ahv/config/vm-recovery-points").status_code == 200


def test_content_of_v4_0_where_configuration_is_v4_1(tmp_path: Path, connect: type[Api]) -> None:
    with Lab.start(tmp_path, personality="7.3") as lab:
        api = connect(lab)
        vm = lab.create_vm("guest", [1 << 20])
        snapshot = api.snapshot(vm, revision="v4.1")
        assert snapshot.changed(revision="v4.1").status_code == 401
        assert snapshot.changed(revision="v4.0").status_code == 200


def test_an_element_without_change_tracking_answers_404(tmp_path: Path, connect: type[Api]) -> None:
    with Lab.start(tmp_path, personality="2024.3") as lab:
        api = connect(lab)
        vm = lab.create_vm("guest", [1 << 20])
        snapshot = api.snapshot(vm, revision="v4.0")
        assert snapshot.changed(revision="v4.0").status_code == 404
        answer = requests.options(
            f"{api.pe}/api/dataprotection/unversioned/info", verify=str(lab.ca_file), timeout=10
        )
        assert answer.status_code == 404


def test_what_is_given_goes_before_the_personality(tmp_path: Path, connect: type[Api]) -> None:
    with Lab.start(tmp_path, personality="2023.4", aos_version="6.8") as lab:
        api = connect(lab)
        answer = api.call("GET", f"/nutanix/v2.0/cluster?proxyClusterUuid={lab.cluster_ext_id}")
        assert answer.json()["version"] == "6.8"
        assert api.call("GET", "/nutanix/v2.0/cluster").json()["version"] == "pc.2023.4"


def test_an_upgrade_keeps_what_is_there(tmp_path: Path, connect: type[Api]) -> None:
    with Lab.start(tmp_path, personality="2023.4", task_seconds=0.5) as lab:
        vm = lab.create_vm("kept", [1 << 20])
        old = connect(lab)
        assert old.call("GET", "/vmm/v4.0/ahv/config/vms").status_code == 404
        lab.upgrade("7.3")
        for api in (old, connect(lab)):
            assert api.get(f"/vmm/v4.1/ahv/config/vms/{vm}")["name"] == "kept"
        with pytest.raises(StartFailed):
            lab.upgrade("8")


def test_an_unknown_personality_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StartFailed, match=r"7\.6"):
        Lab.start(tmp_path, personality="9")
