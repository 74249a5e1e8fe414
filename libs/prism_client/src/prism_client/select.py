"""Which API generation and revision serves what: decided once, at connect.

The only module that names a generation. v4 is preferred, service by service; what is not offered
there is v3's. A definite "not here" (404, 405, 501) leads to the next choice; a time-out, a refusal
of the login or a server failure is an error, never a downgrade.
"""

from __future__ import annotations

import logging
import re
import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING

from prism_client._clock import SystemClock
from prism_client._http import Call, Http
from prism_client._refusal import refusal
from prism_client._v3 import compose as v3_services
from prism_client._v3.api import Api as V3Api
from prism_client._v3.images import Uploader
from prism_client._v4 import compose as v4_services
from prism_client._v4.api import Api as V4Api
from prism_client.errors import ApiError, BadAnswer, Unsupported
from prism_client.model import Endpoint, Trust
from prism_client.unreadable import Unreadables

if TYPE_CHECKING:
    from collections.abc import Callable

    from prism_client._clock import Clock
    from prism_client._http import Exchange
    from prism_client.client import PrismClient
    from prism_client.model import Credentials
    from prism_client.unreadable import Unreadable

log = logging.getLogger(__name__)

# Namespace -> (newest revision whose shapes are known, a list that every revision has; "" for one
# that counts only where the server announces it).
_NAMESPACES = {
    "clustermgmt": (3, "config/clusters"),
    "vmm": (3, "ahv/config/vms"),
    "dataprotection": (4, "config/recovery-points"),
    "volumes": (3, "config/volume-groups"),
    "networking": (4, "config/subnets"),
    "prism": (4, "config/tasks"),
    "datapolicies": (3, "config/protection-policies"),
    "multidomain": (3, ""),  # external repositories: nothing is called there yet
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
    on_unreadable: Callable[[Unreadable], None] | None = None,
    record: Callable[[Exchange], None] | None = None,
) -> PrismClient:
    """Connect to a Prism Central, log in and find out which APIs and revisions it speaks.

    timeout: seconds to connect, and of silence in the middle of an answer.
    deadline: seconds a task (a recovery point, a volume group, ...) may take.
    clock: for tests.
    on_unreadable: called once with each record that a list leaves out because it cannot be
    understood, in the thread that reads the list. PrismClient.unreadable keeps them too.
    record: called with each request and its answer, in the thread that sent it. They hold secrets.
    Raises TransportError, AuthFailed, Unsupported; ValueError for an unusable Trust.
    """
    trust = trust or Trust()
    clock = clock or SystemClock()
    with ExitStack() as stack:
        https = _Connections(endpoint, credentials, trust, timeout, clock, record)
        stack.callback(https.close)
        unreadable = Unreadables(on_unreadable)
        v4 = _served_v4(https.central, unreadable)
        v3 = V3Api(https.central, clock, deadline, unreadable)
        _log_in(v4, v3)
        client = _compose(v4, v3, https)
        stack.pop_all()
        return client


def _served_v4(http: Http, unreadable: Unreadables) -> dict[str, V4Api]:
    """Return the namespaces of v4 that the server has, each at its revision."""
    found = {name: _revision(http, name) for name in _NAMESPACES}
    log.info(
        "%s speaks %s",
        http.endpoint.address,
        ", ".join(f"{name} {revision or 'v3'}" for name, revision in found.items()),
    )
    return {
        name: V4Api(http, name, revision, unreadable)
        for name, revision in found.items()
        if revision is not None
    }


def _log_in(v4: dict[str, V4Api], v3: V3Api) -> None:
    """Read something, so that a wrong password or a server that is no Prism shows now."""
    if "clustermgmt" in v4:
        v4["clustermgmt"].send(Call("GET", "config/clusters", {"$limit": "1"}, repeatable=True))
        return
    try:
        v3.ask("clusters/list", {"kind": "cluster", "length": 1, "offset": 0})
    except ApiError as exc:
        if exc.status not in _NOT_HERE:
            raise
        raise Unsupported(
            f"{v3.http.endpoint.address} offers neither the v4 nor the v3 API; connect to a"
            f" Prism Central, pc.2023 or later ({exc})"
        ) from exc


def _compose(v4: dict[str, V4Api], v3: V3Api, https: _Connections) -> PrismClient:
    http, clock, deadline = v3.http, v3.clock, v3.deadline

    def at(host: str) -> Endpoint:
        try:
            return Endpoint(host, http.endpoint.port)
        except ValueError as exc:
            raise BadAnswer(f"Prism gives a cluster's address that is none: {exc}") from exc

    client = v3_services.client(
        v3,
        lambda host: V3Api(https.cluster(at(host)), clock, deadline, v3.unreadable),
        https.close,
    )
    return v4_services.over(
        client, v4, Uploader(v3), lambda host: https.element(at(host)), clock, deadline
    )


class _Connections:
    """The connections of one client: to Prism Central, and to each cluster once asked."""

    def __init__(
        self,
        endpoint: Endpoint,
        credentials: Credentials,
        trust: Trust,
        timeout: float,
        clock: Clock,
        record: Callable[[Exchange], None] | None,
    ) -> None:
        self._record = record
        self._credentials = credentials
        self._trust = trust
        self._timeout = timeout
        self._clock = clock
        self._opened: dict[tuple[Endpoint, Credentials | None], Http] = {}
        self._lock = threading.Lock()
        self.central = self._open(endpoint, credentials)

    def element(self, endpoint: Endpoint) -> Http:
        """Return the connection to a cluster, which takes a token with each call and no login."""
        return self._open(endpoint, None)

    def cluster(self, endpoint: Endpoint) -> Http:
        """Return the connection to a cluster that takes the same login as Prism Central."""
        return self._open(endpoint, self._credentials)

    def _open(self, endpoint: Endpoint, credentials: Credentials | None) -> Http:
        key = (endpoint, credentials)
        with self._lock:
            if key not in self._opened:
                self._opened[key] = Http(
                    endpoint,
                    credentials,
                    self._trust,
                    timeout=self._timeout,
                    clock=self._clock,
                    record=self._record,
                )
            return self._opened[key]

    def close(self) -> None:
        for http in self._opened.values():
            http.close()


def _revision(http: Http, namespace: str) -> str | None:
    """Return the newest revision of a namespace that the server and we both know; None for none."""
    newest, cheap_list = _NAMESPACES[namespace]
    offered = _announced(http, namespace)
    if offered is not None:
        return f"v4.{min(offered, newest)}"
    if not cheap_list:
        return None
    for number in range(newest, -1, -1):
        if _has_list(http, f"/api/{namespace}/v4.{number}/{cheap_list}"):
            return f"v4.{number}"
    return None


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
