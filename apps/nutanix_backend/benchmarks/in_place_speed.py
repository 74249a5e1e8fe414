"""Restore in place against a whole restore: bytes written and seconds, in one run.

    in_place_speed.py [GIB]

One disk, 10 GiB unless said otherwise, a tenth of it data. In each round it is backed up, 1 % of it
changes in pieces of 64 KiB all over it, and it is restored in place: a backup can be restored in
place once, for the disk has another id afterwards. The peer restores the last backup to a new VM
over iSCSI. Each is timed from the start of the backend to the end of the job, and compared bit for
bit. The lab clones disks by reference, as a cluster does (.ci has to be on PYTHONPATH, as
./run bench puts it).
"""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
import sys
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

from clones import cloning_folder
from nutanix_backend.cluster.inventory import connect
from nutanix_backend.settings.parameters import parse
from prism_lab import Lab
from ptcomm import Level
from ptcomm_runner import jobs
from ptcomm_runner.catalog import Status, Store
from race import cpu_seconds, race

if TYPE_CHECKING:
    from pathlib import Path

    from ptcomm import Message
    from ptcomm_runner.jobs import Result

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
PIECE = 64 * KIB
ROUNDS = 3
UNITS = {"B": 1, "KiB": KIB, "MiB": MIB, "GiB": GIB}


class Silent:
    """Nobody watches."""

    def message(self, message: Message) -> None:
        """Nothing."""

    def file(self, name: str, size: int) -> None:
        """Nothing."""

    def data(self, count: int) -> None:
        """Nothing."""


class Site:
    """A lab with one VM that is switched off, and its backup."""

    def __init__(self, folder: Path, size: int, stack: ExitStack) -> None:
        self.folder, self.size = folder, size
        self.lab = stack.enter_context(Lab.start(folder / "lab", task_seconds=0.0))
        self.vm = self.lab.create_vm("bench", [size])
        with self.disk().open("r+b") as disk:
            for start in range(0, size, 10 * MIB):
                disk.seek(start)
                disk.write(os.urandom(MIB))
        config = folder / "prism.conf"
        config.touch(mode=0o600)
        config.write_text(
            f"prism = {self.lab.pc_host}\nuser = {self.lab.user}\npassword = {self.lab.password}\n"
            f"ca = {self.lab.ca_file}\nstate_dir = {folder / 'state'}\ntransport = userspace\n"
            "proxy_mode = in_cluster\n"
        )
        self.config = config
        self.client = stack.enter_context(connect(parse((("config_file", str(config)),))))
        self.store = Store(folder / "store")
        self.image = folder / "as-backed-up.raw"
        self.written_whole = self.written_in_place = 0

    def disk(self) -> Path:
        """The VM's disk as it is now."""
        return self.lab.disk_file("bench", 0)

    def spoil(self) -> None:
        """Change 1 % of the disk."""
        places = random.Random(1).sample(range(self.size // PIECE), self.size // PIECE // 100)
        with self.disk().open("r+b") as disk:
            for place in places:
                disk.seek(place * PIECE)
                disk.write(os.urandom(PIECE))

    def run(self, *parameters: tuple[str, str]) -> jobs.Settings:
        """What a job of the runner needs."""
        started = ("env", "PODHEITOR_STARTED_BY=command-line")
        command = (*started, sys.executable, "-m", "nutanix_backend")
        given = (("config_file", str(self.config)), *parameters)
        return jobs.Settings(command, given, self.folder / "working", Silent(), 3600.0)

    def back_up(self) -> None:
        """Back the VM up, switch it off, and keep what its disk holds; no older backup stays."""
        shutil.rmtree(self.folder / "store", ignore_errors=True)
        good(jobs.backup(self.store, "bench", Level.FULL, self.run(("vm", "bench"))))
        self.lab._vm("bench").power_state = "OFF"  # noqa: SLF001 - the lab has no word for it
        subprocess.run(["cp", "--reflink=auto", self.disk(), self.image], check=True)

    def restore(self, *parameters: tuple[str, str]) -> tuple[tuple[float, float], Result]:
        """The seconds and CPU seconds of a whole job."""
        began, cpu = time.perf_counter(), cpu_seconds()
        result = good(jobs.restore(self.store, "bench", self.run(*parameters)))
        return (time.perf_counter() - began, cpu_seconds() - cpu), result

    def in_place(self) -> tuple[float, float]:
        """Back up, change, and restore in place, which alone is timed."""
        self.back_up()
        self.spoil()
        took, result = self.restore(("restore_to", "inplace"))
        self.compare(self.disk())
        self.written_in_place = written_in_place(result)
        return took

    def whole(self) -> tuple[float, float]:
        """Restore the last backup to a new VM, which is removed again."""
        took, _ = self.restore(("restore_vm_name", "whole"), ("restore_via", "volume_group"))
        disk = self.lab.disk_file("whole", 0)
        self.written_whole = disk.stat().st_blocks * 512
        self.compare(disk)
        (vm,) = self.client.vms.find("whole")
        self.client.vms.delete(vm.ext_id)
        return took

    def compare(self, other: Path) -> None:
        """Bit for bit."""
        if subprocess.run(["cmp", "--quiet", self.image, other], check=False).returncode:
            sys.exit(f"{other} is not what was backed up")


def good(result: Result) -> Result:
    """The result of a job that ended well."""
    if result.status is not Status.GOOD:
        sys.exit("\n".join(message.text for message in result.log))
    return result


def written_in_place(result: Result) -> int:
    """The bytes that the job says it wrote."""
    log = "\n".join(message.text for message in result.log)
    found = re.search(r"proven; ([0-9.]+) (\w+) were written", log)
    if found is None:
        sys.exit(log)
    return int(float(found[1]) * UNITS[found[2]])


def main() -> None:
    """Run both, and compare."""
    size = int(sys.argv[1] if len(sys.argv) > 1 else 10) * GIB
    with cloning_folder() as folder, ExitStack() as stack:
        site = Site(folder, size, stack)
        site.in_place()
        site.whole()
        share = site.written_in_place / site.written_whole
        race(
            f"1 % of {size // GIB} GiB changed: {share:.1%} of the bytes are written",
            ("restore in place", site.in_place),
            ("whole restore", site.whole),
            size,
            1.0,
            rounds=ROUNDS,
        )


if __name__ == "__main__":
    main()
