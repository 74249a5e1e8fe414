"""The command line `replicate`: VMs to a receiver, once or for ever."""

from __future__ import annotations

import signal
import threading
from contextlib import closing
from typing import TYPE_CHECKING

from command_line import arguments, terminal
from command_line.cancel import Cancelled
from command_line.text import with_notes

from nutanix_backend.replicate.cycles import Work
from nutanix_backend.replicate.source import VM_ERRORS
from nutanix_backend.settings import parameters, rights

if TYPE_CHECKING:
    import argparse

    from command_line.arguments import Subparsers


def add_parser(subparsers: Subparsers) -> None:
    """Add `replicate` to a program's subparsers."""
    parser = subparsers.add_parser("replicate", help="bring replicas on a receiver up to date")
    parser.add_argument("--to", metavar="HOST:PORT", help="the receiver; or replicate_to=")
    parser.add_argument(
        "--every",
        type=arguments.seconds(least=1),
        metavar="TIME",
        help="repeat for ever, at this interval: 300 (seconds), 15m, 1h; default: once",
    )
    parser.add_argument(
        "words",
        nargs="+",
        type=arguments.typed,
        metavar="KEY=VALUE|VM",
        help="parameters as in a FileSet (config_file=PATH), and the VMs: name, UUID or pattern",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Replicate; return 0 when every VM was replicated, or when --every was told to stop.

    Raises one of VM_ERRORS when no VM can be replicated.
    """
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    try:
        settings = parameters.parse(_items(args))
        rights.give_up(settings)
        return _work(args, Work(settings, Terminal(), _rpo(args, settings), stop))
    except Cancelled:
        terminal.say("stopped")
        return 0 if args.every else 1


def _items(args: argparse.Namespace) -> list[tuple[str, str]]:
    """The words of the command line as parameters."""
    items = [("replicate_to", args.to)] if args.to else []
    for word in args.words:
        name, equals, value = word.partition("=")
        items.append((name, value) if equals else ("vm", word))
    return items


def _rpo(args: argparse.Namespace, settings: parameters.Settings) -> int:
    return round(args.every or settings.replicate_rpo)


def _work(args: argparse.Namespace, work: Work) -> int:
    def check_cancelled() -> None:
        if work.stop.is_set():
            raise Cancelled("told to stop")

    failed = 0
    with closing(
        work.every(args.every, check_cancelled) if args.every else work.once(check_cancelled)
    ) as ended:
        for done in ended:
            if done.result:
                work.listener.say(str(done.result))
            elif isinstance(done.error, VM_ERRORS):
                work.listener.report(f"VM {done.name} is not replicated: {with_notes(done.error)}")
                failed += 1
            elif done.error:
                raise done.error
    return 1 if failed else 0


class Terminal:
    """A Report on standard output and standard error, line by line."""

    def say(self, text: str) -> None:
        """Write an information line."""
        terminal.say(terminal.plain(text))

    def warn(self, text: str) -> None:
        """Write a warning."""
        terminal.complain(f"warning: {text}")

    def report(self, text: str) -> None:
        """Write an error."""
        terminal.complain(f"error: {text}")
