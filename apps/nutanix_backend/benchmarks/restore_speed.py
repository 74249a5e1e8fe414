"""How fast a disk comes back: into a volume group, as an image, and what qemu-img makes of it.

    restore_speed.py

One 4-GiB disk, half of it data. First the way onto a new disk of a volume group, against
`qemu-img convert` from the same file to such a disk, over the same user-space initiator. Then whole
restore jobs, from the start of the backend to the finished VM, by either way. Contestants take
turns on one lab (.ci/race.py has to be on PYTHONPATH, as ./run bench puts it), which clones disks
by reference, as a cluster does. Both are durable when their time ends.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

from clones import cloning_folder
from digests import StreamDigest
from iscsi_attach import Portal
from nutanix_backend.cluster import journal
from nutanix_backend.cluster.guards import DiskPlace, IscsiSessionGuard, NewDiskGuard
from nutanix_backend.cluster.inventory import connect
from nutanix_backend.cluster.transport import choose, initiator_name
from nutanix_backend.disks.targets import LunTarget
from nutanix_backend.manifest import DiskEntry
from nutanix_backend.restore.plan import DiskChain, PlannedFile
from nutanix_backend.restore.writer import DiskWriter
from nutanix_backend.settings.parameters import parse
from prism_lab import Lab
from ptcomm import Level
from ptcomm_runner import jobs
from ptcomm_runner.catalog import Status, Store
from race import race

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from iscsi_attach import BlockDevice
    from nutanix_backend.cluster.journal import Journal
    from ptcomm import Message

MIB = 1 << 20
SIZE = 4096 * MIB
PIECE = 64 * 1024
"""Bytes in which bacula-fd hands data over."""


class Site:
    """A lab with one VM, its image as a file, and one backup of it."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        self.lab = stack.enter_context(Lab.start(folder / "lab", task_seconds=0.0))
        vm = self.lab.create_vm("bench", [SIZE])
        self.image = self.lab.disk_file(vm, 0)
        with self.image.open("r+b") as disk:
            for number in range(0, SIZE // MIB, 16):  # runs of 8 MiB, and holes as long
                disk.seek(number * MIB)
                disk.write(os.urandom(8 * MIB))
        self.entry = entry_of(self.image)
        connection = (
            ("prism", self.lab.pc_host), ("user", self.lab.user), ("password", self.lab.password),
            ("ca", str(self.lab.ca_file)), ("state_dir", str(folder / "state")),
            ("transport", "userspace"), ("proxy_mode", "in_cluster"),
        )  # fmt: skip
        config = folder / "prism.conf"
        config.touch(mode=0o600)
        config.write_text("".join(f"{name} = {text}\n" for name, text in connection))
        self.parameters = (("config_file", str(config)),)
        self.client = stack.enter_context(connect(parse(self.parameters)))
        self.intents = stack.enter_context(
            journal.opened(folder / "journal", "bench", self.lab.pc_host)
        )
        self.place = DiskPlace(
            self.client,
            self.lab.cluster_ext_id,
            self.client.storage_containers.list()[0].ext_id,
        )
        self.store = Store(folder / "store")
        self.number = 0

    def run(self, *parameters: tuple[str, str]) -> jobs.Settings:
        """What a job of the runner needs."""
        command = (
            "env",
            "PODHEITOR_STARTED_BY=command-line",
            sys.executable,
            "-m",
            "nutanix_backend",
        )
        given = (*self.parameters, *parameters)
        return jobs.Settings(command, given, self.folder / "working", Silent(), 600.0)

    def restore(self, via: str) -> float:
        """The seconds of a whole restore job."""
        self.number += 1
        name = f"restored-{self.number}"
        settings = self.run(("restore_via", via), ("restore_vm_name", name))
        began = time.perf_counter()
        result = jobs.restore(self.store, "bench", settings)
        seconds = time.perf_counter() - began
        if result.status is not Status.GOOD:
            sys.exit(str(result.log[-1]))
        (vm,) = (vm for vm in self.client.vms.find(name))
        self.compare(self.lab.disk_file(name, 0))
        self.client.vms.delete(vm.ext_id)
        return seconds

    def compare(self, other: Path) -> None:
        """Bit for bit, after each round."""
        if subprocess.run(["cmp", "--quiet", self.image, other], check=False).returncode:
            sys.exit(f"{other} is not what was backed up")

    def to_new_disk(self, work: Callable[[NewDiskGuard, Journal], float]) -> float:
        """Let `work` fill a new disk, and return the seconds that it took."""
        self.number += 1
        name = f"bench {self.number}"
        guard = NewDiskGuard(self.place, self.intents, name, SIZE, initiator_name(), None)
        with guard as group:
            seconds = work(group, self.intents)
            self.compare(self.lab.volume_disk_file(group.volume_group.ext_id, 0))
        return seconds

    def session(self, group: NewDiskGuard) -> IscsiSessionGuard:
        """A session to a new disk."""
        portal = Portal(self.lab.data_services_ip)
        return IscsiSessionGuard(group, portal, choose("userspace"))


class Silent:
    """Nobody watches."""

    def message(self, message: Message) -> None:
        """Nothing."""

    def file(self, name: str, size: int) -> None:
        """Nothing."""

    def data(self, count: int) -> None:
        """Nothing."""


def entry_of(image: Path) -> DiskEntry:
    """The whole image as a file of a backup."""
    digest = StreamDigest()
    for piece in pieces(image):
        digest.update(piece)
    return DiskEntry(0, "bench", SIZE, "bench", "raw", SIZE, 0, SIZE, digest.text(), "")


def pieces(image: Path) -> Iterator[memoryview]:
    """The file as it arrives from the daemon."""
    buffer = memoryview(bytearray(PIECE))
    with image.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            yield buffer[:count]


def by_product(site: Site) -> Callable[[NewDiskGuard, Journal], float]:
    """The product's writer: digest, zeros left out, written and flushed."""

    def work(group: NewDiskGuard, _: Journal) -> float:
        with site.session(group) as session:
            lun = session.attachment.luns[0].lun
            device: BlockDevice = session.attachment.open(lun, writable=True)
            target = LunTarget("bench", lambda _size: device, lambda: None)
            entry = site.entry
            chain = DiskChain(entry.index, entry.disk_id, (PlannedFile.of(entry),))
            writer = DiskWriter(chain, target)
            began = time.perf_counter()
            writer.begin(site.entry.file)
            for piece in pieces(site.image):
                writer.write(piece)
            writer.end()
            return time.perf_counter() - began

    return work


def by_qemu(site: Site) -> Callable[[NewDiskGuard, Journal], float]:
    """`qemu-img convert`, told that the disk is empty."""

    def work(group: NewDiskGuard, _: Journal) -> float:
        with site.session(group) as session:
            lun = session.attachment.luns[0].lun
        iqn = f"iqn.2010-06.com.nutanix:{group.volume_group.target_name}"
        found = choose("userspace").discover(
            Portal(site.lab.data_services_ip), initiator_name(), None
        )
        iqn = next(t.iqn for t in found if group.volume_group.target_name in t.iqn)
        options = (
            f"driver=raw,file.driver=iscsi,file.transport=tcp,file.portal={site.lab.data_services_ip},"
            f"file.target={iqn},file.lun={lun},file.initiator-name={initiator_name()}"
        )
        command = ["qemu-img", "convert", "-n", "-t", "writeback", "--target-is-zero", "-f", "raw"]
        began = time.perf_counter()
        subprocess.run(
            [*command, "--target-image-opts", str(site.image), options],
            check=True, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        return time.perf_counter() - began

    return work


def main() -> None:
    """Run both comparisons."""
    with cloning_folder() as folder, ExitStack() as stack:
        site = Site(folder, stack)
        race(
            "a disk onto a volume group",
            ("restore", lambda: site.to_new_disk(by_product(site))),
            ("qemu-img convert", lambda: site.to_new_disk(by_qemu(site))),
            SIZE,
            1.5,
        )
        backup = jobs.backup(site.store, "bench", Level.FULL, site.run(("vm", "bench")))
        if backup.status is not Status.GOOD:
            sys.exit(str(backup.log[-1]))
        race(
            "a restore job, from its start to the VM",
            ("volume group", lambda: site.restore("volume_group")),
            ("images", lambda: site.restore("image")),
            SIZE,
            2.0,
        )


if __name__ == "__main__":
    main()
