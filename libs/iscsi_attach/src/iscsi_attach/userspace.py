"""The user-space transport over libiscsi: discovery, attachment, disks. It needs no root."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

from iscsi_attach import _blocks, _connection, _libiscsi
from iscsi_attach._session import Session
from iscsi_attach.errors import (
    AttachError,
    DeviceClosed,
    IoFailed,
    IscsiAttachError,
    LunNotFound,
    PortalUnreachable,
    ReadOnlyDevice,
)

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from typing_extensions import Buffer

    from iscsi_attach.model import Chap, DiscoveredTarget, LunInfo, Portal, Target

DEFAULT_TIMEOUT = 10.0
DEFAULT_RECOVERY = 60.0
WRITE_UNIT = 1 << 20  # the copy of read-only data that one write holds at a time


def require_library() -> str:
    """Load libiscsi, which every session needs; return its name. Raises LibraryMissing."""
    _libiscsi.load()
    return _libiscsi.SONAME


def discover(
    portal: Portal, *, initiator: str, chap: Chap | None = None, timeout: float = DEFAULT_TIMEOUT
) -> list[DiscoveredTarget]:
    """List the targets that a portal offers to this initiator (SendTargets).

    ``timeout`` is seconds for the whole step. Raises PortalUnreachable or LoginFailed.
    """
    deadline = time.monotonic() + timeout
    with ExitStack() as stack:
        waker = _connection.Waker()
        stack.callback(waker.close)
        connection = _connection.Connection(
            initiator=initiator, iqn=None, chap=chap, waker=waker, timeout=timeout
        )
        stack.callback(connection.destroy)
        connection.log_in(portal, deadline)
        try:
            found = connection.discover(deadline)
        except (_connection.ConnectionLostError, ValueError) as exc:
            raise PortalUnreachable(str(exc), step="discover", target=str(portal)) from exc
        with suppress(_connection.ConnectionLostError):  # we have what we came for
            connection.log_out()
        return found


def attach(
    target: Target,
    *,
    initiator: str,
    timeout: float = DEFAULT_TIMEOUT,
    recovery_timeout: float = DEFAULT_RECOVERY,
) -> UserspaceAttachment:
    """Log in to a target and list its disks.

    ``initiator`` is our IQN. A target that does not answer a login or a command for ``timeout``
    seconds counts as lost. A lost session is restored, through the portal given and with every
    unfinished command sent again; when a command cannot be finished within ``recovery_timeout``
    seconds (and the ``timeout`` of a last attempt) it fails with SessionLost, and the session is
    over.

    Raises PortalUnreachable, LoginFailed, TargetNotFound or another AttachError.
    """
    session = Session(
        target, initiator=initiator, timeout=timeout, recovery_timeout=recovery_timeout
    )
    return UserspaceAttachment(target, session, session.start())


class UserspaceAttachment:
    """One iSCSI session in this process (see Attachment)."""

    def __init__(self, target: Target, session: Session, luns: tuple[LunInfo, ...]) -> None:
        self.target = target
        self.luns = luns
        self._session = session
        self._devices: list[LunDevice] = []
        self._closed = False

    def open(self, lun: int, *, writable: bool = False) -> LunDevice:
        """Open a disk; raises LunNotFound."""
        if self._closed:
            raise AttachError("already detached", step="open", target=str(self.target))
        for info in self.luns:
            if info.lun == lun:
                device = LunDevice(self._session, self.target, info, writable=writable)
                self._devices.append(device)
                return device
        there = ", ".join(str(info.lun) for info in self.luns) or "none"
        raise LunNotFound(
            f"no disk at LUN {lun} (disks at: {there})", step="open", target=str(self.target)
        )

    def close(self) -> None:
        """Close the devices that are still open and log out."""
        if self._closed:
            return
        self._closed = True
        for device in self._devices:
            device.close()
        self._session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class LunDevice:
    """A disk of a session (see BlockDevice)."""

    def __init__(self, session: Session, target: Target, info: LunInfo, *, writable: bool) -> None:
        self.name = f"{target.iqn} LUN {info.lun}"
        self.size = info.size
        self.block_size = info.block_size
        self._session = session
        self._info = info
        self._writable = writable
        self._write_lock = threading.Lock()
        self._losses_before_writes: int | None = None
        self._closed = False
        session.watch(info)

    def submit_read(self, offset: int, buffer: memoryview) -> Future[None]:
        """Start to fill the buffer; up to 256 KiB a command, several of them in flight."""
        self._check_open()
        view = _blocks.as_bytes(buffer)
        _blocks.check_range(self.name, offset, len(view), self.size)
        start, length = _blocks.cover(offset, len(view), self.block_size)
        if not length:
            return _done()
        if (start, length) == (offset, len(view)):
            return self._session.read(self._info, self.name, offset, view)
        bounce = memoryview(bytearray(length))
        future = self._session.read(self._info, self.name, start, bounce)
        return _then_copy(future, bounce[offset - start :][: len(view)], view)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill the buffer."""
        self.submit_read(offset, buffer).result()

    def write(self, offset: int, data: Buffer) -> None:
        """Write all of the data; a partial block at either end is read, changed and written."""
        self._check_open()
        if not self._writable:
            raise ReadOnlyDevice(self.name)
        view = _blocks.as_bytes(data)
        _blocks.check_range(self.name, offset, len(view), self.size)
        with self._write_lock:
            if self._losses_before_writes is None:
                self._losses_before_writes = self._session.losses
            for at in range(0, len(view), WRITE_UNIT):
                self._write_piece(offset + at, view[at : at + WRITE_UNIT])

    def submit_write(self, offset: int, buffer: memoryview) -> Future[None]:
        """Start to write whole blocks; up to 256 KiB a command, several of them in flight."""
        self._check_open()
        if not self._writable:
            raise ReadOnlyDevice(self.name)
        view = _blocks.as_bytes(buffer)
        _blocks.check_blocks(self.name, offset, len(view), self.size, self.block_size)
        if not view:
            return _done()
        with self._write_lock:
            if self._losses_before_writes is None:
                self._losses_before_writes = self._session.losses
        return self._session.write(self._info, self.name, offset, view)

    def _write_piece(self, offset: int, view: memoryview) -> None:
        start, length = _blocks.cover(offset, len(view), self.block_size)
        if (start, length) != (offset, len(view)):
            whole = memoryview(bytearray(length))
            self.read_into(start, whole)
            whole[offset - start :][: len(view)] = view
            view = whole
        elif view.readonly:
            view = memoryview(bytearray(view))
        self._session.write(self._info, self.name, start, view).result()

    def flush(self) -> None:
        """Make every finished write durable.

        Raises IoFailed when the session was lost since the last flush: a target that restarted may
        have forgotten writes it had acknowledged, and nothing would tell us. Write them again.
        """
        self._check_open()
        with self._write_lock:
            if self._losses_before_writes is None:
                return
            self._session.synchronize(self._info, self.name).result()
            if self._session.losses != self._losses_before_writes:
                raise IoFailed(
                    "the session was lost before a flush, so earlier writes may be lost; restart"
                    " the restore of this disk. Writing started",
                    device=self.name,
                    offset=0,
                )
            self._losses_before_writes = None

    def close(self) -> None:
        """Refuse further use; the session ends with the attachment."""
        self._closed = True

    def _check_open(self) -> None:
        if self._closed:
            raise DeviceClosed(self.name)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _done() -> Future[None]:
    future: Future[None] = Future()
    future.set_result(None)
    return future


def _then_copy(read: Future[None], source: memoryview, target: memoryview) -> Future[None]:
    """Return a future that is done when the data has been read and copied to the target."""
    copied: Future[None] = Future()
    copied.set_running_or_notify_cancel()

    def copy(done: Future[None]) -> None:
        try:
            done.result()
            target[:] = source
        except (IscsiAttachError, ValueError) as exc:  # ValueError: the target was released
            copied.set_exception(exc)
        else:
            copied.set_result(None)

    read.add_done_callback(copy)
    return copied
