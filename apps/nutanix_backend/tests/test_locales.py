"""The command lines on terminals that have no letters for the names of the VMs."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import attrs
import pytest
from prism_lab import Lab
from vm_replica.protocol import allowed, tls

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MIB = 1 << 20
NAMES = ("Büro", "имя", "サーバー", "😀")
ENVIRONMENTS = {
    "POSIX": {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    "Latin-1": {"PYTHONIOENCODING": "latin-1:strict"},
}


@attrs.frozen
class Hosts:
    """A source and a receiver, and the VMs of a cluster."""

    folder: Path
    config: Path
    address: str

    def run(self, environment: dict[str, str], module: str, *words: str | Path) -> bytes:
        """A command that must end well, and what it said."""
        done = subprocess.run(
            [sys.executable, "-m", module, *map(str, words)],
            check=False, capture_output=True, env={**os.environ, **environment}, timeout=100,
        )  # fmt: skip
        said = done.stdout + done.stderr
        assert b"Traceback" not in said, said.decode("latin-1")
        assert done.returncode == 0, said.decode("latin-1")
        return said


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    folder = tmp_path_factory.mktemp("locales")
    with Lab.start(folder / "lab", cluster_name="Köln-имя", task_seconds=0) as lab:
        for name in NAMES:
            lab.create_vm(name, [MIB])
        config = folder / "prism.conf"
        config.write_text(
            f"prism = {lab.pc_host}\nuser = {lab.user}\npassword = {lab.password}\n"
            f"ca = {lab.ca_file}\nstate_dir = {folder / 'state'}\ntransport = userspace\n"
        )
        config.chmod(0o600)
        with socket.create_server(("127.0.0.1", 0)) as free:
            address = f"127.0.0.1:{free.getsockname()[1]}"
        with serving(folder, address):
            yield Hosts(folder, config, address)


class serving:  # noqa: N801 - a context manager
    """A receiver in a process of its own, which the source is paired with."""

    def __init__(self, folder: Path, address: str) -> None:
        self._folder, self._address = folder, address
        theirs = tls.ensure_identity(folder / "identity", "receiver")
        ours = tls.ensure_identity(folder / "state" / "identity", "source")
        tls.add_peer(theirs.folder, ours.certificate)
        tls.add_peer(ours.folder, theirs.certificate)
        tls.remember_pair(ours.folder, address, theirs.fingerprint)
        allowed.save(theirs.folder, (allowed.Grant(ours.fingerprint, "*", "*"),))

    def __enter__(self) -> None:
        words = ("--store", self._folder / "store", "--identity", self._folder / "identity")
        log = (self._folder / "receiver.log").open("wb")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "replica_receiver", "serve", *map(str, words),
             "--listen", self._address, "--reserve", "0"],
            stderr=log, env={**os.environ, **ENVIRONMENTS["POSIX"]},
        )  # fmt: skip
        log.close()
        host, _, port = self._address.partition(":")
        deadline = time.monotonic() + 60
        while True:
            try:
                return socket.create_connection((host, int(port)), 1).close()
            except OSError:
                assert time.monotonic() < deadline, "the receiver does not listen"
                time.sleep(0.05)

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(60)
        assert b"Traceback" not in (self._folder / "receiver.log").read_bytes()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("environment", ENVIRONMENTS.values(), ids=list(ENVIRONMENTS))
def test_every_command_shows_every_name(hosts: Hosts, environment: dict[str, str]) -> None:
    backend, receiver = "nutanix_backend", "replica_receiver"
    config, store = f"config_file={hosts.config}", ("--store", hosts.folder / "store")
    job = ("--name", "n", "--working-dir", hosts.folder / "work", config)
    hosts.run(environment, backend, "replicate", "--to", hosts.address, config, "*")
    hosts.run(environment, backend, "leftovers", config)
    hosts.run(environment, backend, "job", "estimate", *job, "vm=имя")
    hosts.run(environment, receiver, "status", *store)
    hosts.run(environment, receiver, "points", "имя", *store)
    hosts.run(environment, receiver, "failover", "status", *store)
