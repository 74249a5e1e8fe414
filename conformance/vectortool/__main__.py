"""`python -m vectortool`: run testees, compare two, check the set, add to it, pack it."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from vectortool import edit, lint, vectors
from vectortool.cross import cross
from vectortool.runner import run
from vectortool.testee import Program

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 when all is well."""
    options = _parser().parse_args(arguments)
    if "cross" in options and options.cross:
        return _cross(options)
    done: int = options.run(options)
    return done


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m vectortool", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="command")

    running = commands.add_parser("run", help="all suites, or some, against a testee")
    running.add_argument("suites", nargs="*", metavar="suite", help=", ".join(vectors.SUITES))
    running.add_argument("--testee", metavar="COMMAND", help="how the testee is started")
    running.add_argument("--patience", type=float, default=60, metavar="SECONDS")
    running.add_argument("--cross", nargs=2, metavar=("A", "B"), help="two testees, models")
    running.add_argument("--seed", type=int, default=0)
    running.add_argument("--count", type=int, default=200, help="models for --cross")
    running.set_defaults(run=_run)

    linting = commands.add_parser("lint", help="schemas, numbers, error codes, what was released")
    linting.set_defaults(run=_lint)
    adding = commands.add_parser("add", help="add the groups of a draft to a suite")
    adding.add_argument("suite", choices=vectors.SUITES)
    adding.add_argument("draft", type=Path)
    adding.set_defaults(run=_add)
    formatting = commands.add_parser("fmt", help="write every file in its one form")
    formatting.set_defaults(run=lambda _: edit.rewrite())
    releasing = commands.add_parser("release", help="seal every case, under the number in VERSION")
    releasing.set_defaults(run=lambda _: edit.release())
    packing = commands.add_parser("tarball", help="the data alone, for other languages")
    packing.add_argument("folder", type=Path)
    packing.set_defaults(run=_tarball)
    return parser


def _run(options: argparse.Namespace) -> int:
    if unknown := set(options.suites) - set(vectors.SUITES):
        return _say([f"no such suite: {', '.join(sorted(unknown))}"], 2)
    if not options.testee:
        return _say(["say --testee COMMAND, or --cross A B"], 2)
    with Program(shlex.split(options.testee), patience=options.patience) as testee:
        report = run(testee, suites=options.suites or None)
    return _say(report.lines(), 0 if report.green else 1)


def _cross(options: argparse.Namespace) -> int:
    a, b = (shlex.split(command) for command in options.cross)
    with Program(a) as one, Program(b) as other:
        found = list(cross(one, other, seed=options.seed, count=options.count))
        names = f"{one.name} and {other.name}"
    summary = f"{names}: {options.count} models a suite, {len(found)} disagreements"
    return _say([*found, summary], 1 if found else 0)


def _lint(_: argparse.Namespace) -> int:
    found = list(lint.findings())
    return _say(found or ["no findings"], 1 if found else 0)


def _add(options: argparse.Namespace) -> int:
    edit.add(options.suite, json.loads(options.draft.read_text("utf-8")))
    return 0


def _tarball(options: argparse.Namespace) -> int:
    return _say([str(edit.tarball(options.folder))], 0)


def _say(lines: object, status: int) -> int:
    for line in lines:  # type: ignore[attr-defined]
        sys.stdout.write(f"{line}\n")
    return status


if __name__ == "__main__":
    sys.exit(main())
