"""How fast a disk gets from the device onto the wire, as ratios in one run.

    python benchmarks/backup_speed.py wire     a raw disk as D packets into a reader, against dd
                                               into a pipe with a reader; both read the same loop
                                               device past the cache
    python benchmarks/backup_speed.py thin     the full backup of a disk that is 10 % allocated, raw
                                               and sparse, against the disk with everything read
    python benchmarks/backup_speed.py proof    a raw disk as D packets with its digest list, against
                                               without; and the list of a disk of 1 TiB

The contestants take turns (.ci/race.py has to be on PYTHONPATH, as ./run bench puts it). "wire" and
"proof" need root, for the loop device.
"""

from __future__ import annotations

import fcntl
import os
import random
import subprocess
import sys
import tempfile
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import iscsi_attach
from digests import ImageDigests, blocks_of, encoded_size
from nutanix_backend.cluster import journal
from nutanix_backend.cluster.guards import (
    IscsiSessionGuard,
    SnapshotGuard,
    VolumeGroupGuard,
    new_secret,
)
from nutanix_backend.cluster.inventory import connect
from nutanix_backend.cluster.transport import choose, initiator_name
from nutanix_backend.disks.plan import plan_disks, sparse
from nutanix_backend.disks.regions import Region, RegionList
from nutanix_backend.disks.streams import (
    StreamSender,
    delta_length,
    delta_pieces,
    image_pieces,
)
from nutanix_backend.settings.parameters import parse
from prism_lab import Lab
from ptcomm import (
    Ack,
    BackendHello,
    Data,
    DataStart,
    Endpoint,
    File,
    FileType,
    Role,
    Stat,
    Status,
    Times,
    encode_packet,
)
from ptcomm.stdio import PIPE_SIZE
from race import race

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from iscsi_attach import BlockDevice

GIB = 1 << 30
MIB = 1 << 20
SIZE = 2 * GIB
PROLOGUE = "Hello bench 1|Job|Name=bench|JobID=1|Type=B|Level=F||Params||BackupStart|"
"""What bacula-fd says until it waits for files; an empty line is the end of a block."""


@contextmanager
def reader() -> Iterator[Callable[[Data], None]]:
    """A backup conversation in the middle of a file; `cat` reads the pipe and drops it."""
    incoming, daemon = os.pipe()
    wire, outgoing = os.pipe()
    fcntl.fcntl(outgoing, fcntl.F_SETPIPE_SZ, PIPE_SIZE)  # as claim_stdio does in the backend
    for line in PROLOGUE.split("|"):
        command = encode_packet(Status.COMMAND, f"{line}\n".encode())
        os.writev(daemon, command if line else encode_packet(Status.END_OF_DATA))
    process = subprocess.Popen(["cat"], stdin=wire, stdout=subprocess.DEVNULL)
    os.close(wire)
    with Endpoint(Role.BACKEND, incoming, outgoing) as endpoint:
        endpoint.receive()
        endpoint.send(BackendHello())
        for _ in range(3):
            endpoint.receive()
            endpoint.send(Ack())
        stat = Stat(FileType.REGULAR, SIZE)
        endpoint.send(File("bench", stat, Times(0, 0, 0)), DataStart())
        yield endpoint.send
    os.close(daemon)
    if process.wait(timeout=60):
        sys.exit("the reader failed")


def send_image(device: BlockDevice, regions: RegionList, image: ImageDigests | None = None) -> None:
    """The product's own path: pieces of the image, gathered, digested and sent."""
    with reader() as send:
        sender = StreamSender(send)
        for piece in image_pieces(device, regions, image):
            sender.put(piece)
        sender.finish()
    if image is not None:
        image.encode()
    if sender.sent != device.size:
        sys.exit(f"{sender.sent} of {device.size} bytes were sent")


def send_sparse(device: BlockDevice, regions: RegionList) -> None:
    """The product's own path of a sparse full."""
    image = ImageDigests(device.size)
    with reader() as send:
        sender = StreamSender(send)
        for piece in delta_pieces(device, regions, image, on_zeros=True):
            sender.put(piece)
        sender.finish()
    image.encode()
    if sender.sent != delta_length(regions)[0]:
        sys.exit(f"{sender.sent} bytes were sent")


def into_a_pipe(loop: str) -> None:
    """`dd` past the cache, and `cat` that reads its pipe and drops it."""
    dd = ["dd", f"if={loop}", "bs=1M", "iflag=direct", "status=none"]
    with subprocess.Popen(dd, stdout=subprocess.PIPE) as source:
        assert source.stdout is not None
        fcntl.fcntl(source.stdout, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
        subprocess.run(["cat"], stdin=source.stdout, stdout=subprocess.DEVNULL, check=True)
    if source.returncode:
        sys.exit("dd failed")


@contextmanager
def random_disk(folder: Path) -> Iterator[str]:
    """A loop device of incompressible data that bypasses the cache."""
    image = folder / "disk.raw"
    with image.open("wb") as file:
        for _ in range(SIZE // (16 * MIB)):
            file.write(os.urandom(16 * MIB))
    options = ["losetup", "--find", "--show", "--read-only", "--direct-io=on", str(image)]
    loop = subprocess.run(options, check=True, capture_output=True, text=True).stdout.strip()
    try:
        yield loop
    finally:
        subprocess.run(["losetup", "--detach", loop], check=True)


def wire(folder: Path) -> None:
    """A whole disk, incompressible, past the cache."""
    with random_disk(folder) as loop, iscsi_attach.open_direct(Path(loop)) as device:
        everything = RegionList(device.size, [Region(0, device.size)])
        race(
            "raw disk to the wire",
            ("D packets", lambda: send_image(device, everything)),
            ("dd | cat", lambda: into_a_pipe(loop)),
            SIZE,
            0.95,
        )


def thin(folder: Path) -> None:
    """A disk of which 10 % are allocated, in pieces of 1 MiB, over iSCSI from the lab."""
    with ExitStack() as stack:
        lab = stack.enter_context(Lab.start(folder / "lab"))
        vm_id = lab.create_vm("thin", [SIZE])
        with lab.disk_file("thin", 0).open("r+b") as disk:
            for number in random.Random(1).sample(range(SIZE // MIB), SIZE // MIB // 10):
                disk.seek(number * MIB)
                disk.write(os.urandom(MIB))
        connection = {"prism": lab.pc_host, "user": lab.user, "password": lab.password}
        client = stack.enter_context(
            connect(parse([*connection.items(), ("ca", str(lab.ca_file))]))
        )
        vm = client.vms.get(vm_id)
        intents = stack.enter_context(journal.opened(folder / "state", "bench", lab.pc_host))
        snapshot = stack.enter_context(SnapshotGuard(client, intents, vm, "bench", "crash"))
        (plan,) = plan_disks(client, vm.disks, snapshot.recovery_point, None, sys.exit)
        disks = [plan.snapshot.disk_recovery_point_ext_id]
        secret = new_secret(chap=True)
        group = stack.enter_context(VolumeGroupGuard(snapshot, disks, initiator_name(), secret))
        portal = iscsi_attach.Portal(lab.data_services_ip)
        session = stack.enter_context(
            IscsiSessionGuard(group, portal, choose("userspace"))
        ).attachment
        device = session.open(session.luns[0].lun)
        everything = RegionList(SIZE, [Region(0, SIZE)])
        peer = ("everything read", lambda: send_image(device, everything, ImageDigests(SIZE)))
        ways: Mapping[str, tuple[float, Callable[[], None]]] = {
            "raw": (2.0, lambda: send_image(device, plan.regions, ImageDigests(SIZE))),
            "sparse": (5.0, lambda: send_sparse(device, sparse(plan).regions)),
        }
        for name, (goal, way) in ways.items():
            race(f"{name} full, disk 10 % allocated", (name, way), peer, SIZE, goal)


def proof(folder: Path) -> None:
    """A whole disk with and without its digest list; last, how large that of a disk of 1 TiB is."""
    with random_disk(folder) as loop, iscsi_attach.open_direct(Path(loop)) as device:
        everything = RegionList(device.size, [Region(0, device.size)])
        race(
            "raw disk to the wire, proven",
            ("with its digest list", lambda: send_image(device, everything, ImageDigests(SIZE))),
            ("without", lambda: send_image(device, everything)),
            SIZE,
            0.95,
        )
    tib = 1024 * GIB
    for share in (1, 0.1, 0):
        size = encoded_size(tib, int(share * blocks_of(tib)))
        print(f"digest list of 1 TiB, {share:.0%} with data: {size / MIB:.2f} MiB")


def main() -> None:
    """Run the benchmark named."""
    works = {"wire": wire, "thin": thin, "proof": proof}
    if len(sys.argv) != 2 or sys.argv[1] not in works:
        sys.exit(__doc__)
    with tempfile.TemporaryDirectory(prefix="podheitor-bench-") as name:
        works[sys.argv[1]](Path(name))


if __name__ == "__main__":
    main()
