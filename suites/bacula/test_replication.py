"""Replication that the Director schedules: a backup job whose only file is a report."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from suites.bacula.harness.daemons import AS_USER
from suites.bacula.harness.site import KIB, MIB, assert_quiet, same

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from suites.bacula.harness.daemons import Installation
    from suites.bacula.harness.site import Guest, Site


RECEIVER = (sys.executable, "-m", "replica_receiver")
"""Its own package is tested by itself; here it is the other end."""


def test_a_job_brings_replicas_up_to_date(
    site: Site, installation: Installation, tmp_path: Path
) -> None:
    """A seed, then changes; after each the replica is what the guest has, bit for bit."""
    guest = site.guest(16 * MIB, 4 * MIB)
    store = tmp_path / "store"
    with receiver(installation.backend, store, site.state_dir / "identity") as address:
        site.define(f"vm={guest.name} mode=replicate replicate_to={address}")
        for level in ("Full", "Incremental", "Incremental"):
            job = site.backup(level)
            assert job.status == "T", job.words
            assert_quiet(job)
            assert_replica(store, guest)
            guest.write(0, 5 * MIB, 300 * KIB)
    failed = site.backup("Incremental")
    assert failed.status == "f", "nobody listens any more"
    assert failed.said(address), failed.words


def assert_replica(store: Path, guest: Guest) -> None:
    """The images of the replica are the disks of the guest."""
    images = sorted((store / "replicas").rglob("images/*.raw"), key=lambda p: -p.stat().st_size)
    assert len(images) == len(guest.disks)
    assert all(same(image, disk) for image, disk in zip(images, guest.disks, strict=True))


@contextmanager
def receiver(program: Path, store: Path, source: Path) -> Iterator[str]:
    """A receiver that is paired with the source; its address."""
    identity = store.with_name("receiver-identity")
    fingerprint, _ = shown((program,), identity)
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    serve = [
        *RECEIVER, "serve", "--store", str(store), "--identity", str(identity),
        "--listen", address, "--reserve", "16M",
    ]  # fmt: skip
    with subprocess.Popen(serve) as process:
        try:
            wait_for(address)
            ours = (*AS_USER, program)
            run(*ours, "pair", "--identity", source, "--receiver", address,
                "--fingerprint", fingerprint)  # fmt: skip
            certificate = shown(ours, source)[1]
            run(*RECEIVER, "allow", "--identity", identity, "--vm", "*", certificate)
            yield address
        finally:
            process.terminate()


def shown(program: tuple[Path | str, ...], identity: Path) -> tuple[str, str]:
    """Fingerprint and certificate of a side, which are made with the first question."""
    said = run(*program, "pair", "--identity", identity).splitlines()
    return said[0].rpartition(" ")[2], said[1].rpartition(" ")[2]


def run(*command: Path | str) -> str:
    """What a command says, which must end well."""
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def wait_for(address: str) -> None:
    """Until somebody listens there."""
    host, _, port = address.partition(":")
    deadline = time.monotonic() + 30
    while True:
        try:
            socket.create_connection((host, int(port)), 1).close()
        except OSError:
            assert time.monotonic() < deadline, "the receiver does not listen"
            time.sleep(0.05)
        else:
            return
