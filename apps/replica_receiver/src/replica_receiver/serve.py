"""The command `serve`: take cycles of the sources until told to stop."""

from __future__ import annotations

import logging
import signal
from contextlib import nullcontext
from typing import TYPE_CHECKING

from command_line import arguments
from vm_replica import pairing
from vm_replica.owner import refuse_foreign
from vm_replica.protocol import tls
from vm_replica.protocol.channel import parse_address
from vm_replica.protocol.messages import PORT
from vm_replica.receiver import Options, Receiver
from vm_replica.store.access import make_store
from vm_replica.store.admission import Limits
from vm_replica.store.retention import DAY, Retention

from replica_receiver import metrics
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
        "--protect", type=arguments.seconds(), default=7 * DAY, metavar="TIME",
        help="drop no restore point that is younger, whatever else is said; default: 7d",
    )  # fmt: skip
    parser.add_argument(
        "--keep-hours", type=arguments.number(least=0), default=24, metavar="N",
        help="also keep the last restore point of each of so many hours; default: %(default)s",
    )  # fmt: skip
    parser.add_argument(
        "--keep-days", type=arguments.number(least=0), default=30, metavar="N",
        help="also keep the last restore point of each of so many days; default: %(default)s",
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
    parser.add_argument(
        "--quota", type=arguments.size, default=0, metavar="SIZE",
        help="space that the replicas of one source may take; default: no limit",
    )  # fmt: skip
    parser.add_argument(
        "--max-replicas", type=arguments.number(least=1), default=1000, metavar="N",
        help="largest number of replicas of one source; default: %(default)s",
    )  # fmt: skip
    parser.add_argument(
        "--metrics", default="", metavar="HOST:PORT",
        help="answer Prometheus there, an address of this host itself: 127.0.0.1:9849",
    )  # fmt: skip
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Serve until SIGINT or SIGTERM. Raises ReplicationError, OSError."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(threadName)s: %(message)s")
    refuse_foreign(args.identity)
    tls.server_context(args.identity)  # a missing key is an error now, not at the first session
    limits = Limits(
        args.max_disks, args.max_size, args.reserve, quota=args.quota, replicas=args.max_replicas
    )
    store = make_store(args.store, limits)
    retention = Retention(
        count=args.keep_points,
        age=int(args.keep_age),
        protect=int(args.protect),
        hours=args.keep_hours,
        days=args.keep_days,
    )
    options = Options(sessions=args.sessions, retention=retention)
    receiver = Receiver(store, args.identity, parse_address(args.listen), options)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: receiver.stop())
    with metrics.served(args.metrics, store) if args.metrics else nullcontext():
        receiver.serve()
    return 0
