"""A session that survives its connections: one thread that runs the event loop. No SCSI layouts.

Callers hand over requests and wait for futures. The thread owns the connection, cuts requests into
commands, and sends those again that a broken connection left unfinished.
"""

from __future__ import annotations

import collections
import ctypes
import logging
import threading
import time
from concurrent.futures import Future
from typing import TYPE_CHECKING, cast

import attrs

from iscsi_attach import _connection, _libiscsi, _luns, _scsi
from iscsi_attach._connection import (
    Command,
    Connection,
    ConnectionLostError,
    Outcome,
    StoppedError,
    Waker,
)
from iscsi_attach.errors import (
    AttachError,
    DeviceClosed,
    IoFailed,
    IscsiAttachError,
    SessionLost,
    ShortRead,
)

if TYPE_CHECKING:
    from iscsi_attach.model import LunInfo, Target

log = logging.getLogger(__name__)

# Measured against tgt on loopback (128 KiB to 1 MiB): at 256 KiB a command costs little and several
# overlap; it is also the largest data segment that libiscsi negotiates, so one answer is one PDU.
TRANSFER = 262_144
MAX_IN_FLIGHT = 128  # commands; libiscsi searches its queues linearly
RETRY_PAUSE = 0.2  # after BUSY and the like, and between attempts to log in again
IDLE_WAIT = 60.0  # an idle loop has nothing to look after
STALL_CHECK = 1.0


@attrs.define(eq=False)
class Request:
    """One read or write of whole blocks, or a flush: a future and the memory it concerns.

    ``pin`` keeps the caller's buffer from moving or being released while commands point into it.
    """

    device: str
    future: Future[None]
    pin: object
    pending: int = 0
    error: IscsiAttachError | None = None

    def settle(self) -> None:
        """Let the memory go, then tell the caller."""
        self.pin = None
        if self.error is None:
            self.future.set_result(None)
        else:
            self.future.set_exception(self.error)


class Session:
    """A session to one target. Every public method may be called from any thread."""

    def __init__(
        self, target: Target, *, initiator: str, timeout: float, recovery_timeout: float
    ) -> None:
        self._target = target
        self._initiator = initiator
        self._timeout = timeout
        self._recovery_timeout = recovery_timeout
        self._waker = Waker()
        self._inbox: collections.deque[Command] = collections.deque()
        self._waiting: collections.deque[Command] = collections.deque()
        self._opened: dict[int, LunInfo] = {}
        self._lock = threading.Lock()
        self._connection: Connection | None = None
        self._dead: IscsiAttachError | None = None
        self._not_before = 0.0
        self._losses = 0
        self._reason = ""
        self._thread = threading.Thread(target=self._run, name=f"iscsi {target.iqn}", daemon=True)

    # -- from any thread -------------------------------------------------------------------------

    def start(self) -> tuple[LunInfo, ...]:
        """Log in, list the disks and start the event loop; raises an AttachError."""
        try:
            self._connection = self._connect(self._timeout)
            disks = _luns.list_disks(self._connection)
        except (ConnectionLostError, _scsi.BadReplyError) as exc:
            self._release()
            raise AttachError(str(exc), step="list disks", target=str(self._target)) from exc
        except BaseException:
            self._release()
            raise
        self._thread.start()
        return disks

    def watch(self, info: LunInfo) -> None:
        """Check this disk's size and serial number whenever the session is restored."""
        with self._lock:
            self._opened[info.lun] = info

    @property
    def losses(self) -> int:
        """How often the connection was lost so far."""
        return self._losses

    def read(self, info: LunInfo, device: str, offset: int, buffer: memoryview) -> Future[None]:
        """Start to read whole blocks into the buffer."""
        return self._submit(info, device, offset, buffer, _libiscsi.XFER_READ)

    def write(self, info: LunInfo, device: str, offset: int, buffer: memoryview) -> Future[None]:
        """Start to write whole blocks from the buffer, which has to be writable memory."""
        return self._submit(info, device, offset, buffer, _libiscsi.XFER_WRITE)

    def synchronize(self, info: LunInfo, device: str) -> Future[None]:
        """Start to make finished writes durable."""
        request = _request(device, None)
        self._post(request, [Command(info.lun, _scsi.synchronize_cache(), owner=request)])
        return request.future

    def _submit(
        self, info: LunInfo, device: str, offset: int, buffer: memoryview, direction: int
    ) -> Future[None]:
        pin = ctypes.c_char.from_buffer(buffer)
        request = _request(device, pin)
        base = ctypes.addressof(pin)
        build = _scsi.read if direction == _libiscsi.XFER_READ else _scsi.write
        commands = []
        for at in range(0, len(buffer), TRANSFER):
            length = min(TRANSFER, len(buffer) - at)
            cdb = build((offset + at) // info.block_size, length // info.block_size)
            commands.append(
                Command(info.lun, cdb, direction, base + at, length, request, offset + at)
            )
        self._post(request, commands)
        return request.future

    def _post(self, request: Request, commands: list[Command]) -> None:
        request.pending = len(commands)
        with self._lock:
            if self._dead is None:
                if not self._inbox:  # else the thread has been woken, and has not looked yet
                    self._waker.wake()
                self._inbox.extend(commands)
                return
            request.error = self._dead
        request.settle()

    def close(self) -> None:
        """Fail what is in flight, log out and end the thread."""
        with self._lock:
            self._dead = self._dead or DeviceClosed(str(self._target))
            self._waker.stop()
        self._thread.join()
        self._waker.close()

    # -- in the thread ---------------------------------------------------------------------------

    def _run(self) -> None:
        error: IscsiAttachError = DeviceClosed(str(self._target))
        try:
            while not self._waker.stopping:
                self._step()
            self._log_out()
        except StoppedError:
            log.debug("%s: closed while logging in again", self._target)
        except SessionLost as exc:
            log.warning("%s", exc)
            error = exc
        except BaseException as exc:
            error = self._lost(f"internal error: {exc!r}")
            raise
        finally:
            self._die(error)

    def _step(self) -> None:
        """One turn: connected and something ended, or connected again."""
        self._take_inbox()
        if self._connection is None:
            self._restore()
            return
        try:
            self._start_waiting(self._connection)
            outcomes = self._connection.serve(self._patience())
            for outcome in outcomes:
                self._settle(outcome)
            if not outcomes:
                self._connection.check_stall()
        except ConnectionLostError as exc:
            self._lose(exc)

    def _take_inbox(self) -> None:
        with self._lock:
            self._waiting.extend(self._inbox)
            self._inbox.clear()

    def _start_waiting(self, connection: Connection) -> None:
        if time.monotonic() < self._not_before:
            return
        while self._waiting and connection.in_flight < MAX_IN_FLIGHT:
            connection.start(self._waiting.popleft())

    def _patience(self) -> float:
        """Return the seconds that nothing needs to be looked after."""
        pause = self._not_before - time.monotonic()
        if self._waiting and pause > 0:
            return min(STALL_CHECK, pause)
        if self._connection is not None and self._connection.in_flight:
            return STALL_CHECK
        return IDLE_WAIT

    def _settle(self, outcome: Outcome) -> None:
        """Finish a command's part of its request, or send the command again."""
        command = outcome.command
        request = _request_of(command)
        if outcome.is_good:
            self._end(request)
        elif outcome.is_passing and self._time_left(command) > 0:
            self._waiting.append(command)
            self._not_before = time.monotonic() + RETRY_PAUSE
        else:
            self._fail(request, outcome)
            self._end(request)

    def _time_left(self, command: Command) -> float:
        """Return the seconds in which a command that went wrong must be done."""
        now = time.monotonic()
        if command.deadline is None:
            command.deadline = now + self._recovery_timeout
        return command.deadline - now

    @staticmethod
    def _fail(request: Request, outcome: Outcome) -> None:
        if request.error is not None:
            return
        command = outcome.command
        if command.direction == _libiscsi.XFER_READ and outcome.residual > 0:
            request.error = ShortRead(
                request.device,
                offset=command.offset,
                expected=command.length,
                got=command.length - outcome.residual,
            )
        else:
            request.error = IoFailed(str(outcome), device=request.device, offset=command.offset)

    @staticmethod
    def _end(request: Request) -> None:
        request.pending -= 1
        if not request.pending:
            request.settle()

    # -- losing and restoring the connection -----------------------------------------------------

    def _connect(self, within: float) -> Connection:
        return _connection.connect(
            self._target,
            initiator=self._initiator,
            timeout=self._timeout,
            deadline=time.monotonic() + within,
            waker=self._waker,
        )

    def _lose(self, reason: Exception) -> None:
        """Take back what was in flight; it goes first when the connection is back."""
        log.warning("%s: connection lost: %s", self._target, reason)
        self._losses += 1
        self._reason = str(reason)
        connection, self._connection = self._connection, None
        if connection is not None:
            self._waiting.extendleft(reversed(connection.destroy()))

    def _restore(self) -> None:
        """Try to log in again once; an idle session waits for work first."""
        if not self._waiting:
            self._waker.wait(IDLE_WAIT)
            return
        left = min(self._time_left(command) for command in self._waiting)
        if left <= 0:
            raise self._lost(f"not restored in {self._recovery_timeout:g} s: {self._reason}")
        try:
            connection = self._connect(min(left, self._timeout))
            try:
                self._verify(connection)
            except BaseException:
                connection.destroy()
                raise
        except SessionLost:
            raise
        except (AttachError, ConnectionLostError, _scsi.BadReplyError) as exc:
            self._reason = str(exc)
            self._waker.wait(RETRY_PAUSE)
            return
        self._connection = connection
        log.warning("%s: connection restored", self._target)

    def _verify(self, connection: Connection) -> None:
        """Make sure that the disks behind the new connection are the ones we had."""
        with self._lock:
            opened = list(self._opened.values())
        for info in opened:
            found = _luns.identify(connection, info.lun)
            if found is None:
                raise ConnectionLostError(f"LUN {info.lun} is missing")
            if found != info:
                raise self._lost(f"LUN {info.lun} is another disk now: had {info}, found {found}")

    def _lost(self, reason: str) -> SessionLost:
        return SessionLost(reason, step="restore session", target=str(self._target))

    # -- the end ---------------------------------------------------------------------------------

    def _log_out(self) -> None:
        if self._connection is None:
            return
        try:
            self._waker.stopping = False
            self._connection.log_out()
        except ConnectionLostError as exc:
            log.warning("%s: logout failed: %s", self._target, exc)

    def _die(self, error: IscsiAttachError) -> None:
        """Fail everything that waits, and whatever comes later."""
        with self._lock:
            self._dead = error
            self._waiting.extend(self._inbox)
            self._inbox.clear()
        unfinished = self._connection.destroy() if self._connection is not None else []
        self._connection = None
        for command in [*unfinished, *self._waiting]:
            request = _request_of(command)
            request.error = request.error or error
            self._end(request)
        self._waiting.clear()

    def _release(self) -> None:
        """Undo a start that failed."""
        if self._connection is not None:
            self._connection.destroy()
        self._waker.close()


def _request_of(command: Command) -> Request:
    return cast("Request", command.owner)


def _request(device: str, pin: object) -> Request:
    future: Future[None] = Future()
    future.set_running_or_notify_cancel()  # from here on a caller cannot cancel it
    return Request(device, future, pin)
