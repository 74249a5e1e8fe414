"""The command `serve`: take cycles of the sources until told to stop."""

from __future__ import annotations

import logging
import signal
from typing import TYPE_CHECKING

from command_line import arguments
from vm_replica import pairing
from vm_replica.owner import refuse_foreign
from vm_replica.protocol import tls
from vm_replica.protocol.channel import parse_address
from vm_replica.protocol.wire import PORT
from vm_replica.receiver import Options, Receiver
from vm_replica.store.access import make_store
from vm_replica.store.replica import Limits, Retention

from replica_receiver.places import IDENTITY, add_store

if TYPE_CHECKING:
    import argparse

    from command_line.arguments import Subparsers


def add_parser(commands: Subparsers) -> None:
    """Add `serve` to the subparsers of the program."""
    parser = commands.add_parser("serve", help="take cycles from sources until told to stop")
    add_store(parser)
    pairing.add_identity(parser, IDENTITY)
    parser.add_argument(
        "--listen", default=f"0.0.0.0:{PORT}", metavar="HOST:PORT", help="default: %(default)s"
    )
    parser.add_argument(
        "--keep-points", type=arguments.number(least=0), default=24, metavar="N",
        help="restore points to keep of each replica, besides the newest; default: %(default)s",
    )  # fmt: skip
    parser.add_argument(
        "--keep-age", type=arguments.seconds(), default=0, metavar="TIME",
        help="drop restore points that are older: 36h, 7d; default: keep them",
    )  # fmt: skip
    parser.add_argument(
        "--sessions", type=arguments.number(least=1), default=16, metavar="N",
        help="sessions of sources at the same time; default: %(default)s",
    )  # fmt: skip
    parser.add_argument(
        "--reserve", type=arguments.size, default=1 << 30, metavar="SIZE",
        help="space of the file system that stays free; default: 1G",
    )  # fmt: skip
    parser.add_argument(
        "--max-disks", type=arguments.number(least=1), default=64, metavar="N",
        help="largest number of disks of a VM; default: %(default)s",
    )  # fmt: skip
    parser.add_argument(
        "--max-size", type=arguments.size, default=64 << 40, metavar="SIZE",
        help="largest size of a disk; default: 64T",
    )  # fmt: skip
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Serve until SIGINT or SIGTERM. Raises ReplicationError, OSError."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(threadName)s: %(message)s")
    refuse_foreign(args.identity)
    tls.server_context(args.identity)  # a missing key is an error now, not at the first session
    store = make_store(args.store, Limits(args.max_disks, args.max_size, args.reserve))
    retention = Retention(args.keep_points, int(args.keep_age))
    options = Options(sessions=args.sessions, retention=retention)
    receiver = Receiver(store, args.identity, parse_address(args.listen), options)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: receiver.stop())
    receiver.serve()
    return 0
