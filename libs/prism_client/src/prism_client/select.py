"""Which API generation and revision serves what: decided once, at connect.

The only module that names a generation. A definite "not here" (404, 405, 501) leads to the next
choice; a time-out, a refusal of the login or a server failure is an error, never a downgrade.
"""

from __future__ import annotations

import logging
import re
from contextlib import ExitStack
from typing import TYPE_CHECKING

from prism_client._clock import SystemClock
from prism_client._http import Call, Http
from prism_client._refusal import refusal
from prism_client._v3.images import Uploader
from prism_client._v4.api import Api, Writes
from prism_client._v4.changed_regions import ChangedRegions
from prism_client._v4.images import Images
from prism_client._v4.inventory import Clusters, StorageContainers, Subnets
from prism_client._v4.recovery_points import RecoveryPoints
from prism_client._v4.tasks import Tasks
from prism_client._v4.vms import Vms
from prism_client._v4.volume_groups import VolumeGroups
from prism_client.client import PrismClient
from prism_client.errors import BadAnswer, Unsupported
from prism_client.model import Endpoint, Trust

if TYPE_CHECKING:
    from prism_client._clock import Clock
    from prism_client.model import Credentials

log = logging.getLogger(__name__)

# Namespace -> (newest revision whose shapes are known, a list that every revision has).
_NAMESPACES = {
    "clustermgmt": (3, "config/clusters"),
    "vmm": (3, "ahv/config/vms"),
    "dataprotection": (4, "config/recovery-points"),
    "volumes": (3, "config/volume-groups"),
    "networking": (4, "config/subnets"),
    "prism": (4, "config/tasks"),
}
_RELEASE = re.compile(r"v4\.(\d{1,3})")  # previews such as v4.0.b1 do not count
_NOT_HERE = frozenset({404, 405, 501})


def connect(
    endpoint: Endpoint,
    credentials: Credentials,
    trust: Trust | None = None,
    *,
    timeout: float = 30.0,
    deadline: float = 600.0,
    clock: Clock | None = None,
) -> PrismClient:
    """Connect to a Prism Central, log in and find out which revisions it speaks.

    timeout: seconds to connect, and of silence in the middle of an answer.
    deadline: seconds a task (a recovery point, a volume group, ...) may take.
    clock: for tests.
    Raises TransportError, AuthFailed, Unsupported; ValueError for an unusable Trust.
    """
    trust = trust or Trust()
    clock = clock or SystemClock()
    with ExitStack() as stack:
        https = _Connections(trust, timeout, clock)
        stack.callback(https.close)
        http = https.open(endpoint, credentials)
        apis = {name: Api(http, name, _revision(http, name)) for name in _NAMESPACES}
        log.info(
            "%s speaks %s",
            endpoint.address,
            ", ".join(f"{name} {api.revision}" for name, api in apis.items()),
        )
        client = _compose(apis, https, clock, deadline)
        log_in = Call("GET", "config/clusters", {"$limit": "1"}, repeatable=True)
        apis["clustermgmt"].send(log_in)
        stack.pop_all()
        return client


def _compose(
    apis: dict[str, Api], https: _Connections, clock: Clock, deadline: float
) -> PrismClient:
    tasks = Tasks(apis["prism"], clock, deadline)
    vmm, dataprotection, volumes = apis["vmm"], apis["dataprotection"], apis["volumes"]
    http = vmm.http
    return PrismClient(
        clusters=Clusters(apis["clustermgmt"]),
        vms=Vms(vmm, Writes(vmm, tasks)),
        subnets=Subnets(apis["networking"]),
        storage_containers=StorageContainers(apis["clustermgmt"]),
        recovery_points=RecoveryPoints(dataprotection, Writes(dataprotection, tasks)),
        changed_regions=ChangedRegions(
            dataprotection, lambda host: https.element(Endpoint(host, http.endpoint.port)), clock
        ),
        volume_groups=VolumeGroups(volumes, Writes(volumes, tasks)),
        images=Images(vmm, Writes(vmm, tasks), Uploader(http, clock, deadline)),
        tasks=tasks,
        on_close=https.close,
    )


class _Connections:
    """The connections of one client: to Prism Central, and to each cluster once asked."""

    def __init__(self, trust: Trust, timeout: float, clock: Clock) -> None:
        self._trust = trust
        self._timeout = timeout
        self._clock = clock
        self._opened: list[Http] = []
        self._elements: dict[Endpoint, Http] = {}

    def open(self, endpoint: Endpoint, credentials: Credentials | None) -> Http:
        http = Http(endpoint, credentials, self._trust, timeout=self._timeout, clock=self._clock)
        self._opened.append(http)
        return http

    def element(self, endpoint: Endpoint) -> Http:
        """Return the connection to a cluster, which takes a token with each call and no login."""
        if endpoint not in self._elements:
            self._elements[endpoint] = self.open(endpoint, None)
        return self._elements[endpoint]

    def close(self) -> None:
        for http in self._opened:
            http.close()


def _revision(http: Http, namespace: str) -> str:
    """Return the newest revision of a namespace that the server and we both know."""
    newest, cheap_list = _NAMESPACES[namespace]
    offered = _announced(http, namespace)
    if offered is not None:
        return f"v4.{min(offered, newest)}"
    for number in range(newest, -1, -1):
        if _has_list(http, f"/api/{namespace}/v4.{number}/{cheap_list}"):
            return f"v4.{number}"
    raise Unsupported(
        f"{http.endpoint.address} offers no v4 API for {namespace}; connect to a Prism Central,"
        " pc.2024.3 or later"
    )


def _announced(http: Http, namespace: str) -> int | None:
    """Return the newest revision as announced; None where nothing usable is."""
    call = Call("OPTIONS", f"/api/{namespace}/unversioned/info", repeatable=True)
    answer = http.exchange(call)
    if answer.status in _NOT_HERE:
        return None
    if answer.status >= 400:
        raise refusal(answer.where, answer.status, answer.body, str(call.request_id))
    try:
        label = _RELEASE.fullmatch(str(answer.json().value.get("data")))
    except BadAnswer:
        return None  # OPTIONS on an unknown path is often answered 200 with nothing
    return int(label[1]) if label else None


def _has_list(http: Http, path: str) -> bool:
    call = Call("GET", path, {"$limit": "1"}, repeatable=True)
    answer = http.exchange(call)
    if answer.status in _NOT_HERE:
        return False
    if answer.status >= 300:
        raise refusal(answer.where, answer.status, answer.body, str(call.request_id))
    answer.json()  # a web page that is served for any path is no API
    return True
