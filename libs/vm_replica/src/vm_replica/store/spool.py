"""What has arrived of a cycle and is not committed: streams, and how much of each is durable.

    incoming/cycle.json          the source, and the manifest of the cycle
    incoming/<disk>.phcbt01      the stream of a disk, as far as it came
    incoming/marks.journal       a line for each piece of a stream that is durable, with its digest

Bytes behind the last mark may be anything after a crash: they are cut off before a stream goes on.
Every byte is decoded before it is written, so that a stream is here only if it fits its manifest.
"""

from __future__ import annotations

import logging
import os
import shutil
from typing import TYPE_CHECKING, Self

import attrs
import durable
import phcbt01
from digests import StreamDigest
from durable import records
from durable.closable import Closable

from vm_replica.errors import Code, CycleRefused
from vm_replica.protocol import manifest as manifests
from vm_replica.store.accounts import Booking

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from vm_replica.protocol.manifest import CycleDisk, CycleManifest
    from vm_replica.protocol.messages import Buffer

log = logging.getLogger(__name__)

SCHEMA = 1
SEGMENT = 67_108_864
"""Bytes after which a stream is made durable, so that an interrupted one need not begin anew."""
_READ = 1 << 20


@attrs.frozen
class _Begun:
    schema: int
    source: str
    manifest: str


@attrs.frozen
class _Mark:
    """The bytes from `start` to `end` of a stream are durable.

    The digest is of those from `since` on, where the session began that brought them: one digest
    of a session serves its marks, and the source.
    """

    disk_id: str
    since: int
    start: int
    end: int
    digest: str


class Spool:
    """The spool of one cycle."""

    def __init__(
        self, folder: Path, manifest: CycleManifest, marks: dict[str, list[_Mark]]
    ) -> None:
        """Use what is in a folder: `create` and `load` know what that is."""
        self.folder = folder
        self.manifest = manifest
        self.fresh: set[str] = set()
        self.booking = Booking(0)
        self._marks = marks
        self._decoders: dict[str, phcbt01.Decoder] = {}

    @classmethod
    def create(cls, folder: Path, manifest: CycleManifest, source: str) -> Self:
        """Begin a cycle, in place of whatever was there. Raises OSError."""
        drop(folder)
        durable.make_folder(folder)
        begun = _Begun(SCHEMA, source, manifest.encode().decode())
        durable.replace(folder / "cycle.json", records.dump(begun))
        return cls(folder, manifest, {})

    @classmethod
    def load(cls, folder: Path) -> Self | None:
        """What is there, or None if it is nothing that could be gone on with. Raises OSError."""
        try:
            begun = records.load((folder / "cycle.json").read_bytes(), _Begun, schema=SCHEMA)
            manifest = manifests.decode(begun.manifest.encode())
        except FileNotFoundError:
            return None
        except (records.RecordError, CycleRefused) as error:
            log.warning("what arrived in %s is of no use: %s", folder, error)
            return None
        return cls(folder, manifest, _read_marks(folder / "marks.journal", manifest))

    @property
    def durable_bytes(self) -> dict[str, int]:
        """How much of each stream is here and durable; disks of which nothing is are left out."""
        return {disk_id: marks[-1].end for disk_id, marks in self._marks.items()}

    @property
    def missing(self) -> list[str]:
        """The disks whose stream is not complete."""
        there = self.durable_bytes
        return [d.disk_id for d in self.manifest.disks if there.get(d.disk_id) != d.stream_bytes]

    def path(self, disk_id: str) -> Path:
        """Where the stream of a disk is."""
        return self.folder / f"{disk_id}.phcbt01"

    def open_disk(self, disk_id: str, offset: int) -> DiskSpool:
        """Take the stream of a disk from this byte on; raise CycleRefused, OSError."""
        disk = self.manifest.disk(disk_id)
        if disk is None:
            raise CycleRefused(Code.BAD_STREAM, f"disk {disk_id} is not in the manifest")
        held = self.durable_bytes.get(disk_id, 0)
        if offset != held:
            raise CycleRefused(
                Code.BAD_STREAM, f"disk {disk_id} goes on at byte {held}, not at {offset}"
            )
        decoder = self._decoders.pop(disk_id, None) or self.replay(disk, lambda: None)
        return DiskSpool(self, disk, decoder)

    def prepare(self, tick: Callable[[], None]) -> None:
        """Read again what arrived earlier of streams that are not complete, to go on with them.

        Raises CycleRefused if it is not what arrived; OSError.
        """
        for disk_id in self.missing:
            disk = self.manifest.disk(disk_id)
            if disk and disk_id in self._marks:
                self._decoders[disk_id] = self.replay(disk, tick)

    def replay(self, disk: CycleDisk, tick: Callable[[], None]) -> phcbt01.Decoder:
        """Read again what is durable of a stream; a decoder that has seen it all.

        Raises CycleRefused if it is not what arrived.
        """
        decoder = phcbt01.Decoder()
        marks = self._marks.get(disk.disk_id, [])
        if not marks:
            return decoder
        with self.path(disk.disk_id).open("rb", buffering=0) as file:
            digest = StreamDigest()
            for mark in marks:
                digest = StreamDigest() if mark.since == mark.start else digest
                left = mark.end - mark.start
                while left:
                    tick()
                    piece = file.read(min(left, _READ))
                    if not piece:
                        break
                    digest.update(piece)
                    _check(decoder, piece, disk)
                    left -= len(piece)
                if digest.text() != mark.digest:
                    raise CycleRefused(
                        Code.BAD_STREAM,
                        f"what arrived earlier of disk {disk.index} was damaged here, and is "
                        "dropped: send the cycle again",
                    )
        return decoder

    def mark(self, disk_id: str, since: int, end: int, digest: str) -> None:
        """Write down that a stream is durable up to here. Raises OSError."""
        mark = _Mark(disk_id, since, self.durable_bytes.get(disk_id, 0), end, digest)
        descriptor = durable.open_locked(self.folder / "marks.journal")
        try:
            durable.append(descriptor, records.dump(mark))
        finally:
            os.close(descriptor)
        self._marks.setdefault(disk_id, []).append(mark)


def drop(folder: Path) -> None:
    """Remove a spool. What says what it is goes first: the rest means nothing without it."""
    if (folder / "cycle.json").exists():
        durable.remove(folder / "cycle.json")
    if folder.exists():
        shutil.rmtree(folder)


class DiskSpool(Closable):
    """The stream of one disk while it arrives. A context manager; leaving it early loses nothing.

    Errors are CycleRefused (the stream is not what was announced), OSError.
    """

    def __init__(self, spool: Spool, disk: CycleDisk, decoder: phcbt01.Decoder) -> None:
        """Go on where the durable bytes end, which `decoder` has seen."""
        self._spool = spool
        self._disk = disk
        self._end = self._since = self._marked = spool.durable_bytes.get(disk.disk_id, 0)
        self._decoder = decoder
        self._digest = StreamDigest()
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
        self._descriptor = os.open(spool.path(disk.disk_id), flags, 0o600)
        try:
            os.ftruncate(self._descriptor, self._end)
            os.lseek(self._descriptor, self._end, os.SEEK_SET)
        except BaseException:
            self.close()
            raise

    def write(self, view: Buffer) -> None:
        """Add the next bytes, once they are known to be of a valid stream of this disk."""
        window = memoryview(view).cast("B")
        _check(self._decoder, window, self._disk)
        self._digest.update(window)
        self._end += len(window)
        self._spool.booking.written += len(window)
        while window:
            window = window[os.write(self._descriptor, window) :]
        if self._end - self._marked >= SEGMENT:
            self._mark()

    def finish(self) -> str:
        """The stream is complete: make it durable; the digest of what this one wrote."""
        try:
            self._decoder.close()
        except phcbt01.FormatError as error:
            raise _bad_stream(self._disk, error) from error
        if self._end != self._disk.stream_bytes:
            raise CycleRefused(
                Code.BAD_STREAM,
                f"the stream of disk {self._disk.index} has {self._end} bytes, "
                f"not {self._disk.stream_bytes}",
            )
        if self._end > self._marked:
            self._mark()
        self._spool.fresh.add(self._disk.disk_id)
        return self._digest.text()

    def close(self) -> None:
        """Give the descriptor back."""
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)

    def _mark(self) -> None:
        os.fsync(self._descriptor)
        self._spool.mark(self._disk.disk_id, self._since, self._end, self._digest.text())
        self._marked = self._end


def _check(decoder: phcbt01.Decoder, piece: Buffer, disk: CycleDisk) -> None:
    """Decode a piece, and hold what its header says against the manifest."""
    try:
        decoder.receive_data(piece)
        for event in decoder.events():
            if isinstance(event, phcbt01.Header) and event != phcbt01.Header(
                disk.size, disk.regions
            ):
                raise CycleRefused(
                    Code.BAD_STREAM,
                    f"the stream of disk {disk.index} is of {event.original_size} bytes and "
                    f"{event.region_count} regions, its manifest says {disk.size} and "
                    f"{disk.regions}",
                )
    except phcbt01.FormatError as error:
        raise _bad_stream(disk, error) from error


def _bad_stream(disk: CycleDisk, error: phcbt01.FormatError) -> CycleRefused:
    return CycleRefused(Code.BAD_STREAM, f"the stream of disk {disk.index} is invalid: {error}")


def _read_marks(path: Path, manifest: CycleManifest) -> dict[str, list[_Mark]]:
    """The marks that follow on one another; a torn or foreign line ends the stream before it."""
    found: dict[str, list[_Mark]] = {}
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return found
    for line in filter(None, lines):
        try:
            mark = records.load(line, _Mark)
        except records.RecordError:
            continue
        marks = found.get(mark.disk_id, [])
        disk = manifest.disk(mark.disk_id)
        if disk and mark.start == (marks[-1].end if marks else 0) < mark.end <= disk.stream_bytes:
            found[mark.disk_id] = [*marks, mark]
    return found
