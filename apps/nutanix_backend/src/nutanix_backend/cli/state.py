"""The command line `state`: move the chains of this client to another host."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from command_line import arguments, terminal

from nutanix_backend.references import transfer
from nutanix_backend.settings import parameters, rights

if TYPE_CHECKING:
    import argparse

    from command_line.arguments import Subparsers


def add_parser(subparsers: Subparsers) -> None:
    """Add `state export` and `state import` to a program's subparsers."""
    parser = subparsers.add_parser("state", help="move the chains of this client to another host")
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    for name, run, text in (
        ("export", _export, "write the chains of all VMs into a new file"),
        ("import", _import, "take the chains of such a file"),
    ):
        action = actions.add_parser(name, help=text)
        action.add_argument("file", type=Path, help="archive, such as /var/tmp/chains.tar.gz")
        action.add_argument(
            "parameters", nargs="*", type=arguments.pair, metavar="KEY=VALUE",
            help="state_dir= when it is not the usual one",
        )  # fmt: skip
        action.set_defaults(run=run)


def _export(args: argparse.Namespace) -> int:
    """Raises StateError, OSError."""
    count = transfer.export(_state_dir(args), args.file)
    terminal.say(
        f"the chains of {count} VMs are in {args.file}: import them on the new host, and run no "
        "more jobs of these VMs on this one"
    )
    return 0


def _import(args: argparse.Namespace) -> int:
    """Raises StateError, OSError."""
    count = transfer.import_from(args.file, _state_dir(args))
    terminal.say(f"the chains of {count} VMs are imported: the next incrementals stand on them")
    return 0


def _state_dir(args: argparse.Namespace) -> Path:
    """The state folder, as the user that owns it."""
    settings = parameters.parse(args.parameters)
    rights.give_up(settings)
    return settings.state_dir
