"""The command `failover`: its arguments, and carrying out an event on a replica."""

from __future__ import annotations

import signal
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from command_line import arguments, terminal
from command_line.cancel import Cancelled
from vm_replica.failover import entry_points, ledger, stored
from vm_replica.failover.conductor import Conductor
from vm_replica.failover.copies import PointCopies
from vm_replica.failover.entry_points import SourceOptions, TargetOptions
from vm_replica.failover.errors import FailoverRefused
from vm_replica.failover.transitions import Event, possible
from vm_replica.store.access import open_store

from replica_receiver import failover_status, host
from replica_receiver.places import add_store
from replica_receiver.points import REPLICA

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from command_line.arguments import Subparsers
    from vm_replica.failover.conductor import Source
    from vm_replica.failover.point import Activator
    from vm_replica.failover.stored import StoredReplica
    from vm_replica.failover.transitions import Copy, Record

    Reading = Callable[[], AbstractContextManager[None]]

MAKING = {
    Event.TEST: "make an isolated copy; replication goes on",
    Event.DRILL: "make an isolated copy, start it, see whether it lives, remove it",
    Event.PLANNED: "shut the source down, wait for its last cycle, make the copy",
    Event.UNPLANNED: "refuse the source from now on, make the copy",
}
REMOVING = {
    Event.END_TEST: "remove the test copy",
    Event.UNDO: "remove the copy, accept the source again, switch it on if we shut it down",
    Event.RECOVER: "undo or finish an event that was interrupted",
}
CLOSING = {
    Event.PERMANENT: "keep the copy for good and end the replication from the source",
    Event.REVERSE: "show how to replicate in the other direction",
}


def add_parser(commands: Subparsers) -> None:
    """Add `failover` with its own subcommands to the subparsers of the program."""
    parser = commands.add_parser("failover", help="fail over to a replica, and back")
    add_actions(parser)
    parser.set_defaults(run=run_action)


def add_actions(parser: argparse.ArgumentParser) -> None:
    """Add the subcommands: events, `history` and `status`."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for event, text in (MAKING | REMOVING | CLOSING).items():
        action = actions.add_parser(event.value, help=text)
        action.add_argument("replica", type=arguments.typed, help=REPLICA)
        add_store(action)
        action.set_defaults(show=None)
        if event not in CLOSING:
            _add_target(action)
        if event in MAKING:
            _add_copy(action)
        if event in {Event.PLANNED, Event.UNDO, Event.RECOVER}:
            _add_source(action)
        if event in {Event.UNDO, Event.RECOVER}:
            action.add_argument(
                "--abandon", action="store_true",
                help="go on without a host that does not answer any more",
            )  # fmt: skip
    failover_status.add_parsers(actions)


def _add_target(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--target", action="append", default=[], type=arguments.pair, metavar="KEY=VALUE",
        help="parameter of the target, such as prism=, config_file=, cluster= for ahv",
    )  # fmt: skip
    parser.add_argument(
        "--target-kind", default="", metavar="KIND",
        help="kind of the target; default: host with --folder, else the other one installed",
    )  # fmt: skip
    parser.add_argument(
        "--staging", type=Path, metavar="DIR",
        help="folder for images until they are uploaded; default: the store",
    )  # fmt: skip


def _add_copy(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--folder", type=Path, metavar="DIR",
        help="make the copy on this host, in this folder; the same as --target-kind host "
        "--target folder=DIR",
    )  # fmt: skip
    parser.add_argument(
        "--format", choices=host.FORMATS, default="qcow2", help="of the images in --folder"
    )
    parser.add_argument(
        "--point", type=arguments.number(least=1), metavar="N",
        help="generation; default: the newest",
    )  # fmt: skip
    parser.add_argument(
        "--name", default="", type=arguments.typed,
        help="name of the copy; default: that of the VM with -test or -failover",
    )  # fmt: skip
    parser.add_argument(
        "--network", action="append", default=[], type=arguments.pair, metavar="SOURCE=NAME",
        help="connect the cards of SOURCE (MAC address, network of the source, or * for all "
        "others) to the network or bridge NAME of the target",
    )  # fmt: skip
    parser.add_argument("--off", action="store_true", help="do not switch on a copy on a cluster")


def _add_source(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--source", action="append", default=[], type=arguments.pair, metavar="KEY=VALUE",
        help="parameter of the source, such as prism=, config_file= for ahv",
    )  # fmt: skip
    parser.add_argument(
        "--source-kind", default="", metavar="KIND",
        help="kind of the source; default: the only one that is installed",
    )  # fmt: skip
    parser.add_argument(
        "--grace", type=arguments.seconds(), default=300.0, metavar="TIME",
        help="how long the guest may take to shut down; default: %(default)s seconds",
    )  # fmt: skip
    parser.add_argument(
        "--patience", type=arguments.seconds(), default=3600.0, metavar="TIME",
        help="how long to wait for the last cycle; default: %(default)s seconds",
    )  # fmt: skip
    parser.add_argument(
        "--force", action="store_true", help="switch off a guest that does not shut down"
    )


def run_action(args: argparse.Namespace, reading: Reading = nullcontext) -> int:
    """Carry out an event, or show what became of others.

    What the parameters of a target or a source name is read inside of `reading`. Raises
    ReplicationError, Cancelled, errors of the target.
    """
    show: Callable[[argparse.Namespace], int] | None = args.show
    return show(args) if show else _carry_out(args, reading)


def _carry_out(args: argparse.Namespace, reading: Reading) -> int:
    event = Event(args.action)
    replica = stored.find(open_store(args.store), args.replica)
    with ExitStack() as stack:
        for number in (signal.SIGINT, signal.SIGTERM):
            stack.callback(signal.signal, number, signal.signal(number, _cancel))
        held = stack.enter_context(ledger.opened(replica.folder))
        is_left = event is Event.DRILL and held.record.doing == event.value
        if event in possible(held.record) or is_left:
            with reading():
                activator, source = _activator(args, stack), _source(args, stack, replica)
        else:  # it will be refused: nothing needs to be reached for that
            activator, source = None, None
        copies = PointCopies(
            replica, activator, _local,
            getattr(args, "point", None), getattr(args, "name", ""), event is Event.PLANNED,
        )  # fmt: skip
        conductor = Conductor(held, replica, source, copies, _say)
        if is_left:  # a drill that was killed
            conductor.handle(Event.RECOVER)
        record = conductor.handle(event, abandon=getattr(args, "abandon", False))
    if event is Event.REVERSE:
        _say(_how_to_reverse(replica, record))
    return 0


def _say(text: str) -> None:
    for line in text.split("\n"):
        terminal.say(terminal.plain(line))


def _cancel(number: int, _frame: object) -> None:
    for other in (signal.SIGINT, signal.SIGTERM):
        signal.signal(other, signal.SIG_IGN)  # undoing is not interrupted again
    raise Cancelled(f"told to stop by {signal.Signals(number).name}")


def _local(copy: Copy) -> Activator | None:
    """A copy on this host needs no more than its place to be removed."""
    return host.Host(Path(copy.place)) if copy.kind == host.KIND else None


def _activator(args: argparse.Namespace, stack: ExitStack) -> Activator | None:
    """The target that was given, if one was."""
    parameters = dict(getattr(args, "target", []))
    kind = getattr(args, "target_kind", "")
    if folder := getattr(args, "folder", None):
        kind = kind or host.KIND
        parameters |= {"folder": str(folder.absolute()), "format": args.format}
    if not parameters and not kind:
        return None
    kind = kind or _only_kind(entry_points.TARGETS, "--target-kind")
    options = TargetOptions(
        state=args.store.absolute(),
        staging=(args.staging or args.store).absolute(),
        networks={_network(key): name for key, name in getattr(args, "network", [])},
        power_on=not getattr(args, "off", False),
    )
    return stack.enter_context(entry_points.target(kind)(parameters, options, _say))


def _source(args: argparse.Namespace, stack: ExitStack, replica: StoredReplica) -> Source | None:
    """The source that was given, if one was."""
    parameters = dict(getattr(args, "source", []))
    kind = getattr(args, "source_kind", "")
    if not parameters and not kind:
        return None
    kind = kind or _only_kind(entry_points.SOURCES, "--source-kind")
    options = SourceOptions(
        replica.vm_id, replica.taken, args.grace, args.patience, args.force, replica.groups
    )
    return stack.enter_context(entry_points.source(kind)(parameters, options, _say))


def _only_kind(group: str, option: str) -> str:
    """The only kind that is installed besides this host."""
    found = [kind for kind in entry_points.kinds(group) if kind != host.KIND]
    if len(found) != 1:
        known = ", ".join(found) or "none: install the package of the hypervisor on this host"
        raise FailoverRefused(f"give {option} with the kind that is meant; there is {known}")
    return found[0]


def _network(source: str) -> str:
    """A MAC address is written in lower case."""
    return source.lower() if ":" in source else source


def _how_to_reverse(replica: StoredReplica, record: Record) -> str:
    """The commands for the other direction; the copy is the source then."""
    copy = record.copy
    name = copy.name if copy else replica.vm_name
    place = f"{copy.name} at {copy.place}" if copy else replica.vm_name
    return (
        f"to replicate {place} back, pair this site with a receiver at the old one, then run\n"
        f"  podheitor-nutanix-backend replicate --to RECEIVER --every TIME "
        f"config_file=PRISM.conf {name}\n"
        f"its first cycle is a seed"
    )
