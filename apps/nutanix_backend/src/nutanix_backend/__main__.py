"""`podheitor-nutanix-backend`: alone it serves bacula-fd on stdio; with a command it is a tool."""

from __future__ import annotations

import os
import sys


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
    import argparse  # noqa: PLC0415

    from nutanix_backend import upkeep  # noqa: PLC0415
    from nutanix_backend.runner import command  # noqa: PLC0415

    parser = argparse.ArgumentParser(
        prog="podheitor-nutanix-backend",
        description="Without arguments: the backend that bacula-fd starts.",
    )
    subparsers = parser.add_subparsers(dest="command", required=True)
    command.add_parser(subparsers)
    upkeep.add_parsers(subparsers)
    args = parser.parse_args(arguments)
    return command.run(args) if args.command == "job" else upkeep.run(args)


if __name__ == "__main__":
    sys.exit(main())
