"""A tar archive as it arrives: each member is handed on piece by piece, and nothing is kept.

DSP0243 wants ustar; what other programs add for long names and large files (pax, GNU) is read too.
`tarfile` reads the blocks. It is not given the archive: it believes what a header says of the
length of the next, and keeps a list of all members.
"""

from __future__ import annotations

import re
import tarfile
from typing import TYPE_CHECKING, Protocol

from disk_images.errors import ImageRefused

if TYPE_CHECKING:
    from collections.abc import Callable

BLOCK = 512
_MAX_HEADER = 64 << 10
_MAX_MEMBERS = 4096
_PAX, _PAX_OF_ALL = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE), tarfile.XGLTYPE
_LONG_NAME, _LONG_LINK = tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK
_PAX_LENGTH = re.compile(rb"([0-9]{1,6}) ")
_FILES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)


class Member(Protocol):
    """What takes the content of one member."""

    def write(self, piece: memoryview) -> None:
        """Take the next piece."""

    def end(self) -> None:
        """The member is in."""


class _Header:
    """A member that describes the next one: kept, for it is small."""

    def __init__(self, take: Callable[[bytes], None]) -> None:
        self._take = take
        self._content = bytearray()

    def write(self, piece: memoryview) -> None:
        self._content += piece

    def end(self) -> None:
        self._take(bytes(self._content))


class _Nowhere:
    """What nobody wants."""

    def write(self, piece: memoryview) -> None:
        """Forget it."""

    def end(self) -> None:
        """Nothing was kept."""


class TarStream:
    """An archive in pieces of any length; `open_member` gives for each file what takes it."""

    def __init__(self, name: str, open_member: Callable[[str, int], Member | None]) -> None:
        """Call `open_member` with name and length of each file; None when it is not wanted."""
        self._name = name
        self._open_member = open_member
        self._block = bytearray()
        self._member: Member = _Nowhere()
        self._member_name = ""
        self._left = 0
        self._padding = 0
        self._count = 0
        self._next_name: str | None = None
        self._next_size: int | None = None
        self._has_ended = False

    def write(self, piece: memoryview) -> None:
        """Take the next piece of the archive; raise ImageRefused when it is none."""
        while piece and not self._has_ended:
            if self._left:
                taken = min(self._left, len(piece))
                self._member.write(piece[:taken])
                self._left -= taken
                self._end_if_whole()
            elif self._padding:
                taken = min(self._padding, len(piece))
                self._padding -= taken
            else:
                taken = min(BLOCK - len(self._block), len(piece))
                self._block += piece[:taken]
                self._read_block()
            piece = piece[taken:]

    def end(self) -> None:
        """The archive is in; raise ImageRefused when it ends too early."""
        if self._left:
            raise ImageRefused(
                f"{self._name} ends in the middle of {self._member_name}: it was cut off"
            )
        if not self._count:
            raise ImageRefused(f"{self._name} is no tar archive, or an empty one")

    def _end_if_whole(self) -> None:
        if not self._left:
            self._member.end()
            self._member = _Nowhere()

    def _read_block(self) -> None:
        """Begin the member that a whole block describes."""
        if len(self._block) < BLOCK:
            return
        block = bytes(self._block)
        self._block.clear()
        if not any(block):
            self._has_ended = True
            return
        try:
            info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except (tarfile.HeaderError, ValueError) as error:
            raise ImageRefused(f"{self._name} is no tar archive, or damaged: {error}") from error
        self._count += 1
        if self._count > _MAX_MEMBERS or info.size < 0:
            raise ImageRefused(f"{self._name} is damaged: it has impossible members")
        self._begin(info)

    def _begin(self, info: tarfile.TarInfo) -> None:
        is_header = info.type in {*_PAX, _PAX_OF_ALL, _LONG_NAME, _LONG_LINK}
        if is_header and info.size > _MAX_HEADER:
            raise ImageRefused(f"{self._name} is damaged: a header has {info.size} bytes")
        if info.type == tarfile.GNUTYPE_SPARSE:
            raise ImageRefused(f"{self._name}: {info.name[:100]} is stored in pieces, with holes")
        if is_header:
            self._member = _Header(self._headers().get(info.type, _forget))
        else:
            self._begin_file(info)
        self._left = info.size
        self._padding = -info.size % BLOCK
        self._end_if_whole()

    def _headers(self) -> dict[bytes, Callable[[bytes], None]]:
        return {**dict.fromkeys(_PAX, self._read_pax), _LONG_NAME: self._read_long_name}

    def _begin_file(self, info: tarfile.TarInfo) -> None:
        """A file, under the name and with the size that a header before it may have said."""
        name = info.name if self._next_name is None else self._next_name
        info.size = info.size if self._next_size is None else self._next_size
        self._next_name = self._next_size = None
        self._member_name = name.removeprefix("./")[:1000]
        member = None
        if info.type in _FILES and not name.rpartition("/")[2].startswith("._"):
            member = self._open_member(self._member_name, info.size)
        self._member = member or _Nowhere()

    def _read_long_name(self, content: bytes) -> None:
        self._next_name = content.partition(b"\0")[0].decode("utf-8", "surrogateescape")

    def _read_pax(self, content: bytes) -> None:
        """Records `length key=value`, each with a newline at its end."""
        at = 0
        while at < len(content) and (found := _PAX_LENGTH.match(content, at)):
            record = content[found.end() : at + int(found[1]) - 1]
            at += max(int(found[1]), 1)
            self._read_record(*record.partition(b"=")[::2])

    def _read_record(self, key: bytes, value: bytes) -> None:
        if key == b"path":
            self._next_name = value.decode("utf-8", "surrogateescape")
        elif key == b"size" and re.fullmatch(rb"[0-9]{1,18}", value):
            self._next_size = int(value)
        elif key.startswith(b"GNU.sparse."):
            raise ImageRefused(f"{self._name} holds a file that is stored in pieces, with holes")


def _forget(_content: bytes) -> None:
    """What is said of all members, or of links, is of no use here."""
