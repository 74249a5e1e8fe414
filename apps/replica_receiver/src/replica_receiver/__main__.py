"""`podheitor-receiver`: stores replicas of VMs, proves them, and fails over to them."""

from __future__ import annotations

import argparse
import resource
import sys

from command_line import program
from vm_replica import pairing

from replica_receiver import allow, failover, points, serve, status, upkeep
from replica_receiver.places import IDENTITY

PROGRAM = "podheitor-receiver"


def command_line() -> argparse.ArgumentParser:
    """The parser of the commands."""
    parser = argparse.ArgumentParser(prog=PROGRAM, description="Stores replicas of VMs.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in (serve, status, points, upkeep, allow):
        command.add_parser(commands)
    pairing.add_parser(commands, IDENTITY)
    failover.add_parser(commands)
    return parser


def main() -> int:
    """Run the command that was given; return its exit code."""
    _allow_many_files()
    return program.main(command_line)


def _allow_many_files() -> None:
    """Raise the limit of open files: an old point is read through all later ones."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


if __name__ == "__main__":
    sys.exit(main())
