"""A receiver with its metrics, and a real Prometheus that reads them."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import pytest
from vm_replica.protocol import tls
from vm_replica.receiver import Receiver
from vm_replica.store.access import make_store
from vm_replica.store.admission import Limits

from libs.vm_replica.tests.receiver_site import VM, Site, cycle_of, send

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
RULES = EXAMPLES / "prometheus-rules.yml"
JOB = "podheitor-receiver"


def free_port() -> int:
    """A port of loopback that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until(happened: Callable[[], bool], what: str) -> None:
    """Wait for something that happens in seconds, for as long as a busy machine needs."""
    deadline = time.monotonic() + 600
    while not happened():
        assert time.monotonic() < deadline, f"waited too long for {what}"
        time.sleep(0.2)


@contextlib.contextmanager
def running(*words: object, log: Path) -> Iterator[None]:
    """A program that runs while this is open."""
    with (
        log.open("wb") as file,
        subprocess.Popen([str(word) for word in words], stdout=file, stderr=file) as process,
    ):
        try:
            yield
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def late_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with one replica that is far behind what its source has promised."""
    folder = tmp_path_factory.mktemp("site")
    store = make_store(folder / "store", Limits(reserve=0))
    site = Site(folder, store)
    tls.ensure_identity(site.identity, "receiver")
    with Receiver(store, site.identity, options=site.options) as site.running:
        manifest, stream = cycle_of(os.urandom(1 << 20), taken=int(time.time()) - 3600)
        with site.connect(site.source("source", VM)) as session:
            send(session, manifest, stream)
    return folder


@pytest.fixture(scope="module")
def receiver(late_store: Path) -> Iterator[str]:
    """The program that serves this store; where it answers Prometheus."""
    address = f"127.0.0.1:{free_port()}"
    words = (
        sys.executable, "-m", "replica_receiver", "serve", "--store", late_store / "store",
        "--identity", late_store / "receiver", "--listen", "127.0.0.1:0", "--metrics", address,
    )  # fmt: skip
    with running(*words, log=late_store / "receiver.log"):
        wait_until(lambda: answers(f"http://{address}/metrics"), "the receiver")
        yield address


def answers(url: str) -> bool:
    """Whether somebody answers there."""
    try:
        with urllib.request.urlopen(url) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


@attrs.frozen
class Prometheus:
    """A running Prometheus."""

    address: str

    def ask(self, path: str, **parameters: str) -> Any:
        """The data of an answer."""
        query = urllib.parse.urlencode(parameters)
        with urllib.request.urlopen(f"http://{self.address}/api/v1/{path}?{query}") as answer:
            document = json.load(answer)
        assert document["status"] == "success", document
        return document["data"]


@pytest.fixture(scope="module")
def prometheus(receiver: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Prometheus with our rules, reading the receiver each second."""
    folder = tmp_path_factory.mktemp("prometheus")
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(RULES)],
        "scrape_configs": [{"job_name": JOB, "static_configs": [{"targets": [receiver]}]}],
    }
    (folder / "prometheus.yml").write_text(json.dumps(config))
    address = f"127.0.0.1:{free_port()}"
    words = (
        "prometheus", f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address={address}",
    )  # fmt: skip
    with running(*words, log=folder / "log"):
        wait_until(lambda: answers(f"http://{address}/-/ready"), "Prometheus")
        yield Prometheus(address)
