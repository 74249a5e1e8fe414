"""BitLocker volumes, opened with a recovery password, a password, or the clear key in them.

The reader is libbde, whose documentation of the format names the two signatures.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from uuid import UUID

import pybde

from guest_files.errors import CannotOpen
from guest_files.sources import FileObject, Source

if TYPE_CHECKING:
    from collections.abc import Sequence

SIGNATURES: Final = (
    (3, b"-FVE-FS-"),
    (424, UUID("4967d63b-2e29-4ad8-8399-f6a339e3d001").bytes_le),
)
"""Offset and bytes of what a volume begins with; the second one is of BitLocker To Go."""


def unlock(source: Source, keys: Sequence[bytes]) -> Source:
    """The plain bytes of a BitLocker volume; raise CannotOpen, OSError.

    A key with 48 digits is a recovery password, any other one a password.
    """
    volume, refusal = _opened(source)
    if refusal is not None:
        raise refusal
    refusals: list[OSError] = []
    for key in () if volume else keys:  # without one it has a clear key
        volume, refusal = _opened(source, key)
        if volume is not None:
            break
        if refusal is not None:  # no protector of the volume is of the kind of this key
            refusals.append(refusal)
    if volume is not None:
        return _Readable(volume)
    raise CannotOpen(
        "no key fits: give the recovery password of BitLocker with --key-file"
    ) from next(iter(refusals), None)


def _opened(source: Source, key: bytes | None = None) -> tuple[pybde.volume | None, OSError | None]:
    """The volume if the key fits, and what the library says against it; raise OSError of the disk.

    The library has one kind of error for both.
    """
    volume, disk = pybde.volume(), _Disk(source)
    if key is not None:
        text = key.decode("utf-8", "replace")
        is_recovery = sum(letter.isdigit() for letter in text) == 48
        (volume.set_recovery_password if is_recovery else volume.set_password)(text)
    refusal = None
    try:
        volume.open_file_object(disk)
    except OSError as error:
        refusal = error
    if disk.fault is not None:
        raise disk.fault
    return (None if refusal or volume.is_locked() else volume), refusal


class _Disk(FileObject):
    """The file object of a volume, which remembers that it could not be read."""

    fault: OSError | None = None

    def read(self, size: int = -1) -> bytes:
        """The next bytes."""
        try:
            return super().read(size)
        except OSError as error:
            self.fault = error
            raise


class _Readable(Source):
    """What a library decrypts."""

    def __init__(self, volume: pybde.volume) -> None:
        self._volume = volume
        self.size = volume.get_size()

    def read_at(self, offset: int, length: int) -> bytes:
        """So many bytes, fewer at the end."""
        length = max(0, min(length, self.size - offset))
        return bytes(self._volume.read_buffer_at_offset(length, offset)) if length else b""
