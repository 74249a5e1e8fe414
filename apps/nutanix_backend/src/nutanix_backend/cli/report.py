"""The command line `report`: what is proven of each backup and replica, as a page or as JSON."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING

from command_line import arguments, program, terminal
from command_line.text import utc

from nutanix_backend.cli import page
from nutanix_backend.errors import ParameterError
from nutanix_backend.queries import protection
from nutanix_backend.settings import parameters

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from command_line.arguments import Subparsers

    from nutanix_backend.queries.protection import Protection


def add_parser(subparsers: Subparsers) -> None:
    """Add `report` to a program's subparsers."""
    parser = subparsers.add_parser("report", help="report what is proven of backups and replicas")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write one page, without scripts")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the same as JSON")
    parser.add_argument(
        "--replicas",
        type=Path,
        action="append",
        default=[],
        metavar="STORE",
        help="store of a receiver on this host, whose replicas are to be in it",
    )
    parser.add_argument(
        "parameters",
        nargs="*",
        type=arguments.pair,
        metavar="KEY=VALUE",
        help="state_dir=, coverage_days=",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write the report. Raises ParameterError, StoreError, OSError."""
    if not (args.html or args.json):
        raise ParameterError("say where the report goes: --html FILE, --json FILE or both")
    rows, now, host = list(_rows(args)), int(time.time()), socket.gethostname()
    if args.html:
        args.html.write_text(page.render(rows, host=host, now=now), "utf-8")
    if args.json:
        plain = [row.plain() for row in rows]
        whole = {"made": now, "host": host, "rows": plain}
        args.json.write_text(json.dumps(whole, indent=1) + "\n", "utf-8")
    bad = sum(bool(row.problems) for row in rows)
    terminal.say(f"{len(rows)} VMs and replicas, {bad} with problems, as of {utc(now)} UTC")
    return program.DONE


def _rows(args: argparse.Namespace) -> Iterator[Protection]:
    settings = parameters.parse(args.parameters)
    yield from protection.vms(settings.state_dir, settings.coverage_days)
    for store in args.replicas:
        yield from protection.replicas(store)
