"""Backup and restore through a real File Daemon and Storage Daemon, against Bacula's bpipe plugin.

    PYTHONPATH=. python apps/nutanix_backend/benchmarks/bacula_speed.py BACULA_PREFIX PACKAGE.deb

Both move the same disk, incompressible and fully allocated: our plugin over iSCSI from the lab;
bpipe over iSCSI too, with the same reader writing to its pipe. Backups go to /dev/null behind a
Storage Daemon, restores come from a volume in memory and become a file in memory. Contestants take
turns (.ci/race.py has to be on PYTHONPATH, as ./run bench puts it). Seconds are those of the data
alone, as the File Daemon moves it: the start of a job and the lab's copies for its snapshots are
left out for both, and so is the sync at the end. CPU time is that of the whole jobs. TLS and
signatures are off for both.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import iscsi_attach
from nutanix_backend.cluster import journal
from nutanix_backend.cluster.guards import SnapshotGuard, VolumeGroupGuard
from nutanix_backend.cluster.inventory import connect
from nutanix_backend.cluster.transport import is_target
from nutanix_backend.disks.plan import plan_disks
from nutanix_backend.settings.parameters import parse
from prism_lab import Lab
from race import race

from suites.bacula.harness import daemons as bacula
from suites.bacula.harness.console import Console
from suites.bacula.harness.report import Report
from suites.bacula.harness.site import Site, same

if TYPE_CHECKING:
    from collections.abc import Callable

OURS, BPIPE = "ours", "bpipe"
INITIATOR = "iqn.2026-11.com.podheitor:bench"
READER = Path(__file__).resolve().with_name("read_lun.py")
MIB = 1 << 20
SIZE = 1024 * MIB
EDGE = 64 * MIB
"""Bytes at the beginning and at the end that are not timed."""
PATIENCE = 60.0
"""Seconds after which a job that moves no data hangs."""
FILESET = """
FileSet {{
  Name = "{name}"
  Include {{
    Plugin = "{plugin}"
  }}
}}
Job {{
  Name = "{name}"
  Type = Backup
  Client = client
  FileSet = "{name}"
  Storage = {storage}
  Pool = {storage}
  Messages = Standard
}}
"""


class Bench:
    """The contestants, on the same disk."""

    def __init__(self, site: Site, stack: ExitStack) -> None:
        """Make the disk, offer it over iSCSI until `stack` unwinds, and define the jobs."""
        self._site = site
        self._guest = site.guest(SIZE)
        self.disk = self._guest.disks[0]
        with self.disk.open("r+b") as file:
            for _ in range(SIZE // (16 * MIB)):
                file.write(os.urandom(16 * MIB))
        self.copy = site.folder / "bpipe.raw"
        reader = site.folder / "read-lun"  # a script, for bpipe's line is cut at each colon
        reader.write_text(f"#!/bin/sh\nexec {self._reading(stack)}\n")
        reader.chmod(0o755)
        writer = f"dd of={self.copy} bs=1M status=none"
        plugins = {
            OURS: f"{site.plugin} vm={self._guest.name}",
            BPIPE: f"bpipe:/bench/disk.raw:{reader}:{writer}",
        }
        for name, plugin in plugins.items():
            for storage in ("nowhere", "disk"):
                text = FILESET.format(name=f"{name}-{storage}", plugin=plugin, storage=storage)
                site.console.define(text)

    def _reading(self, stack: ExitStack) -> str:
        """The command that reads the disk over iSCSI."""
        settings = parse([("config_file", str(self._site.config_file))])
        client = stack.enter_context(connect(settings))
        vm = client.vms.get(self._guest.ext_id)
        intents = stack.enter_context(journal.opened(self._site.folder / "intents", "bench", "lab"))
        snapshot = stack.enter_context(SnapshotGuard(client, intents, vm, "bench", "crash"))
        (plan,) = plan_disks(client, vm.disks, snapshot.recovery_point, None, sys.exit)
        disks = [plan.snapshot.disk_recovery_point_ext_id]
        group = stack.enter_context(VolumeGroupGuard(snapshot, disks, INITIATOR, None))
        portal = self._site.lab.data_services_ip
        found = iscsi_attach.userspace.discover(iscsi_attach.Portal(portal), initiator=INITIATOR)
        (target,) = {
            each.iqn for each in found if is_target(each.iqn, group.volume_group.target_name)
        }
        return f"{sys.executable} {READER} {portal} {target} {INITIATOR}"

    def backup(self, name: str) -> float:
        """Seconds of a full backup to /dev/null."""
        return self._timed("wchar", lambda: self._site.console.start(f"{name}-nowhere", "Full"))

    def restore(self, name: str, job_id: int) -> float:
        """Seconds of a restore to a file."""
        where = self._site.folder / f"restored-{time.monotonic_ns()}"
        target = where if name == OURS else "/"
        pace = self._timed("rchar", lambda: self._site.console.start_restore(str(job_id), target))
        (image,) = where.rglob("*.raw") if name == OURS else [self.copy]
        if not same(image, self.disk):
            sys.exit(f"{name}: the restore differs from the disk")
        image.unlink()
        return pace

    def _timed(self, counter: str, start: Callable[[], int]) -> float:
        pid = self._site.daemons.pid("bacula-fd")
        before = _counter(pid, counter)
        job_id = start()
        times, deadline = [], time.perf_counter() + PATIENCE
        for mark in (before + EDGE, before + SIZE - EDGE):
            while _counter(pid, counter) < mark and time.perf_counter() < deadline:
                time.sleep(0.005)
            times.append(time.perf_counter())
        job = self._site.console.wait(job_id)
        if job.status != "T":
            sys.exit(f"the job failed:\n{job.words}")
        return (times[1] - times[0]) * SIZE / (SIZE - 2 * EDGE)


def _counter(pid: int, name: str) -> int:
    lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    return int(dict(line.split(": ") for line in lines)[name])


def main() -> None:
    """Run the benchmark."""
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    tempfile.tempdir = "/dev/shm"  # known to the harness, too, as the folder that others may enter
    with ExitStack() as stack:
        name = stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-"))
        folder = Path(name)
        installation = bacula.unpack(Path(sys.argv[1]), Path(sys.argv[2]), folder / "installed")
        lab = stack.enter_context(Lab.start(folder / "lab"))
        daemons = stack.enter_context(bacula.running(installation, folder / "bacula", tls=False))
        site = Site("bench", folder, lab, daemons, Console(daemons), Report())
        site.connect()
        bench = Bench(site, stack)
        kept = {name: site.console.run(f"{name}-disk", "Full").job_id for name in (OURS, BPIPE)}
        race(
            "backup through a real FD and SD",
            ("ours", lambda: bench.backup(OURS)),
            ("bpipe, same LUN", lambda: bench.backup(BPIPE)),
            SIZE,
            1.3,
        )
        race(
            "restore through a real FD and SD",
            ("ours", lambda: bench.restore(OURS, kept[OURS])),
            ("bpipe", lambda: bench.restore(BPIPE, kept[BPIPE])),
            SIZE,
            1.0,
        )


if __name__ == "__main__":
    main()
