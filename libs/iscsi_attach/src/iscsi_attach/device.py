"""What every transport offers: the block device and the attachment. Protocols, no code."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from concurrent.futures import Future
    from types import TracebackType
    from typing import Self

    from typing_extensions import Buffer

    from iscsi_attach.model import LunInfo


class BlockDevice(Protocol):
    """A disk of known size, read and written at byte offsets.

    Reading and writing ranges on multiples of ``block_size`` (from page-aligned buffers) avoids
    copies; any other range works too. All methods may be called from any thread.
    """

    @property
    def name(self) -> str:
        """How messages name the device."""

    @property
    def size(self) -> int:
        """Bytes of the device."""

    @property
    def block_size(self) -> int:
        """Bytes that the transport moves as one."""

    def submit_read(self, offset: int, buffer: memoryview) -> Future[None]:
        """Start to fill the buffer from byte ``offset``.

        The future is done when the buffer is full, or carries the error (ShortRead, IoFailed,
        SessionLost); the buffer must stay alive until then and is not touched afterwards. Several
        reads may be in flight. Raises OutOfRange or DeviceClosed at once.
        """

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill the buffer from byte ``offset``."""

    def write(self, offset: int, data: Buffer) -> None:
        """Write all of the data at byte ``offset``; durable after flush()."""

    def submit_write(self, offset: int, buffer: memoryview) -> Future[None]:
        """Start to write whole blocks from byte ``offset``; durable after flush().

        The buffer is writable memory, which stays alive and unchanged until the future is done.
        Several writes may be in flight, in any order: they must not overlap, and flush() covers
        only those that are done. Raises OutOfRange, also for a partial block, ReadOnlyDevice or
        DeviceClosed at once.
        """

    def flush(self) -> None:
        """Make every finished write durable."""

    def close(self) -> None:
        """Release the device; a second close does nothing.

        Reads in flight still end, with data or an error; nothing new can be started.
        """

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


class Attachment(Protocol):
    """A target that is attached until close()."""

    @property
    def luns(self) -> tuple[LunInfo, ...]:
        """The disks of the target, ascending by LUN.

        Controllers are left out. A LUN is not a disk index: count the entries, check each size.
        """

    def open(self, lun: int, *, writable: bool = False) -> BlockDevice:
        """Open a disk; raises LunNotFound. Several devices may be open at a time."""

    def close(self) -> None:
        """Close the devices that are still open and log out; a second close does nothing."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...
