"""Images that Prism fetches from this host: for the cluster and for nobody else."""

from __future__ import annotations

import http.client
import socket
import ssl
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from nutanix_backend.ahv import image_server
from ptcomm import Level
from ptcomm_runner.catalog import Status

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from prism_lab import Lab

    from apps.nutanix_backend.tests.conftest import Product

MIB = 1 << 20
CONTENT = bytes(range(256)) * 5000
CLUSTER, ITS_CVM, STRANGER = "127.77.1.10", "127.77.1.99", "127.77.2.10"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "disk.qcow2"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
def url(file: Path) -> Iterator[str]:
    with image_server.served(file, [CLUSTER], lambda _count: None) as served:
        yield served


def ask(url: str, client: str, *, path: str = "", method: str = "GET") -> tuple[int, bytes]:
    """Ask as a client with this address; raises what http.client raises for no answer."""
    parts = urlsplit(url)
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    connection = http.client.HTTPSConnection(
        str(parts.hostname), parts.port, context=context, source_address=(client, 0), timeout=20
    )
    try:
        connection.request(method, path or parts.path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


@pytest.mark.parametrize("client", [CLUSTER, ITS_CVM])
def test_the_cluster_gets_the_file(url: str, client: str) -> None:
    assert ask(url, client) == (200, CONTENT)
    assert ask(url, client, method="HEAD") == (200, b"")


@pytest.mark.security
def test_a_stranger_who_knows_the_path_gets_nothing(url: str) -> None:
    with pytest.raises(http.client.HTTPException):
        ask(url, STRANGER)
    assert ask(url, CLUSTER) == (200, CONTENT), "and others are served"


@pytest.mark.security
@pytest.mark.parametrize("path", ["/", "/x", "/../etc/passwd", "//", "/%2e%2e/disk.qcow2"])
def test_another_path_gets_nothing(url: str, path: str) -> None:
    with pytest.raises(http.client.HTTPException):
        ask(url, CLUSTER, path=path)


@pytest.mark.security
def test_a_silent_client_holds_up_nobody(url: str) -> None:
    parts = urlsplit(url)
    silent = [socket.create_connection((str(parts.hostname), parts.port)) for _ in range(20)]
    try:
        assert ask(url, CLUSTER) == (200, CONTENT)
    finally:
        for connection in silent:
            connection.close()


def test_the_address_ends_with_the_upload(file: Path) -> None:
    told: list[int] = []
    with image_server.served(file, [CLUSTER], told.append) as served:
        ask(served, CLUSTER)
    assert sum(told) == len(CONTENT)
    with pytest.raises(OSError, match="refused"):
        ask(served, CLUSTER)


def test_a_cluster_without_an_address(file: Path) -> None:
    with (
        pytest.raises(OSError, match="no address that this host can resolve"),
        image_server.served(file, ["no.such.host.invalid"], print),
    ):
        raise AssertionError("nothing can be served")


def restored(product: Product, name: str) -> tuple[Status, str]:
    result = product.restore(restore_via="image", restore_vm_name=name)
    return result.status, "\n".join(message.text for message in result.log)


def test_a_restore_lets_prism_fetch_the_images(product: Product, lab: Lab) -> None:
    guest = product.guest(2 * MIB)
    product.good_backup(Level.FULL, guest)
    known = len(lab.requests)
    status, log = restored(product, "fetched")
    assert status is Status.GOOD, log
    calls = {f"{method} {path}" for method, path, _ in lab.requests[known:]}
    assert any(call.startswith("POST /api/vmm/") and call.endswith("/images") for call in calls)
    assert not any(call.startswith("PUT /api/nutanix/v3/images") for call in calls)
    assert lab.disk_file("fetched", 0).read_bytes() == lab.disk_file(guest.name, 0).read_bytes()


def test_a_prism_that_cannot_fetch_gets_an_upload(product: Product, lab: Lab) -> None:
    guest = product.guest(2 * MIB)
    product.good_backup(Level.FULL, guest)
    lab.faults.fail_task("POST */content/images", message="the address cannot be reached")
    known = len(lab.requests)
    status, log = restored(product, "uploaded")
    assert status is Status.GOOD, log
    assert "Prism does not fetch images from this host, they are uploaded" in log
    assert any(method == "PUT" and "/images/" in path for method, path, _ in lab.requests[known:])
    assert lab.disk_file("uploaded", 0).read_bytes() == lab.disk_file(guest.name, 0).read_bytes()
