"""The command line `qualify`: its arguments, its consent, what it prints and returns."""

from __future__ import annotations

import json
import os
import secrets
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import durable
from command_line import arguments, terminal
from iscsi_attach import IscsiAttachError
from prism_client import PrismError, capture
from ptcomm_runner import command as runner
from ptcomm_runner import display, jobs
from ptcomm_runner.errors import RunnerError
from ptcomm_runner.process import Cancellation

from nutanix_backend.cluster import inventory
from nutanix_backend.errors import BackendError, ParameterError, as_line
from nutanix_backend.qualify import cleanup
from nutanix_backend.qualify.rows import Answer, Row
from nutanix_backend.qualify.run import STEPS, Qualification, TimeIsUp
from nutanix_backend.settings import parameters

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from command_line.arguments import Subparsers
    from prism_client import PrismClient
    from ptcomm_runner.command import OwnBackend
    from ptcomm_runner.joblog import Watcher

    from nutanix_backend.settings.parameters import Settings

SELECTING = {"vm", "exclude_vm", "state_dir", "listing", "query", "mode", "transport"}
"""Parameters of a plugin line that `qualify` sets itself."""
LIMIT = 1800.0


def add_parser(subparsers: Subparsers, own: OwnBackend) -> None:
    """Add `qualify` to a program's subparsers."""
    parser = subparsers.add_parser(
        "qualify", help="try on this cluster, with a scratch VM, everything that jobs do"
    )
    parser.add_argument("--yes", action="store_true", help="do not ask before it begins")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument(
        "--limit",
        type=arguments.seconds(least=1.0),
        default=LIMIT,
        metavar="TIME",
        help="end after this time and remove everything: 90 (seconds), 10m; default: 30m",
    )
    parser.add_argument(
        "--capture",
        type=Path,
        metavar="FILE",
        help="write every exchange with Prism, without names, addresses, ids and secrets",
    )
    parser.add_argument("parameters", nargs="+", type=arguments.pair, metavar="KEY=VALUE")
    parser.set_defaults(run=run, own=own)


def run(args: argparse.Namespace) -> int:
    """Qualify a cluster; return 0 if everything works and nothing is left, else 1.

    Raises BackendError, PrismError and OSError.
    """
    given = parameters.parse(args.parameters)
    root = given.state_dir / "qualify"
    _show_plan()
    if not args.yes and not _agreed():
        raise ParameterError("nothing was done: answer yes, or give --yes")
    folder = root / f"{cleanup.PREFIX}{secrets.token_hex(6)}"
    with ExitStack() as stack:
        if args.capture:
            stack.enter_context(_captured(args.capture))
        client = stack.enter_context(inventory.connect(given))
        _tell(cleanup.remove_earlier_runs(client, given, root))
        folder.mkdir(parents=True, mode=0o700)
        rows = list(_rows(args, client, given, folder))
    _show(args, rows)
    return 1 if any(row.answer is Answer.NO for row in rows) else 0


@contextmanager
def _captured(file: Path) -> Iterator[None]:
    """Record what this process and its jobs exchange with Prism; write it when all is done."""
    with tempfile.TemporaryDirectory(prefix="podheitor-capture-") as folder:
        recorded = Path(folder, "exchanges")
        os.environ[inventory.CAPTURE] = str(recorded)
        try:
            yield
        finally:
            del os.environ[inventory.CAPTURE]
            found = capture.anonymised(capture.read_recorded(recorded), capture.Disguise())
            durable.replace(file.absolute(), json.dumps(found, indent=1).encode())
    terminal.complain(
        f"{file} has {len(found['exchanges'])} exchanges: read it before you share it"
    )


def _rows(
    args: argparse.Namespace, client: PrismClient, given: Settings, folder: Path
) -> Iterator[Row]:
    """The rows of the steps, and one about what is left, whatever happens."""
    settings = cleanup.of_run(given, folder)
    kept = tuple(pair for pair in args.parameters if pair[0] not in SELECTING)
    cancellation = Cancellation()
    with ExitStack() as stack:
        stack.enter_context(cancellation.on_signals())
        watcher = stack.enter_context(display.watching(silent=True))
        make = partial(_job_settings, args, folder, watcher, cancellation)
        pairs = (*kept, ("state_dir", str(settings.state_dir)))
        deadline = time.monotonic() + args.limit
        work = Qualification(client, settings, pairs, make, folder, deadline)
        try:
            for row in work.rows():
                _progress(row)
                yield row
        except TimeIsUp as error:
            yield Row("Was there time for all questions?", Answer.OPEN, str(error), "use --limit")
        except (BackendError, PrismError, RunnerError, IscsiAttachError, OSError) as error:
            yield Row(
                "Did all steps end?", Answer.NO, as_line(error), "the other questions are open"
            )
        finally:
            end = _removed(client, settings, folder)
        yield end


def _job_settings(
    args: argparse.Namespace,
    folder: Path,
    watcher: Watcher,
    cancellation: Cancellation,
    pairs: tuple[tuple[str, str], ...],
) -> jobs.Settings:
    return jobs.Settings(
        command=runner.this_program(args.own),
        parameters=pairs,
        working_dir=folder / "working",
        watcher=watcher,
        timeout=args.limit,
        cancellation=cancellation,
    )


def _removed(client: PrismClient, settings: Settings, folder: Path) -> Row:
    """Remove what was made, and look for what is left."""
    question = "Is everything removed again?"
    try:
        removed = len(list(cleanup.remove_run(client, settings, folder)))
        left = list(cleanup.leftovers(client, settings, folder.name))
    except (BackendError, PrismError, OSError) as error:
        return Row(question, Answer.NO, as_line(error), "run it again: it begins with removing")
    if left:
        return Row(
            question, Answer.NO, "; ".join(left), f"run it again, or remove it by hand: {folder}"
        )
    return Row(question, Answer.YES, f"{removed} things were removed, nothing is left", "nothing")


def _show_plan() -> None:
    terminal.complain("qualify does this on the cluster:")
    for number, step in enumerate(STEPS, 1):
        terminal.complain(f"  {number}. {step}")
    terminal.complain(
        f"All that it makes has a name that begins with {cleanup.PREFIX} or podheitor."
    )


def _agreed() -> bool:
    terminal.complain("Begin? yes or no:")
    return sys.stdin.readline().strip().lower() == "yes"


def _progress(row: Row) -> None:
    terminal.complain(f"{row.answer.value:<10}{row.question}")


def _tell(lines: Iterator[str]) -> None:
    for line in lines:
        terminal.complain(f"of an earlier run: {line}")


def _show(args: argparse.Namespace, rows: list[Row]) -> None:
    if args.json:
        found = [attrs.asdict(row) | {"answer": row.answer.value} for row in rows]
        sys.stdout.write(json.dumps({"rows": found}, indent=2) + "\n")
        return
    headings = ("question", "answer", "seen", "what the product does")
    terminal.show_table(
        headings, ((row.question, row.answer.value, row.seen, row.consequence) for row in rows)
    )
