"""What a cycle overwrites, kept as a delta back; and a delta put onto an image. No replicas here.

One pass over what a cycle touches compares the old bytes with the new ones, chunk by chunk: it
finds the new digest of the content and the extents that really change, and a second one copies the
old bytes of these into a PHCBT01 stream. What the cycle does not touch is never read.
"""

from __future__ import annotations

import heapq
import os
from array import array
from contextlib import ExitStack
from typing import TYPE_CHECKING

import attrs
import phcbt01
from chain_disk import Delta, ImageFile, aligned, steps
from digests import StreamDigest
from phcbt01 import FileTarget

from vm_replica.store.catalog import Undo
from vm_replica.store.image import CHUNK, STEP, ContentDigest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from vm_replica.protocol.manifest import CycleDisk


@attrs.frozen
class Prepared:
    """A disk of a cycle that is ready to be applied: the digest of its content afterwards.

    `rewritten` counts the bytes that held something (were not all zero) and become something else.
    """

    content: str
    undo: Undo | None
    rewritten: int


def prepare(
    disk: CycleDisk,
    stream: Path,
    image: Path | None,
    old: tuple[int, str],
    undo: Path,
    tick: Callable[[], None],
) -> Prepared:
    """Find what the stream makes of a disk, and write the way back, durably. Not a byte is changed.

    `old` is the size and the digest of the image; without one there is no way back.
    """
    with ExitStack() as stack:
        delta = Delta(stream)
        stack.callback(delta.close)
        before = stack.enter_context(ImageFile(image)) if image else None
        content = ContentDigest(old[1]) if before else ContentDigest()
        changed = _Extents()
        for offset, was, now in _changes(disk, delta, before, old[0], tick):
            _compare(content, offset, was, now)
            if before:
                _note(changed, disk, delta, offset, was, now, old[0])
        made = _write_undo(disk, undo, old[0], changed, before, tick) if before else None
        return Prepared(content.text(), made, changed.rewritten)


def _changes(
    disk: CycleDisk,
    delta: Delta,
    before: ImageFile | None,
    old_size: int,
    tick: Callable[[], None],
) -> Iterator[tuple[int, bytearray, bytearray]]:
    """For all that the cycle touches: an offset (of a chunk), the old bytes and the new ones."""
    touched = delta.extents()
    if disk.whole and before:
        touched = heapq.merge(before.extents(), delta.extents())
    size = max(old_size, disk.size)
    for offset, length in steps(aligned(touched, CHUNK, size), STEP):
        tick()
        was = before.read(offset, length) if before else bytearray(length)
        now = bytearray(length) if disk.whole else bytearray(was)
        delta.overlay(offset, now)
        yield offset, was, now


def _compare(content: ContentDigest, offset: int, was: bytearray, now: bytearray) -> None:
    old, new = memoryview(was), memoryview(now)
    for at in range(0, len(was), CHUNK):
        content.replace((offset + at) // CHUNK, old[at : at + CHUNK], new[at : at + CHUNK])


def _note(
    changed: _Extents,
    disk: CycleDisk,
    delta: Delta,
    offset: int,
    was: bytearray,
    now: bytearray,
    old_size: int,
) -> None:
    """Remember where the old bytes differ from the new ones, as far as the old disk reached."""
    if was == now:
        return
    end = min(offset + len(was), old_size)
    spans = [(offset, end)] if disk.whole else [(b, e) for b, e, _ in delta.within(offset, end)]
    for span in spans:
        for at, length in steps(aligned([span], CHUNK, old_size), CHUNK):
            begin, stop = max(at, span[0]), min(at + length, span[1])
            old = was[begin - offset : stop - offset]
            if old != now[begin - offset : stop - offset]:
                changed.add(begin, stop)
                changed.rewritten += 0 if phcbt01.is_zero(old) else len(old)


class _Extents:
    """Ascending extents, 16 bytes each; those that touch become one."""

    def __init__(self) -> None:
        self.rewritten = 0
        self._begins = array("Q")
        self._ends = array("Q")

    def __len__(self) -> int:
        return len(self._begins)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return zip(self._begins, self._ends, strict=True)

    def add(self, begin: int, end: int) -> None:
        if self._ends and self._ends[-1] == begin:
            self._ends[-1] = end
        else:
            self._begins.append(begin)
            self._ends.append(end)


def _write_undo(
    disk: CycleDisk,
    path: Path,
    size: int,
    changed: _Extents,
    before: ImageFile,
    tick: Callable[[], None],
) -> Undo:
    made, total = StreamDigest(), 0
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o600)
    try:
        for piece in _undo_pieces(size, changed, before):
            tick()
            made.update(piece)
            total += len(piece)
            left = memoryview(piece)
            while left:
                left = left[os.write(descriptor, left) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return Undo(disk.disk_id, total, made.text())


def _undo_pieces(size: int, changed: _Extents, before: ImageFile) -> Iterator[bytes | bytearray]:
    encoder = phcbt01.Encoder(size, len(changed))
    yield encoder.start()
    for begin, end in changed:
        yield encoder.region(phcbt01.Region(begin, end - begin))
        for offset, length in steps([(begin, end)], STEP):
            yield encoder.data(before.read(offset, length))
    encoder.finish()


def digest(path: Path, tick: Callable[[], None]) -> tuple[int, str]:
    """The length and the digest of a stream that was kept. Raises OSError."""
    found, length = StreamDigest(), 0
    with path.open("rb", buffering=0) as file:
        while piece := file.read(STEP):
            tick()
            found.update(piece)
            length += len(piece)
    return length, found.text()


def apply(disk: CycleDisk, stream: Path, image: Path, tick: Callable[[], None]) -> None:
    """Put the stream of a cycle onto the image, durably. Doing it again changes nothing.

    Raises phcbt01.ApplyError, FormatError, OSError: then it must be done again.
    """
    delta = Delta(stream)
    try:
        with _open_image(image, disk.size) as target:
            end = 0
            for entry in delta.index:
                if disk.whole and entry.region.offset > end:
                    target.zero(end, entry.region.offset - end)
                end = entry.region.end
                _put(delta, entry, target, tick)
            if disk.whole and disk.size > end:
                target.zero(end, disk.size - end)
            target.flush()
    finally:
        delta.close()


def apply_back(stream: Path, image: Path, tick: Callable[[], None]) -> None:
    """Lead an image one generation back, durably. Doing it again changes nothing. As `apply`."""
    delta = Delta(stream)
    try:
        with _open_image(image, delta.size) as target:
            for entry in delta.index:
                _put(delta, entry, target, tick)
            target.flush()
    finally:
        delta.close()


def _put(delta: Delta, entry: phcbt01.Entry, target: FileTarget, tick: Callable[[], None]) -> None:
    for offset, length in steps([(entry.region.offset, entry.region.end)], STEP):
        tick()
        position = entry.position + offset - entry.region.offset
        target.write_sparse(offset, delta.read(position, length))


def _open_image(image: Path, size: int) -> FileTarget:
    """The image at this size, made if need be."""
    descriptor = os.open(image, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if os.fstat(descriptor).st_size != size:
            os.ftruncate(descriptor, size)
        return FileTarget(descriptor, name=str(image))
    except BaseException:
        os.close(descriptor)
        raise
