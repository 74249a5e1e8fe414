"""The command line `job ...`: its arguments, and what it prints and returns."""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import attrs
from command_line import arguments, terminal
from command_line.text import printable
from ptcomm import Level, Phase, Replace, Severity

from ptcomm_runner import display, jobs
from ptcomm_runner.catalog import Status, Store, check_job_name
from ptcomm_runner.errors import RunnerError
from ptcomm_runner.process import Cancellation

if TYPE_CHECKING:
    from collections.abc import Callable

    from command_line.arguments import Subparsers

    from ptcomm_runner.jobs import Result

LEVELS = {level.name.lower(): level for level in Level}
REPLACE = {
    "always": Replace.ALWAYS,
    "never": Replace.NEVER,
    "ifnewer": Replace.IF_NEWER,
    "ifolder": Replace.IF_OLDER,
}
DEFAULT_TIMEOUT = 3600.0


@attrs.frozen
class OwnBackend:
    """The backend that a program starts when no other is named.

    `program` is the name of its command, `module` what `python -m` starts, `namespace` the first
    folder of the names in its backups ("@nutanix").
    """

    program: str
    module: str
    namespace: str


def add_parser(subparsers: Subparsers, own: OwnBackend) -> None:
    """Add `job` with its own subcommands to the subparsers of the program of a backend."""
    parser = subparsers.add_parser("job", help="run a job without Bacula, with a folder as storage")
    parser.set_defaults(run=run, own=own)
    actions = parser.add_subparsers(dest="action", required=True)

    backup = _add(actions, "backup", "back up into a store", stored=True)
    backup.add_argument("--level", choices=LEVELS, default="full")

    restore = _add(actions, "restore", "restore from a store", stored=True)
    restore.add_argument("--job", type=int, metavar="ID", help="default: the newest good backup")
    restore.add_argument("--where", default="/", help="/ (default), or a folder for everything")
    restore.add_argument("--replace", choices=REPLACE, default="always")
    restore.add_argument("--verify", action="store_true", help="the same as verify=yes")
    restore.add_argument("--include", action="append", default=[], metavar="GLOB")

    _add(actions, "estimate", "show what a full backup would save")
    _add(actions, "listing", "show what there is to save; listing=PATH")
    _add(actions, "query", "ask the backend; query=NAME")

    jobs_of = actions.add_parser("list", help="show the jobs of a store")
    _add_store(jobs_of)
    arguments.add_json(jobs_of)


def run(args: argparse.Namespace) -> int:
    """Run a `job` command line; return 0 for a good job (T, W), 1 for any other.

    Raises RunnerError and OSError.
    """
    if args.action == "list":
        return _list(args)
    return run_job(args, partial(_run_action, args))


def _add(
    actions: Subparsers, name: str, text: str, *, stored: bool = False
) -> argparse.ArgumentParser:
    parser = actions.add_parser(name, help=text)
    if stored:
        _add_store(parser)
    parser.add_argument("--name", required=True, type=_job_name, help="name of the job")
    add_job_arguments(parser)
    return parser


def add_job_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what every job takes."""
    parser.add_argument("--backend", help="program to run as the backend; default: this one")
    parser.add_argument("--working-dir", type=Path, help="default: working in the store")
    parser.add_argument(
        "--timeout",
        type=arguments.seconds(least=0.001),
        default=DEFAULT_TIMEOUT,
        metavar="TIME",
        help="longest silence: 90 (seconds), 10m; default: %(default)s",
    )
    arguments.add_json(parser)
    parser.add_argument("parameters", nargs="*", type=arguments.pair, metavar="KEY=VALUE")


def _add_store(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--store", required=True, type=Path, help="folder that holds the jobs")


def _job_name(text: str) -> str:
    try:
        return check_job_name(text)
    except RunnerError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _list(args: argparse.Namespace) -> int:
    if not args.store.is_dir():
        raise RunnerError(f"{args.store} is not a folder: --store names the folder of the jobs")
    found = Store(args.store).jobs()
    if args.json:
        sys.stdout.write(display.jobs_json(found) + "\n")
    else:
        terminal.console().print(display.job_table(found))
    return 0


def run_job(args: argparse.Namespace, action: Callable[[jobs.Settings], Result]) -> int:
    """Run a job with the settings of a command line, show its result, return its exit status."""
    cancellation = Cancellation()
    with ExitStack() as stack:
        stack.enter_context(cancellation.on_signals())
        watcher = stack.enter_context(display.watching(silent=args.json))
        settings = jobs.Settings(
            command=(args.backend,) if args.backend else this_program(args.own),
            parameters=_parameters(args),
            working_dir=_working_dir(args, stack),
            watcher=watcher,
            timeout=args.timeout,
            cancellation=cancellation,
            namespace=args.own.namespace,
        )
        result = action(settings)
    _show(args, result)
    return 0 if _is_done(args, result) else 1


def _is_done(args: argparse.Namespace, result: Result) -> bool:
    """A restore is done when everything is restored: bacula-fd too calls any other an error."""
    if args.action == "restore":
        return result.status is Status.GOOD
    return result.status.good


def _parameters(args: argparse.Namespace) -> tuple[tuple[str, str], ...]:
    given: list[tuple[str, str]] = args.parameters
    return (*given, ("verify", "yes")) if getattr(args, "verify", False) else tuple(given)


def this_program(own: OwnBackend) -> tuple[str, ...]:
    """The command that starts the running program again, by name or as a module."""
    if Path(sys.argv[0]).name == own.program:
        return (sys.argv[0],)
    return (sys.executable, "-m", own.module)


def _working_dir(args: argparse.Namespace, stack: ExitStack) -> Path:
    """Where the backend may leave what it needs; without a store, only as long as the job runs."""
    if args.working_dir:
        folder: Path = args.working_dir
    elif "store" in args:
        folder = args.store / "working"
    else:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="ptcomm-runner-")))
    return folder.absolute()


def _run_action(args: argparse.Namespace, settings: jobs.Settings) -> Result:
    match args.action:
        case "backup":
            return jobs.backup(Store(args.store), args.name, LEVELS[args.level], settings)
        case "restore":
            return jobs.restore(
                Store(args.store),
                args.name,
                settings,
                job_id=args.job,
                where=str(Path(args.where).resolve()),
                replace=REPLACE[args.replace],
                include=args.include,
            )
        case "query":
            return jobs.query(args.name, settings)
        case _:
            phase = Phase.ESTIMATE if args.action == "estimate" else Phase.LISTING
            return jobs.listing(args.name, settings, phase)


def _show(args: argparse.Namespace, result: Result) -> None:
    if args.json:
        sys.stdout.write(display.result_json(result) + "\n")
        for message in result.log:
            if message.severity is Severity.FATAL:
                terminal.complain(message.text)
        return
    screen = terminal.console()
    if args.action in {"estimate", "listing"}:
        screen.print(display.file_table(result))
    for row in result.rows:
        sys.stdout.write(f"{printable(row)}\n")
    screen.print(display.summary(result))
