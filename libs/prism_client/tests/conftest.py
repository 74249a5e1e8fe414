"""A small Prism of the tests' own: Prism Central and one cluster over HTTPS on loopback.

It keeps state, and is strict where the wire facts are: request ids, If-Match, the token's scope.
Single answers can be replaced, to play what a server does on a bad day.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
import itertools
import json
import re
import socket
import ssl
import threading
import time
import uuid
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import parse_qs, unquote, urlsplit

import attrs
import pytest
import trustme
from prism_client import Basic, Endpoint, PrismClient, Trust, connect

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PC, PE = "127.0.0.1", "127.0.0.2"
DISK_SIZE = 1 << 30
PASSWORD = "nutanix/4u:ü"


@attrs.frozen
class Request:
    host: str
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def request_id(self) -> str:
        return self.headers["ntnx-request-id"]


@attrs.frozen
class Reply:
    """What to answer; cut: bytes of the body before the connection drops (-1: at once).

    pause: seconds before each single byte of the body. raw: these bytes in place of an answer.
    """

    status: int = 200
    body: Any = None
    headers: dict[str, str] = attrs.field(factory=dict)
    cut: int | None = None
    pause: float = 0.0
    raw: bytes = b""

    def encoded(self) -> bytes:
        if self.body is None:
            return b""
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()


def refused(status: int, message: str, code: str = "TST-10000") -> Reply:
    error = {
        "$objectType": "x.v4.error.AppMessage",
        "code": code,
        "message": message,
        "severity": "ERROR",
    }
    return Reply(
        status,
        {
            "data": {"$objectType": "x.v4.error.ErrorResponse", "error": [error]},
            "metadata": {"flags": [{"name": "hasError", "value": True}]},
        },
    )


def entity_reply(data: dict[str, Any], etag: str = "") -> Reply:
    return Reply(200, {"data": data}, {"ETag": etag} if etag else {})


def regions_reply(
    regions: list[tuple[int, int, str]], *, next_offset: object = None, file_size: object = None
) -> Reply:
    extra = [
        {"name": name, "value": value}
        for name, value in (("nextOffset", next_offset), ("fileSize", file_size))
        if value is not None
    ]
    data = [{"offset": o, "length": n, "regionType": kind} for o, n, kind in regions]
    return Reply(200, {"metadata": {"extraInfo": extra}} | ({"data": data} if data else {}))


class FakeClock:
    """Time that passes only by sleeping."""

    def __init__(self) -> None:
        self.time = 1_800_000_000.0
        self.slept: list[float] = []

    def now(self) -> float:
        return self.time

    def monotonic(self) -> float:
        return self.time - 1_000_000_000

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.time += seconds


class FakePrism:
    """The state of the fake, and what it answers."""

    # Test modules cannot import this one: what they need of it comes along here.
    pc, pe, disk_size, password = PC, PE, DISK_SIZE, PASSWORD
    reply = staticmethod(Reply)
    refused = staticmethod(refused)
    regions_reply = staticmethod(regions_reply)

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.port = 0
        self.ca_file = Path()
        self.fingerprints: dict[str, str] = {}
        self.requests: list[Request] = []
        self.connections = 0
        self.sessions: set[str] = set()
        self.gives_sessions = False
        self.revisions: dict[str, str | None] = defaultdict(lambda: "v4.2")
        self.oldest_only: str | None = None
        self.lists: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self.page_limit = 100
        self.etags: dict[str, int] = defaultdict(int)
        self.replays: dict[str, Reply] = {}
        self.tasks: dict[str, dict[str, Any]] = {}
        self.task_polls: dict[str, Iterator[str]] = {}
        self.next_task: dict[str, Any] = {}
        self.task_statuses = ["QUEUED", "RUNNING", "SUCCEEDED"]
        self.scope = "/api/dataprotection/v4.0/content"
        self.claims: dict[str, Any] = {}
        self.live_tokens: set[str] = set()
        self.regions: list[tuple[int, int, str]] = []
        self.regions_per_page = 2
        self.attached: dict[str, set[str]] = defaultdict(set)
        self.image_bytes: dict[str, bytes] = {}
        self.scripted: list[tuple[str, re.Pattern[str], list[Reply | Callable[[], None]]]] = []
        self.lock = threading.RLock()
        self._numbers = itertools.count(1)
        self.lists["clustermgmt:config/clusters"] = [cluster_json("c1", "lab", "AOS")]
        self.vm = self.add_vm("vm one")

    # what tests use
    def script(self, method: str, path: str, *replies: Reply | Callable[[], None]) -> None:
        """Answer the next matching requests so; a callable acts, and the answer is the usual."""
        self.scripted.append((method, re.compile(path), list(replies)))

    def sent(self, method: str, path: str = "") -> list[Request]:
        return [r for r in self.requests if r.method == method and re.search(path, r.path)]

    def add_vm(self, name: str, **changes: Any) -> dict[str, Any]:
        vm = vm_json(self.new_id(), name) | changes
        self.lists["vmm:ahv/config/vms"].append(vm)
        return vm

    def new_id(self) -> str:
        return str(uuid.UUID(int=next(self._numbers)))

    # dispatch
    def answer(self, request: Request) -> Reply:
        with self.lock:
            self.requests.append(request)
            for method, pattern, replies in self.scripted:
                if replies and method == request.method and pattern.search(request.path):
                    reply = replies.pop(0)
                    if isinstance(reply, Reply):
                        return reply
                    reply()
            if request.host == PE:
                return self.element(request)
            return self.central(request)

    def central(self, request: Request) -> Reply:
        login = self.login(request)
        if isinstance(login, Reply):
            return login
        reply = self.route(request)
        return attrs.evolve(reply, headers=reply.headers | login)

    def login(self, request: Request) -> Reply | dict[str, str]:
        expected = base64.b64encode(f"admin:{PASSWORD}".encode()).decode()
        if request.headers.get("x-ntnx-api-key") == "the-key":
            return {}
        cookie = re.search(r"NTNX_IGW_SESSION=(\w+)", request.headers.get("cookie", ""))
        if "authorization" not in request.headers and cookie and cookie[1] in self.sessions:
            return {}
        if request.headers.get("authorization") != f"Basic {expected}":
            return refused(401, "who are you")
        if not self.gives_sessions:
            return {}
        session = uuid.uuid4().hex
        self.sessions.add(session)
        return {"Set-Cookie": f"NTNX_IGW_SESSION={session}; Path=/; Secure; HttpOnly"}

    def route(self, request: Request) -> Reply:
        if request.path.startswith("/api/nutanix/v3/"):
            return self.v3(request)
        match = re.fullmatch(r"/api/(\w+)/(v4\.[\w.]+|unversioned)/(.*)", request.path)
        if not match:
            return Reply(501)
        namespace, revision, rest = match.groups()
        if revision == "unversioned":
            offered = self.revisions[namespace]
            return Reply(200, {"data": offered}) if offered else Reply(404)
        if revision != (self.oldest_only or revision):
            return Reply(404)
        if request.method == "GET":
            return self.read(namespace, rest, request)
        if rest.endswith("/$actions/discover-cluster"):
            return self.discover()
        key = request.headers.get("ntnx-request-id")
        if not key:
            return refused(400, "no request id")
        if key not in self.replays:
            reply = self.write(namespace, rest, request)
            if reply.status >= 300:
                return reply
            self.replays[key] = reply
        return self.replays[key]

    def read(self, namespace: str, rest: str, request: Request) -> Reply:
        if namespace == "prism":
            return self.task(unquote(rest.removeprefix("config/tasks/")))
        key = f"{namespace}:{rest}"
        if key in self.lists or rest.endswith(("config/recovery-points", "s/disks", "-groups")):
            return self.page(self.lists[key], request)
        if rest in ("config/subnets", "config/storage-containers", "config/iscsi-clients"):
            return self.page(self.lists[key], request)
        if rest.endswith("/external-iscsi-attachments"):
            group = rest.split("/")[-2]
            return self.page([{"extId": i} for i in sorted(self.attached[group])], request)
        if "/vm-recovery-points/" in rest:
            point = self.find(namespace, rest.split("/vm-recovery-points/", maxsplit=1)[0])
            parts = point["vmRecoveryPoints"] if point else []
            disks = self.lists[f"disks of {rest.rsplit('/', 1)[1]}"]
            return entity_reply(parts[0] | {"diskRecoveryPoints": disks})
        found = self.find(namespace, rest)
        if found is None:
            return refused(404, "no such entity", "TST-10404")
        return entity_reply(found, self.etag(found["extId"]))

    def find(self, namespace: str, rest: str) -> dict[str, Any] | None:
        path, _, ext_id = rest.rpartition("/")
        items = self.lists[f"{namespace}:{path}"]
        return next((item for item in items if item["extId"] == unquote(ext_id)), None)

    def etag(self, ext_id: str) -> str:
        return f'"YXBwbGljYXRpb24=:{ext_id}:{self.etags[ext_id]}"'

    def page(self, items: list[dict[str, Any]], request: Request) -> Reply:
        wanted = re.search(
            r"(?:\bname|iscsiInitiatorName) eq '((?:[^']|'')*)'", request.query.get("$filter", "")
        )
        if wanted:
            text = wanted[1].replace("''", "'")
            items = [i for i in items if text in (i.get("name"), i.get("iscsiInitiatorName"))]
        limit = min(int(request.query.get("$limit", "50")), self.page_limit)
        start = int(request.query.get("$page", "0")) * limit
        chosen = items[start : start + limit]
        body: dict[str, Any] = {"metadata": {"totalAvailableResults": len(items)}}
        return Reply(200, body | ({"data": chosen} if chosen else {}))

    # writes
    def write(self, namespace: str, rest: str, request: Request) -> Reply:
        entity, _, action = rest.partition("/$actions/")
        if request.method == "POST" and not action:
            return self.create(namespace, rest, request.json)
        found = self.find(namespace, entity)
        if found is None:
            return refused(404, "no such entity", "TST-10404")
        if request.headers.get("if-match") != self.etag(found["extId"]):
            return refused(412 if "if-match" in request.headers else 428, "stale")
        self.etags[found["extId"]] += 1
        if request.method == "DELETE":
            self.lists[f"{namespace}:{entity.rpartition('/')[0]}"].remove(found)
            return self.start_task("delete")
        return self.act(found, action, request)

    def create(self, namespace: str, rest: str, body: dict[str, Any]) -> Reply:
        made = body | {"extId": self.new_id()}
        kind = ""
        details: list[dict[str, Any]] = []
        if rest == "config/recovery-points":
            kind = "dataprotection:config:recovery-point"
            part = made["vmRecoveryPoints"][0] | {"extId": self.new_id()}
            made |= {"creationTime": "2026-11-23T07:10:31.123456Z", "vmRecoveryPoints": [part]}
            details = [{"name": "recoveryPointExtId", "value": made["extId"]}]
            self.lists[f"disks of {part['extId']}"] = [
                {"diskRecoveryPointExtId": "drp-cdrom", "diskExtId": None},
                {"diskRecoveryPointExtId": "drp-0", "diskExtId": "vdisk-0"},
            ]
        elif rest == "config/volume-groups":
            kind = "volumes:config:volume-group"
            made["targetName"] = f"volumegroup-{made['extId']}"
            disks = [
                {"extId": self.new_id(), "index": d["index"], "diskSizeBytes": DISK_SIZE}
                for d in made.pop("disks")
            ]
            self.lists[f"volumes:{rest}/{made['extId']}/disks"] = disks[::-1]
        elif rest == "ahv/config/vms":
            kind = "vmm:ahv:config:vm"
            made = vm_json(made["extId"], body["name"]) | {"powerState": "OFF"}
        self.lists[f"{namespace}:{rest}"].append(made)
        return self.start_task("create", kind, made["extId"], details)

    def act(self, found: dict[str, Any], action: str, request: Request) -> Reply:
        kind, affected = "", found["extId"]
        if action in ("power-on", "power-off"):
            found["powerState"] = action.removeprefix("power-").upper()
        elif action == "set-expiration-time":
            found["expirationTime"] = request.json["expirationTime"]
        elif action == "attach-iscsi-client":
            clients = self.lists["volumes:config/iscsi-clients"]
            name = request.json["iscsiInitiatorName"]
            client = next((c for c in clients if c["iscsiInitiatorName"] == name), None)
            if client is None:
                client = {"extId": self.new_id(), "iscsiInitiatorName": name}
                clients.append(client)
            self.attached[found["extId"]].add(client["extId"])
            kind, affected = "volumes:config:iscsi-client", client["extId"]
        elif action == "detach-iscsi-client":
            if request.json["extId"] not in self.attached[found["extId"]]:
                return self.start_task(
                    "detach", statuses=["FAILED"], legacyErrorMessage="not attached"
                )
            self.attached[found["extId"]].discard(request.json["extId"])
        return self.start_task(action, kind, affected)

    # tasks
    def start_task(
        self,
        operation: str,
        kind: str = "",
        ext_id: str = "",
        details: list[dict[str, Any]] | None = None,
        statuses: list[str] | None = None,
        **fields: Any,
    ) -> Reply:
        task_id = f"ZXJnb24=:{self.new_id()}"
        self.tasks[task_id] = {
            "extId": task_id,
            "operation": operation,
            "entitiesAffected": [{"extId": ext_id, "rel": kind}] if ext_id else None,
            "completionDetails": details,
            **fields,
            **self.next_task,
        }
        self.next_task = {}
        statuses = statuses or self.task_statuses
        self.task_polls[task_id] = itertools.chain(statuses, itertools.repeat(statuses[-1]))
        data = {"$objectType": "prism.v4.config.TaskReference", "extId": task_id}
        return Reply(202, {"data": data})

    def task(self, task_id: str) -> Reply:
        if task_id not in self.tasks:
            return refused(404, "no such task")
        status = next(self.task_polls[task_id])
        return entity_reply(self.tasks[task_id] | {"status": status})

    # changed regions
    def discover(self) -> Reply:
        token = jwt({"scope": self.scope, "n": next(self._numbers)} | self.claims)
        self.live_tokens.add(token)
        address = {"ipv4": {"value": PE, "prefixLength": 32}}
        return Reply(200, {"data": {"jwtToken": token, "clusterIp": address}})

    def element(self, request: Request) -> Reply:
        """A cluster knows the content API only, and only at the revision of the scope."""
        if not re.match(r"/api/dataprotection/v4[.\w]*/content/", request.path):
            return Reply(404)
        token = request.headers.get("cookie", "").removeprefix("NTNX_IGW_SESSION=")
        if "authorization" in request.headers or token not in self.live_tokens:
            return refused(401, "no session")
        if not request.path.startswith(self.scope):
            return refused(401, "the scope claim does not match the API base path")
        offset = request.json["offset"]
        later = [region for region in self.regions if region[0] >= offset]
        chosen, rest = later[: self.regions_per_page], later[self.regions_per_page :]
        next_offset = rest[0][0] if rest else 0
        return regions_reply(chosen, next_offset=next_offset, file_size=str(DISK_SIZE))

    # images
    def v3(self, request: Request) -> Reply:
        rest = request.path.removeprefix("/api/nutanix/v3/")
        if rest == "images":
            image_id = self.new_id()
            self.lists["v3 images"].append({"extId": image_id, "state": "COMPLETE"} | request.json)
            context = {"task_uuid": f"task-{image_id}"}
            status = {"state": "PENDING", "execution_context": context}
            return Reply(202, {"metadata": {"uuid": image_id}, "status": status})
        if rest.startswith("tasks/"):
            return Reply(200, {"status": "SUCCEEDED", "operation_type": "create_image"})
        image_id = rest.split("/")[1]
        if rest.endswith("/file"):
            return self.take_bytes(image_id, request)
        if request.method == "DELETE":
            self.lists["v3 images"] = [i for i in self.lists["v3 images"] if i["extId"] != image_id]
            return Reply(202, {})
        image = next(i for i in self.lists["v3 images"] if i["extId"] == image_id)
        size = len(self.image_bytes.get(image_id, b""))
        status = {"state": image["state"], "resources": {"size_bytes": size}}
        return Reply(200, {"status": status | {"message_list": [{"message": "bad blocks"}]}})

    def take_bytes(self, image_id: str, request: Request) -> Reply:
        wanted = request.headers.get("x-nutanix-checksum-bytes")
        if wanted and hashlib.sha256(request.body).hexdigest() != wanted:
            body = {"code": 422, "message_list": [{"message": "bad checksum", "reason": "INVALID"}]}
            return Reply(422, body)
        self.image_bytes[image_id] = request.body
        return Reply(200, {})


def jwt(claims: dict[str, Any]) -> str:
    parts = ({"alg": "RS256"}, claims)
    encoded = [base64.urlsafe_b64encode(json.dumps(part).encode()).decode() for part in parts]
    return ".".join(part.rstrip("=") for part in encoded) + ".c2lnbmF0dXJl"


def cluster_json(ext_id: str, name: str, function: str) -> dict[str, Any]:
    return {
        "extId": ext_id,
        "name": name,
        "config": {"clusterFunction": [function], "buildInfo": {"version": "7.3"}},
        "network": {
            "externalAddress": {"ipv4": {"value": PE}},
            "externalDataServiceIp": {"ipv4": {"value": "127.0.0.3"}},
        },
    }


def vm_json(ext_id: str, name: str) -> dict[str, Any]:
    return {
        "$objectType": "vmm.v4.ahv.config.Vm",
        "extId": ext_id,
        "name": name,
        "cluster": {"extId": "c1"},
        "powerState": "OFF",
        "numSockets": 2,
        "numCoresPerSocket": 4,
        "memorySizeBytes": 8 << 30,
        "machineType": "Q35",
        "bootConfig": {
            "$objectType": "vmm.v4.ahv.config.UefiBoot",
            "isSecureBootEnabled": True,
            "bootOrder": ["DISK", "CDROM"],
        },
        "disks": [
            {
                "extId": "disk-0",
                "diskAddress": {"busType": "SCSI", "index": 0},
                "backingInfo": {
                    "$objectType": "vmm.v4.ahv.config.VmDisk",
                    "diskExtId": "vdisk-0",
                    "diskSizeBytes": DISK_SIZE,
                    "storageContainer": {"extId": "sc1"},
                },
            },
            {
                "extId": "disk-1",
                "diskAddress": {"busType": "SCSI", "index": 1},
                "backingInfo": {
                    "$objectType": "vmm.v4.ahv.config.ADSFVolumeGroupReference",
                    "volumeGroupExtId": "vg-of-the-vm",
                },
            },
        ],
        "cdRoms": [{"extId": "cd"}],
        "nics": [
            {
                "extId": "nic-0",
                "backingInfo": {"model": "VIRTIO", "macAddress": "50:6b:8d:00:00:01"},
                "networkInfo": {"subnet": {"extId": "subnet-1"}},
            }
        ],
        "categories": [{"extId": "cat-1"}],
        "protectionType": "RULE_PROTECTED",
    }


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout: ClassVar[float | None] = 5
    wbufsize = 1 << 16  # head and body in one segment
    server: Server  # type: ignore[mutable-override]  # it is only ever served by ours

    def handle_any(self) -> None:
        split = urlsplit(self.path)
        length = int(self.headers.get("Content-Length", "0"))
        request = Request(
            host=str(self.server.server_address[0]),
            method=self.command,
            path=split.path,
            query={name: values[0] for name, values in parse_qs(split.query).items()},
            headers={name.lower(): value for name, value in self.headers.items()},
            body=self.rfile.read(length),
        )
        self.reply(self.server.prism.answer(request))

    do_GET = do_POST = do_PUT = do_DELETE = do_OPTIONS = handle_any  # noqa: N815 - http.server's

    def reply(self, reply: Reply) -> None:
        body = reply.encoded()
        if reply.cut == -1:
            self.close_connection = True
            return
        if reply.raw:
            self.close_connection = True
            self.send_slowly(reply.raw, reply.pause)
            return
        self.send_response(reply.status)
        for name, value in ({"Content-Type": "application/json"} | reply.headers).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if reply.pause:
            self.send_slowly(body, reply.pause)
            return
        self.wfile.write(body if reply.cut is None else body[: reply.cut])
        self.close_connection = self.close_connection or reply.cut is not None

    def send_slowly(self, data: bytes, pause: float) -> None:
        step = 1 if pause else len(data)
        with contextlib.suppress(OSError):  # the client may have heard enough
            for start in range(0, len(data), step):
                self.wfile.write(data[start : start + step])
                self.wfile.flush()
                time.sleep(pause)

    def log_message(self, *args: object) -> None:
        """Say nothing."""


class Server(ThreadingHTTPServer):
    daemon_threads = True
    prism: FakePrism

    def __init__(self, address: tuple[str, int]) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        super().__init__(address, Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self.prism.lock:
            self.prism.connections += 1
        super().process_request(request, client_address)

    def handle_error(self, *args: object) -> None:
        """A client that refuses our certificate is what some tests are about."""


@contextlib.contextmanager
def served(
    prism: FakePrism, issue: Callable[[str], trustme.LeafCert], names: dict[str, str]
) -> Iterator[None]:
    """Serve Prism Central and the cluster, on one port of two addresses."""
    with contextlib.ExitStack() as stack:
        for address, name in names.items():
            server = Server((address, prism.port))
            prism.port = server.server_address[1]
            stack.callback(server.server_close)
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            certificate = issue(name)
            certificate.configure_cert(context)
            der = ssl.PEM_cert_to_DER_cert(certificate.cert_chain_pems[0].bytes().decode())
            prism.fingerprints[address] = hashlib.sha256(der).hexdigest()
            server.socket = context.wrap_socket(
                server.socket, server_side=True, do_handshake_on_connect=False
            )
            server.prism = prism
            thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
            thread.start()
            stack.callback(thread.join, 5)
            stack.callback(server.shutdown)
        yield


@pytest.fixture(scope="session")
def ca() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="session")
def issue(ca: trustme.CA) -> Callable[[str], trustme.LeafCert]:
    """Certificates by name; making one takes longer than most tests."""
    return functools.cache(ca.issue_cert)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def cluster_certificate_name() -> str:
    """The name in the cluster's certificate."""
    return PE


@pytest.fixture
def prism(
    clock: FakeClock,
    ca: trustme.CA,
    issue: Callable[[str], trustme.LeafCert],
    tmp_path: Path,
    cluster_certificate_name: str,
) -> Iterator[FakePrism]:
    fake = FakePrism(clock)
    fake.ca_file = tmp_path / "ca.pem"
    ca.cert_pem.write_to_path(str(fake.ca_file))
    with served(fake, issue, {PC: PC, PE: cluster_certificate_name}):
        yield fake


@pytest.fixture
def prism_v6(
    clock: FakeClock, ca: trustme.CA, issue: Callable[[str], trustme.LeafCert], tmp_path: Path
) -> Iterator[FakePrism]:
    """A Prism Central that listens on IPv6 only."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError as error:
        pytest.skip(f"IPv6 on loopback: {error}")
    fake = FakePrism(clock)
    fake.ca_file = tmp_path / "ca.pem"
    ca.cert_pem.write_to_path(str(fake.ca_file))
    with served(fake, issue, {"::1": "::1"}):
        yield fake


@pytest.fixture
def dial(prism: FakePrism) -> Iterator[Callable[..., PrismClient]]:
    """Connect to the fake; by default with its CA and the right password."""
    with contextlib.ExitStack() as stack:

        def to_fake(
            credentials: Any = None, trust: Trust | None = None, **options: Any
        ) -> PrismClient:
            return stack.enter_context(
                connect(
                    Endpoint(PC, prism.port),
                    credentials or Basic("admin", PASSWORD),
                    trust or Trust(ca_file=prism.ca_file),
                    **({"clock": prism.clock} | options),
                )
            )

        yield to_fake


@pytest.fixture
def client(prism: FakePrism, dial: Callable[..., PrismClient]) -> PrismClient:
    """A connected client; the requests of connecting are forgotten."""
    connected = dial()
    prism.requests.clear()
    return connected


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind((PC, 0))
        return int(probe.getsockname()[1])
