"""The commands `failover status` and `failover history`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
from command_line import arguments, terminal
from vm_replica.failover import ledger, stored
from vm_replica.failover.stored import StoredReplica, Unreadable
from vm_replica.failover.transitions import possible
from vm_replica.store.access import open_store

from replica_receiver.places import add_store
from replica_receiver.points import REPLICA

if TYPE_CHECKING:
    import argparse

    from command_line.arguments import Subparsers
    from vm_replica.failover.transitions import Copy, Record

HEADINGS = ("VM", "cluster", "generation", "state", "copies", "possible")


def add_parsers(actions: Subparsers) -> None:
    """Add `history` and `status` to the actions of failover."""
    history = actions.add_parser("history", help="show the audit log of a replica")
    history.add_argument("replica", type=arguments.typed, help=REPLICA)
    history.set_defaults(show=show_history)
    status = actions.add_parser("status", help="show the failover state of each replica")
    status.set_defaults(show=show_status)
    for action in (history, status):
        add_store(action)
        arguments.add_json(action)


@attrs.frozen
class _Row:
    """A replica and its failovers."""

    replica: StoredReplica
    record: Record
    interrupted: bool

    def cells(self) -> tuple[str, ...]:
        copies = [_words(copy) for copy in (self.record.test, self.record.copy) if copy]
        return (
            self.replica.vm_name,
            self.replica.cluster,
            str(self.replica.newest),
            self._state(),
            "\n".join(copies),
            ", ".join(event.value for event in possible(self.record)),
        )

    def _state(self) -> str:
        record = self.record
        if not record.doing:
            return record.state.value
        how = "was interrupted" if self.interrupted else "is being carried out"
        return f"{record.state.value}: {record.doing} {how}"

    def plain(self) -> dict[str, object]:
        return {
            "vm_name": self.replica.vm_name,
            "vm_id": self.replica.vm_id,
            "cluster": self.replica.cluster,
            "generation": self.replica.newest,
            "possible": [event.value for event in possible(self.record)],
            **attrs.asdict(self.record),
            "state": self.record.state.value,
        }


def show_status(args: argparse.Namespace) -> int:
    """Show the replicas; 1 when an event was interrupted or a replica cannot be read."""
    found = stored.all_of(open_store(args.store))
    rows = [_row(replica) for replica in found if isinstance(replica, StoredReplica)]
    unreadable = [replica for replica in found if isinstance(replica, Unreadable)]
    if args.json:
        terminal.show_json(row.plain() for row in rows)
    else:
        terminal.show_table(HEADINGS, (row.cells() for row in rows))
    for replica in unreadable:
        terminal.complain(f"the replica {replica.name} cannot be read: {replica.why}")
    return 1 if unreadable or any(row.interrupted for row in rows) else 0


def _row(replica: StoredReplica) -> _Row:
    record = ledger.read(replica.folder)
    return _Row(replica, record, ledger.is_interrupted(replica.folder, record))


def _words(copy: Copy) -> str:
    return f"{copy.name} (generation {copy.generation}) at {copy.place}"


def show_history(args: argparse.Namespace) -> int:
    """Show the audit log. Raises ReplicationError."""
    lines = ledger.history(stored.find(open_store(args.store), args.replica).folder)
    if args.json:
        terminal.show_json(attrs.asdict(line) for line in lines)
        return 0
    for line in lines:
        text = f"{line.at}  {line.who}  {line.event} {line.what}  {line.detail}"
        terminal.say(terminal.plain(text).rstrip())
    return 0
