"""Backup and restore through a real File Daemon and Storage Daemon, against Bacula's bpipe plugin.

    PYTHONPATH=. python apps/nutanix_backend/benchmarks/bacula_speed.py BACULA_PREFIX PACKAGE.deb

Both move the same disk, incompressible and fully allocated: our plugin reads it over iSCSI from the
lab, bpipe as a local file with cat. Backups go to /dev/null behind a Storage Daemon, restores come
from a volume in memory and become a file in memory. The contestants take turns; the table gives
medians. Seconds are those of the data alone, as the File Daemon moves it: the start of a job and
the lab's copies for its snapshots are left out for both. TLS and signatures are off for both.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from prism_lab import Lab
from rich.console import Console as Screen
from rich.table import Table

from apps.nutanix_backend.tests_bacula.harness import daemons as bacula
from apps.nutanix_backend.tests_bacula.harness.console import Console
from apps.nutanix_backend.tests_bacula.harness.report import Report
from apps.nutanix_backend.tests_bacula.harness.site import Site, same

if TYPE_CHECKING:
    from collections.abc import Callable

MIB = 1 << 20
SIZE = 1024 * MIB
EDGE = 64 * MIB
"""Bytes at the beginning and at the end that are not timed."""
ROUNDS = 3
GOAL = 1.3
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
    """The two contestants, on the same disk."""

    def __init__(self, site: Site) -> None:
        """Make the disk and define the jobs."""
        self._site = site
        self._guest = site.guest(SIZE)
        self.disk = self._guest.disks[0]
        with self.disk.open("r+b") as file:
            for _ in range(SIZE // (16 * MIB)):
                file.write(os.urandom(16 * MIB))
        self.copy = site.folder / "bpipe.raw"
        plugins = {
            "ours": f"{site.plugin} vm={self._guest.name}",
            "bpipe": f"bpipe:/bench/disk.raw:cat {self.disk}:dd of={self.copy} bs=1M status=none",
        }
        for name, plugin in plugins.items():
            for storage in ("nowhere", "disk"):
                text = FILESET.format(name=f"{name}-{storage}", plugin=plugin, storage=storage)
                site.console.define(text)

    def backup(self, name: str) -> float:
        """Seconds per byte of a full backup to /dev/null."""
        return self._timed("wchar", lambda: self._site.console.start(f"{name}-nowhere", "Full"))

    def restore(self, name: str, job_id: int) -> float:
        """Seconds per byte of a restore to a file."""
        where = self._site.folder / f"restored-{time.monotonic_ns()}"
        target = "/" if name == "bpipe" else where
        pace = self._timed("rchar", lambda: self._site.console.start_restore(str(job_id), target))
        (image,) = [self.copy] if name == "bpipe" else where.rglob("*.raw")
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
        return (times[1] - times[0]) / (SIZE - 2 * EDGE)


def _counter(pid: int, name: str) -> int:
    lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    return int(dict(line.split(": ") for line in lines)[name])


def main() -> None:
    """Run the benchmark."""
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    with ExitStack() as stack:
        name = stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-", dir="/dev/shm"))
        folder = Path(name)
        installation = bacula.unpack(Path(sys.argv[1]), Path(sys.argv[2]), folder / "installed")
        lab = stack.enter_context(Lab.start(folder / "lab"))
        daemons = stack.enter_context(bacula.running(installation, folder / "bacula", tls=False))
        site = Site("bench", folder, lab, daemons, Console(daemons), Report())
        site.connect()
        bench = Bench(site)
        table = Table("", "bpipe MB/s", "ours MB/s", "ratio", title="through a real FD and SD")
        rows: dict[str, dict[str, list[float]]] = {
            kind: {"bpipe": [], "ours": []} for kind in ("backup", "restore")
        }
        kept = {name: site.console.run(f"{name}-disk", "Full").job_id for name in ("bpipe", "ours")}
        for _ in range(ROUNDS):
            for name in ("bpipe", "ours"):
                rows["backup"][name].append(bench.backup(name))
                rows["restore"][name].append(bench.restore(name, kept[name]))
        for kind, paces in rows.items():
            bpipe, ours = (statistics.median(paces[name]) for name in ("bpipe", "ours"))
            cells = (f"{1 / bpipe / 1e6:,.0f}", f"{1 / ours / 1e6:,.0f}", f"{bpipe / ours:.2f}")
            table.add_row(kind, *cells)
        table.caption = f"goal {GOAL}"
        Screen(width=100).print(table)


if __name__ == "__main__":
    main()
