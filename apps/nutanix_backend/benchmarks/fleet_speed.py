"""Incrementals of many VMs in one job, on a lab whose calls and tasks take the time of a cluster.

    python benchmarks/fleet_speed.py                            32 VMs, through our own runner
    PYTHONPATH=. python benchmarks/fleet_speed.py BACULA_PREFIX PACKAGE.deb
                                                                12 VMs, through bacula-fd

Each VM has two disks, of which 8 MiB change before each job. `parallel_vms` is 1, 8 and, for the
runner, the number of VMs. The table compares a job with what no order of work can beat: the time
for which data was sent, and the slowest VM. With P VMs at a time, VMs are prepared in rounds of P,
so that the second bound is that VM's preparation times the rounds, and once its end.
"""

from __future__ import annotations

import os
import re
import resource
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
from nutanix_backend.settings import places
from prism_lab import Lab
from ptcomm import Level
from ptcomm_runner import jobs
from ptcomm_runner.catalog import Status, Store
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ptcomm import Message

MIB = 1 << 20
CHANGED = 8 * MIB
DISK = 32 * MIB
VMS, VMS_OF_BACULA = 32, 12
PATIENCE = 900.0
GOAL, GOAL_OF_BOUND = 4.0, 1.25
SECONDS = re.compile(
    r"VM \S+: 2 disks \(2 as changes only\).* ([\d.]+) s \(([\d.]+) s to prepare, "
    r"([\d.]+) s to send, ([\d.]+) s to clean up\)"
)


class Quiet:
    """A watcher of jobs that looks away."""

    def message(self, message: Message) -> None:
        """Nothing."""

    def file(self, name: str, size: int) -> None:
        """Nothing."""

    def data(self, count: int) -> None:
        """Nothing."""


@attrs.frozen
class Run:
    """One job: its seconds from the start to the end, its calls, and the seconds of its VMs.

    Those are (total, prepare, send, clean up).
    """

    parallel: int
    seconds: float
    calls: int
    vms: list[tuple[float, ...]]

    @property
    def sent(self) -> float:
        """Seconds for which data was sent."""
        return sum(vm[2] for vm in self.vms)

    @property
    def slowest(self) -> float:
        """Seconds of the slowest VM."""
        return max(vm[0] for vm in self.vms)

    @property
    def bound(self) -> float:
        """Seconds of the rounds in which the VMs are prepared, and of the end of the last."""
        rounds = -(-len(self.vms) // self.parallel)
        return max(
            self.sent, rounds * max(vm[1] for vm in self.vms) + max(vm[3] for vm in self.vms)
        )


@attrs.frozen
class Fleet:
    """VMs on a lab."""

    lab: Lab
    ids: list[str]

    @classmethod
    def make(cls, lab: Lab, count: int) -> Fleet:
        """Make VMs with some data on their disks."""
        fleet = cls(lab, [lab.create_vm(f"fleet-{n:02}", [DISK, DISK]) for n in range(count)])
        fleet.change()
        return fleet

    def change(self) -> None:
        """Change the first bytes of each disk."""
        for vm in self.ids:
            for index in range(2):
                with self.lab.disk_file(vm, index).open("r+b") as disk:
                    disk.write(os.urandom(CHANGED))

    def timed(self, parallel: int, job: Callable[[], Iterable[str]]) -> Run:
        """Change the disks, run a job that returns its log, and take it apart."""
        self.change()
        asked, began = len(self.lab.requests), time.perf_counter()
        log = list(job())
        seconds = time.perf_counter() - began
        vms = [tuple(map(float, found.groups())) for line in log if (found := SECONDS.search(line))]
        if len(vms) != len(self.ids):
            sys.exit("not every VM was saved as changes:\n" + "\n".join(log))
        return Run(parallel, seconds, len(self.lab.requests) - asked, vms)


def through_the_runner(folder: Path, lab: Lab) -> list[Run]:
    """The jobs of our own runner."""
    fleet = Fleet.make(lab, VMS)
    config = folder / "prism.conf"
    config.touch(mode=0o600)
    config.write_text(reaching(lab, folder))

    def job(level: Level, parallel: int) -> Iterable[str]:
        settings = jobs.Settings(
            command=(sys.executable, "-m", "nutanix_backend"),
            parameters=(
                ("config_file", str(config)),
                ("vm", "fleet-*"),
                ("parallel_vms", str(parallel)),
            ),
            working_dir=folder / "working",
            watcher=Quiet(),
            timeout=PATIENCE,
        )
        result = jobs.backup(Store(folder / "store"), "fleet", level, settings)
        log = [message.text for message in result.log]
        if result.status is not Status.GOOD:
            sys.exit("\n".join(log))
        return log

    job(Level.FULL, VMS)
    return [
        fleet.timed(n, lambda n=n: job(Level.INCREMENTAL, n))  # type: ignore[misc]
        for n in (1, 8, VMS)
    ]


def through_bacula(folder: Path, lab: Lab, prefix: Path, package: Path) -> list[Run]:
    """The jobs of a real Director, File Daemon and Storage Daemon."""
    from suites.bacula.harness import console as bconsole  # noqa: PLC0415 - not for the runner
    from suites.bacula.harness import daemons as bacula  # noqa: PLC0415
    from suites.bacula.harness.report import Report  # noqa: PLC0415
    from suites.bacula.harness.site import Site  # noqa: PLC0415

    bconsole.PATIENCE = PATIENCE
    fleet = Fleet.make(lab, VMS_OF_BACULA)
    with ExitStack() as stack:
        installation = bacula.unpack(prefix, package, folder / "installed")
        daemons = stack.enter_context(bacula.running(installation, folder / "bacula"))
        site = Site("fleet", folder, lab, daemons, bconsole.Console(daemons), Report())

        site.connect()
        connection = site.config_file.read_text()

        def job(level: str, parallel: int) -> Iterable[str]:
            site.config_file.write_text(f"{connection}parallel_vms = {parallel}\n")
            done = site.console.run("fleet", level)
            if done.status != "T":
                sys.exit(done.words)
            return done.log

        site.define("vm=fleet-*")
        job("Full", VMS_OF_BACULA)
        return [
            fleet.timed(n, lambda n=n: job("Incremental", n))  # type: ignore[misc]
            for n in (1, 8)
        ]


def reaching(lab: Lab, folder: Path) -> str:
    """The lines of a configuration file."""
    return (
        f"prism = {lab.pc_host}\nuser = {lab.user}\npassword = {lab.password}\n"
        f"ca = {lab.ca_file}\nstate_dir = {folder / 'state'}\ntransport = userspace\n"
    )


def show(title: str, runs: list[Run]) -> bool:
    """Print the table; whether the goals are reached."""
    table = Table(
        "parallel_vms", "seconds", "calls per VM", "data sent, s", "slowest VM, s",
        "of the larger", "bound of rounds, s", "of it", title=title,
    )  # fmt: skip
    for run in runs:
        larger = max(run.sent, run.slowest)
        table.add_row(
            str(run.parallel), f"{run.seconds:.1f}", f"{run.calls / len(run.vms):.1f}",
            f"{run.sent:.1f}", f"{run.slowest:.1f}", f"{run.seconds / larger:.2f}",
            f"{run.bound:.1f}", f"{run.seconds / run.bound:.2f}",
        )  # fmt: skip
    one, eight = runs[:2]
    resident = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    table.caption = (
        f"8 at a time: {one.seconds / eight.seconds:.1f} times as fast as 1, goal {GOAL:.0f}; "
        f"{eight.seconds / eight.bound:.2f} of the bound, goal {GOAL_OF_BOUND}; the largest child "
        f"process had {resident:.0f} MiB resident; load {os.getloadavg()[0]:.1f}"
    )
    Console(width=120).print(table)
    return one.seconds >= GOAL * eight.seconds and eight.seconds <= GOAL_OF_BOUND * eight.bound


def main() -> int:
    """Run one of the two; return 1 when a goal is missed."""
    if len(sys.argv) not in {1, 3}:
        sys.exit(__doc__)
    with ExitStack() as stack:
        name = stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-"))
        folder = Path(name)
        allowed = folder / "allowed-folders"
        allowed.write_text(f"{folder}\n")
        os.environ[places.VARIABLE] = str(allowed)
        lab = stack.enter_context(Lab.start(folder / "lab", latency="prism"))
        if len(sys.argv) == 1:
            title = f"an incremental of {VMS} VMs, 2 x 8 MiB changed in each"
            return 0 if show(title, through_the_runner(folder, lab)) else 1
        runs = through_bacula(folder, lab, Path(sys.argv[1]), Path(sys.argv[2]))
        title = f"{VMS_OF_BACULA} VMs through bacula-fd"
        return 0 if show(title, runs) else 1


if __name__ == "__main__":
    sys.exit(main())
