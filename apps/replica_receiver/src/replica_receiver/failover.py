"""The command line `failover`: events on a replica of a receiver's store, and how they stand."""

from __future__ import annotations

import json
import signal
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
from command_line.cancel import Cancelled
from command_line.text import with_notes
from nutanix_backend.cluster import inventory
from nutanix_backend.errors import BackendError
from nutanix_backend.replicate.activator import Ahv
from nutanix_backend.replicate.command import Terminal
from nutanix_backend.replicate.source_vm import NoSource, PrismSource
from nutanix_backend.settings import parameters
from prism_client import PrismError
from rich.console import Console
from rich.table import Table
from vm_replica.errors import ReplicationError
from vm_replica.failover import ledger, stored
from vm_replica.failover.conductor import Conductor
from vm_replica.failover.copies import PointCopies
from vm_replica.failover.errors import FailoverRefused
from vm_replica.failover.transitions import Event, possible

from replica_receiver import host
from replica_receiver.host import Host
from replica_receiver.receiver import STORE

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence
    from typing import TypeAlias

    from nutanix_backend.settings.parameters import Settings
    from vm_replica.failover.point import Activator
    from vm_replica.failover.stored import StoredReplica
    from vm_replica.failover.transitions import Copy, Record

    Subparsers: TypeAlias = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001 - argparse offers no public name for it

_STATE_DIR = Path(parameters.BY_NAME["state_dir"].default)
MAKING = {
    Event.TEST: "make an isolated copy; replication goes on",
    Event.PLANNED: "shut the source down, wait for its last cycle, make the copy",
    Event.UNPLANNED: "refuse the source from now on, make the copy",
}
REMOVING = {
    Event.END_TEST: "remove the test copy",
    Event.UNDO: "remove the copy, accept the source again, switch it on if we shut it down",
    Event.RECOVER: "take back, or complete, what broke off",
}
CLOSING = {
    Event.PERMANENT: "keep the copy for good and end the relation to the source",
    Event.REVERSE: "say how to replicate in the other direction",
}


def add_parser(subparsers: Subparsers) -> None:
    """Add `failover` with its own subcommands to a program's subparsers."""
    parser = subparsers.add_parser("failover", help="fail over to a replica, and back")
    actions = parser.add_subparsers(dest="action", required=True)
    for event, text in (MAKING | REMOVING | CLOSING).items():
        action = _add(actions, event.value, text)
        action.add_argument("replica", help="name or UUID of the VM, or CLUSTER/UUID")
        if event not in CLOSING:
            _add_target(action)
        if event in MAKING:
            _add_copy(action)
        if event in {Event.PLANNED, Event.UNDO, Event.RECOVER}:
            _add_source(action)
        if event is Event.RECOVER:
            action.add_argument(
                "--abandon", action="store_true", help="pass by hosts that do not answer any more"
            )
    history = _add(actions, "history", "show the audit log of a replica")
    history.add_argument("replica", help="name or UUID of the VM, or CLUSTER/UUID")
    for action in (history, _add(actions, "status", "show how the replicas stand")):
        action.add_argument("--json", action="store_true", help="for programs")


def _add(actions: Subparsers, name: str, text: str) -> argparse.ArgumentParser:
    parser = actions.add_parser(name, help=text)
    parser.add_argument("--store", type=Path, default=STORE, help="default: %(default)s")
    parser.set_defaults(run=run)
    return parser


def _add_target(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--target", action="append", default=[], metavar="KEY=VALUE",
        help="parameters of the Prism to fail over to: prism=, config_file=, cluster=, ...",
    )  # fmt: skip
    parser.add_argument(
        "--staging", type=Path, metavar="DIR", help="for images on their way; default: the store"
    )


def _add_copy(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--folder", type=Path, metavar="DIR", help="make the copy on this host")
    parser.add_argument("--format", choices=host.FORMATS, default="qcow2", help="of its images")
    parser.add_argument("--point", type=int, metavar="N", help="generation; default: the newest")
    parser.add_argument("--name", default="", help="of the copy; default: VM-test or VM-failover")
    parser.add_argument(
        "--network", action="append", default=[], metavar="SOURCE=NAME",
        help="MAC, subnet UUID of the source, or *; and the subnet or bridge it is to be on",
    )  # fmt: skip
    parser.add_argument("--off", action="store_true", help="leave a copy on AHV switched off")


def _add_source(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--source", action="append", default=[], metavar="KEY=VALUE",
        help="parameters of the source's Prism: prism=, config_file=, ...",
    )  # fmt: skip
    parser.add_argument(
        "--grace", type=float, default=300.0, metavar="SECONDS", help="for the guest to shut down"
    )
    parser.add_argument(
        "--patience", type=float, default=3600.0, metavar="SECONDS", help="for the last cycle"
    )
    parser.add_argument(
        "--force", action="store_true", help="cut the power of a guest that does not shut down"
    )


def run(args: argparse.Namespace) -> int:
    """Run one of them; 1 when it could not do its work. `status`: 1 when something broke off."""
    try:
        if args.action == "status":
            return _status(args)
        replica = stored.find(args.store, args.replica)
        if args.action == "history":
            return _history(args, replica)
        return _handle(args, replica)
    except (BackendError, ReplicationError, PrismError, OSError) as error:
        sys.stderr.write(f"{with_notes(error)}\n")
    except Cancelled as error:
        sys.stderr.write(f"{with_notes(error)}\n")
    return 1


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _handle(args: argparse.Namespace, replica: StoredReplica) -> int:
    event = Event(args.action)
    with ExitStack() as stack:
        for number in (signal.SIGINT, signal.SIGTERM):
            stack.callback(signal.signal, number, signal.signal(number, _cancel))
        held = stack.enter_context(ledger.opened(replica.folder))
        legal = event in possible(held.record)  # else nobody need be asked
        copies = PointCopies(
            replica,
            _activator(args, stack) if legal else None,
            getattr(args, "point", None),
            getattr(args, "name", ""),
        )
        source = _source(args, stack, replica) if legal else NoSource()
        conductor = Conductor(held, replica, source, copies, _say)
        record = conductor.handle(event, abandon=getattr(args, "abandon", False))
    if event is Event.REVERSE:
        _say(_how_to_reverse(replica, record))
    return 0


def _cancel(number: int, _frame: object) -> None:
    for other in (signal.SIGINT, signal.SIGTERM):
        signal.signal(other, signal.SIG_IGN)  # what is taken back now is not broken off again
    raise Cancelled(f"told to stop by {signal.Signals(number).name}")


def _activator(args: argparse.Namespace, stack: ExitStack) -> Activator | None:
    folder = getattr(args, "folder", None)
    networks = _pairs(getattr(args, "network", []))
    if folder:
        return Host(folder.absolute(), args.format, networks)
    if not getattr(args, "target", []):
        return None
    settings = _settings(args.target)
    if settings.state_dir == _STATE_DIR:  # that of another user
        settings = attrs.evolve(settings, state_dir=args.store.absolute())
    client = stack.enter_context(inventory.connect(settings))
    staging = (args.staging or args.store).absolute()
    return Ahv(client, settings, staging, networks, not getattr(args, "off", False), Terminal())


def _source(
    args: argparse.Namespace, stack: ExitStack, replica: StoredReplica
) -> PrismSource | NoSource:
    if not getattr(args, "source", []):
        return NoSource()
    client = stack.enter_context(inventory.connect(_settings(args.source)))
    return PrismSource(
        client, replica.vm_id, replica.taken, _say, args.grace, args.patience, args.force
    )


def _settings(words: Sequence[str]) -> Settings:
    return parameters.parse(_pairs(words).items())


def _pairs(words: Sequence[str]) -> dict[str, str]:
    found = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key or not value:
            raise FailoverRefused(f"{word!r} is not KEY=VALUE")
        found[key.lower() if ":" in key else key] = value
    return found


def _how_to_reverse(replica: StoredReplica, record: Record) -> str:
    """What to type for the other direction; the copy is the source then."""
    copy = record.copy
    place = f"{copy.name} at {copy.place}" if copy else replica.vm_name
    return (
        f"the other direction is open: pair this site with a receiver at the old one, then\n"
        f"  podheitor-nutanix-backend replicate --to RECEIVER --every SECONDS "
        f"config_file=PRISM.conf {copy.name if copy else replica.vm_name}\n"
        f"replicates {place}; it begins with a seed"
    )


# --- what is shown -------------------------------------------------------------------------------


def _status(args: argparse.Namespace) -> int:
    rows = [(replica, ledger.read(replica.folder)) for replica in stored.all_of(args.store)]
    broken = {r.folder for r, record in rows if ledger.broke_off(r.folder, record)}
    if args.json:
        shown = [_plain(replica, record) for replica, record in rows]
        sys.stdout.write(json.dumps(shown, indent=1) + "\n")
    else:
        table = Table()
        for heading in ("VM", "cluster", "generation", "state", "copies", "possible"):
            table.add_column(heading)
        for replica, record in rows:
            copies = [_words(copy) for copy in (record.test, record.copy) if copy]
            table.add_row(
                replica.vm_name,
                replica.cluster,
                str(replica.newest),
                _state(record, broke_off=replica.folder in broken),
                "\n".join(copies),
                ", ".join(event.value for event in possible(record)),
            )
        Console().print(table)
    return 1 if broken else 0


def _state(record: Record, *, broke_off: bool) -> str:
    if not record.doing:
        return record.state.value
    how = "broke off" if broke_off else "is under way"
    return f"{record.state.value}: {record.doing} {how}"


def _words(copy: Copy) -> str:
    return f"{copy.name} (generation {copy.generation}) at {copy.place}"


def _plain(replica: StoredReplica, record: Record) -> dict[str, object]:
    plain = attrs.asdict(record) | {"state": record.state.value}
    return {
        "vm_name": replica.vm_name,
        "vm_id": replica.vm_id,
        "cluster": replica.cluster,
        "generation": replica.newest,
        "possible": [event.value for event in possible(record)],
        **plain,
    }


def _history(args: argparse.Namespace, replica: StoredReplica) -> int:
    lines = ledger.history(replica.folder)
    if args.json:
        sys.stdout.write(json.dumps([attrs.asdict(line) for line in lines], indent=1) + "\n")
        return 0
    for line in lines:
        _say(f"{line.at}  {line.who}  {line.event} {line.what}  {line.detail}".rstrip())
    return 0
