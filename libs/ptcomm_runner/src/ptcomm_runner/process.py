"""The backend process: started, listened to, cancelled and waited for as the file daemon does it.

The only module of the runner that starts a process.
"""

from __future__ import annotations

import os
import signal
import subprocess  # noqa: TID251 - this is the one module that starts the backend
import threading
from contextlib import contextmanager, suppress
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, TypeVar

from ptcomm import EndOfInput, Endpoint, PtcommError, Role

from ptcomm_runner.errors import BackendFatal, BackendMissing, BackendTimeout, JobCanceled

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from types import FrameType, TracebackType
    from typing import Self

    from ptcomm import Event

    from ptcomm_runner.joblog import JobLog

T = TypeVar("T")
CANCEL_PAUSE = 5.0
"""Seconds from SIGUSR1 to the closing of the pipes, bacula-fd's default."""
KILL_PAUSE = 5.0
"""Seconds from SIGTERM to SIGKILL, for a backend that did not end by itself."""
MAX_STDERR_LINE = 8192


class Cancellation:
    """Turns SIGINT and SIGTERM into JobCanceled, raised only while the runner waits.

    Everywhere else a signal is remembered until the next wait, so that files and records are never
    left half done. Each signal is raised once: the second interrupts the waiting for the backend.
    """

    def __init__(self) -> None:
        self._asked = False
        self._waiting = False

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """Listen to the signals; only the main thread may."""
        before = {
            number: signal.signal(number, self._handle)
            for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def wait(self, call: Callable[[], T]) -> T:
        """Run a call that may block; raise JobCanceled when a signal comes, or came before."""
        try:
            self._waiting = True
            if self._asked:
                self._raise()
            return call()
        finally:
            self._waiting = False

    def _handle(self, _signal: int, _frame: FrameType | None) -> None:
        self._asked = True
        if self._waiting:
            self._raise()

    def _raise(self) -> None:
        self._asked = self._waiting = False
        raise JobCanceled("the job was cancelled")


class Backend:
    """A running backend, and our end of the conversation with it.

    After the block the process is gone: by itself once its input ended if all went well or it had
    said that the job failed; cancelled (SIGUSR1) if the block raised anything else.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        job_log: JobLog,
        environment: Mapping[str, str],
        timeout: float,
        cancellation: Cancellation,
    ) -> None:
        self._job_log = job_log
        self._timeout = timeout
        self._cancellation = cancellation
        self._process, (stdin, stdout, stderr) = _start(command, environment)
        self._endpoint = Endpoint(Role.PLUGIN, stdout, stdin)
        self._stderr = threading.Thread(target=self._collect, args=(stderr,), daemon=True)
        self._deadline = inf
        self._timed_out = False
        self._asked_to_end = False
        self._over = threading.Event()
        self._watchdog = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._stderr.start()
        self._watchdog.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._watchdog.join()
        try:
            if error is None or isinstance(error, BackendFatal):
                self._finish()
            else:
                self._cancel()
        finally:
            if self._process.poll() is None:
                self._kill()
            self._endpoint.close()
            self._stderr.join(KILL_PAUSE)

    # -- the conversation --

    def receive(self) -> Event:
        """The next event; raise BackendTimeout when there is none for too long."""
        event = self._bounded(self._endpoint.receive)
        if self._timed_out and isinstance(event, EndOfInput):
            raise self._too_long()
        return event

    def send(self, *events: Event) -> None:
        """Send events; raise BackendTimeout when the backend does not read for too long."""
        self._bounded(lambda: self._endpoint.send(*events))

    def pending(self) -> bool:
        """Whether the backend has said something."""
        return self._endpoint.pending()

    def _bounded(self, call: Callable[[], T]) -> T:
        self._deadline = monotonic() + self._timeout
        try:
            return self._cancellation.wait(call)
        except PtcommError as error:
            if self._timed_out:
                raise self._too_long() from error
            raise
        finally:
            self._deadline = inf

    def _too_long(self) -> BackendTimeout:
        return BackendTimeout(f"the backend did nothing for {self._timeout:g} s: see its own log")

    def _watch(self) -> None:
        """End a backend that hangs; the end of its pipes wakes up whoever waits for it.

        It gets as long again to clean up: what it made on a cluster should not stay there.
        """
        while not self._over.wait(min(max(self._deadline - monotonic(), 0.0), self._timeout)):
            if monotonic() >= self._deadline:
                self._timed_out = True
                self._ask_to_end()
                if not self._over.wait(self._timeout):
                    self._kill()
                return

    # -- its end --

    def _finish(self) -> None:
        """Close the pipes and let the backend end by itself."""
        self._endpoint.close()
        try:
            status = self._cancellation.wait(lambda: self._process.wait(self._timeout))
        except JobCanceled:
            self._cancel()
            raise
        except subprocess.TimeoutExpired as error:
            raise BackendTimeout(
                f"the backend did not end within {self._timeout:g} s after the conversation"
            ) from error
        if status:
            self._job_log.error(f"the backend ended with {_exit_words(status)}")

    def _cancel(self) -> None:
        """Ask the backend to clean up and end; a second signal of the user cuts this short."""
        self._ask_to_end()
        with suppress(subprocess.TimeoutExpired, JobCanceled):
            try:
                self._cancellation.wait(lambda: self._process.wait(CANCEL_PAUSE))
            except subprocess.TimeoutExpired:
                self._endpoint.close()
                self._cancellation.wait(lambda: self._process.wait(self._timeout))

    def _ask_to_end(self) -> None:
        """Send SIGUSR1, once: a second one could disturb the cleaning up."""
        if not self._asked_to_end:
            self._asked_to_end = True
            self._process.send_signal(signal.SIGUSR1)

    def _kill(self) -> None:
        """End the backend and the processes it started, with or without their consent."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(KILL_PAUSE)
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _collect(self, stderr: int) -> None:
        """Every line on stderr is an error of the job, as in bacula-fd."""
        with open(stderr, "rb") as stream:
            while line := stream.readline(MAX_STDERR_LINE):
                if text := line.decode(errors="replace").strip():
                    self._job_log.error(f"stderr of the backend: {text}")


def _start(
    command: Sequence[str], environment: Mapping[str, str]
) -> tuple[subprocess.Popen[bytes], list[int]]:
    """Start a process in its own group; return our ends of its stdin, stdout and stderr with it."""
    its_stdin, ours_in = os.pipe()
    ours_out, its_stdout = os.pipe()
    ours_err, its_stderr = os.pipe()
    try:
        process = subprocess.Popen(
            command,
            stdin=its_stdin,
            stdout=its_stdout,
            stderr=its_stderr,
            process_group=0,
            env={**os.environ, **environment},
        )
    except OSError as error:
        for fd in (ours_in, ours_out, ours_err):
            os.close(fd)
        raise BackendMissing(f"cannot start the backend {command[0]}: {error.strerror}") from error
    finally:
        for fd in (its_stdin, its_stdout, its_stderr):
            os.close(fd)
    return process, [ours_in, ours_out, ours_err]


def _exit_words(status: int) -> str:
    if status < 0:
        return f"signal {-status}"
    return f"exit status {status}"
