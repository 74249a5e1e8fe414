"""The command line `replicate`: VMs to a receiver, once or for ever."""

from __future__ import annotations

import signal
import sys
import threading
from contextlib import closing
from typing import TYPE_CHECKING

from command_line.cancel import Cancelled
from command_line.text import with_notes

from nutanix_backend.errors import BackendError
from nutanix_backend.replicate.cycles import Work
from nutanix_backend.replicate.source import VM_ERRORS
from nutanix_backend.settings import parameters

if TYPE_CHECKING:
    import argparse
    from typing import TypeAlias

    Subparsers: TypeAlias = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001 - argparse offers no public name for it


def add_parser(subparsers: Subparsers) -> None:
    """Add `replicate` to a program's subparsers."""
    parser = subparsers.add_parser("replicate", help="bring replicas on a receiver up to date")
    parser.add_argument("--to", metavar="HOST:PORT", help="the receiver; or replicate_to=")
    parser.add_argument(
        "--every", type=float, metavar="SECONDS", help="go on for ever; default: once"
    )
    parser.add_argument(
        "words",
        nargs="+",
        metavar="KEY=VALUE|VM",
        help="parameters as in a FileSet (config_file=PATH), and the VMs: name, UUID or pattern",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Replicate; return 0 when all went well, or when we were told to stop."""
    terminal = Terminal()
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    try:
        settings = parameters.parse(_items(args))
        return _work(args, Work(settings, terminal, _rpo(args, settings), stop))
    except Cancelled:
        terminal.say("stopped")
        return 0 if args.every else 1
    except VM_ERRORS as error:
        terminal.report(with_notes(error))
        return 1


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
    def heed() -> None:
        if work.stop.is_set():
            raise Cancelled("told to stop")

    if args.every is not None and not args.every >= 1:
        raise BackendError(f"--every {args.every} is not a second or more")
    failed = 0
    with closing(work.every(args.every, heed) if args.every else work.once(heed)) as ended:
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
    """Says things on standard output and standard error, line by line."""

    def say(self, text: str) -> None:
        """An information line."""
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()

    def warn(self, text: str) -> None:
        """A warning."""
        sys.stderr.write(f"warning: {text}\n")

    def report(self, text: str) -> None:
        """An error."""
        sys.stderr.write(f"error: {text}\n")
