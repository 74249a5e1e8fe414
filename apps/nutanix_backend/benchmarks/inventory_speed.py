"""Estimates of a cluster with 1,000 and with 5,000 VMs of two disks each, 100 VMs to a page.

    python benchmarks/inventory_speed.py

Prism Central answers every tenth page 429 first. The table has the seconds until the first file is
announced and until all are, calls, and the resident memory of the backend; the time for each VM
must not grow with their number.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from nutanix_backend.settings import places
from prism_lab import Lab
from ptcomm import Phase
from ptcomm_runner import jobs
from ptcomm_runner.catalog import Status
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from ptcomm import Message

MIB = 1 << 20
SIZES = (1000, 5000)
PAGE = 100
FILES_BEGIN = 20_000
"""Bytes that a backend has written when the files begin; its log and the greeting are less."""
GOAL = 1.5
"""How much longer a VM may take among 5,000 than among 1,000."""


class Quiet:
    """A watcher of jobs that looks away."""

    def message(self, message: Message) -> None:
        """Nothing."""

    def file(self, name: str, size: int) -> None:
        """Nothing."""

    def data(self, count: int) -> None:
        """Nothing."""


class Sampler(threading.Thread):
    """Looks at the backend that this process starts: its memory, and when it says the first file.

    `resident` is in MiB, `first` in seconds.
    """

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.began = time.perf_counter()
        self.first = self.resident = 0.0
        self._over = threading.Event()
        self.start()

    def run(self) -> None:
        """Look fifty times a second."""
        while not self._over.wait(0.02):
            for process in _backends():
                self._look(process)

    def end(self) -> None:
        """Look no more."""
        self._over.set()
        self.join()

    def _look(self, process: Path) -> None:
        try:
            status, io = (process / "status").read_text(), (process / "io").read_text()
        except OSError:  # it has ended
            return
        if peak := re.search(r"VmHWM:\s+(\d+)", status):
            self.resident = max(self.resident, int(peak[1]) / 1024)
        written = re.search(r"wchar: (\d+)", io)
        if not self.first and written and int(written[1]) > FILES_BEGIN:
            self.first = time.perf_counter() - self.began


def _backends() -> list[Path]:
    children = Path("/proc/self/task").glob("*/children")
    found = [Path("/proc", pid) for file in children for pid in file.read_text().split()]
    return [process for process in found if _is_backend(process)]


def _is_backend(process: Path) -> bool:
    try:
        return b"nutanix_backend" in (process / "cmdline").read_bytes()
    except OSError:
        return False


def measured(folder: Path, count: int) -> tuple[float, tuple[str, ...]]:
    """Estimate a cluster of so many VMs; the seconds for each, and a row of the table."""
    with Lab.start(folder / f"lab-{count}") as lab:
        lab.create_vms("many", count, [64 * MIB, MIB])
        for page in range(0, count // PAGE, 10):
            lab.faults.status("GET */ahv/config/vms", 429, skip=page and 9, retry_after=0.1)
        config = folder / f"{count}.conf"
        config.touch(mode=0o600)
        config.write_text(
            f"prism={lab.pc_host}\nuser={lab.user}\npassword={lab.password}\nca={lab.ca_file}\n"
        )
        asked = len(lab.requests)
        settings = jobs.Settings(
            command=(sys.executable, "-m", "nutanix_backend"),
            parameters=(
                ("config_file", str(config)), ("state_dir", str(folder / "state")), ("vm", "*"),
            ),
            working_dir=folder / "working",
            watcher=Quiet(),
            timeout=600.0,
        )  # fmt: skip
        sampler = Sampler()
        result = jobs.listing("inventory", settings, Phase.ESTIMATE)
        seconds = time.perf_counter() - sampler.began
        sampler.end()
        if result.status is not Status.GOOD or len(result.files) != 3 * count:
            sys.exit(f"the estimate is not whole: {result.log}")
        busy = sum(status == 429 for _, _, status in lab.requests[asked:])
        row = (
            f"{count:,}", f"{sampler.first:.1f}", f"{seconds:.1f}", f"{1000 * seconds / count:.2f}",
            str(len(lab.requests) - asked), str(busy), f"{sampler.resident:.0f}",
        )  # fmt: skip
        return seconds / count, row


def main() -> int:
    """Print the table; return 1 when the time is not linear."""
    table = Table(
        "VMs", "first file, s", "all, s", "ms per VM", "calls", "of them 429", "MiB resident",
        title="estimate of a whole cluster",
    )  # fmt: skip
    with ExitStack() as stack:
        name = stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-"))
        allowed = Path(name, "allowed-folders")
        allowed.write_text(f"{name}\n")
        os.environ[places.VARIABLE] = str(allowed)
        each = []
        for count in SIZES:
            seconds, row = measured(Path(name), count)
            each.append(seconds)
            table.add_row(*row)
    table.caption = (
        f"a VM among {SIZES[-1]:,} takes {each[-1] / each[0]:.2f} times as long as among "
        f"{SIZES[0]:,}, goal {GOAL}; load {os.getloadavg()[0]:.1f}"
    )
    Console(width=110).print(table)
    return 0 if each[-1] <= GOAL * each[0] else 1


if __name__ == "__main__":
    sys.exit(main())
