"""One call on a bad network: retries, login, and what is not an answer of Prism."""

from __future__ import annotations

import email.utils
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import prism_client as pc
import pytest
from prism_client._clock import SystemClock

if TYPE_CHECKING:
    from pathlib import Path

VMS = "/ahv/config/vms"
EXPIRES = datetime(2026, 12, 1, tzinfo=UTC)


def test_a_read_survives_dropped_and_cut_connections(prism: Any, client: Any) -> None:
    prism.script("GET", VMS, prism.reply(cut=-1), prism.reply(body={"data": []}, cut=3))
    assert [vm.name for vm in client.vms.list()] == ["vm one"]
    assert len(prism.sent("GET", VMS)) == 3
    assert len({r.request_id for r in prism.requests}) == 1


def test_a_connection_that_keeps_breaking_is_unreachable(prism: Any, client: Any) -> None:
    prism.script("GET", VMS, *[prism.reply(cut=-1)] * 9)
    with pytest.raises(pc.Unreachable, match=f"{prism.pc}:{prism.port} the right host"):
        list(client.vms.list())
    assert len(prism.sent("GET", VMS)) == 3


def test_a_write_is_repeated_under_its_own_request_id_and_acts_once(
    prism: Any, client: Any
) -> None:
    prism.script("POST", "recovery-points$", lambda: None, prism.reply(cut=-1))
    take(client, prism, name="first")
    take(client, prism, name="second")
    first, lost, again = prism.sent("POST", "recovery-points$")
    assert lost.request_id == again.request_id != first.request_id
    assert [p.name for p in client.recovery_points.list()] == ["first", "second"]


def test_an_answer_lost_after_the_effect_does_not_act_twice(prism: Any, client: Any) -> None:
    def cut_next() -> None:
        """Let the write happen, and lose the answer: replay what was stored under the key."""
        usual = prism.route

        def route(request: Any) -> Any:
            prism.route = usual
            usual(request)
            return prism.reply(cut=-1)

        prism.route = route

    prism.script("POST", "recovery-points$", cut_next)
    take(client, prism, name="once")
    assert len(prism.sent("POST", "recovery-points$")) == 2
    assert [p.name for p in client.recovery_points.list()] == ["once"]


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_server_is_given_the_time_it_asks_for(
    prism: Any, client: Any, clock: Any, status: int
) -> None:
    later = email.utils.formatdate(clock.now() + 12, usegmt=True)
    prism.script(
        "GET",
        VMS,
        prism.reply(status, headers={"Retry-After": "7"}),
        prism.reply(status, headers={"Retry-After": later}),
        prism.reply(status, headers={"Retry-After": "soon"}),
        prism.reply(status),
    )
    assert len(list(client.vms.list())) == 1
    assert clock.slept == pytest.approx([7, 5, 4, 8], abs=1)


def test_a_server_that_stays_busy_is_given_up_within_the_budget(
    prism: Any, client: Any, clock: Any
) -> None:
    prism.script("GET", VMS, *[prism.refused(429, "slow down", "RATE_LIMIT_EXCEEDED")] * 50)
    with pytest.raises(pc.RateLimited, match="slow down") as caught:
        list(client.vms.list())
    assert caught.value.code == "RATE_LIMIT_EXCEEDED"
    assert 60 < sum(clock.slept) <= 120


def test_retry_after_nothing_does_not_go_on_for_ever(prism: Any, client: Any) -> None:
    prism.script("GET", VMS, *[prism.reply(429, headers={"Retry-After": "0"})] * 200)
    with pytest.raises(pc.RateLimited):
        list(client.vms.list())


def test_a_longer_wait_than_the_budget_is_refused_at_once(
    prism: Any, client: Any, clock: Any
) -> None:
    prism.script("GET", VMS, prism.reply(503, headers={"Retry-After": "86400"}))
    with pytest.raises(pc.ServerError):
        list(client.vms.list())
    assert clock.slept == []


def test_an_internal_error_is_not_repeated_and_carries_the_servers_words(
    prism: Any, client: Any
) -> None:
    prism.script("GET", VMS, prism.refused(500, "the disk is\n\x1b[31m on fire", "DP-10000"))
    with pytest.raises(pc.ServerError, match=r"the disk is \[31m on fire") as caught:
        list(client.vms.list())
    assert (caught.value.status, caught.value.code) == (500, "DP-10000")
    assert caught.value.request_id == prism.requests[-1].request_id
    assert len(prism.requests) == 1


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, pc.BadRequest),
        (401, pc.AuthFailed),
        (403, pc.Forbidden),
        (404, pc.NotFound),
        (409, pc.Conflict),
        (412, pc.Conflict),
        (422, pc.BadRequest),
        (500, pc.ServerError),
        (501, pc.ServerError),
    ],
)
def test_each_status_has_its_error(prism: Any, client: Any, status: int, kind: type) -> None:
    prism.script("GET", "clusters/c1", prism.refused(status, "because"))
    with pytest.raises(pc.ApiError, match="because") as caught:
        client.clusters.get("c1")
    assert type(caught.value) is kind


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (
            {
                "data": {
                    "error": {
                        "error": "Bad Request",
                        "validationErrorMessages": [{"message": "$limit is too large"}],
                    }
                }
            },
            "Bad Request; \\$limit is too large",
        ),
        ({"message_list": [{"message": "no such vm", "reason": "ENTITY_NOT_FOUND"}]}, "no such vm"),
        ({"error_code": {"code": 1202}, "message": "no such group"}, "no such group"),
        (b"<html>proxy error</html>", "answered 400 \\(request id"),
        ([{"unheard": "of"}], "answered 400 \\(request id"),
        ({"data": {"error": [None, {"message": 7}]}, "message_list": 3}, "answered 400"),
    ],
)
def test_the_words_of_any_error_envelope(prism: Any, client: Any, body: Any, words: str) -> None:
    prism.script("GET", "clusters/c1", prism.reply(400, body))
    with pytest.raises(pc.BadRequest, match=words):
        client.clusters.get("c1")


@pytest.mark.parametrize(
    "reply",
    [
        {"body": b"<!doctype html><title>Log in</title>", "headers": {"Content-Type": "text/html"}},
        {"body": b'{"data": {"extId": "c1", "na'},
        {"body": b"[]"},
        {"body": b""},
        {"body": b'{"data": ' + b"[" * 100_000},
        {"body": b'{"data": {"extId": "c1", "name": ' + b"9" * 5000 + b"}}"},
        {"body": {"metadata": {}}},
        {"body": {"data": [1]}},
        {"body": {"data": {"extId": "c1"}}},
        {"body": {"data": {"extId": "c1", "name": 7}}},
        {"status": 302, "headers": {"Location": "/console"}},
    ],
)
def test_what_is_not_an_answer_of_prism(prism: Any, client: Any, reply: Any) -> None:
    prism.script("GET", "clusters/c1", prism.reply(**reply))
    with pytest.raises(
        pc.BadAnswer, match=r"GET https://127.0.0.1:\d+/api/clustermgmt/v4.2/config"
    ):
        client.clusters.get("c1")


def test_an_answer_that_would_fill_the_memory_is_refused(
    prism: Any, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prism_client._http._MOST_ANSWER", 1 << 20)
    prism.script("GET", "clusters/c1", prism.reply(body=b" " * (2 << 20)))
    with pytest.raises(pc.BadAnswer, match="larger than 1 MiB"):
        client.clusters.get("c1")


@pytest.mark.security
def test_an_answer_of_many_empty_objects_is_refused_before_it_is_read(
    prism: Any, client: Any
) -> None:
    """64 MiB of {} would take 1.7 GiB of memory."""
    prism.script(
        "GET", "clusters/c1", prism.reply(body=b'{"data":[' + b"{}," * 2_100_000 + b"{}]}")
    )
    with pytest.raises(pc.BadAnswer, match="holds more than 2000000 values"):
        client.clusters.get("c1")


def test_an_error_reported_with_status_200_is_an_error(prism: Any, client: Any) -> None:
    reply = prism.refused(500, "not really")
    prism.script("GET", "clusters/c1", prism.reply(200, reply.body))
    with pytest.raises(pc.ServerError, match="not really"):
        client.clusters.get("c1")


def test_a_silent_server_is_a_timeout(prism: Any, dial: Any) -> None:
    client = dial(timeout=0.2)
    release = threading.Event()
    prism.script("GET", "clusters/c1", *[lambda: release.wait(5)] * 3)
    with pytest.raises(pc.Timeout, match="no answer in time"):
        client.clusters.get("c1")
    release.set()


def test_nobody_listens(closed_port: int, clock: Any) -> None:
    with pytest.raises(pc.Unreachable, match="Connection refused"):
        pc.connect(pc.Endpoint("127.0.0.1", closed_port), pc.ApiKey("k"), clock=clock)
    with pytest.raises(pc.Unreachable):
        pc.connect(pc.Endpoint("no.such.host.invalid"), pc.ApiKey("k"), clock=clock)


# login


def test_basic_is_sent_until_the_server_gives_a_session(prism: Any, dial: Any) -> None:
    prism.gives_sessions = True
    client = dial()
    client.clusters.list()
    assert "authorization" in prism.requests[0].headers
    assert all("authorization" not in r.headers for r in prism.requests[1:])


def test_an_expired_session_logs_in_again_once(prism: Any, dial: Any) -> None:
    prism.gives_sessions = True
    client = dial()
    prism.sessions.clear()
    prism.requests.clear()
    assert client.clusters.get("c1").name == "lab"
    assert ["authorization" in r.headers for r in prism.requests] == [False, True]
    prism.sessions.clear()
    prism.script("GET", "clusters/c1", *[prism.refused(401, "go away")] * 5)
    prism.requests.clear()
    with pytest.raises(pc.AuthFailed, match="check user, password"):
        client.clusters.get("c1")
    assert len(prism.requests) == 2


def test_a_cookie_that_is_no_session_does_not_replace_the_password(prism: Any, dial: Any) -> None:
    client = dial()
    prism.script(
        "GET",
        "clusters$",
        prism.reply(body={}, headers={"Set-Cookie": "balancer=7; Path=/"}),
    )
    client.clusters.list()
    client.clusters.get("c1")
    assert "authorization" in prism.requests[-1].headers


def test_an_api_key_goes_with_every_call_and_takes_no_session(prism: Any, dial: Any) -> None:
    prism.script(
        "OPTIONS",
        "vmm",
        prism.reply(body={"data": "v4.2"}, headers={"Set-Cookie": "NTNX_IGW_SESSION=x; Path=/"}),
    )
    client = dial(pc.ApiKey("the-key"))
    assert client.clusters.get("c1").name == "lab"
    for request in prism.requests:
        assert request.headers["x-ntnx-api-key"] == "the-key"
        assert not {"authorization", "cookie"} & set(request.headers)


def test_a_token_stands_for_the_login_where_prism_sends_us(prism: Any, dial: Any) -> None:
    prism.gives_sessions = True
    client = dial()
    there = f"https://{prism.pe}:{prism.port}/entity/c1"
    token = {"X-Redirect-Token": "NTNX_IGW_SESSION=the-token"}
    body = {"data": prism.lists["clustermgmt:config/clusters"][0]}
    prism.script("GET", "clusters/c1", prism.reply(302, headers={"Location": there, **token}))
    prism.script("GET", "^/entity/c1", prism.reply(302, headers={"Location": "/entity/2", **token}))
    prism.script("GET", "^/entity/2", prism.reply(body=body))
    prism.requests.clear()
    assert client.clusters.get("c1").name == "lab"
    first, *others = prism.requests
    assert [(r.host, r.path) for r in others] == [(prism.pe, "/entity/c1"), (prism.pe, "/entity/2")]
    assert {r.headers["cookie"] for r in others} == {"NTNX_IGW_SESSION=the-token"}
    assert "the-token" not in first.headers["cookie"]
    assert not any("authorization" in r.headers for r in prism.requests)


@pytest.mark.parametrize(
    ("method", "location", "token"),
    [
        ("GET", "https://127.0.0.2:{port}/login", None),
        ("GET", "http://127.0.0.2:{port}/entity", "t"),
        ("GET", "", None),
        ("GET", "https://[oh", "t"),
        ("POST", "https://127.0.0.2:{port}/entity", "t"),
    ],
)
def test_no_other_redirection_is_followed(
    prism: Any, client: Any, method: str, location: str, token: str | None
) -> None:
    headers = {"Location": location.format(port=prism.port)} if location else {}
    headers |= {"X-Redirect-Token": token} if token else {}
    prism.script(method, "clusters/c1|recovery-points$", prism.reply(302, headers=headers))
    before = len(prism.requests)
    with pytest.raises(pc.BadAnswer, match="redirected to"):
        _ = client.clusters.get("c1") if method == "GET" else take(client, prism, name="x")
    assert len(prism.requests) == before + 1


def test_redirections_come_to_an_end(prism: Any, client: Any) -> None:
    on = {"Location": "/api/again", "X-Redirect-Token": "t"}
    prism.script("GET", "clusters/c1|again", *[prism.reply(302, headers=on)] * 9)
    with pytest.raises(pc.BadAnswer, match="redirected to"):
        client.clusters.get("c1")
    assert len(prism.sent("GET", "again")) == 3


def test_a_wrong_password_is_found_when_connecting(prism: Any, dial: Any) -> None:
    with pytest.raises(pc.AuthFailed):
        dial(pc.Basic("admin", "wrong"))
    # and also where only the real calls ask for a login
    names = ("clustermgmt", "vmm", "dataprotection", "volumes", "networking", "prism")
    for name in names:
        prism.script("OPTIONS", f"/{name}/", prism.reply(body={"data": "v4.1"}))
    with pytest.raises(pc.AuthFailed):
        dial(pc.Basic("admin", "wrong"))


def test_secrets_are_in_no_repr() -> None:
    assert "hunter2" not in repr(pc.Basic("admin", "hunter2"))
    assert "hunter2" not in repr(pc.ApiKey("hunter2"))


def test_the_environment_overrules_nothing(
    prism: Any, dial: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text(f"machine {prism.pc} login other password other\n")
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(prism.ca_file))
    monkeypatch.setenv("CURL_CA_BUNDLE", str(prism.ca_file))
    assert dial(pc.ApiKey("the-key")).clusters.list()
    assert all("authorization" not in r.headers for r in prism.requests)
    with pytest.raises(pc.UntrustedCertificate):  # the system's store does not know the fake
        pc.connect(pc.Endpoint(prism.pc, prism.port), pc.ApiKey("the-key"), clock=prism.clock)


def take(client: Any, prism: Any, *, name: str) -> Any:
    return client.recovery_points.create(
        prism.vm["extId"], name=name, expires=EXPIRES, consistency=pc.Consistency.CRASH
    )


def test_by_default_time_is_the_machines_own(prism: Any, dial: Any) -> None:
    client = dial(clock=None)
    prism.claims = {"exp": 4_000_000_000}
    prism.task_statuses = ["RUNNING", "SUCCEEDED"]
    started = time.monotonic()
    point = take(client, prism, name="real")
    assert time.monotonic() - started >= 0.1
    ref = point.disk_ref(point.disks[1])
    assert list(client.changed_regions.open(ref, None, disk_size=prism.disk_size)) == []


def test_an_answer_that_drips_is_given_up(prism: Any, dial: Any) -> None:
    client = dial(clock=SystemClock(), timeout=0.3)
    drip = prism.reply(body={"data": {"name": "x" * 500}}, pause=0.05)
    prism.script("POST", "/discover-cluster", *[drip] * 3)
    began = time.monotonic()
    with pytest.raises(pc.Timeout, match=r"only \d+ bytes of the answer arrived within 3.3 s"):
        client.changed_regions.open(pc.DiskSnapshotRef("a", "b", "c"), None, disk_size=1 << 20)
    assert time.monotonic() - began < 20


def test_a_head_that_drips_is_given_up(prism: Any, dial: Any) -> None:
    client = dial(clock=SystemClock(), timeout=0.3)
    line = b"HTTP/1.1 200 OK\r\nX: " + b"x" * 2000
    prism.script("GET", "clusters/c1", *[prism.reply(raw=line, pause=0.05)] * 3)
    began = time.monotonic()
    with pytest.raises(pc.Timeout, match=r"only \d+ bytes of the answer arrived within 3.3 s"):
        client.clusters.get("c1")
    assert time.monotonic() - began < 30


def test_an_endless_row_of_interim_answers_is_no_answer(prism: Any, client: Any) -> None:
    interim = b"HTTP/1.1 100 Continue\r\n\r\n" * 100_000
    prism.script("GET", "clusters/c1", prism.reply(raw=interim))
    with pytest.raises(pc.BadAnswer, match="the head of the answer is larger than 256 KiB"):
        client.clusters.get("c1")
    assert client.clusters.get("c1").name == "lab"


def test_interim_answers_before_the_answer_do_no_harm(prism: Any, client: Any) -> None:
    body = json.dumps({"data": prism.lists["clustermgmt:config/clusters"][0]}).encode()
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body)
    raw = b"HTTP/1.1 100 Continue\r\n\r\n" * 3 + head + body
    prism.script("GET", "clusters/c1", prism.reply(raw=raw))
    assert client.clusters.get("c1").name == "lab"


@pytest.mark.parametrize("token", [{}, {"X-Redirect-Token": "t"}])
def test_no_control_character_of_the_server_gets_into_a_message(
    prism: Any, client: Any, token: dict[str, str]
) -> None:
    raw = b"HTTP/1.1 302 Found\r\nLocation: https://x/\x1b[31mred\x9b2J\r\nContent-Length: 0\r\n"
    raw += b"".join(f"{name}: {value}\r\n".encode() for name, value in token.items()) + b"\r\n"
    prism.script("GET", "clusters/c1", *[prism.reply(raw=raw)] * 3)
    with pytest.raises(pc.PrismError) as caught:
        client.clusters.get("c1")
    assert str(caught.value).isprintable()


def test_a_message_is_one_printable_line_of_bounded_length() -> None:
    error = pc.PrismError("a\x1b[31m\nB\u202e" + "c" * 100_000)
    assert str(error).startswith("a [31m B c")
    assert str(error).isprintable()
    assert len(str(error)) == 2000


def test_calls_share_a_connection(prism: Any, client: Any) -> None:
    prism.connections = 0
    for _ in range(20):
        client.clusters.list()
        list(client.vms.list())
    take(client, prism, name="shared")
    assert prism.connections == 0, "all went over the connection that was made at the start"
    assert len(prism.requests) > 40


def test_a_call_that_must_not_be_repeated_gets_a_new_connection(
    prism: Any, client: Any, tmp_path: Path
) -> None:
    prism.connections = 0
    file = tmp_path / "image"
    file.write_bytes(b"x" * 1000)
    client.images.upload("disk", file)
    assert prism.connections == 2, "one for making the image, one for its bytes"


def test_parallel_calls_keep_their_connections(prism: Any, client: Any) -> None:
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda _: client.clusters.get("c1"), range(64)))
        before = prism.connections
        list(pool.map(lambda _: client.clusters.get("c1"), range(64)))
    assert prism.connections - before <= 16
