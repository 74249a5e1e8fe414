"""The judge's side: starts a lab, runs the official SDK against it, and reads what it says.

The SDK lives in environments of its own: it wants an old urllib3. `./run test sdk` makes them and
says where they are in SDK_ENVIRONMENTS; without that, nothing is judged and nothing collected.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import subprocess
import threading
import time
from datetime import UTC, datetime, timedelta
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import pytest
from prism_client import Basic, Consistency, Endpoint, Trust, connect
from prism_lab import Exchange, Lab

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from prism_client import PrismClient

ENVIRONMENTS = os.environ.get("SDK_ENVIRONMENTS")
collect_ignore_glob = [] if ENVIRONMENTS else ["test_*.py"]

MIB = 1 << 20
SECRET = "secretsecret12"
BIOS_UUID = "5b1e0ab8-6d6f-4a5e-9d3c-0d9c7c1f2a3b"
INITIATOR = "iqn.2026-01.test:parity"
_DRIVER = Path(__file__).parent / "drive.py"
_SECONDS = 100


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Allow for the slow start of the SDK on a busy machine."""
    for item in items:
        if item.path.parent == _DRIVER.parent:
            item.add_marker(pytest.mark.timeout(1.5 * _SECONDS))


@attrs.frozen
class Verdict:
    """What one SDK family said, and the requests it sent, by the name of the call."""

    family: str
    versions: dict[str, str]
    calls: list[dict[str, Any]]
    skipped: list[str]
    requests: dict[str, Exchange]
    seconds: float


def _serve(file: Path) -> str:
    """Serve the folder of a file on loopback for as long as this process lives; give its URL."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_args: object) -> None:
            """Say nothing."""

    handler = functools.partial(Quiet, directory=str(file.parent))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_address[1]}/{file.name}"


class Stage:
    """A lab with a VM, a reference recovery point and an image, and our own client on it."""

    def __init__(self, lab: Lab, client: PrismClient, folder: Path) -> None:
        self.lab = lab
        self.client = client
        self.connecting = list(lab.exchanges)
        self.vm = lab.create_vm("guest", [2 * MIB])
        self.second = lab.create_vm("second", [MIB])
        lab.protect_vm(self.vm)
        self.expires = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1)
        self.later = self.expires + timedelta(hours=1)
        self.reference = client.recovery_points.create(
            self.vm, name="reference", expires=self.expires, consistency=Consistency.CRASH
        )
        if client.revisions.get("dataprotection") == "v4.4":
            self._take_in_a_project()
        with lab.disk_file(self.vm, 0).open("r+b") as disk:
            disk.write(b"changed")
        self.upload = folder / "upload.raw"
        self.upload.write_bytes(bytes(MIB))
        self.upload_sha256 = hashlib.sha256(bytes(MIB)).hexdigest()
        self.upload_url = _serve(self.upload)
        self.image = client.images.upload("source", self.upload).ext_id
        self.subnet = client.subnets.list()[0].ext_id
        self.container = client.storage_containers.list()[0].ext_id
        self.category = lab.category_ids()[0]

    def _take_in_a_project(self) -> None:
        """Let there be a recovery point with a project, for the SDK to list."""
        project = {"$objectType": "vmm.v4.ahv.config.ProjectReference", "extId": BIOS_UUID}
        vm = self.lab.create_vm("in a project", [MIB], project=project)
        self.client.recovery_points.create(
            vm,
            name="in a project",
            expires=self.expires,
            consistency=Consistency.CRASH,
            project_ext_id=BIOS_UUID,
        )

    def ids(self, point: Any) -> dict[str, str]:
        """Return the three ids of the first data disk of a recovery point."""
        data = next(disk for disk in point.disks if disk.disk_ext_id)
        return {"rp": point.ext_id, "part": point.vm_recovery_point_ext_id, "disk": data.ext_id}

    @property
    def bios_uuid(self) -> str:
        """Return what a guest shall see as its UUID."""
        return BIOS_UUID

    @property
    def login(self) -> tuple[str, str]:
        """Return the initiator and its secret."""
        return INITIATOR, SECRET

    def known(self) -> dict[str, str]:
        """Name the ids that both clients are given."""
        reference = self.ids(self.reference)
        return {
            self.lab.cluster_ext_id: "<clusters>",
            self.vm: "<vms>",
            self.image: "<images>",
            self.subnet: "<subnet>",
            self.container: "<container>",
            self.category: "<category>",
            **{ext_id: f"<reference {name}>" for name, ext_id in reference.items()},
        }

    def describe(self, *, content: int) -> dict[str, Any]:
        """Return what the driver needs to know; `content` is what changed regions shall answer."""
        lab = self.lab
        return {
            "pc": lab.pc_host,
            "port": lab.port,
            "ca": str(lab.ca_file),
            "user": lab.user,
            "password": lab.password,
            "cluster": lab.cluster_ext_id,
            "vm": self.vm,
            "vm_name": "guest",
            "second": self.second,
            "reference": self.ids(self.reference),
            "image": self.image,
            "upload_url": self.upload_url,
            "upload_sha256": self.upload_sha256,
            "subnet": self.subnet,
            "container": self.container,
            "category": self.category,
            "bios_uuid": BIOS_UUID,
            "initiator": INITIATOR,
            "secret": SECRET,
            "expires": self.expires.isoformat(),
            "later": self.later.isoformat(),
            "content": content,
        }


@pytest.fixture(scope="session")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Stage]]:
    """Make a stage of a personality; all end with the session."""
    running: list[tuple[Lab, PrismClient]] = []

    def make(personality: str) -> Stage:
        folder = tmp_path_factory.mktemp("stage")
        lab = Lab.start(folder / "lab", personality=personality)
        client = connect(
            Endpoint(lab.pc_host), Basic(lab.user, lab.password), Trust(ca_file=lab.ca_file)
        )
        running.append((lab, client))
        return Stage(lab, client, folder)

    yield make
    for lab, client in running:
        client.close()
        lab.stop()


@pytest.fixture(scope="session")
def newest(stage: Callable[[str], Stage]) -> tuple[Stage, Verdict]:
    """The newest SDK on the newest release, for the verdict and for the parity: it takes long."""
    played = stage("7.6")
    return played, drive("latest", played, content=200)


@pytest.fixture(scope="session")
def judge() -> Callable[..., Verdict]:
    """Let an SDK family drive a stage."""
    return drive


def drive(family: str, stage: Stage, *, content: int) -> Verdict:
    assert ENVIRONMENTS is not None
    before = len(stage.lab.exchanges)
    started = time.monotonic()
    ended = subprocess.run(
        [f"{ENVIRONMENTS}/{family}/bin/python", str(_DRIVER)],
        input=json.dumps(stage.describe(content=content)),
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    result = json.loads(ended.stdout)
    assert not result["broken"], result["broken"]
    requests = {
        exchange.headers["X-Lab-Call"]: exchange
        for exchange in stage.lab.exchanges[before:]
        if exchange.method != "OPTIONS" and "X-Lab-Call" in exchange.headers
    }
    requests |= {
        f"version of {exchange.target.split('/')[2]}": exchange
        for exchange in reversed(stage.lab.exchanges[before:])
        if exchange.method == "OPTIONS" and exchange.host == stage.lab.pc_host
    }
    return Verdict(
        family,
        result["versions"],
        result["calls"],
        result["skipped"],
        requests,
        time.monotonic() - started,
    )
