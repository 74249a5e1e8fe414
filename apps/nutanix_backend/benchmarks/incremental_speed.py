"""An incremental of a large disk of which little changed, against virtnbdbackup's reader.

    incremental_speed.py [GIB]

A disk of 100 GiB unless said otherwise, sparse, with 1 GiB of data; then 1 % of it changes, in
pieces of 64 KiB all over it. Ours reads what Prism lists over iSCSI, digests it, and writes a
PHCBT01 stream to a file. The peer reads the same bytes of the same disk in a qcow2 image, whose
dirty bitmap qemu-nbd offers, and writes a stream to a file: nbd_read.py does what virtnbdbackup
does, which cannot run without libvirtd. Last `qemu-img convert` of the whole image, over NBD too.
Sizes, and so CPU seconds per GiB, are of what changed.

The list of changes is got once, and its seconds are printed: the lab compares two files for it,
which no cluster does. Contestants take turns (.ci/race.py has to be on PYTHONPATH, as ./run bench
puts it).
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import iscsi_attach
from clones import cloning_folder
from digests import ImageDigests
from nutanix_backend.cluster import journal
from nutanix_backend.cluster.guards import IscsiSessionGuard, SnapshotGuard, VolumeGroupGuard
from nutanix_backend.cluster.inventory import connect
from nutanix_backend.cluster.transport import choose, initiator_name
from nutanix_backend.disks.regions import Region, RegionList
from nutanix_backend.disks.streams import StreamSender, delta_length, delta_pieces
from nutanix_backend.settings.parameters import parse
from nutanix_backend.vm_record import in_bus_order
from prism_lab import Lab
from race import race

if TYPE_CHECKING:
    from collections.abc import Iterator

    from iscsi_attach import BlockDevice
    from prism_client import DiskSnapshotRef, PrismClient
    from ptcomm import Data

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
PIECE = 64 * KIB
BITMAP = "changes"
PEER = Path(__file__).resolve().with_name("nbd_read.py")


class Site:
    """The disk with its changes: in the lab, and in a qcow2 image with a bitmap."""

    def __init__(self, folder: Path, size: int, stack: ExitStack) -> None:
        self.folder, self.size = folder, size
        self.lab = stack.enter_context(Lab.start(folder / "lab", task_seconds=0.0))
        self.vm = self.lab.create_vm("bench", [size])
        self.places = random.Random(1).sample(range(size // PIECE), size // PIECE // 100)
        self.changed = len(self.places) * PIECE
        self.image = folder / "bench.qcow2"
        connection = {"prism": self.lab.pc_host, "user": self.lab.user}
        secrets = {"password": self.lab.password, "ca": str(self.lab.ca_file)}
        self.client: PrismClient = stack.enter_context(
            connect(parse([*connection.items(), *secrets.items()]))
        )
        self._intents = stack.enter_context(
            journal.opened(folder / "state", "bench", self.lab.pc_host)
        )
        self._stack = stack
        self._fill()
        self._old = self._snapshot("old")[1]
        self._copy_to_qcow2()
        self._change()
        self._new = self._snapshot("new")
        self._change_qcow2()

    def _disk(self) -> Path:
        return self.lab.disk_file("bench", 0)

    def _fill(self) -> None:
        with self._disk().open("r+b") as disk:
            for number in range(1024):
                disk.seek(self.size // 1024 * number // MIB * MIB)
                disk.write(os.urandom(MIB))

    def _change(self) -> None:
        with self._disk().open("r+b") as disk:
            for place in self.places:
                disk.seek(place * PIECE)
                disk.write(os.urandom(PIECE))

    def _snapshot(self, name: str) -> tuple[SnapshotGuard, DiskSnapshotRef]:
        vm = self.client.vms.get(self.vm)
        guard = SnapshotGuard(self.client, self._intents, vm, f"bench {name}", "crash")
        self._stack.enter_context(guard)
        (disk,) = in_bus_order(vm.disks)
        ids, point = {disk.disk_ext_id, disk.ext_id}, guard.recovery_point
        return guard, point.disk_ref(next(d for d in point.disks if d.disk_ext_id in ids))

    def _copy_to_qcow2(self) -> None:
        disk, image = str(self._disk()), str(self.image)
        run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", disk, image)
        run("qemu-img", "bitmap", "--add", image, BITMAP)

    def _change_qcow2(self) -> None:
        places = self.folder / "places"
        places.write_text("\n".join(map(str, self.places)))
        with offered(self.image, self.folder) as socket:
            peer(socket, "fill", str(self._disk()), str(places))

    def listed(self) -> RegionList:
        """What Prism says has changed."""
        regions = self.client.changed_regions.open(self._new[1], self._old, disk_size=self.size)
        return RegionList(self.size, (Region(r.offset, r.length, r.zeroed) for r in regions))

    def device(self) -> BlockDevice:
        """The disk as a job reads it."""
        guard, disk = self._new
        initiator = initiator_name()
        group = self._stack.enter_context(
            VolumeGroupGuard(guard, [disk.disk_recovery_point_ext_id], initiator, None)
        )
        portal = iscsi_attach.Portal(self.lab.data_services_ip)
        session = IscsiSessionGuard(group, portal, choose("userspace"))
        attachment = self._stack.enter_context(session).attachment
        return attachment.open(attachment.luns[0].lun)


def run(*command: str) -> str:
    """What a program prints; raises CalledProcessError."""
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return done.stdout


def peer(socket: Path, *arguments: str) -> str:
    """What nbd_read.py prints; the interpreter is the one that libnbd comes with."""
    return run("/usr/bin/python3", str(PEER), str(socket), *arguments)


@contextmanager
def offered(image: Path, folder: Path, *options: str) -> Iterator[Path]:
    """An image over NBD, as long as this lasts."""
    socket = folder / "nbd.sock"
    command = ["qemu-nbd", "--format=qcow2", "--persistent", f"--socket={socket}", *options]
    command.append(str(image))
    with subprocess.Popen(command) as server:
        try:
            while not socket.exists() and server.poll() is None:
                time.sleep(0.01)
            yield socket
        finally:
            server.terminate()
            server.wait()
            socket.unlink(missing_ok=True)


def by_product(device: BlockDevice, regions: RegionList, output: Path) -> None:
    """The product's own path: read, digested, as PHCBT01."""
    with output.open("wb", buffering=0) as file:

        def write(data: Data) -> None:
            file.writelines(data.parts)

        sender = StreamSender(write)
        for piece in delta_pieces(device, regions, ImageDigests.unknown(device.size)):
            sender.put(piece)
        sender.finish()
    if output.stat().st_size != delta_length(regions)[0]:
        sys.exit(f"{output.stat().st_size} bytes were written")


def by_virtnbdbackup(socket: Path, output: Path, changed: int) -> None:
    """Its requests and its frames."""
    done = int(peer(socket, "read", BITMAP, str(output)))
    if done != changed:
        sys.exit(f"{done} of {changed} bytes were read over NBD")


def by_qemu(socket: Path, output: Path) -> None:
    """All of the disk that is not a hole."""
    run(
        "qemu-img",
        "convert",
        "-f",
        "raw",
        "-O",
        "raw",
        f"nbd+unix:///?socket={socket}",
        str(output),
    )
    output.unlink()


def main() -> None:
    """Run the races."""
    size = int(sys.argv[1] if len(sys.argv) > 1 else 100) * GIB
    with cloning_folder() as folder, ExitStack() as stack:
        site = Site(folder, size, stack)
        began = time.perf_counter()
        regions = site.listed()
        print(f"{len(site.places)} changes listed in {time.perf_counter() - began:.1f} s")
        if regions.data_bytes != site.changed:
            sys.exit(f"{regions.data_bytes} bytes are listed, {site.changed} changed")
        device = site.device()
        read_only = ("--read-only", "--shared=4", f"--bitmap={BITMAP}")
        socket = stack.enter_context(offered(site.image, folder, *read_only))
        output = folder / "out"
        ours = ("PHCBT01 over iSCSI", lambda: by_product(device, regions, output))
        race(
            f"1 % of {size // GIB} GiB changed",
            ours,
            ("virtnbdbackup's way", lambda: by_virtnbdbackup(socket, output, site.changed)),
            site.changed,
            3.0,
        )
        race(
            f"1 % of {size // GIB} GiB changed",
            ours,
            ("qemu-img convert, whole", lambda: by_qemu(socket, output)),
            site.changed,
            1.0,
        )


if __name__ == "__main__":
    main()
