"""Bytes of a snapshot by range: only a 206 that is right in every part is read, and no more."""

from __future__ import annotations

import socket
import ssl
import threading
from typing import TYPE_CHECKING, Any

import prism_client as pc
import pytest
from prism_client import Basic, Endpoint, Trust
from prism_client._clock import SystemClock
from prism_client._http import Call, Http
from prism_client._v3.snapshot_data import SnapshotData as NoData

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DISK = pc.DiskSnapshotRef("rp-2", "vmrp-2", "drp-2")
BYTES = bytes(range(64))
RANGE = {"Content-Range": f"bytes 512-575/{1 << 30}"}


@pytest.fixture
def read(prism: Any, client: Any) -> Callable[[], bytes]:
    data = client.snapshot_data.open(DISK, disk_size=prism.disk_size)

    def bytes_at_512() -> bytes:
        buffer = bytearray(b"\xee" * 64)
        data.fill(512, memoryview(buffer))
        return bytes(buffer)

    return bytes_at_512


def script(prism: Any, *replies: Any) -> None:
    prism.script("GET", "/data", *replies)


def discovered(prism: Any) -> int:
    return len(prism.sent("POST", "discover-cluster"))


def test_what_is_asked_and_what_is_read(prism: Any, read: Any) -> None:
    script(prism, *[prism.reply(206, BYTES, RANGE)] * 2)
    assert read() == BYTES
    assert read() == BYTES
    first, _ = prism.sent("GET", "/data")
    assert first.host == prism.pe
    assert first.path == (
        "/api/dataprotection/v4.0/content/recovery-points/rp-2/vm-recovery-points/vmrp-2"
        "/disk-recovery-points/drp-2/data"
    )
    assert first.headers["range"] == "bytes=512-575"
    assert first.headers["accept-encoding"] == "identity"
    assert "authorization" not in first.headers
    assert discovered(prism) == 1


def test_the_token_of_the_changed_regions_serves_once_more(prism: Any, client: Any) -> None:
    list(client.changed_regions.open(DISK, None, disk_size=prism.disk_size))
    data = client.snapshot_data.open(DISK, disk_size=prism.disk_size)
    script(prism, prism.reply(206, BYTES, RANGE))
    data.fill(512, memoryview(bytearray(64)))
    assert discovered(prism) == 1


def test_tokens_that_nobody_asks_for_do_not_gather(prism: Any, client: Any) -> None:
    for number in range(70):
        disk = pc.DiskSnapshotRef("rp", "vmrp", f"drp-{number}")
        list(client.changed_regions.open(disk, None, disk_size=prism.disk_size))
    kept = client.changed_regions.passes
    disks = [pc.DiskSnapshotRef("rp", "vmrp", f"drp-{number}") for number in (0, 5, 6, 69)]
    assert [kept.take(disk) is not None for disk in disks] == [False, False, True, True]


def test_a_token_is_renewed_when_it_is_old_and_once_when_it_is_refused(
    prism: Any, read: Any, clock: Any
) -> None:
    prism.claims = {"exp": int(clock.now()) + 100}
    script(prism, prism.reply(206, BYTES, RANGE), prism.reply(206, BYTES, RANGE))
    assert read() == BYTES
    clock.sleep(80)
    assert read() == BYTES
    assert discovered(prism) == 2
    script(prism, prism.refused(401, "expired"), prism.reply(206, BYTES, RANGE))
    assert read() == BYTES
    assert discovered(prism) == 3
    script(prism, *[prism.refused(401, "no")] * 2)
    with pytest.raises(pc.AuthFailed):
        read()


WRONG: list[tuple[Any, type[pc.PrismError], str]] = [
    ((200, BYTES, {}), pc.BadAnswer, "the answer is 200, not 206"),
    ((302, b"", {"Location": "https://elsewhere/"}), pc.BadAnswer, "is 302, not 206"),
    ((206, BYTES, {}), pc.BadAnswer, "Content-Range 'none'"),
    ((206, BYTES, {"Content-Range": f"bytes 0-63/{1 << 30}"}), pc.BadAnswer, "bytes 0-63"),
    ((206, BYTES, {"Content-Range": "bytes 512-575/*"}), pc.BadAnswer, "575/[*]"),
    ((206, BYTES, {"Content-Range": "bytes 512-575/4096"}), pc.BadAnswer, "575/4096"),
    ((206, BYTES[:63], RANGE), pc.BadAnswer, "Content-Length 63, not 64"),
    ((206, BYTES * 2, RANGE), pc.BadAnswer, "Content-Length 128, not 64"),
    ((206, BYTES, {**RANGE, "Content-Encoding": "gzip"}), pc.BadAnswer, "encoded"),
    ((206, BYTES, {**RANGE, "Transfer-Encoding": "chunked"}), pc.BadAnswer, "encoded"),
    ((206, BYTES, RANGE, 40), pc.TransportError, "no answer"),
    ((206, BYTES, RANGE, -1), pc.TransportError, "no answer"),
    ((404, b"", {}), pc.NotFound, "404"),
    ((416, b"", {}), pc.BadRequest, "416"),
    ((500, b"", {}), pc.ServerError, "500"),
    ((503, b"", {"Retry-After": "1"}), pc.ServerError, "503"),
]


@pytest.mark.parametrize(("reply", "kind", "words"), WRONG)
def test_any_other_answer_is_an_error_at_once(
    prism: Any, read: Any, reply: Any, kind: type[pc.PrismError], words: str
) -> None:
    script(prism, prism.reply(*reply))
    with pytest.raises(kind, match=words):
        read()
    assert len(prism.sent("GET", "/data")) == 1
    script(prism, prism.reply(206, BYTES, RANGE))
    assert read() == BYTES


def test_a_connection_is_kept_for_the_next_range(prism: Any, read: Any, monkeypatch: Any) -> None:
    made: list[Any] = []
    connect = socket.create_connection

    def counted(address: Any, *args: Any, **options: Any) -> socket.socket:
        made.append(address[0])
        return connect(address, *args, **options)

    monkeypatch.setattr(socket, "create_connection", counted)
    script(prism, *[prism.reply(206, BYTES, RANGE)] * 3)
    for _ in range(3):
        assert read() == BYTES
    assert made.count(prism.pe) <= 1


def test_v3_has_none() -> None:
    with pytest.raises(pc.Unsupported, match="drp-2: v3"):
        NoData().open(DISK, disk_size=1)


# a body without end


@pytest.fixture
def endless(issue: Any) -> Iterator[Callable[[bytes], Http]]:
    """A server that answers with this head, and then with bytes for as long as somebody reads."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    issue("127.0.0.1").configure_cert(context)
    listener = socket.create_server(("127.0.0.1", 0))
    sent: list[int] = []
    opened: list[Any] = []

    def serve(head: bytes) -> None:
        connection, _ = listener.accept()
        with context.wrap_socket(connection, server_side=True) as tls:
            tls.recv(65536)
            tls.sendall(head)
            sent.append(0)
            try:
                while sent[0] < 1 << 30:
                    tls.sendall(bytes(1 << 16))
                    sent[0] += 1 << 16
            except OSError:
                return

    def start(head: bytes) -> Any:
        thread = threading.Thread(target=serve, args=(head,), daemon=True)
        thread.start()
        trust = Trust(insecure=True)
        port = listener.getsockname()[1]
        http = Http(
            Endpoint("127.0.0.1", port), Basic("u", "p"), trust, timeout=10, clock=SystemClock()
        )
        opened.append((http, thread))
        return http, thread, sent

    yield start
    listener.close()
    for http, _ in opened:
        http.close()


ENDLESS_206 = b"HTTP/1.1 206 Partial Content\r\nContent-Length: 1099511627776\r\n"


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 1099511627776\r\n\r\n",
        ENDLESS_206 + b"Content-Range: bytes 0-63/1099511627776\r\n\r\n",
        ENDLESS_206 + b"Content-Range: bytes 0-1099511627775/1099511627776\r\n\r\n",
        b"HTTP/1.1 404 Not Found\r\n\r\n",
    ],
)
def test_the_body_of_a_wrong_answer_is_not_read(endless: Any, head: bytes) -> None:
    http, thread, sent = endless(head)
    with pytest.raises(pc.PrismError):
        http.fill(Call("GET", "/data", repeatable=True), memoryview(bytearray(64)), 0, 1 << 40)
    thread.join(20)
    assert not thread.is_alive(), "the connection was closed"
    assert sent[0] < 64 << 20, "what the buffers of the kernel take, and no more"
