"""From the start of the installed backend to its Hello, and what the imports cost.

    python benchmarks/start_time.py PACKAGE.deb

The package is unpacked into a temporary folder and started as bacula-fd starts it.
"""

from __future__ import annotations

import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ptcomm import BackendHello, Endpoint, PluginHello, Role
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

ROUNDS = 20
GOAL = 0.200
"""Seconds, median of the rounds."""
INTERPRETER = ("/usr/bin/python3", "-IS", "-c", "pass")


def until_hello(command: Sequence[str | Path]) -> float:
    """Start a backend and greet it; return the seconds until it has answered."""
    began = time.perf_counter()
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        reading, writing = os.dup(process.stdout.fileno()), os.dup(process.stdin.fileno())
        process.stdin.close()
        with Endpoint(Role.PLUGIN, reading, writing) as wire:
            wire.send(PluginHello("podheitor-nutanix", "3"))
            wire.expect(BackendHello)
            seconds = time.perf_counter() - began
    return seconds


def until_exit(command: Sequence[str]) -> float:
    """Run a program that ends by itself; return the seconds it took."""
    began = time.perf_counter()
    subprocess.run(command, check=True)
    return time.perf_counter() - began


def measure(work: Callable[[], float]) -> tuple[float, float, float]:
    """Median and worst seconds on the clock, and mean seconds of CPU, of all rounds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = [work() for _ in range(ROUNDS)]
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return statistics.median(seconds), max(seconds), cpu / ROUNDS


def import_costs(backend: Path) -> dict[str, float]:
    """Milliseconds that each package takes to import before Hello, its own modules only."""
    command = ["/usr/bin/python3", "-IS", "-X", "importtime", str(backend)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=True)
    costs: defaultdict[str, float] = defaultdict(float)
    for line in done.stderr.decode().splitlines():
        if match := re.match(r"import time: +(\d+) \| +\d+ \| +([a-z_]+)", line):
            name = match[2] if match[2] in {"attr", "construct", "ptcomm"} else "others"
            costs[match[2] if match[2] == "nutanix_backend" else name] += int(match[1]) / 1000
    return costs


@contextmanager
def unpacked(package: Path) -> Iterator[Path]:
    """The backend of a package, unpacked for a while."""
    with tempfile.TemporaryDirectory(prefix="podheitor-bench-") as root:
        subprocess.run(["dpkg-deb", "-x", package, root], check=True)
        yield Path(root) / "usr/sbin/podheitor-nutanix-backend"


def main() -> int:
    """Print the table; return 1 when the goal is missed."""
    with unpacked(Path(sys.argv[1])) as backend:
        until_hello([backend])  # so that the first round reads from the cache as the others do
        rows = {
            "start to Hello": measure(lambda: until_hello([backend])),
            "python3 -IS -c pass": measure(lambda: until_exit(INTERPRETER)),
        }
        costs = import_costs(backend)
    table = Table("ms", "median", "worst", "CPU", title=f"start of the backend, {ROUNDS} rounds")
    for name, values in rows.items():
        table.add_row(name, *(f"{value * 1000:.0f}" for value in values))
    screen = Console()
    screen.print(table)
    parts = sorted(costs.items(), key=lambda item: -item[1])
    screen.print("imports, ms: " + ", ".join(f"{name} {cost:.0f}" for name, cost in parts))
    median = rows["start to Hello"][0]
    screen.print(f"median {median * 1000:.0f} ms, goal {GOAL * 1000:.0f} ms")
    return 0 if median < GOAL else 1


if __name__ == "__main__":
    sys.exit(main())
