"""Any generation of a disk, readable at any offset, while cycles are committed beside it.

A generation is the current image with the undo deltas of all later ones laid over it, the oldest on
top. A commit makes its undo deltas durable, and says so in replica.json, before it changes a byte
of an image: so whoever reads the image first and looks at replica.json then sees, laid over it, the
old bytes of everything that a commit may have changed in between. Readers wait for no commit.
"""

from __future__ import annotations

import contextlib
import heapq
import os
from pathlib import Path
from typing import TYPE_CHECKING

import phcbt01
from chain_disk import Delta, Disk, ImageFile, aligned, steps
from phcbt01 import FileTarget

from vm_replica.errors import ReplicaDamaged, StoreError
from vm_replica.store.image import CHUNK, STEP, ContentDigest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from vm_replica.store.catalog import PointRecord, ReplicaFolder, StoredDisk


class PointReader(Disk):
    """A disk of one generation. A context manager; while it is open, no point is dropped.

    Errors are StoreError, and ReplicaDamaged when what is there is not what was committed.
    """

    def __init__(self, files: ReplicaFolder, generation: int, disk_id: str) -> None:
        """Open a generation of a disk."""
        self._files = files
        self._disk_id = disk_id
        self._number = generation
        self._next = generation  # the one whose record is not known yet
        self._layers: list[Delta] = []  # what leads back, the oldest first
        self._image: ImageFile | None = None
        self._is_kept = False  # the image is of a disk that is gone: nothing changes it any more
        self._lock: int | None = None
        self._seen = -1  # the replica.json that we know, open
        files.existing()
        try:
            with self._explained():
                self._lock = files.lock("points", shared=True)
                self._disk = self._stored()
                self._open()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Give everything back."""
        for layer in self._layers:
            layer.close()
        if self._image:
            self._image.close()
        for descriptor in (self._lock, self._seen):
            if descriptor is not None and descriptor >= 0:
                os.close(descriptor)
        self._layers, self._image, self._lock, self._seen = [], None, None, -1

    @property
    def size(self) -> int:
        """Bytes of the disk."""
        return self._disk.size

    def read(self, offset: int, length: int) -> bytearray:
        """So many bytes of the disk; what lies behind its end are zeros."""
        with self._explained():
            chunk = self._base.read(offset, length)
            self._refresh()  # afterwards, and not before: see the beginning of this module
            for layer in reversed(self._layers):
                _cut(chunk, layer.size - offset)
                layer.overlay(offset, chunk)
            _cut(chunk, self.size - offset)
        return chunk

    def extents(self) -> list[tuple[int, int]]:
        """The ranges (begin, end) that may hold something else than zeros, ascending, disjoint."""
        with self._explained():
            while True:
                known = len(self._layers)
                stored = (self._base.extents(), *(layer.extents() for layer in self._layers))
                found = list(aligned(heapq.merge(*stored), 1, self.size))
                self._refresh()
                if len(self._layers) == known:
                    return found

    def copy(self, target: Path | phcbt01.Target, tick: Callable[[], None]) -> None:
        """Write the disk to a new file, or a target that reads as zeros, durably.

        Raises ReplicaDamaged (then a file that was made is removed), phcbt01.ApplyError, OSError.
        """
        if not isinstance(target, Path):
            self._write(target, tick)
            return
        with FileTarget.create(target, self.size) as file:
            try:
                self._write(file, tick)
            except BaseException:
                if not target.is_block_device():
                    target.unlink()
                raise

    def verify(self, tick: Callable[[], None]) -> None:
        """Read it all; raise ReplicaDamaged unless it is what was committed."""
        self._read_all(tick, lambda _offset, _chunk: None)

    def _write(self, target: phcbt01.Target, tick: Callable[[], None]) -> None:
        self._read_all(tick, lambda offset, chunk: phcbt01.write_sparse(target, offset, chunk))
        target.flush()

    def _read_all(self, tick: Callable[[], None], use: Callable[[int, bytearray], object]) -> None:
        content = ContentDigest()
        for offset, length in steps(aligned(self.extents(), CHUNK, self.size), STEP):
            tick()
            chunk = self.read(offset, length)
            content.add(offset, chunk)
            use(offset, chunk)
        if content.text() != self._disk.content:
            raise ReplicaDamaged(
                f"disk {self._disk.index} of {self._files.name}, generation {self._number}, is not "
                "what was committed: it was damaged on the receiver's storage"
            )

    # --- opening

    def _stored(self) -> StoredDisk:
        generation = self._files.generation(self._number)
        disk = generation.disk(self._disk_id)
        if disk is None:
            raise StoreError(
                f"generation {self._number} of {self._files.name} has no disk {self._disk_id}"
            )
        return disk

    @property
    def _base(self) -> ImageFile:
        if self._image is None:
            raise StoreError("the restore point was closed")
        return self._image

    def _open(self) -> None:
        """Open the image and the layers above it, as of one moment."""
        while self._image is None:
            self._refresh()
            if not self._is_kept:
                with contextlib.suppress(FileNotFoundError):  # it has just become a kept one
                    self._image = ImageFile(self._files.image(self._disk_id))
                    self._refresh()
                    return
            if not self._was_replaced():
                break
        if self._image is None:
            raise StoreError(f"the image of disk {self._disk_id} of {self._files.name} is gone")

    def _was_replaced(self) -> bool:
        """Whether there is another replica.json than the one we know."""
        return self._seen < 0 or os.fstat(self._seen).st_nlink == 0

    def _refresh(self) -> None:
        """Take note of what was committed, or is being applied, since we last looked."""
        while not self._is_kept and self._was_replaced():
            if self._seen >= 0:
                os.close(self._seen)
            self._seen = os.open(self._files.state_path, os.O_RDONLY | os.O_CLOEXEC)
            state = self._files.existing()
            if state.rolling:
                raise StoreError(
                    f"{self._files.name} is being rolled back to generation {state.rolling}: wait, "
                    "or start the receiver if it was interrupted"
                )
            for record in self._files.chain(self._next, state):
                if not self._add_layer(record):
                    return

    def _add_layer(self, record: PointRecord) -> bool:
        """Add the way back to a generation; False if the disk was gone in the one after it."""
        self._next = record.follower
        if self._disk_id not in record.retired:
            made = next(made for made in record.undo if made.disk_id == self._disk_id)
            self._layers.append(Delta(self._files.undo(record.number, made)))
            return True
        kept = self._files.kept_image(record.number, self._disk_id)
        path = kept if kept.exists() else self._files.image(self._disk_id)
        try:
            image = ImageFile(path)
        except FileNotFoundError:
            image = ImageFile(kept)
        if self._image:
            self._image.close()
        self._image, self._is_kept = image, True
        return False

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            with self._files.explained():
                yield
        except StoreError as error:
            if not isinstance(error.__cause__, phcbt01.FormatError):
                raise
            raise ReplicaDamaged(
                f"the way back to generation {self._number} of {self._files.name} is damaged: "
                f"{error}"
            ) from error


def _cut(chunk: bytearray, end: int) -> None:
    """Make zeros of what lies behind the end of a disk."""
    if end < len(chunk):
        keep = max(end, 0)
        chunk[keep:] = bytes(len(chunk) - keep)
