"""`python -m mutation [ptcomm|phcbt01]`: which changes of the codecs does nobody notice?

A mutant is judged by the vectors and, when they let it pass, by the fast tests of its library.
What both let pass is a survivor: SURVIVORS.md lists the known ones, each with its reason.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from pathlib import Path

import attrs

from mutation import judge
from mutation.mutants import Mutant, mutants

CONFORMANCE = Path(__file__).parents[1]
LIBRARIES = CONFORMANCE.parent / "libs"
KNOWN = CONFORMANCE / "mutation/SURVIVORS.md"


@attrs.frozen
class Library:
    """Its codec modules, and who judges their mutants."""

    modules: tuple[str, ...]
    suites: tuple[str, ...]
    tests: tuple[str, ...]


CODECS = {
    "ptcomm": Library(
        ("_layout", "packets", "_commands", "_reader", "_writer", "_state", "session"),
        ("ptcomm-packets", "ptcomm-sessions"),
        ("documents", "packets", "commands", "state", "session", "laws"),
    ),
    "phcbt01": Library(
        ("_layout", "_sequence", "decode", "encode", "index", "model"),
        ("phcbt01-headers", "phcbt01-streams", "phcbt01-apply"),
        ("layout", "model", "invalid", "decode", "encode", "index", "apply", "laws"),
    ),
}


def main() -> int:
    """Judge every mutant; 1 when one survives that is not listed, or a listed one is noticed."""
    parser = argparse.ArgumentParser(prog="python -m mutation", description=__doc__)
    parser.add_argument("library", nargs="?", choices=[*CODECS])
    parser.add_argument("--match", default="", help="only mutants whose name has this expression")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    options = parser.parse_args()
    os.chdir(CONFORMANCE.parent)
    sys.path.insert(0, str(CONFORMANCE / "testees"))
    sys.dont_write_bytecode = True
    names = [options.library] if options.library else list(CODECS)
    return max(_check(name, options.match, options.jobs) for name in names)


def _check(name: str, match: str, jobs: int) -> int:
    _say(f"{name}, unchanged:")
    if not _survivors(name, CODECS[name].modules[0], [_unchanged(name)], 1):
        _say(f"{name}: the tests fail without any mutant")
        return 1
    known = set(re.findall(rf"^\* `({name}/.*)`$", KNOWN.read_text("utf-8"), re.MULTILINE))
    count, alive = 0, list[str]()
    for module in CODECS[name].modules:
        file = f"{name}/{module}.py"
        source = (LIBRARIES / name / "src" / file).read_text("utf-8")
        found = [mutant for mutant in mutants(file, source) if re.search(match, mutant.name)]
        survivors = _survivors(name, module, found, jobs)
        _say(f"{file}: {len(found)} mutants, {len(survivors)} survive")
        count += len(found)
        alive += survivors
    new = [mutant for mutant in alive if mutant not in known]
    gone = [] if match else sorted(known - set(alive))
    _say(f"{name}: {count} mutants, {count - len(alive)} noticed, {len(alive)} survive")
    for mutant in new:
        _say(f"SURVIVES and is not listed: {mutant}")
    for mutant in gone:
        _say(f"listed, but noticed or no more there: {mutant}")
    return int(bool(new or gone))


def _unchanged(name: str) -> Mutant:
    module = CODECS[name].modules[0]
    return Mutant("unchanged", 0, (LIBRARIES / name / "src" / name / f"{module}.py").read_text())


def _survivors(name: str, module: str, found: list[Mutant], jobs: int) -> list[str]:
    """The names of those that nobody notices, so many judged at a time."""
    library = CODECS[name]
    path = LIBRARIES / name / "src" / name / f"{module}.py"
    tests = [f"libs/{name}/tests/test_{test}.py" for test in library.tests]
    running: dict[int, Mutant] = {}
    alive: list[str] = []
    waiting = list(reversed(found))
    while waiting or running:
        if waiting and len(running) < jobs:
            mutant = waiting.pop()
            suites = list(library.suites)
            child = judge.start(f"{name}.{module}", path, mutant.source, suites, tests)
            running[child] = mutant
            if not len(waiting) % 25:
                _say(f"{name}/{module}.py: {len(waiting)} left, {len(alive)} survive so far")
            continue
        child, status = os.wait()
        mutant = running.pop(child)
        if status == 0:
            alive.append(mutant.name)
            _say(f"survives: {mutant.name}")
    return alive


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
