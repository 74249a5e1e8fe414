"""What can this host reach? Discovery and the disks of a target, from the command line.

    python -m iscsi_attach discover PORTAL --initiator IQN
    python -m iscsi_attach disks PORTAL TARGET --initiator IQN

Nothing is read or written. A CHAP secret comes from the environment (ISCSI_CHAP_SECRET), since
command lines are public on a host.
"""

from __future__ import annotations

import argparse
import os
import sys

from iscsi_attach import (
    Chap,
    IscsiAttachError,
    Portal,
    Target,
    attach,
    discover,
)

SECRET = "ISCSI_CHAP_SECRET"  # noqa: S105 - the name of a variable


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    options = _parser().parse_args(arguments)
    chap = Chap(options.chap_user, os.environ.get(SECRET, "")) if options.chap_user else None
    try:
        lines = _disks(options, chap) if options.command == "disks" else _targets(options, chap)
    except IscsiAttachError as exc:
        sys.stderr.write(f"{exc}\n")
        return 1
    sys.stdout.writelines(f"{line}\n" for line in lines)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m iscsi_attach", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("portal", type=Portal.parse, help="host, host:port or [v6]:port")
    common.add_argument("--initiator", required=True, metavar="IQN", help="our own name")
    common.add_argument("--chap-user", metavar="USER", help=f"with the secret in {SECRET}")
    common.add_argument("--timeout", type=float, default=10.0, metavar="SECONDS")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("discover", parents=[common], help="list the targets of a portal")
    disks = commands.add_parser("disks", parents=[common], help="list the disks of a target")
    disks.add_argument("target", help="the target's IQN")
    return parser


def _targets(options: argparse.Namespace, chap: Chap | None) -> list[str]:
    found = discover(
        options.portal, initiator=options.initiator, chap=chap, timeout=options.timeout
    )
    return [f"{target.iqn}\t{' '.join(map(str, target.portals))}" for target in found]


def _disks(options: argparse.Namespace, chap: Chap | None) -> list[str]:
    target = Target(options.portal, options.target, chap)
    with attach(target, initiator=options.initiator, timeout=options.timeout) as attachment:
        return [
            f"{info.lun}\t{info.size}\t{info.block_size}\t{info.serial}\t{info.designator}"
            for info in attachment.luns
        ]


if __name__ == "__main__":
    sys.exit(main())
