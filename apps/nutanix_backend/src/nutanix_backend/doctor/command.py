"""The command line `doctor`: its arguments, what it prints and returns."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import attrs
from command_line import arguments, terminal

from nutanix_backend.doctor import daemon, host, prism
from nutanix_backend.doctor.finding import Finding, State
from nutanix_backend.errors import ParameterError
from nutanix_backend.settings import parameters, rights

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from command_line.arguments import Subparsers


def add_parser(subparsers: Subparsers) -> None:
    """Add `doctor` to a program's subparsers."""
    parser = subparsers.add_parser("doctor", help="check this installation, as bacula-fd's user")
    parser.add_argument("--fd", type=Path, help="path of bacula-fd; default: the one that runs")
    parser.add_argument("--fd-config", type=Path, help="its configuration file")
    parser.add_argument("parameters", nargs="*", type=arguments.pair, metavar="KEY=VALUE")
    arguments.add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print a line for each check; return 0 unless something stands in the way of a backup."""
    findings = []
    for finding in _findings(args):
        findings.append(finding)
        if not args.json:
            text = terminal.plain(finding.text)
            terminal.say(f"{finding.state.value:<5}{finding.topic:<15}{text}")
    if args.json:
        terminal.show_json(map(attrs.asdict, findings))
    return 1 if any(finding.state is State.BAD for finding in findings) else 0


def _findings(args: argparse.Namespace) -> Iterator[Finding]:
    yield from daemon.check(daemon.find(args.fd, args.fd_config))
    try:
        settings = parameters.parse(args.parameters)
    except ParameterError as error:
        yield Finding.bad("parameters", str(error))
        return
    rights.give_up(settings)
    yield from host.check(settings)
    yield from prism.check(settings)
