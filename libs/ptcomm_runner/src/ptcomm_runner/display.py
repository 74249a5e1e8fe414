"""What people see of a job: its messages as it runs, a progress bar on a terminal, tables, JSON.

Names and messages come from outside: they are printed as plain text, never as markup or control
codes.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING

from command_line.terminal import console, plain
from command_line.text import local_time
from ptcomm import Severity
from rich.filesize import decimal
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table
from rich.text import Text

from ptcomm_runner.catalog import Status

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ptcomm import Message
    from rich.console import Console

    from ptcomm_runner.catalog import Job
    from ptcomm_runner.joblog import Watcher
    from ptcomm_runner.jobs import Result

BAR_STEP = 4_194_304
"""Bytes between two movements of the progress bar: moving it costs more than a packet does."""
STATUS_WORDS = {
    Status.RUNNING: "running",
    Status.GOOD: "OK",
    Status.WARNINGS: "OK, with warnings",
    Status.FAILED: "failed",
    Status.CANCELED: "cancelled",
}
_STYLES = {
    Severity.WARNING: "yellow",
    Severity.NONFATAL: "yellow",
    Severity.ERROR: "red",
    Severity.FATAL: "bold red",
}


# -- while a job runs -----------------------------------------------------------------------------


class Silent:
    """A watcher for those who read the result only."""

    def message(self, message: Message) -> None:
        """Say nothing."""

    def file(self, name: str, size: int) -> None:
        """Say nothing."""

    def data(self, count: int) -> None:
        """Say nothing."""


class Lines:
    """A watcher that writes one line for every message and file."""

    def __init__(self, screen: Console) -> None:
        self._screen = screen

    def message(self, message: Message) -> None:
        """Write `<severity letter> <text>`."""
        line = f"{message.severity.value} {plain(message.text)}"
        self._screen.print(Text(line, _STYLES.get(message.severity, "")), soft_wrap=True)

    def file(self, name: str, size: int) -> None:
        """Write name and size as an information line."""
        line = f"{Severity.INFO.value} {plain(name)}, {decimal(size)}"
        self._screen.print(Text(line, "dim"), soft_wrap=True)

    def data(self, count: int) -> None:
        """Say nothing."""


class Bars(Lines):
    """A watcher that shows a progress bar for the file at hand, below the messages."""

    def __init__(self, progress: Progress) -> None:
        super().__init__(progress.console)
        self._progress = progress
        self._task: TaskID | None = None
        self._waiting = 0

    def file(self, name: str, size: int) -> None:
        """Begin a new bar; the one before becomes a line."""
        super().file(name, size)
        if self._task is not None:
            self._progress.remove_task(self._task)
        self._waiting = 0
        self._task = self._progress.add_task(plain(name.rpartition("/")[2]), total=size)

    def data(self, count: int) -> None:
        """Move the bar, in steps."""
        self._waiting += count
        if self._task is not None and self._waiting >= BAR_STEP:
            self._progress.advance(self._task, self._waiting)
            self._waiting = 0


@contextmanager
def watching(*, silent: bool) -> Iterator[Watcher]:
    """The watcher that fits where stderr goes."""
    screen = console(stderr=True)
    if silent:
        yield Silent()
    elif screen.is_terminal:
        with _progress(screen) as progress:
            yield Bars(progress)
    else:
        yield Lines(screen)


def _progress(screen: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=screen,
        transient=True,
    )


# -- when it is over ------------------------------------------------------------------------------


def summary(result: Result) -> Table:
    """How a job ended, as a table of two columns."""
    table = Table(show_header=False)
    rows = [
        ("job", f"{result.job_id or '-'} {result.job_name}"),
        ("level", result.level.name.lower() if result.level else "-"),
        ("status", f"{result.status.value} ({STATUS_WORDS[result.status]})"),
        ("files", str(len(result.files))),
        ("bytes", f"{result.data_bytes} ({decimal(result.data_bytes)})"),
    ]
    for name, text in rows:
        table.add_row(name, Text(plain(text)))
    return table


def file_table(result: Result) -> Table:
    """The files of an estimate or a listing."""
    table = Table("type", "bytes", "modified", "name")
    for file in result.files:
        size, when = str(file.size), local_time(file.times.mtime)
        name = Text(plain(file.name), overflow="fold")
        table.add_row(file.stat.type.value, size, when, name)
    return table


def job_table(jobs: Iterable[Job]) -> Table:
    """The jobs of a store."""
    table = Table("id", "name", "level", "status", "when", "files", "bytes")
    for job in jobs:
        table.add_row(
            str(job.job_id),
            Text(plain(job.name)),
            job.level.name.lower() if job.level else "restore",
            f"{job.status.value} ({STATUS_WORDS[job.status]})",
            local_time(job.started),
            str(len(job.files)),
            str(job.data_bytes),
        )
    return table


def result_json(result: Result) -> str:
    """A result for programs."""
    return json.dumps(
        {
            "job_id": result.job_id,
            "job_name": result.job_name,
            "level": result.level and result.level.value,
            "status": result.status.value,
            "bytes": result.data_bytes,
            "files": [{"name": file.name, "size": file.size} for file in result.files],
            "rows": list(result.rows),
            "messages": [
                {"severity": message.severity.value, "text": message.text} for message in result.log
            ],
        }
    )


def jobs_json(jobs: Iterable[Job]) -> str:
    """The jobs of a store for programs."""
    return json.dumps(
        [
            {
                "job_id": job.job_id,
                "name": job.name,
                "job_name": job.job_name,
                "level": job.level and job.level.value,
                "status": job.status.value,
                "started": job.started,
                "ended": job.ended,
                "files": len(job.files),
                "bytes": job.data_bytes,
            }
            for job in jobs
        ]
    )
