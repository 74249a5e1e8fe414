"""The command line `sweep` and `leftovers`: what is on a cluster that should not be."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
from command_line import arguments, terminal

from nutanix_backend.cluster import inventory, sweep
from nutanix_backend.settings import parameters, rights

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from command_line.arguments import Subparsers

    from nutanix_backend.cluster.sweep import Leftover, Removed


def add_parser(subparsers: Subparsers) -> None:
    """Add `sweep` and `leftovers` to a program's subparsers."""
    sweeping = subparsers.add_parser("sweep", help="remove what killed jobs left on the cluster")
    sweeping.add_argument("--dry-run", action="store_true", help="only say what there is to remove")
    listing = subparsers.add_parser("leftovers", help="list all of ours on the cluster")
    for command, parser in (("sweep", sweeping), ("leftovers", listing)):
        parser.add_argument(
            "parameters",
            nargs="+",
            type=arguments.pair,
            metavar="KEY=VALUE",
            help="as in a FileSet",
        )
        arguments.add_json(parser)
        parser.set_defaults(run=run, command=command)


def run(args: argparse.Namespace) -> int:
    """Run one of them. Raises BackendError, PrismError, OSError."""
    found = _found(args)
    if args.json:
        terminal.show_json(map(attrs.asdict, found))
    else:
        for line in found:
            terminal.say(terminal.plain(str(line)))
    return 0


def _found(args: argparse.Namespace) -> Iterator[Leftover | Removed]:
    settings = parameters.parse(args.parameters)
    rights.give_up(settings)
    with inventory.connect(settings) as client:
        if args.command == "leftovers":
            yield from sweep.leftovers(client, settings)
        else:
            yield from sweep.sweep(client, settings, dry_run=args.dry_run)
