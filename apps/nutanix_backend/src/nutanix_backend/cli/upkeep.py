"""The command line `sweep` and `leftovers`: what is on a cluster that should not be."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from prism_client import PrismError

from nutanix_backend.cluster import inventory, sweep
from nutanix_backend.errors import BackendError
from nutanix_backend.settings import parameters

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator
    from typing import TypeAlias

    Subparsers: TypeAlias = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001 - argparse offers no public name for it


def add_parser(subparsers: Subparsers) -> None:
    """Add `sweep` and `leftovers` to a program's subparsers."""
    sweeping = subparsers.add_parser("sweep", help="remove what killed jobs left on the cluster")
    sweeping.add_argument("--dry-run", action="store_true", help="only say what there is to remove")
    listing = subparsers.add_parser("leftovers", help="list all of ours on the cluster")
    for command, parser in (("sweep", sweeping), ("leftovers", listing)):
        parser.add_argument("parameters", nargs="+", metavar="KEY=VALUE", help="as in a FileSet")
        parser.set_defaults(run=run, command=command)


def run(args: argparse.Namespace) -> int:
    """Run one of them; return 1 when it could not do its work."""
    try:
        for line in _lines(args):
            sys.stdout.write(f"{line}\n")
    except (BackendError, PrismError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def _lines(args: argparse.Namespace) -> Iterator[object]:
    pairs = (text.partition("=") for text in args.parameters)
    settings = parameters.parse((name, value) for name, _, value in pairs)
    with inventory.connect(settings) as client:
        if args.command == "leftovers":
            yield from sweep.leftovers(client, settings)
        else:
            yield from sweep.sweep(client, settings, dry_run=args.dry_run)
