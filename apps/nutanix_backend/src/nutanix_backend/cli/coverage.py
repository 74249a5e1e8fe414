"""The command line `coverage`: which VMs nobody protects, and what is left on the clusters."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
from command_line import arguments, program, terminal
from command_line.text import local_time

from nutanix_backend.cluster import inventory
from nutanix_backend.queries import coverage
from nutanix_backend.settings import parameters

if TYPE_CHECKING:
    import argparse

    from command_line.arguments import Subparsers

    from nutanix_backend.queries.coverage import CoverageRow

HEADINGS = ("", "name", "UUID", "cluster", "saved", "replicated", "problem")


def add_parser(subparsers: Subparsers) -> None:
    """Add `coverage` to a program's subparsers."""
    parser = subparsers.add_parser("coverage", help="list the VMs that nobody protects")
    parser.add_argument("--all", action="store_true", help="list the VMs without a problem too")
    arguments.add_json(parser)
    parser.add_argument("parameters", nargs="+", type=arguments.pair, metavar="KEY=VALUE")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the list; return 1 when something has a problem. Raises BackendError, PrismError."""
    settings = parameters.parse(args.parameters)
    with inventory.connect(settings) as client:
        found = list(coverage.report(client, settings))
    problems = [finding for finding in found if finding.problem]
    shown = found if args.all else problems
    if args.json:
        terminal.show_json(map(attrs.asdict, shown))
    else:
        if shown:
            terminal.show_table(HEADINGS, map(_row, shown))
        vms = sum(finding.kind == "VM" for finding in found)
        terminal.say(f"{vms} VMs, {len(problems)} problems")
    return program.NOT_DONE if problems else program.DONE


def _row(finding: CoverageRow) -> tuple[str, ...]:
    return (
        finding.kind,
        finding.name,
        finding.uuid,
        finding.cluster,
        _time(finding.saved),
        _time(finding.replicated),
        finding.problem,
    )


def _time(seconds: int) -> str:
    return local_time(seconds) if seconds else "never"
