"""The only IO of this package: a Session on two file descriptors, blocking.

File descriptors are handled here and nowhere else, including the three that a process starts with.
"""

from __future__ import annotations

import fcntl
import os
import select
import stat
import sys
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, BinaryIO, Self, TypeVar

from ptcomm._run import Run, drop
from ptcomm.errors import LocalProtocolError, PeerGone, RemoteProtocolError
from ptcomm.events import Data, EndOfInput, Event, Role
from ptcomm.session import Session
from ptcomm.transcript import TranscriptWriter

if TYPE_CHECKING:
    from types import TracebackType

    from ptcomm.events import Buffer

E = TypeVar("E")

READ_SIZE = 128 * 1024  # bytes; stays in the processor's cache, and needs no fresh pages
SHORTEST = 4096  # bytes of D packets that are read as a run: shorter ones are parsed one by one
PIPE_SIZE = 1024 * 1024  # bytes; 0.6-0.95 -> 1.9-2.5 GB/s into bacula-fd on another CPU
_IOV_MAX = os.sysconf("SC_IOV_MAX")


class Endpoint:
    """A blocking end of a conversation. Owns both descriptors; a context manager.

    ``record`` receives a transcript of every byte in both directions (``python -m ptcomm dump``).
    Not thread-safe: one thread sends and receives.
    """

    def __init__(
        self, role: Role, read_fd: int, write_fd: int, *, record: BinaryIO | None = None
    ) -> None:
        self._role = role
        self._session = Session(role)
        self._read_fd: int | None = read_fd
        self._write_fd: int | None = write_fd
        self._torn = False
        self._ended = False
        self._transcript = None if record is None else TranscriptWriter(record)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def receive(self, buffer: memoryview | None = None) -> Event:
        """Wait for the next event; after the end of the input always EndOfInput.

        With a `buffer`, D packets of a file that are of one length may come as one Data event whose
        bytes are in it: it is filled before this returns, or the packets end. Raises
        RemoteProtocolError.
        """
        while True:
            for event in self._session.events():
                return event
            if self._ended:
                return EndOfInput()
            if buffer is not None and (length := self._run_length(buffer)):
                if (count := self._fill_run(Run(buffer, length))) > 0:
                    return Data(buffer[: count * length])
            else:
                self._fill(self._session.missing if buffer is not None else 0)

    def expect(self, *types: type[E], buffer: memoryview | None = None) -> E:
        """Receive, and raise RemoteProtocolError("out-of-order") unless it is one of these."""
        event = self.receive(buffer)
        if isinstance(event, types):
            return event
        wanted = " or ".join(kind.__name__ for kind in types)
        what = f"expected {wanted}, got {event!r:.200}"
        raise RemoteProtocolError("out-of-order", self._session.received, what)

    def send(self, *events: Event) -> None:
        """Say the events; returns when the pipe has taken all of it.

        Raises LocalProtocolError (of several events, the ones before the bad one are not written
        either), PeerGone.
        """
        self._write([part for event in events for part in self._session.send(event)])

    def pending(self, timeout: float = 0.0) -> bool:
        """Whether there is input (or its end) within so many seconds: receive() will not wait.

        Ask while sending, to notice a job that was cancelled or given up.
        """
        if self._ended or self._session.has_unread:
            return True
        poll = select.poll()
        poll.register(self._open(self._read_fd), select.POLLIN)
        return bool(poll.poll(timeout * 1000))

    def close_output(self) -> None:
        """Close the writing side only: the peer sees its end of input, and may still speak."""
        if self._write_fd is not None:
            fd, self._write_fd = self._write_fd, None
            os.close(fd)
            self._record(self._role)

    def close(self) -> None:
        """Close both sides; a second close does nothing."""
        try:
            self.close_output()
        finally:
            if self._read_fd is not None:
                fd, self._read_fd = self._read_fd, None
                os.close(fd)

    def _run_length(self, buffer: memoryview) -> int:
        """Bytes of each packet that is expected, 0 when there is no run or no room for one."""
        length = self._session.run
        is_run = SHORTEST <= length <= len(buffer) and self._transcript is None
        return length if is_run else 0

    def _fill_run(self, run: Run) -> int:
        """Read packets of a run; return how many came, and leave the rest to the session."""
        fd, whole = self._open(self._read_fd), 0
        try:
            self._ended = not run.read(lambda parts: os.readv(fd, parts))
            whole = run.whole
            self._session.receive_run(whole)
        finally:  # what a signal handler that raised in between leaves is not lost
            if rest := run.rest(whole):
                self._session.receive_data(rest)
        if self._ended:
            self._session.receive_data(b"")
        return whole

    def _fill(self, most: int = 0) -> None:
        """Read what is there; to the end of the packet that has begun, with so many bytes left."""
        data = os.read(self._open(self._read_fd), most or READ_SIZE)
        self._ended = not data
        self._record(self._role.peer, data)
        self._session.receive_data(data)

    def _write(self, parts: list[Buffer]) -> None:
        fd = self._open(self._write_fd)
        if self._torn:
            raise PeerGone("an earlier packet was written only in part: the stream is lost")
        self._record(self._role, *parts)
        self._torn = True  # until all is out, also when a signal handler raises in between
        left = deque(memoryview(part).cast("B") for part in parts)
        while left:
            try:
                written = os.writev(fd, list(islice(left, _IOV_MAX)))
            except BrokenPipeError as error:
                raise PeerGone(f"the {self._role.peer.value} no longer reads its pipe") from error
            drop(left, written)
        self._torn = False

    def _record(self, sender: Role, *parts: Buffer) -> None:
        if self._transcript is not None:
            self._transcript.write(sender, *parts)

    def _open(self, fd: int | None) -> int:
        if fd is None:
            raise LocalProtocolError("the endpoint is closed")
        return fd


def claim_stdio(log_fd: int, *, record: BinaryIO | None = None) -> Endpoint:
    """The backend's end of the pipes that bacula-fd started this process with.

    The wire moves to private descriptors which no child inherits. Descriptor 0 becomes /dev/null,
    1 and 2 become ``log_fd``: a stray print or a library's warning cannot reach the wire, nor
    bacula-fd's stderr pipe, where every line is a job error. That pipe itself is kept open until
    the process ends: bacula-fd spins on it once it is closed.
    """
    read_fd, write_fd = os.dup(0), os.dup(1)
    os.dup(2)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(log_fd, 1)
    os.dup2(log_fd, 2)
    sys.stdout.flush()  # what was printed before goes to the log as well
    for fd in (read_fd, write_fd):
        _widen_pipe(fd, PIPE_SIZE)
    return Endpoint(Role.BACKEND, read_fd, write_fd, record=record)


def _widen_pipe(fd: int, size: int) -> None:
    """Make a pipe ``size`` bytes large, if it is one and the system lets us."""
    if not stat.S_ISFIFO(os.fstat(fd).st_mode):
        return
    try:
        fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, size)
    except PermissionError:  # over /proc/sys/fs/pipe-max-size: slower, not wrong
        return
