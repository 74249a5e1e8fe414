"""Every fault that can be ordered, seen from the client's side."""

from __future__ import annotations

import time
import uuid
from typing import TYPE_CHECKING, Any

import pytest
import requests
from prism_lab import Faults

if TYPE_CHECKING:
    from collections.abc import Callable

    from apps.prism_lab.tests.conftest import Api

VMS = "/vmm/v4.2/ahv/config/vms"
POINTS = "/dataprotection/v4.3/config/recovery-points"


@pytest.fixture
def api(module_api: Api) -> Api:
    return module_api


def point_body(vm: str) -> dict[str, Any]:
    return {
        "name": "x",
        "expirationTime": "2099-01-01T00:00:00Z",
        "vmRecoveryPoints": [{"vmExtId": vm}],
    }


def points_of(api: Api, vm: str) -> list[dict[str, Any]]:
    return [point for point in api.lab.state()["recovery_points"] if point["vms"] == [vm]]


def test_the_first_match_is_taken_and_counted() -> None:
    faults = Faults()
    faults.status("POST */b", 500, times=2, skip=1)
    faults.delay("*/b", 1.0)
    assert faults.take("GET", "/a") is None
    kinds = [fault and fault.kind for fault in (faults.take("POST", "/a/b") for _ in range(5))]
    assert kinds == ["delay", "status", "status", None, None]
    faults.drop("*")
    faults.clear()
    assert faults.pending() == []


def test_status_with_retry_after(api: Api) -> None:
    vm = api.lab.create_vm("status", [1 << 20])
    api.lab.faults.status("POST */recovery-points", 503, retry_after=1, message="busy")
    answer = api.call("POST", POINTS, point_body(vm))
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    assert answer.json()["data"]["error"][0]["message"] == "busy"
    assert points_of(api, vm) == []
    assert api.call("POST", POINTS, point_body(vm)).status_code == 202


def test_delay(api: Api) -> None:
    api.lab.faults.delay(f"GET *{VMS}", 0.3)
    started = time.monotonic()
    assert api.call("GET", VMS).ok
    assert time.monotonic() - started >= 0.3


@pytest.mark.parametrize(
    ("path", "words"),
    [
        (VMS, lambda body: body["data"]["error"][0]["message"]),
        ("/nutanix/v3/vms/x", lambda body: body["message_list"][0]["message"]),
        ("/nutanix/v2.0/cluster", lambda body: body["message"]),
    ],
)
def test_a_status_speaks_in_the_envelope_of_its_api(
    api: Api, path: str, words: Callable[[Any], str]
) -> None:
    api.lab.faults.status("GET *", 412, message="not now")
    answer = api.call("GET", path)
    assert answer.status_code == 412
    assert words(answer.json()) == "not now"
    api.lab.faults.status("GET *", 501)
    empty = api.call("GET", path)
    assert (empty.status_code, empty.content) == (501, b"")


def test_cut_json_and_a_login_page(api: Api) -> None:
    vm = api.lab.create_vm("page", [1 << 20])
    api.lab.faults.cut_json(f"GET *{VMS}")
    answer = api.call("GET", VMS)
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "application/json")
    with pytest.raises(requests.exceptions.JSONDecodeError):
        answer.json()
    for after_effect in (False, True):
        api.lab.faults.html("POST */recovery-points", after_effect=after_effect)
        page = api.call("POST", POINTS, point_body(vm))
        assert (page.status_code, page.headers["Content-Type"]) == (200, "text/html")
    deadline = time.monotonic() + 5
    while not points_of(api, vm):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert len(points_of(api, vm)) == 1


def test_a_dripping_answer(api: Api) -> None:
    api.lab.faults.drip(f"GET *{VMS}", 0.5)
    started = time.monotonic()
    assert api.call("GET", VMS).json()["metadata"]
    assert time.monotonic() - started >= 0.5


@pytest.mark.parametrize("kind", ["drop", "reset"])
@pytest.mark.parametrize("after_effect", [False, True])
def test_a_lost_connection(api: Api, kind: str, *, after_effect: bool) -> None:
    vm = api.lab.create_vm("dropped", [1 << 20])
    request_id = str(uuid.uuid4())
    getattr(api.lab.faults, kind)("POST */recovery-points", after_effect=after_effect)
    with pytest.raises(requests.ConnectionError):
        api.call("POST", POINTS, point_body(vm), NTNX_Request_Id=request_id)
    deadline = time.monotonic() + 5
    while after_effect and not points_of(api, vm):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert api.lab.requests[-1] == ("POST", f"/api{POINTS}", 0)
    assert len(points_of(api, vm)) == after_effect
    api.wait(api.start("POST", POINTS, point_body(vm), NTNX_Request_Id=request_id))
    assert len(points_of(api, vm)) == 1  # the retry found the first one's task


def test_a_truncated_answer(api: Api) -> None:
    api.lab.faults.truncate(f"GET *{VMS}")
    with pytest.raises((requests.ConnectionError, requests.exceptions.ChunkedEncodingError)):
        api.call("GET", VMS)
    assert api.call("GET", VMS).ok


def test_an_edited_answer(api: Api) -> None:
    def lie(body: dict[str, Any]) -> None:
        body["metadata"]["totalAvailableResults"] = 99

    api.lab.faults.edit(f"GET *{VMS}", lie)
    assert api.call("GET", VMS).json()["metadata"]["totalAvailableResults"] == 99


@pytest.mark.parametrize("after_effect", [False, True])
def test_a_failing_task(api: Api, *, after_effect: bool) -> None:
    vm = api.lab.create_vm("failing", [1 << 20])
    api.lab.faults.fail_task(
        "POST */recovery-points", message="out of luck", after_effect=after_effect
    )
    task = api.wait(api.start("POST", POINTS, point_body(vm)))
    assert task["status"] == "FAILED"
    assert task["errorMessages"][0]["message"] == "out of luck"
    assert task["entitiesAffected"] == []
    assert len(points_of(api, vm)) == after_effect


def test_requests_are_logged(api: Api) -> None:
    api.call("GET", f"{VMS}/nosuch")
    assert api.lab.requests[-1] == ("GET", f"/api{VMS}/nosuch", 404)


def test_exchanges_are_logged_with_their_host(api: Api) -> None:
    api.call("GET", f"{VMS}/nosuch")
    found = api.lab.exchanges[-1]
    assert (found.host, found.method, found.status) == (api.lab.pc_host, "GET", 404)


def test_exchanges_show_bodies_and_queries_as_they_came(api: Api) -> None:
    api.call("GET", f"{VMS}?%24limit=1&$filter=name+eq+%27a%20b%27")
    listing = api.lab.exchanges[-1]
    assert listing.target == f"/api{VMS}?%24limit=1&$filter=name+eq+%27a%20b%27"
    assert listing.body is None
    api.call("POST", POINTS, {"name": "nothing"})
    assert api.lab.exchanges[-1].body == {"name": "nothing"}
    assert "NTNX-Request-Id".title() in api.lab.exchanges[-1].headers
