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
    if volume := _opened(source):  # it has a clear key
        return _Readable(volume)
    refusals: list[OSError] = []
    for key in keys:
        try:
            if volume := _opened(source, key):
                return _Readable(volume)
        except OSError as error:  # no protector of the volume is of the kind of this key
            refusals.append(error)
    raise CannotOpen(
        "no key fits: give the recovery password of BitLocker with --key-file"
    ) from next(iter(refusals), None)


def _opened(source: Source, key: bytes | None = None) -> pybde.volume | None:
    """The volume; None when the key does not fit."""
    volume = pybde.volume()
    if key is not None:
        text = key.decode("utf-8", "replace")
        is_recovery = sum(letter.isdigit() for letter in text) == 48
        (volume.set_recovery_password if is_recovery else volume.set_password)(text)
    volume.open_file_object(FileObject(source))
    return None if volume.is_locked() else volume


class _Readable(Source):
    """What a library decrypts."""

    def __init__(self, volume: pybde.volume) -> None:
        self._volume = volume
        self.size = volume.get_size()

    def read_at(self, offset: int, length: int) -> bytes:
        """So many bytes, fewer at the end."""
        length = max(0, min(length, self.size - offset))
        return bytes(self._volume.read_buffer_at_offset(length, offset)) if length else b""
