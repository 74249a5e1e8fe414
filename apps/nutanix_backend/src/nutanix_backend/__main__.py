"""`podheitor-nutanix-backend`: alone it serves bacula-fd on stdio; with a command it is a tool."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

PROGRAM = "podheitor-nutanix-backend"


def main() -> int:
    """Serve the daemon that started us, or run the command given."""
    if len(sys.argv) > 1:
        return _command(sys.argv[1:])
    from ptcomm.stdio import claim_stdio  # noqa: PLC0415 - a daemon waits for our Hello

    from nutanix_backend.serve import serve  # noqa: PLC0415

    nowhere = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    with claim_stdio(nowhere) as endpoint:
        serve(endpoint)
    return 0


def _command(arguments: list[str]) -> int:
    args = command_line().parse_args(arguments)
    run: Callable[[argparse.Namespace], int] = args.run
    return run(args)


def command_line() -> argparse.ArgumentParser:
    """What reads the commands."""
    import argparse  # noqa: PLC0415

    from ptcomm_runner import command as job  # noqa: PLC0415
    from replica_receiver import failover, receiver  # noqa: PLC0415

    from nutanix_backend.cli import upkeep  # noqa: PLC0415
    from nutanix_backend.doctor import command as doctor  # noqa: PLC0415
    from nutanix_backend.replicate import command as replicate  # noqa: PLC0415

    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Without arguments: the backend that bacula-fd starts.",
    )
    commands = parser.add_subparsers(required=True)
    job.add_parser(commands, job.OwnBackend(PROGRAM, "nutanix_backend", "@nutanix"))
    for command in (doctor, upkeep, replicate, receiver, failover):
        command.add_parser(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
