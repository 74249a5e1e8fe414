"""How fast replicas are brought up to date, on one machine and in one run.

    python benchmarks/replication_speed.py throughput   a disk over loopback TLS to a receiver that
                                                        stores it, against openssl s_client and
                                                        s_server moving the same bytes to a file
    python benchmarks/replication_speed.py cycles       a cycle against what changed, for disks of
                                                        1, 10 and 100 GiB on the lab

The contestants take turns; the tables give medians.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import iscsi_attach
from nutanix_backend.disks.regions import Region, RegionList
from nutanix_backend.disks.streams import delta_length
from nutanix_backend.replicate import stream
from nutanix_backend.replicate.cycles import Work
from nutanix_backend.replicate.source import send_stream
from nutanix_backend.settings.parameters import parse
from prism_lab import Lab
from rich.console import Console
from rich.table import Table
from vm_replica.protocol import allowed, channel, messages, tls
from vm_replica.protocol.manifest import SCHEMA, Configuration, CycleDisk, CycleManifest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

GIB, MIB = 1 << 30, 1 << 20
ROUNDS = 5
SIZE = GIB
CHANGED = (0, 1, 16, 128)  # MiB


@attrs.frozen
class Site:
    """A receiver that runs, and who we are to it."""

    folder: Path
    store: Path
    identity: Path
    address: str

    def connect(self) -> channel.Channel:
        """A connection to it."""
        connected = channel.connect(self.address, self.identity)
        channel.greet(connected, "bench")
        return connected


@contextlib.contextmanager
def receiver(folder: Path) -> Iterator[Site]:
    """Start a receiver with a store in the folder."""
    theirs = tls.ensure_identity(folder / "receiver", "receiver")
    ours = tls.ensure_identity(folder / "state" / "identity", "source")
    tls.add_peer(theirs.folder, ours.certificate)
    tls.add_peer(ours.folder, theirs.certificate)
    allowed.save(theirs.folder, (allowed.Grant(ours.fingerprint, "*", "*"),))
    port = free_port()
    address = f"127.0.0.1:{port}"
    tls.remember_pair(ours.folder, address, theirs.fingerprint)
    store = folder / "store"
    command = [
        sys.executable, "-m", "replica_receiver", "serve", "--store", str(store),
        "--identity", str(theirs.folder), "--listen", address, "--reserve", "0",
    ]  # fmt: skip
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            wait_for(port)
            yield Site(folder, store, ours.folder, address)
        finally:
            process.terminate()


def free_port() -> int:
    """A port that nobody has."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port


def wait_for(port: int) -> None:
    """Until somebody listens there."""
    for _ in range(500):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.02)
    sys.exit("nobody listens")


# --- throughput


def send_disk(site: Site, image: Path, number: int) -> None:
    """The product's own path: read, digest, send, and hear that it is durable; no commit."""
    with iscsi_attach.open_direct(image) as device, site.connect() as line:
        regions = RegionList(device.size, [Region(0, device.size)])
        total, count = delta_length(regions)
        disk = CycleDisk("disk-0", 0, device.size, True, total, count)  # noqa: FBT003 - a record
        manifest = CycleManifest(
            SCHEMA,
            "bench",
            f"vm-{number}",
            "vm",
            "",
            number,
            0,
            "crash",
            f"p{number}",
            Configuration("@proxmox", "cores: 1\nscsi0: local:disk-0,size=1G\n"),
            (disk,),
        )
        line.send(messages.Open("bench", f"vm-{number}"))
        line.expect(messages.Ready)
        line.send(messages.Cycle(messages.Kind.SEED, "", manifest.encode()))
        line.expect(messages.Accepted)
        line.send(messages.Disk("disk-0", 0))
        _, digest = send_stream(line, stream.pieces(device, regions, 0), lambda _: None)
        line.send(messages.EndOfDisk())
        if line.expect(messages.Stored).digest != digest:
            sys.exit("it arrived damaged")


def move_with_openssl(folder: Path, image: Path) -> None:
    """s_client reads the file, s_server writes one; both with the receiver's certificate."""
    port = free_port()
    pair = [
        "-cert",
        str(folder / "receiver/certificate.pem"),
        "-key",
        str(folder / "receiver/key.pem"),
    ]
    target = folder / "moved"
    server = ["openssl", "s_server", "-accept", f"127.0.0.1:{port}", *pair, "-quiet", "-tls1_3"]
    client = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-quiet", "-tls1_3"]
    with target.open("wb") as out, image.open("rb") as data, ExitStack() as stack:
        sink = stack.enter_context(
            subprocess.Popen([*server, "-naccept", "1"], stdin=subprocess.PIPE, stdout=out)
        )
        for _ in range(100):  # it takes one connection only, so it cannot be tried
            if f":{port:04X} " in Path("/proc/net/tcp").read_text():
                break
            time.sleep(0.01)
        began = time.perf_counter()
        subprocess.run(
            [*client, "-no_ign_eof"], stdin=data, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, check=True,
        )  # fmt: skip
        sink.kill() if target.stat().st_size == SIZE else sink.wait(60)
        openssl_seconds.append(time.perf_counter() - began)
    if target.stat().st_size != SIZE:
        sys.exit(f"openssl moved {target.stat().st_size} of {SIZE} bytes")
    target.unlink()


openssl_seconds: list[float] = []


def throughput(folder: Path) -> None:
    """A disk of random bytes, in memory if there is room, so that no disk is measured."""
    image = folder / "disk.raw"
    with image.open("wb") as file:
        for _ in range(SIZE // MIB):
            data = bytearray(os.urandom(MIB))
            data[::1024] = bytes(1024)  # a read that begins with Q would end s_client
            file.write(data)
    seconds: dict[str, list[float]] = {"openssl s_client | s_server": [], "replication": []}
    with receiver(folder) as site:
        for number in range(1, ROUNDS + 1):
            move_with_openssl(folder, image)
            began = time.perf_counter()
            send_disk(site, image, number)
            seconds["replication"].append(time.perf_counter() - began)
            for spooled in site.store.rglob("*.phcbt01"):
                spooled.unlink()
    seconds["openssl s_client | s_server"] = openssl_seconds
    table = Table("", "seconds", "MB/s", title=f"{SIZE // MIB} MiB over loopback TLS, stored")
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    for name, value in medians.items():
        table.add_row(name, f"{value:.2f}", f"{SIZE / value / 1e6:,.0f}")
    theirs, ours = medians.values()
    table.caption = f"ratio {theirs / ours:.2f}, goal 0.9"
    Console(width=110).print(table)


# --- cycles


class Quiet:
    """Nobody is told anything but errors."""

    def say(self, text: str) -> None:
        """Nothing."""

    def warn(self, text: str) -> None:
        """To standard error."""
        sys.stderr.write(f"{text}\n")

    report = warn


def cycles(folder: Path) -> None:
    """Cycles of one VM for each size, with so much changed in pieces of 1 MiB."""
    table = Table("changed", *(f"{size} GiB" for size in (1, 10, 100)), "100 against 1 GiB")
    table.title = "seconds of a whole cycle on the lab: snapshot, plan, iSCSI, send, commit, clean"
    with ExitStack() as stack:
        lab = stack.enter_context(Lab.start(folder / "lab"))
        site = stack.enter_context(receiver(folder))
        works = {size: seeded(lab, site, size) for size in (1, 10, 100)}
        for changed in CHANGED:
            times: dict[int, list[float]] = {size: [] for size in works}
            for _, (size, cycle) in itertools.product(range(3), works.items()):
                times[size].append(cycle(changed))
            medians = [statistics.median(found) for found in times.values()]
            cells = [f"{median:.2f}" for median in medians]
            table.add_row(f"{changed} MiB", *cells, f"{medians[-1] / medians[0]:.2f} times")
    Console(width=110).print(table)


def seeded(lab: Lab, site: Site, size: int) -> Callable[[int], float]:
    """A VM with a seeded replica; what is returned changes it, and times a cycle."""
    name = f"vm-{size}"
    lab.create_vm(name, [size * GIB])
    items = {
        "prism": lab.pc_host, "user": lab.user, "password": lab.password, "ca": str(lab.ca_file),
        "state_dir": str(site.folder / "state"), "transport": "userspace",
        "proxy_mode": "in_cluster", "replicate_to": site.address, "vm": name,
    }  # fmt: skip
    work = Work(parse(items.items()), Quiet(), 0)

    def cycle(changed: int) -> float:
        with lab.disk_file(name, 0).open("r+b") as disk:
            for number in random.sample(range(size * 1024), changed):
                disk.seek(number * MIB)
                disk.write(os.urandom(MIB))
        began = time.perf_counter()
        (done,) = work.once(lambda: None)
        if done.error:
            raise done.error
        return time.perf_counter() - began

    cycle(16)
    return cycle


def main() -> None:
    """Run the benchmark named, or both."""
    works = {"throughput": throughput, "cycles": cycles}
    names = sys.argv[1:] or list(works)
    if not set(names) <= set(works):
        sys.exit(__doc__)
    for name in names:
        roomy = shutil.disk_usage("/dev/shm").free > 5 * GIB
        with tempfile.TemporaryDirectory(
            prefix="podheitor-bench-", dir="/dev/shm" if roomy and name == "throughput" else None
        ) as folder:
            works[name](Path(folder))


if __name__ == "__main__":
    main()
