"""The job log: what was said about a job, and the status that follows from it."""

from __future__ import annotations

from typing import Protocol

from ptcomm import Message, Severity

from ptcomm_runner.catalog import Status

MAX_MESSAGES = 10_000
"""Messages kept of one job: a backend that cannot stop complaining must not fill the memory."""


class Watcher(Protocol):
    """Is told what happens while a job runs; messages come from more than one thread."""

    def message(self, message: Message) -> None:
        """A line for the job log."""

    def file(self, name: str, size: int) -> None:
        """A file or object begins; `size` in bytes, as announced."""

    def data(self, count: int) -> None:
        """`count` more bytes of it have passed."""


class JobLog:
    """Collects the messages of a job and passes each on to the watcher."""

    def __init__(self, watcher: Watcher) -> None:
        self._watcher = watcher
        self._messages: list[Message] = []
        self._seen: set[Severity] = set()
        self._dropped = 0

    def add(self, severity: Severity, text: str) -> None:
        """Add a line; what is not UTF-8 in it is replaced."""
        message = Message(severity, text.encode(errors="replace").decode())
        self._seen.add(severity)
        if len(self._messages) < MAX_MESSAGES or severity is Severity.FATAL:
            self._messages.append(message)
        else:
            self._dropped += 1
        self._watcher.message(message)

    def info(self, text: str) -> None:
        """Add a line that changes nothing."""
        self.add(Severity.INFO, text)

    def error(self, text: str) -> None:
        """Add an error that lets the job end "with warnings"."""
        self.add(Severity.ERROR, text)

    def fatal(self, text: str) -> None:
        """Add the reason why the job fails."""
        self.add(Severity.FATAL, text)

    @property
    def status(self) -> Status:
        """The status that the messages so far give the job.

        A warning (W) changes nothing, as in bacula-fd: its job still ends "OK".
        """
        if Severity.FATAL in self._seen:
            return Status.FAILED
        if self._seen & {Severity.NONFATAL, Severity.ERROR}:
            return Status.WARNINGS
        return Status.GOOD

    @property
    def messages(self) -> tuple[Message, ...]:
        """The messages in their order; a last line says if some were not kept."""
        if not self._dropped:
            return tuple(self._messages)
        note = Message(Severity.INFO, f"{self._dropped} further messages were not kept")
        return (*self._messages, note)
