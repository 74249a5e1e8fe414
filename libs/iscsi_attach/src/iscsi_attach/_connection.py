"""One TCP connection that is logged in to one target: login, commands, events. No threads.

Everything that calls libiscsi is here. A libiscsi context belongs to one thread at a time; its
callbacks only note what ended, and the notes are worked off after iscsi_service has returned.
"""

from __future__ import annotations

import ctypes
import os
import re
import select
import socket
import time
from typing import TYPE_CHECKING

import attrs

from iscsi_attach import _libiscsi, _scsi
from iscsi_attach.errors import (
    AttachError,
    LoginFailed,
    PortalUnreachable,
    TargetNotFound,
)
from iscsi_attach.model import DiscoveredTarget, Portal, Target

if TYPE_CHECKING:
    from iscsi_attach.model import Chap

CONTROL = 1  # the key of connect, login, logout and discovery; commands count up from there
MAX_REDIRECTS = 4  # one is normal (data services address to storage VM); a loop must end
PASSING_TRIES = 20  # unit attentions come one per cause: far fewer than this
PASSING_PAUSE = 0.05
LOGOUT_TIMEOUT = 3.0
CLOSED_BY_TARGET = "the connection broke"  # libiscsi keeps the text of some older error here
_LOST = (_libiscsi.STATUS_CANCELLED, _libiscsi.STATUS_ERROR, _libiscsi.STATUS_TIMEOUT)
_SIGN = {
    _libiscsi.RESIDUAL_NONE: 0,
    _libiscsi.RESIDUAL_UNDERFLOW: 1,
    _libiscsi.RESIDUAL_OVERFLOW: -1,
}


class ConnectionLostError(Exception):
    """The TCP connection or the session on it is gone; says why."""


class StoppedError(Exception):
    """The owner asked to stop while a step was waiting."""


class Waker:
    """Ends a wait of the thread that serves a connection."""

    def __init__(self) -> None:
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.stopping = False

    def wake(self) -> None:
        """End the current wait, or the next one."""
        os.eventfd_write(self.fd, 1)

    def stop(self) -> None:
        """Make every login step in progress end with StoppedError."""
        self.stopping = True
        self.wake()

    def clear(self) -> None:
        """Forget past wakes."""
        try:
            os.eventfd_read(self.fd)
        except BlockingIOError:
            return

    def wait(self, seconds: float) -> None:
        """Sleep until woken or the time is over."""
        select.select([self.fd], [], [], seconds)
        self.clear()

    def close(self) -> None:
        """Release the descriptor."""
        os.close(self.fd)


@attrs.define(eq=False)
class Command:
    """One SCSI command, and the memory it reads into or writes from.

    ``owner`` is whatever waits for it, and keeps the memory alive; ``offset`` is where on the disk
    it works, in bytes, for messages. ``deadline`` (monotonic seconds) is set when the command has
    to be sent again: it must then be done by that time.
    """

    lun: int
    cdb: bytes
    direction: int = _libiscsi.XFER_NONE
    address: int = 0
    length: int = 0
    owner: object = None
    offset: int = 0
    deadline: float | None = None
    started: float = 0.0
    task: int = 0
    iovec: _libiscsi.IoVec | None = None


@attrs.frozen
class Outcome:
    """How a command ended.

    ``residual`` counts bytes that the target did not move; below zero, bytes it had in excess.
    """

    command: Command
    status: int
    residual: int
    sense: _scsi.Sense | None

    @property
    def is_good(self) -> bool:
        """Whether exactly what was asked for was done."""
        return self.status == _scsi.GOOD and not self.residual

    @property
    def is_passing(self) -> bool:
        """Whether the command should be sent again."""
        if self.status == _scsi.CHECK_CONDITION and self.sense is not None:
            return self.sense.is_passing
        return self.status in (_scsi.BUSY, _scsi.TASK_SET_FULL)

    def __str__(self) -> str:
        if self.status == _scsi.CHECK_CONDITION:
            return f"the target reports: {self.sense}"
        if self.status == _scsi.GOOD:
            return f"the target moved {-self.residual:+} bytes against what was asked for"
        return f"the target answers with SCSI status {self.status:#x}"


class Connection:
    """A context of libiscsi. ``iqn`` None makes a discovery session."""

    def __init__(
        self,
        *,
        initiator: str,
        iqn: str | None,
        chap: Chap | None,
        waker: Waker,
        timeout: float,
    ) -> None:
        self._lib = _libiscsi.load()
        self._waker = waker
        self._timeout = timeout
        self._initiator = initiator
        self._iqn = iqn
        self._chap = chap
        self._events: list[tuple[int, int]] = []
        self._discovered: list[tuple[str, list[str]]] = []
        self._in_flight: dict[int, Command] = {}
        self._next_key = CONTROL + 1
        self._callback = _libiscsi.COMMAND_CB(self._note)
        self._poll = select.poll()
        self._poll.register(waker.fd, select.POLLIN)
        self._watched = (-1, 0)
        self._broken = ""
        self.last_progress = time.monotonic()
        self._context = self._create()

    @property
    def in_flight(self) -> int:
        """How many commands have not ended."""
        return len(self._in_flight)

    # -- life ------------------------------------------------------------------------------------

    def _create(self) -> int:
        context = self._lib.iscsi_create_context(self._initiator.encode())
        if not context:
            raise LoginFailed(
                f"the initiator name {self._initiator!r} is not usable",
                step="login",
                target=str(self._iqn),
            )
        self._lib.iscsi_set_noautoreconnect(context, 1)
        if self._iqn is None:
            self._lib.iscsi_set_session_type(context, _libiscsi.SESSION_DISCOVERY)
        else:
            self._lib.iscsi_set_session_type(context, _libiscsi.SESSION_NORMAL)
            self._lib.iscsi_set_targetname(context, self._iqn.encode())
        if self._chap is not None:
            self._lib.iscsi_set_initiator_username_pwd(
                context, self._chap.user.encode(), self._chap.secret.encode()
            )
        return context

    def log_in(self, portal: Portal, deadline: float) -> Portal | None:
        """Connect and log in before the deadline (monotonic seconds).

        Returns the portal that the target redirects to, or None when logged in. Raises
        PortalUnreachable, LoginFailed or TargetNotFound.
        """
        where = f"{self._iqn} at {portal}" if self._iqn else str(portal)
        address = _reachable_address(portal, where, deadline)
        try:
            status = self._control("iscsi_connect_async", deadline, address.encode())
            if status == _scsi.GOOD:
                status = self._control("iscsi_login_async", deadline)
        except ConnectionLostError as exc:
            raise PortalUnreachable(str(exc), step="login", target=where) from exc
        if status == _libiscsi.STATUS_REDIRECT:
            return self._redirect_portal(where)
        if status != _scsi.GOOD:
            raise self._login_error(where)
        return None

    def log_out(self) -> None:
        """End the session in order; raises ConnectionLostError when the target does not answer."""
        self._control("iscsi_logout_async", time.monotonic() + LOGOUT_TIMEOUT)

    def destroy(self) -> list[Command]:
        """Drop the connection; returns the commands that had not ended, oldest first.

        Afterwards libiscsi touches no buffer any more.
        """
        context, self._context = self._context, 0
        if context:
            self._lib.iscsi_destroy_context(context)
        unfinished = list(self._in_flight.values())
        self._in_flight.clear()
        self._events.clear()
        for command in unfinished:
            self._release(command)
        return unfinished

    def _redirect_portal(self, where: str) -> Portal:
        address = self._text("iscsi_get_target_address")
        try:
            return Portal.parse(address)
        except ValueError as exc:
            raise LoginFailed(
                f"redirected to an unusable address {address!r}", step="login", target=where
            ) from exc

    def _login_error(self, where: str) -> AttachError:
        text = self._text("iscsi_get_error").strip()
        code = re.search(r"\((\d+)\)$", text)
        status = int(code[1]) if code else 0
        if status == _libiscsi.STATUS_TARGET_NOT_FOUND:
            return TargetNotFound(
                f"no such target, or it is not open to the initiator {self._initiator}",
                step="login",
                target=where,
            )
        return LoginFailed(self._refusal(status) or text, step="login", target=where)

    def _refusal(self, status: int) -> str:
        if status == _libiscsi.STATUS_AUTHENTICATION and self._chap is None:
            return "the target asks for CHAP and no CHAP user was given"
        if status == _libiscsi.STATUS_AUTHENTICATION:
            return "CHAP failed: wrong CHAP user or secret"
        if status == _libiscsi.STATUS_AUTHORIZATION:
            return f"the target does not admit the initiator {self._initiator}"
        return ""

    def _text(self, function: str) -> str:
        raw: bytes | None = getattr(self._lib, function)(self._context)
        return (raw or b"").decode(errors="replace")

    # -- steps outside of SCSI -------------------------------------------------------------------

    def discover(self, deadline: float) -> list[DiscoveredTarget]:
        """Ask a discovery session for all targets; raises ConnectionLostError."""
        if self._control("iscsi_discovery_async", deadline) != _scsi.GOOD:
            raise ConnectionLostError(self._text("iscsi_get_error"))
        return [
            DiscoveredTarget(iqn, tuple(Portal.parse(portal) for portal in portals))
            for iqn, portals in self._discovered
        ]

    def _control(self, function: str, deadline: float, *arguments: bytes) -> int:
        """Start one step and wait for it; returns its status."""
        start = getattr(self._lib, function)
        if start(self._context, *arguments, self._callback, CONTROL) != 0:
            raise ConnectionLostError(self._text("iscsi_get_error"))
        while True:
            for at, (key, status) in enumerate(self._events):
                if key == CONTROL:
                    del self._events[at]
                    return status
            self._wait_for_events(deadline)

    def _wait_for_events(self, deadline: float) -> None:
        left = deadline - time.monotonic()
        if left <= 0:
            raise ConnectionLostError("no answer in time")
        if self._waker.stopping:
            raise StoppedError
        self._serve(left)

    # -- SCSI commands ---------------------------------------------------------------------------

    def start(self, command: Command) -> None:
        """Send a command; serve() tells when it has ended. Raises ConnectionLostError."""
        key, self._next_key = self._next_key, self._next_key + 1
        self._in_flight[key] = command
        command.started = time.monotonic()
        command.task = self._create_task(command)
        sent = self._lib.iscsi_scsi_command_async(
            self._context, command.lun, command.task, self._callback, None, key
        )
        if sent != 0:
            raise ConnectionLostError(self._text("iscsi_get_error"))

    def _create_task(self, command: Command) -> int:
        cdb = command.cdb
        task = self._lib.scsi_create_task(len(cdb), cdb, command.direction, command.length)
        if not task:
            raise MemoryError("libiscsi has no memory for a command")
        if command.address:
            command.iovec = _libiscsi.IoVec(command.address, command.length)
            attach_memory = (
                self._lib.scsi_task_set_iov_in
                if command.direction == _libiscsi.XFER_READ
                else self._lib.scsi_task_set_iov_out
            )
            attach_memory(task, command.iovec, 1)
        return task

    def serve(self, seconds: float) -> list[Outcome]:
        """Wait for events at most so long; returns the commands that ended meanwhile.

        Raises ConnectionLostError; commands that were in flight then come out of destroy().
        """
        if self._broken:
            raise ConnectionLostError(self._broken)
        if not self._events:
            self._serve(seconds)
        outcomes = []
        for key, status in self._take_events():
            if status in _LOST:
                self._broken = CLOSED_BY_TARGET
                break
            outcomes.append(self._finish(key, status))
        return outcomes

    def _take_events(self) -> list[tuple[int, int]]:
        events, self._events = self._events, []
        return [event for event in events if event[0] in self._in_flight]

    def _finish(self, key: int, status: int) -> Outcome:
        command = self._in_flight.pop(key)
        self.last_progress = time.monotonic()
        task = _libiscsi.Task.from_address(command.task)
        sense = None
        if status == _scsi.CHECK_CONDITION:
            sense = _scsi.Sense(task.sense_key, task.sense_ascq)
        residual = _SIGN[task.residual_status] * task.residual
        self._release(command)
        return Outcome(command, status, residual, sense)

    def _release(self, command: Command) -> None:
        self._lib.scsi_free_scsi_task(command.task)
        command.task, command.iovec = 0, None

    def check_stall(self) -> None:
        """Raise ConnectionLostError when commands wait and none has ended for the timeout."""
        if not self._in_flight:
            return
        oldest = next(iter(self._in_flight.values())).started
        silent = time.monotonic() - max(oldest, self.last_progress)
        if silent > self._timeout:
            raise ConnectionLostError(f"the target has not answered for {silent:.0f} s")

    def execute(
        self, lun: int, cdb: bytes, length: int = 0, *, optional: bool = False
    ) -> bytes | None:
        """Run one short command to its end; returns what the target sent, at most length bytes.

        Unit attentions and other passing conditions are retried. A lasting error raises
        ConnectionLostError, or returns None where the command is optional.
        """
        memory = (ctypes.c_char * length)()
        direction = _libiscsi.XFER_READ if length else _libiscsi.XFER_NONE
        address = ctypes.addressof(memory) if length else 0
        deadline = time.monotonic() + self._timeout
        outcome = self._run(Command(lun, cdb, direction, address, length, memory), deadline)
        for _ in range(PASSING_TRIES):
            if not outcome.is_passing:
                break
            self._waker.wait(PASSING_PAUSE)
            outcome = self._run(Command(lun, cdb, direction, address, length, memory), deadline)
        if outcome.status == _scsi.GOOD:
            return memory.raw[: length - max(0, outcome.residual)]
        if optional:
            return None
        raise ConnectionLostError(f"LUN {lun}: {outcome}")

    def _run(self, command: Command, deadline: float) -> Outcome:
        self.start(command)
        while True:
            for outcome in self.serve(max(0.0, deadline - time.monotonic())):
                return outcome
            if time.monotonic() > deadline:
                raise ConnectionLostError("no answer in time")
            if self._waker.stopping:
                raise StoppedError

    # -- events ----------------------------------------------------------------------------------

    def _note(self, _context: int | None, status: int, data: int | None, key: int | None) -> None:
        """Note what ended; runs inside libiscsi, where an exception would be lost."""
        if data and key == CONTROL and self._iqn is None and status == _scsi.GOOD:
            self._discovered = _copy_discovered(data)
        self._events.append((key or 0, status))

    def _serve(self, seconds: float) -> None:
        """Wait for the socket or the waker, then let libiscsi read, write and call back."""
        descriptor = self._lib.iscsi_get_fd(self._context)
        if descriptor < 0:
            raise ConnectionLostError(CLOSED_BY_TARGET)
        self._watch(descriptor, self._lib.iscsi_which_events(self._context))
        ready = 0
        for fd, events in self._poll.poll(seconds * 1000):
            if fd == descriptor:
                ready = events
            else:
                self._waker.clear()
        if ready and self._lib.iscsi_service(self._context, ready) < 0:
            raise ConnectionLostError(CLOSED_BY_TARGET)

    def _watch(self, descriptor: int, events: int) -> None:
        if self._watched == (descriptor, events):
            return
        if self._watched[0] >= 0:
            self._poll.unregister(self._watched[0])
        self._poll.register(descriptor, events)
        self._watched = (descriptor, events)


def _copy_discovered(data: int) -> list[tuple[str, list[str]]]:
    """Copy libiscsi's list, which it frees after the callback (newest first, so reverse it)."""
    found: list[tuple[str, list[str]]] = []
    address = _libiscsi.DiscoveryAddress.from_address(data)
    while True:
        portals = []
        portal = address.portals
        while portal:
            portals.append(portal.contents.portal.decode(errors="replace"))
            portal = portal.contents.next
        found.append((address.name.decode(errors="replace"), portals[::-1]))
        if not address.next:
            return found[::-1]
        address = address.next.contents


def _reachable_address(portal: Portal, where: str, deadline: float) -> str:
    """Return the numeric address of the portal that accepts a TCP connection.

    libiscsi reports a refused connection without a reason and tries only the first address of a
    name, so we connect first.
    """
    left = max(0.1, deadline - time.monotonic())
    try:
        with socket.create_connection((portal.host, portal.port), left) as probe:
            host, port = probe.getpeername()[:2]
    except OSError as exc:
        raise PortalUnreachable(
            f"cannot connect to {portal} ({exc.strerror or exc}); check the address, the firewall"
            " and that the target service runs",
            step="connect",
            target=where,
        ) from exc
    return str(Portal(host, port))


def connect(
    target: Target, *, initiator: str, timeout: float, deadline: float, waker: Waker
) -> Connection:
    """Log in to the target before the deadline, following redirects; raises an AttachError.

    ``timeout`` is the connection's own, for its commands.
    """
    portal = target.portal
    for _ in range(MAX_REDIRECTS + 1):
        connection = Connection(
            initiator=initiator, iqn=target.iqn, chap=target.chap, waker=waker, timeout=timeout
        )
        try:
            redirect = connection.log_in(portal, deadline)
        except BaseException:
            connection.destroy()
            raise
        if redirect is None:
            return connection
        connection.destroy()
        portal = redirect
    raise LoginFailed(
        f"redirected more than {MAX_REDIRECTS} times", step="login", target=str(target)
    )
