"""Races of benchmarks: ours and a peer take turns, and the ratio has a spread.

Each round runs both, the one that begins changes, and gives one ratio: the peer's seconds by ours,
so that 1 is as fast and more is faster. A race whose ratios scatter too widely says so and is run
again. Results are printed, and appended to the file that PODHEITOR_BENCH_RESULTS names, a JSON
object a line; `python .ci/race.py table FILE` makes one table of all, `json FILE` one list.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

GIB = 1 << 30
ROUNDS = 7
WIDEST = 0.15
"""Interquartile range of the ratios by their median, beyond which a race does not count."""
RUNS = 3
"""How often a race is run at most until its ratios lie close enough."""
RESULTS = "PODHEITOR_BENCH_RESULTS"
_TICKS = os.sysconf("SC_CLK_TCK")


@attrs.define
class Contestant:
    """One way to do the work on `size` bytes.

    `work` may return the seconds that count, or these and the CPU seconds; otherwise its wall time
    and the CPU seconds of all processes count, for each round.
    """

    name: str
    work: Callable[[], object]
    size: int
    seconds: list[float] = attrs.field(factory=list)
    cpu: list[float] = attrs.field(factory=list)

    def run(self) -> None:
        """Do the work once."""
        cpu, began = cpu_seconds(), time.perf_counter()
        counted = self.work()
        wall, used = time.perf_counter() - began, cpu_seconds() - cpu
        if isinstance(counted, tuple):
            counted, used = counted
        self.seconds.append(counted if isinstance(counted, float) else wall)
        self.cpu.append(used)

    @property
    def cpu_per_gib(self) -> float:
        """Median CPU seconds for each GiB."""
        return statistics.median(self.cpu) / (self.size / GIB)


@attrs.frozen
class Result:
    """A row of the table. `spread` is the interquartile range of the ratios by their median.

    CPU is in seconds per GiB, of all processes that take part. `load` is that of the machine before
    and after.
    """

    race: str
    ours: str
    peer: str
    goal: float
    ratio: float
    low: float
    high: float
    spread: float
    rounds: int
    runs: int
    cpu_ours: float
    cpu_peer: float
    load: tuple[float, float]
    most_cpu: float | None = None
    """How many times the peer's CPU seconds ours may be at most; None: any number."""

    @property
    def counts(self) -> bool:
        """Whether the ratios lie close enough together."""
        return self.spread <= WIDEST

    @property
    def verdict(self) -> str:
        """What it comes to."""
        if not self.counts:
            return "too wide: does not count"
        if self.most_cpu is not None and self.cpu_ours > self.most_cpu * self.cpu_peer:
            return "missed: CPU"
        return "reached" if self.ratio >= self.goal else "missed"

    @property
    def goals(self) -> str:
        """The goal, and how much CPU it may take."""
        cpu = "" if self.most_cpu is None else f", CPU at most {self.most_cpu:.2f}"
        return f"{self.goal:.2f}{cpu}"


def cpu_seconds() -> float:
    """CPU seconds of this process and of all below it, those that have ended included."""
    used = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in used) + _cpu_below(os.getpid())


def _cpu_below(top: int) -> float:
    """CPU seconds of the processes below one that still run, and of what they waited for."""
    parents, used = {}, {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            continue
        pid = int(path.parent.name)
        parents[pid], used[pid] = int(fields[1]), sum(map(int, fields[11:15])) / _TICKS
    below, found = {top}, 0
    while len(below) != found:
        found = len(below)
        below |= {pid for pid, parent in parents.items() if parent in below}
    return sum(used[pid] for pid in below if pid != top)


def race(
    title: str,
    ours: tuple[str, Callable[[], object]],
    peer: tuple[str, Callable[[], object]],
    size: int,
    goal: float,
    *,
    rounds: int = ROUNDS,
    most_cpu: float | None = None,
) -> Result:
    """Race ours against the peer on `size` bytes; show, record and return the result."""
    for _, work in (ours, peer):
        work()  # both find the same state of the caches
    result = _run(title, ours, peer, size, goal, rounds, 1)
    while not result.counts and result.runs < RUNS:
        result = _run(title, ours, peer, size, goal, rounds, result.runs + 1)
    result = attrs.evolve(result, most_cpu=most_cpu)
    show([result])
    if path := os.environ.get(RESULTS):
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(json.dumps(as_json(result)) + "\n")
    return result


def _run(
    title: str,
    ours: tuple[str, Callable[[], object]],
    peer: tuple[str, Callable[[], object]],
    size: int,
    goal: float,
    rounds: int,
    run: int,
) -> Result:
    """One run of so many rounds, and what it says if it does not count."""
    load = os.getloadavg()[0]
    pair = mine, other = [Contestant(name, work, size) for name, work in (ours, peer)]
    for number in range(rounds):
        for contestant in pair if number % 2 == 0 else reversed(pair):
            contestant.run()
    ratios = [theirs / own for theirs, own in zip(other.seconds, mine.seconds, strict=True)]
    low, median, high = statistics.quantiles(ratios, n=4, method="inclusive")
    result = Result(
        title, mine.name, other.name, goal, median, low, high, (high - low) / median,
        rounds, run, mine.cpu_per_gib, other.cpu_per_gib, (load, os.getloadavg()[0]),
    )  # fmt: skip
    if not result.counts:
        print(f"{title}: the ratios scatter by {result.spread:.0%}, more than {WIDEST:.0%}")
    return result


def as_json(result: Result) -> dict[str, Any]:
    """A result with its verdict."""
    return {**attrs.asdict(result), "counts": result.counts, "verdict": result.verdict}


def show(results: Iterable[Result]) -> None:
    """One table of all: a row for each race."""
    columns = ("race", "ours : peer", "ratio", "quartiles", "goal", "CPU s/GiB", "load", "verdict")
    table = Table(*columns)
    for r in results:
        table.add_row(
            r.race, f"{r.ours} : {r.peer}", f"{r.ratio:.2f}", f"{r.low:.2f}-{r.high:.2f}",
            r.goals, f"{r.cpu_ours:.2f} : {r.cpu_peer:.2f}",
            f"{r.load[0]:.1f}-{r.load[1]:.1f}", r.verdict,
        )  # fmt: skip
    Console(width=150).print(table)


def main() -> None:
    """Read results, and make a table or one JSON list of them."""
    form, path = sys.argv[1:]
    lines = [json.loads(line) for line in Path(path).read_text("utf-8").splitlines()]
    if form == "json":
        print(json.dumps(lines, indent=1))
    elif lines:
        names = {field.name for field in attrs.fields(Result)}
        show(Result(**{key: line[key] for key in names}) for line in lines)


if __name__ == "__main__":
    main()
