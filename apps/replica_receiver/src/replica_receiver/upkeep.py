"""The commands `rollback`, `drop` and `audit`: what changes or removes replicas, and who did it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
from command_line import arguments, terminal
from vm_replica import audit
from vm_replica.errors import StoreError
from vm_replica.failover import ledger
from vm_replica.failover.transitions import State
from vm_replica.store.access import find, open_store

from replica_receiver.places import add_store
from replica_receiver.points import REPLICA

if TYPE_CHECKING:
    import argparse

    from command_line.arguments import Subparsers
    from vm_replica.store.replica import Replica

HEADINGS = ("at (UTC)", "who", "event", "replica", "source", "")


def add_parser(commands: Subparsers) -> None:
    """Add the commands to the subparsers of the program."""
    rollback = commands.add_parser(
        "rollback", help="make an older restore point the current one; newer ones are removed"
    )
    rollback.add_argument("replica", type=arguments.typed, help=REPLICA)
    rollback.add_argument(
        "--point", type=arguments.number(least=1), metavar="N", required=True, help="generation"
    )
    rollback.set_defaults(run=roll_back)
    drop = commands.add_parser("drop", help="remove a replica with all its restore points")
    drop.add_argument("replica", type=arguments.typed, help=REPLICA)
    drop.set_defaults(run=drop_replica)
    for parser in (rollback, drop):
        parser.add_argument("--yes", action="store_true", help="needed: this cannot be undone")
    shown = commands.add_parser("audit", help="show who changed what, and check that log")
    shown.add_argument(
        "--verify", action="store_true", help="only check that no line was changed or removed"
    )
    arguments.add_json(shown)
    shown.set_defaults(run=show_audit)
    for parser in (rollback, drop, shown):
        add_store(parser)


def roll_back(args: argparse.Namespace) -> int:
    """Roll a replica back. Raises ReplicationError."""
    replica = find(open_store(args.store), args.replica)
    _refuse_failover(replica)
    newer = [point.number for point in replica.points() if point.number > args.point]
    _require_yes(args, f"the restore points {newer or 'that are half applied'} of {replica.name}")
    audit.note(args.store, "rollback", replica=replica.name, detail=f"to {args.point}, --yes")
    replica.roll_back(args.point)
    terminal.say(terminal.plain(f"{replica.name} is at generation {args.point}, proven"))
    return 0


def drop_replica(args: argparse.Namespace) -> int:
    """Remove a replica. Raises ReplicationError."""
    replica = find(open_store(args.store), args.replica)
    _refuse_failover(replica)
    _require_yes(args, f"the replica {replica.name} with all its restore points")
    audit.note(args.store, "drop", replica=replica.name)
    replica.drop()
    terminal.say(terminal.plain(f"{replica.name} is removed"))
    return 0


def _require_yes(args: argparse.Namespace, what: str) -> None:
    if not args.yes:
        raise StoreError(f"{what} would be removed for good: add --yes")


def _refuse_failover(replica: Replica) -> None:
    state = ledger.read(replica.files.path).state
    if state is not State.REPLICATING:
        raise StoreError(f"the replica {replica.name} is in use ({state.value}): end the failover")


def show_audit(args: argparse.Namespace) -> int:
    """Show the audit log, or say that it is sound. Raises StoreError."""
    entries = audit.read(args.store)
    if args.verify:
        last = audit.last_hash(args.store) or "none"
        terminal.say(f"{len(entries)} lines, none was changed or removed; the last is {last}")
        terminal.say("compare this hash with the last audit line in syslog")
    elif args.json:
        terminal.show_json(attrs.asdict(entry) for entry in entries)
    else:
        terminal.show_table(
            HEADINGS, ((e.at, e.who, e.event, e.replica, e.peer, e.detail) for e in entries)
        )
    return 0
