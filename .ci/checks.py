#!/usr/bin/env python3
"""Run checks one after the other, all of them, and show one table: name, result, seconds.

A check that fails does not stop the others. What mostly waits (daemons, guests) runs beside the
rest, into a log that is shown when it ends. The exit status is 1 if a check failed.

usage: checks.py [NAME...]

NAME is a check of tox (lint, types ...), a member, a suite (a folder in suites/), a tox environment
of a member such as py312-ptcomm, `guest` (the guest that restores boot, by itself), `bare-RELEASE`,
or a group: `versions`, `nightly`. A suite that has a program `start` may be given a word for it:
kernel-qemu, install-trixie. Without a name: the checks of every change.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from members import ROOT, read_members

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

TOX = ("lint", "types", "imports", "house", "docs", "conformance", "contract", "sdk")
BY_NAME = ("field", "security")
"""Checks of tox that run a part of the members' tests: only when they are named."""
PYTHONS = ("py311", "py312", "py313")
PACKAGES = {"conformance": ("gcc", "libc6-dev")}
"""Debian packages that a check of tox needs. Those of a suite are in its file `packages`."""
PROGRAMS = {"guest": ".ci/guest/check", "bare": ".ci/bare"}
"""Checks that are one program, and may be given a word."""
OFTEN = ("kernel", "bacula", "install", "files")
"""Suites for every change. The others are for every night."""
RELEASES = ("bookworm", "trixie")
LOGS = ROOT / ".cache" / "checks"
MEMORY = Path("/dev/shm")  # noqa: S108 - a folder is made in it under a name that nobody guesses
IN_MEMORY = 8
"""GiB of free memory from which on temporary files are in memory, not on the disk."""


class UnknownCheck(LookupError):
    """No check has this name."""


@dataclass(frozen=True)
class Check:
    """One check: a command, and what it needs. `waits`: it hardly uses a processor."""

    name: str
    command: tuple[str, ...]
    packages: tuple[str, ...] = ()
    waits: bool = False


@dataclass(frozen=True)
class Result:
    """What came of a check; `seconds` is how long it took."""

    name: str
    passed: bool
    seconds: float

    @property
    def word(self) -> str:
        """Return the result in one word."""
        return "passed" if self.passed else "FAILED"


@dataclass
class Runner:
    """Runs checks, and ends what still runs when it is left."""

    logs: Path = LOGS
    _running: set[subprocess.Popen[bytes]] = field(default_factory=set)
    _starting: threading.Lock = field(default_factory=threading.Lock)
    _closed: bool = False

    def run(self, checks: Sequence[Check]) -> list[Result]:
        """Run all checks and return their results: those that wait beside the others."""
        beside = [check for check in checks if check.waits]
        others = [check for check in checks if not check.waits]
        if not (beside and others):
            return [self._run_one(check, None) for check in checks]
        results: list[Result] = []
        say(f"beside the others, into {self.logs}: {' '.join(check.name for check in beside)}")
        lane = threading.Thread(target=self._run_beside, args=(beside, results), daemon=True)
        lane.start()
        results += [self._run_one(check, None) for check in others]
        lane.join()
        return results

    def _run_beside(self, checks: list[Check], results: list[Result]) -> None:
        """Run checks into logs; this is a thread of its own."""
        results.extend(self._run_one(check, self.logs / f"{check.name}.log") for check in checks)

    def _run_one(self, check: Check, log: Path | None) -> Result:
        """Run a check, onto the terminal or into a log that is shown at its end."""
        began = time.monotonic()
        if not log:
            say(check.name)
            passed = self._call(check, None)
        else:
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open("wb") as file:
                passed = self._call(check, file.fileno())
            say(check.name)
            sys.stdout.write(log.read_text(errors="replace"))
        return Result(check.name, passed, time.monotonic() - began)

    def _call(self, check: Check, output: int | None) -> bool:
        """Install what the check needs and run its command; tell whether both succeeded."""
        install = (str(ROOT / ".ci/install-packages"), *check.packages)
        return all(
            self._succeeds(command, output)
            for command in ((install, check.command) if check.packages else (check.command,))
        )

    def _succeeds(self, command: tuple[str, ...], output: int | None) -> bool:
        with self._starting:
            if self._closed:
                return False
            process = subprocess.Popen(
                command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output,
                stderr=output and subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
            self._running.add(process)
        try:
            return process.wait() == 0
        finally:
            if process.returncode is not None:
                self._running.discard(process)

    def close(self) -> None:
        """End what still runs, with all that it started; nothing is started any more."""
        with self._starting:
            self._closed = True
        for process in list(self._running):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
        for process in list(self._running):
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)


def say(what: str) -> None:
    """Print a heading."""
    print(f"== {what}", flush=True)


def suites(root: Path = ROOT) -> list[str]:
    """Return the names of the suites."""
    return sorted(file.parent.name for file in root.glob("suites/*/conftest.py"))


def expand(names: Sequence[str], root: Path = ROOT) -> list[str]:
    """Return the names of single checks that names and groups stand for; without one, the usual."""
    members = read_members(root).values()
    long = [name for name in suites(root) if name not in OFTEN]
    versions = [f"{python}-{member.name}" for member in members for python in PYTHONS]
    versions += [f"lowest-{member.name}" for member in members if member.is_library]
    releases = [f"{check}-{release}" for release in RELEASES for check in ("install", "bare")]
    groups = {
        "versions": versions,
        "nightly": ["guest", *long, *releases, *versions],
        "e2e-kernel": ["kernel"],  # names of before
        "faults-local": ["faults_local"],
        "restore-matrix": ["restore_matrix"],
    }
    usual = [*TOX, *(member.name for member in members), *OFTEN]
    return [single for name in names or usual for single in groups.get(name, [name])]


def find(name: str, root: Path = ROOT) -> Check:
    """Return the check of a name. Raises UnknownCheck."""
    if name in (*TOX, *BY_NAME):
        return Check(name, _tox(name), PACKAGES.get(name, ()))
    members = read_members(root)
    python, _, member = name.rpartition("-")
    if member in members and python in ("", "py", "lowest", *PYTHONS):
        return Check(name, _tox(name if python else f"py-{name}"))
    first, _, word = name.partition("-")
    if first in PROGRAMS:
        return Check(name, (str(root / PROGRAMS[first]), *filter(None, [word])))
    if first in suites(root):
        return _suite(name, root / "suites" / first, word)
    known = [*TOX, *BY_NAME, *members, *suites(root), *PROGRAMS, "versions", "nightly"]
    raise UnknownCheck(f"no check is called {name}: known are {' '.join(known)}")


def _tox(environment: str, *arguments: str) -> tuple[str, ...]:
    return ("tox", "run", "--quiet", "-e", environment, *(("--", *arguments) if arguments else ()))


def _suite(name: str, folder: Path, word: str) -> Check:
    """Return the check of a suite: its program `start`, or pytest in the environment of suites."""
    needed = folder / "packages"
    packages = tuple(needed.read_text().split()) if needed.exists() else ()
    if (folder / "start").exists():
        return Check(name, (str(folder / "start"), *filter(None, [word])), packages, waits=True)
    if word:
        raise UnknownCheck(f"suite {folder.name} has no program `start` that {word} could be for")
    return Check(name, _tox("suites", f"suites/{folder.name}"), packages)


def table(results: Sequence[Result]) -> list[str]:
    """Return the lines of the table, and one that sums it up."""
    width = max(len(result.name) for result in results)
    lines = [
        f"{result.name:<{width}}  {result.word}  {result.seconds:8.1f} s" for result in results
    ]
    failed = [result.name for result in results if not result.passed]
    end = f"{len(failed)} of {len(results)} failed: {' '.join(failed)}" if failed else "all passed"
    return [*lines, end]


def _memory() -> int:
    """Return how many bytes of memory programs can still have."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")) << 10


@contextmanager
def temporary_files() -> Iterator[None]:
    """Keep temporary files in memory while this is open, if there is enough of it.

    What is tested syncs every few lines: for seconds on a disk, and for nothing in memory. That it
    syncs enough is shown by cutting the power, not by the disk.
    """
    if not MEMORY.is_dir() or min(_memory(), shutil.disk_usage(MEMORY).free) < IN_MEMORY << 30:
        yield
        return
    with tempfile.TemporaryDirectory(dir=MEMORY, prefix="podheitor-tests.") as folder:
        os.environ["TMPDIR"] = folder
        yield


def main(names: list[str]) -> int:
    """Run the checks of these names; return the exit status."""
    try:
        checks = [find(name) for name in expand(names)]
    except UnknownCheck as error:
        print(f"checks: {error}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with temporary_files(), closing(Runner()) as runner:
        results = runner.run(checks)
    print("", *table(results), sep="\n")
    return 0 if all(result.passed for result in results) else 1


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
