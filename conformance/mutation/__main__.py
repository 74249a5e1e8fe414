"""`python -m mutation [MEMBER] [-j N]`: which changes of the codecs does nobody notice?

A mutant is judged by the vectors and, when they let it pass, by the tests of its library. What both
let pass is a survivor. survivors.txt lists the ones that change nothing, each with its reason.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess  # noqa: TID251 - each mutant is a process of its own
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from mutation.mutants import Mutant, mutants

if TYPE_CHECKING:
    from collections.abc import Iterator

CONFORMANCE = Path(__file__).parents[1]
REPOSITORY = CONFORMANCE.parent
CODECS = {
    "ptcomm": (
        ["_layout", "packets", "_commands", "_reader", "_writer", "_state"],
        ["ptcomm-packets", "ptcomm-sessions"],
    ),
    "phcbt01": (
        ["_layout", "_sequence", "decode", "encode", "index", "model"],
        ["phcbt01-headers", "phcbt01-streams", "phcbt01-apply"],
    ),
}


def main() -> int:
    """Judge every mutant; 1 when one survives that is not listed."""
    parser = argparse.ArgumentParser(prog="python -m mutation", description=__doc__)
    parser.add_argument("members", nargs="*", metavar="member", help=", ".join(CODECS))
    parser.add_argument("-j", "--jobs", type=int, default=1)
    options = parser.parse_args()
    excused = _excused()
    surprises = 0
    for member in options.members or CODECS:
        found = list(_mutants(member))
        with ThreadPoolExecutor(options.jobs) as pool:
            judged = pool.map(lambda pair, member=member: _survives(member, *pair), found)
            alive = [
                mutant for (_, mutant), survives in zip(found, judged, strict=True) if survives
            ]
        surprises += _report(member, len(found), alive, excused)
    return 1 if surprises else 0


def _excused() -> dict[str, str]:
    """The survivors that are known, and why: ``reason`` lines, each above its mutants."""
    reason, found = "", {}
    for line in (CONFORMANCE / "mutation/survivors.txt").read_text("utf-8").splitlines():
        if line.startswith("# "):
            reason = line[2:]
        elif line.strip():
            found[line] = reason
    return found


def _report(member: str, count: int, alive: list[Mutant], excused: dict[str, str]) -> int:
    surprises = [mutant for mutant in alive if mutant.name not in excused]
    noticed = count - len(alive)
    known = len(alive) - len(surprises)
    sys.stdout.write(f"{member}: {count} mutants, {noticed} noticed, {known} survive as listed\n")
    for mutant in surprises:
        sys.stdout.write(f"SURVIVES (line {mutant.line}) {mutant.name}\n")
    sys.stdout.flush()
    return len(surprises)


def _mutants(member: str) -> Iterator[tuple[str, Mutant]]:
    modules, _ = CODECS[member]
    for module in modules:
        file = f"{member}/{module}.py"
        source = (REPOSITORY / "libs" / member / "src" / file).read_text("utf-8")
        for mutant in mutants(file, source):
            yield file, mutant


def _survives(member: str, file: str, mutant: Mutant) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / member
        shutil.copytree(REPOSITORY / "libs" / member / "src" / member, package)
        (Path(folder) / file).write_text(mutant.source, encoding="utf-8")
        vectors = [sys.executable, str(CONFORMANCE / "mutation/judge.py"), *CODECS[member][1]]
        tests = [sys.executable, "-m", "pytest", "-x", "-q", f"libs/{member}/tests"]
        tests += ["-p", "no:cacheprovider"]
        return _passes(vectors, folder, 30) and _passes(tests, folder, 100)


def _passes(command: list[str], folder: str, patience: float) -> bool:
    """Whether the mutant in the folder passes; a hang is a way of being noticed."""
    path = os.pathsep.join([folder, str(CONFORMANCE), str(CONFORMANCE / "testees")])
    environment = os.environ | {"PYTHONPATH": path, "CI": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(
            command,
            cwd=REPOSITORY,
            env=environment,
            capture_output=True,
            check=False,
            timeout=patience,
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
