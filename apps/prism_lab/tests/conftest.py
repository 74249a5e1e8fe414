"""A small client for the tests: plain requests, so that nothing of the product is involved."""

from __future__ import annotations

import datetime as dt
import subprocess
import time
import uuid
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
import requests
from prism_lab.testing import lab, module_lab

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from prism_lab import Lab

__all__ = ["api", "connect", "lab", "module_api", "module_lab"]

SECRET = "secretsecret12"
INITIATOR = "iqn.2026-01.test:initiator"


class Api:
    """One administrator's view of a lab."""

    initiator = INITIATOR
    secret = SECRET

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.base = f"https://{lab.pc_host}:{lab.port}/api"
        self.pe = f"https://{lab.pe_host}:{lab.port}"
        self.http = requests.Session()
        self.http.trust_env = False
        self.http.verify = str(lab.ca_file)
        self.http.auth = (lab.user, lab.password)

    def call(self, method: str, path: str, body: Any = None, **headers: str) -> requests.Response:
        """Send one request to Prism Central; path below /api."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        named.setdefault("NTNX-Request-Id", str(uuid.uuid4()))
        return self.http.request(method, self.base + path, json=body, headers=named, timeout=20)

    def get(self, path: str) -> Any:
        """Return the data of a GET that must succeed, None if there is none."""
        answer = self.call("GET", path)
        assert answer.status_code == 200, answer.text
        return answer.json().get("data")

    def etag(self, path: str) -> str:
        answer = self.call("GET", path)
        assert answer.status_code == 200, answer.text
        return answer.headers["ETag"]

    def start(self, method: str, path: str, body: Any = None, **headers: str) -> str:
        """Send a write that must be accepted; return the task's id."""
        answer = self.call(method, path, body, **headers)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["data"]["extId"])

    def wait(self, task_id: str) -> dict[str, Any]:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            task: dict[str, Any] = self.get(f"/prism/v4.0/config/tasks/{quote(task_id, safe='')}")
            if task["status"] in {"SUCCEEDED", "FAILED"}:
                return task
            time.sleep(0.01)
        raise AssertionError(f"task {task_id} does not end")

    def do(self, method: str, path: str, body: Any = None, **headers: str) -> dict[str, str]:
        """Run a write to its end; return the affected ids by rel."""
        task = self.wait(self.start(method, path, body, **headers))
        assert task["status"] == "SUCCEEDED", task
        return {entity["rel"]: entity["extId"] for entity in task["entitiesAffected"]}

    def snapshot(self, vm: str, *, seconds: float = 3600, revision: str = "v4.3") -> Snapshot:
        """Take a recovery point of one VM."""
        expires = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=seconds)
        body = {
            "name": "test",
            "expirationTime": expires.isoformat(),
            "vmRecoveryPoints": [{"vmExtId": vm}],
        }
        made = self.do("POST", f"/dataprotection/{revision}/config/recovery-points", body)
        return Snapshot(self, made["dataprotection:config:recovery-point"], revision)

    def volume_group(self, disks: Sequence[str], *, chap: bool = True) -> str:
        """Make a volume group from disk recovery points."""
        body: dict[str, Any] = {
            "name": "test",
            "clusterReference": self.lab.cluster_ext_id,
            "disks": [
                {
                    "index": index,
                    "diskDataSourceReference": {
                        "extId": disk,
                        "entityType": "DISK_RECOVERY_POINT",
                    },
                }
                for index, disk in enumerate(disks)
            ],
        }
        if chap:
            body["iscsiFeatures"] = {"enabledAuthentications": "CHAP", "targetSecret": SECRET}
        made = self.do("POST", "/volumes/v4.2/config/volume-groups", body)
        return made["volumes:config:volume-group"]

    def attach(self, group: str, initiator: str = INITIATOR) -> str:
        """Attach an initiator; return the client's id."""
        path = f"/volumes/v4.2/config/volume-groups/{group}"
        made = self.do(
            "POST",
            f"{path}/$actions/attach-iscsi-client",
            {"iscsiInitiatorName": initiator},
            If_Match=self.etag(path),
        )
        return made["volumes:config:iscsi-client"]

    def detach(self, group: str, client: str) -> None:
        path = f"/volumes/v4.2/config/volume-groups/{group}"
        self.do(
            "POST",
            f"{path}/$actions/detach-iscsi-client",
            {"extId": client},
            If_Match=self.etag(path),
        )

    def delete(self, path: str) -> None:
        self.do("DELETE", path, If_Match=self.etag(path))

    def iscsi(self, group: str, lun: int, initiator: str = INITIATOR) -> str:
        """Return qemu's name of a LUN, reached through the data services IP without CHAP."""
        target = self.get(f"/volumes/v4.2/config/volume-groups/{group}")["targetName"]
        return self._lun(f"iqn.2010-06.com.nutanix:{target}", lun, initiator)

    def _lun(self, target: str, lun: int, initiator: str) -> str:
        return (
            f"driver=iscsi,transport=tcp,portal={self.lab.data_services_ip}:3260,"
            f"target={target},lun={lun},initiator-name={initiator}"
        )

    def read_lun(
        self,
        group: str,
        lun: int,
        target: Path,
        *,
        secret: str = SECRET,
        user: str = INITIATOR,
        initiator: str = INITIATOR,
    ) -> subprocess.CompletedProcess[str]:
        """Copy a LUN into a file over iSCSI with CHAP."""
        found = self.get(f"/volumes/v4.2/config/volume-groups/{group}")["targetName"]
        return self.read_target(
            f"iqn.2010-06.com.nutanix:{found}",
            lun,
            target,
            secret=secret,
            user=user,
            initiator=initiator,
        )

    def read_target(
        self,
        name: str,
        lun: int,
        target: Path,
        *,
        secret: str = SECRET,
        user: str = INITIATOR,
        initiator: str = INITIATOR,
    ) -> subprocess.CompletedProcess[str]:
        """The same, with the target's whole name."""
        source = f"{self._lun(name, lun, initiator)},user={user},password-secret=s"
        return subprocess.run(
            [
                "qemu-img",
                "convert",
                "--object",
                f"secret,id=s,data={secret}",
                "-O",
                "raw",
                "--image-opts",
                source,
                str(target),
            ],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )


class Snapshot:
    """A recovery point of one VM, with its ids looked up."""

    def __init__(self, api: Api, ext_id: str, revision: str = "v4.3") -> None:
        self.api = api
        self.ext_id = ext_id
        self.path = f"/dataprotection/{revision}/config/recovery-points/{ext_id}"
        self.part = api.get(self.path)["vmRecoveryPoints"][0]["extId"]
        listed = api.get(f"{self.path}/vm-recovery-points/{self.part}")["diskRecoveryPoints"]
        self.all_disks = listed
        self.disks = [disk for disk in listed if disk["diskExtId"]]

    def ids(self, index: int) -> dict[str, str]:
        return {
            "recoveryPointExtId": self.ext_id,
            "vmRecoveryPointExtId": self.part,
            "diskRecoveryPointExtId": self.disks[index]["diskRecoveryPointExtId"],
        }

    def file(self, index: int) -> Path:
        return self.api.lab.recovery_point_file(self.ext_id, self.disks[index]["diskExtId"])

    def discover(self, index: int = 0) -> str:
        """Return the JWT for the content calls."""
        body = {
            "operation": "COMPUTE_CHANGED_REGIONS",
            "spec": {"diskRecoveryPoint": self.ids(index)},
        }
        answer = self.api.call("POST", f"{self.path}/$actions/discover-cluster", body)
        assert answer.status_code == 200, answer.text
        data = answer.json()["data"]
        assert data["clusterIp"]["ipv4"]["value"] == self.api.lab.pe_host
        return str(data["jwtToken"])

    def changed(
        self,
        index: int = 0,
        *,
        since: Snapshot | None = None,
        token: str | None = None,
        revision: str = "v4.2",
        **body: Any,
    ) -> requests.Response:
        """Ask Prism Element for one page of changed regions."""
        if since is not None:
            for key, value in since.ids(index).items():
                body[f"reference{key[0].upper()}{key[1:]}"] = value
        ids = self.ids(index)
        path = (
            f"/api/dataprotection/{revision}/content/recovery-points/{self.ext_id}"
            f"/vm-recovery-points/{self.part}/disk-recovery-points"
            f"/{ids['diskRecoveryPointExtId']}/$actions/compute-changed-regions"
        )
        return requests.post(
            self.api.pe + path,
            json=body,
            headers={"Cookie": f"NTNX_IGW_SESSION={token or self.discover(index)}"},
            verify=str(self.api.lab.ca_file),
            timeout=20,
        )


@pytest.fixture
def api(lab: Lab) -> Api:
    return Api(lab)


@pytest.fixture
def module_api(module_lab: Lab) -> Api:
    return Api(module_lab)


@pytest.fixture
def connect() -> type[Api]:
    """The client's class, for tests that start a lab of their own kind."""
    return Api
