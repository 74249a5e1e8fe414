"""What every kind of job has at hand: the connection to the daemon, what it said, the settings."""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING

import attrs
from command_line.cancel import Cancelled
from ptcomm import Message, Severity

from nutanix_backend.cluster import journal
from nutanix_backend.settings.parameters import prism_address
from nutanix_backend.settings.secrecy import Secrets

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    import ptcomm
    from ptcomm.stdio import Endpoint

    from nutanix_backend.settings.parameters import Settings


@attrs.frozen
class JobContext:
    """A job in progress."""

    endpoint: Endpoint
    info: ptcomm.Job
    settings: Settings
    _secrets: Secrets = attrs.field(init=False, repr=False)
    _warnings: set[str] = attrs.field(factory=set, kw_only=True, repr=False)

    @_secrets.default
    def _find_secrets(self) -> Secrets:
        return Secrets(self.settings)

    def check_cancelled(self) -> None:
        """Raise Cancelled when it gave the job up: while we send it has nothing else to say."""
        if self.endpoint.pending():
            raise Cancelled(
                f"the file daemon ended the job: it sent {type(self.endpoint.receive()).__name__}"
            )

    def journal(
        self, of: str = "", *, of_this_host: bool = False
    ) -> AbstractContextManager[journal.Journal]:
        """Open the journal of this job, or of a part of it; raise StateError.

        What is only `of_this_host` is swept by a job with any Prism.
        """
        prism = "" if of_this_host else prism_address(self.settings)
        name = f"{self.info.name}.{of}" if of else self.info.name
        return journal.opened(self.settings.state_dir, name, prism)

    def say(self, text: str) -> None:
        """An information line in the job log."""
        self._tell(Message(Severity.INFO, self._secrets.hide(text)))

    def warn(self, text: str) -> None:
        """A warning in the job log, once: what holds for all VMs of a job is not repeated."""
        self._tell(Message(Severity.WARNING, self._secrets.hide(text)))

    def report(self, text: str) -> None:
        """An error in the job log that does not end the job: it ends "with warnings"."""
        self._tell(Message(Severity.NONFATAL, self._secrets.hide(text)))

    def held(self) -> HeldJob:
        """Return the same job for a thread that may not send."""
        return HeldJob(self.endpoint, self.info, self.settings, warnings=self._warnings)

    def shared(self) -> SharedJob:
        """Return the same job for this thread and others."""
        return SharedJob(self.endpoint, self.info, self.settings, warnings=self._warnings)

    def _tell(self, message: Message) -> None:
        if message.severity is Severity.WARNING:
            if message.text in self._warnings:
                return
            self._warnings.add(message.text)
        self.endpoint.send(message)


@attrs.frozen
class HeldJob(JobContext):
    """The job as any thread may see it: what it says waits until the stream lets it out."""

    _held: deque[Message] = attrs.field(factory=deque, kw_only=True, repr=False)

    def release(self) -> None:
        """Let out what was said, in the thread that sends."""
        while self._held:
            super()._tell(self._held.popleft())

    def _tell(self, message: Message) -> None:
        self._held.append(message)


@attrs.frozen
class SharedJob(HeldJob):
    """The job as several threads see it: the one that made it sends at once, after the others."""

    _owner: int = attrs.field(factory=threading.get_ident, init=False, repr=False)
    _over: threading.Event = attrs.field(factory=threading.Event, kw_only=True, repr=False)

    def end(self) -> None:
        """Let the other threads end at their next step."""
        self._over.set()

    def check_cancelled(self) -> None:
        """Raise Cancelled when the job has ended: called by the other threads between steps."""
        if self._over.is_set():
            raise Cancelled("the job has ended")

    def _tell(self, message: Message) -> None:
        super()._tell(message)
        if threading.get_ident() == self._owner:
            self.release()
