"""`podheitor-nutanix-backend`: alone it serves bacula-fd on stdio; with a command it is a tool."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

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


def _command(words: list[str]) -> int:
    from command_line import program, terminal  # noqa: PLC0415

    from nutanix_backend.errors import ParameterError  # noqa: PLC0415
    from nutanix_backend.settings import parameters, places, secrecy  # noqa: PLC0415

    secrecy.keep_memory_private()
    os.environ[places.STARTED_BY] = places.COMMAND_LINE
    try:
        parameters.refuse_secrets(words)
    except ParameterError as error:
        terminal.complain(str(error))
        return program.UNUSABLE
    return program.run(command_line(), words)


def command_line() -> argparse.ArgumentParser:
    """The parser of the commands."""
    import argparse  # noqa: PLC0415

    from ptcomm_runner import command as job  # noqa: PLC0415
    from vm_replica import pairing  # noqa: PLC0415

    from nutanix_backend.cli import (  # noqa: PLC0415
        coverage,
        import_machine,
        report,
        state,
        upkeep,
        verify,
    )
    from nutanix_backend.doctor import command as doctor  # noqa: PLC0415
    from nutanix_backend.files import command as files  # noqa: PLC0415
    from nutanix_backend.qualify import command as qualify  # noqa: PLC0415
    from nutanix_backend.replicate import command as replicate  # noqa: PLC0415
    from nutanix_backend.settings.table import BY_NAME  # noqa: PLC0415

    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Without arguments: the backend that bacula-fd starts.",
    )
    commands = parser.add_subparsers(required=True)
    own = job.OwnBackend(PROGRAM, "nutanix_backend", "@nutanix")
    job.add_parser(commands, own)
    import_machine.add_parser(commands, own)
    qualify.add_parser(commands, own)
    for command in (doctor, upkeep, coverage, verify, report, files, state, replicate):
        command.add_parser(commands)
    state_dir = BY_NAME["state_dir"].default
    pairing.add_parser(commands, Path(state_dir, "identity"))
    return parser


if __name__ == "__main__":
    sys.exit(main())
