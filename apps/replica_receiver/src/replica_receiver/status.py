"""The command `status`: how far behind each replica is, for people and for monitoring."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from command_line import arguments, terminal
from command_line.text import duration, size
from vm_replica.status import statuses
from vm_replica.store.access import open_store

from replica_receiver.places import add_store

if TYPE_CHECKING:
    import argparse

    from command_line.arguments import Subparsers
    from vm_replica.status import Status

HEADINGS = ("VM", "cluster", "state", "generation", "points", "lag", "RPO", "size", "stored", "")


def add_parser(commands: Subparsers) -> None:
    """Add `status` to the subparsers of the program."""
    parser = commands.add_parser(
        "status", help="show each replica and its lag; exit code 0 OK, 1 warning, 2 critical"
    )
    add_store(parser)
    arguments.add_json(parser)
    parser.add_argument(
        "--rpo", type=arguments.seconds(), default=0, metavar="TIME",
        help="lag that is allowed where the source has promised none: 15m, 24h; default: any",
    )  # fmt: skip
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Show the replicas; return the worst level. Raises StoreError, WrongUser."""
    found = list(statuses(open_store(args.store), time.time(), int(args.rpo)))
    if args.json:
        terminal.show_json(status.plain() for status in found)
    else:
        terminal.show_table(HEADINGS, (_row(status) for status in found))
    return max((status.level.value for status in found), default=0)


def _row(status: Status) -> tuple[str, ...]:
    receiving = ""
    if status.expected:
        receiving = f"receiving: {size(status.arrived)} of {size(status.expected)}"
    judged = f"{status.level.name}: {status.why}" if status.why else status.level.name
    return (
        status.vm_name or status.vm_id,
        status.cluster,
        status.state,
        str(status.generation),
        str(status.points),
        duration(status.lag) if status.generation else "-",
        duration(status.rpo) if status.rpo else "-",
        size(status.size),
        size(status.stored),
        "\n".join(filter(None, (judged, receiving))),
    )
