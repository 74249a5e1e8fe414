"""The folder of a replica: its records, where its files are, and its locks. It changes nothing."""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager
from enum import Enum
from typing import TYPE_CHECKING

import attrs
import phcbt01
from durable import records

from vm_replica.errors import StoreError
from vm_replica.protocol import manifest as manifests

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from vm_replica.protocol.manifest import CycleManifest

SCHEMA = 1


class ReplicaRole(Enum):
    """What the replica is to its source."""

    REPLICA = "replica"  # takes cycles
    FENCED = "fenced"  # takes none, until it is unfenced
    CLOSED = "closed"  # takes none ever again


@attrs.frozen
class StoredDisk:
    """A disk of a generation: size in bytes, and the digest of its content.

    `rewritten` is the share, in percent, of what the disk held before and its cycle overwrote.
    """

    disk_id: str
    index: int
    size: int
    content: str
    rewritten: int = 0


@attrs.frozen
class Generation:
    """What one cycle made: number from 1 on, time of its commit (seconds since the epoch)."""

    number: int
    committed: int
    manifest_json: str
    disks: tuple[StoredDisk, ...]

    @property
    def manifest(self) -> CycleManifest:
        """The manifest of the cycle that made it."""
        return manifests.decode(self.manifest_json.encode())

    @property
    def digest(self) -> str:
        """The digest of that manifest: what a cycle on it names as its base."""
        return self.manifest.digest()

    @property
    def moment(self) -> int:
        """The moment that it shows; not later than its commit, whatever the source says."""
        return min(self.manifest.taken, self.committed)

    def disk(self, disk_id: str) -> StoredDisk | None:
        """The disk of that id."""
        return next((disk for disk in self.disks if disk.disk_id == disk_id), None)


@attrs.frozen
class ReplicaState:
    """replica.json: the committed generation, and the one that is being applied, if any.

    `rolling` is the older generation that the images are being brought back to, 0 for none;
    `source` is the certificate fingerprint (or name, with a CA) of whom the replica belongs to.
    """

    schema: int
    cluster: str
    vm_id: str
    source: str
    role: ReplicaRole
    reason: str
    current: Generation | None
    applying: Generation | None
    rolling: int = 0

    @property
    def is_whole(self) -> bool:
        """Whether the images are exactly the committed generation."""
        return not self.applying and not self.rolling

    @property
    def number(self) -> int:
        """The committed generation, 0 for none."""
        return self.current.number if self.current else 0


@attrs.frozen
class Undo:
    """The delta that leads a disk one generation back: its length in bytes, and its digest.

    `file` is its name when it was made of several (see thinning).
    """

    disk_id: str
    stream_bytes: int
    digest: str
    file: str = ""


@attrs.frozen
class PointRecord:
    """point.json: a generation that was overwritten, and what leads back to it from the next.

    `undo` has a delta for each disk that the next generation has too; the images of `retired` disks
    are in the folder whole. `next` is the generation that the deltas lead back from, 0 for the one
    with the next number.
    """

    schema: int
    generation: Generation
    undo: tuple[Undo, ...]
    retired: tuple[str, ...]
    next: int = 0

    @property
    def number(self) -> int:
        """The number of the generation."""
        return self.generation.number

    @property
    def follower(self) -> int:
        """The number of the generation that the deltas lead back from."""
        return self.next or self.number + 1


@attrs.frozen
class Trouble:
    """trouble.json: what went wrong since the last commit, and when (seconds of the epoch)."""

    schema: int
    when: int
    text: str


@attrs.frozen
class ReplicaFolder:
    """Where the files of one replica are; reads its records. The folder need not exist."""

    path: Path
    cluster: str
    vm_id: str

    @property
    def name(self) -> str:
        """How people call the replica: cluster/vm."""
        return f"{self.cluster}/{self.vm_id}"

    @property
    def state_path(self) -> Path:
        """replica.json."""
        return self.path / "replica.json"

    @property
    def trouble(self) -> Path:
        """trouble.json."""
        return self.path / "trouble.json"

    @property
    def images(self) -> Path:
        """The folder of the current images."""
        return self.path / "images"

    @property
    def incoming(self) -> Path:
        """The folder of the spool."""
        return self.path / "incoming"

    @property
    def points(self) -> Path:
        """The folder of the older generations."""
        return self.path / "points"

    def image(self, disk_id: str) -> Path:
        """The current image of a disk."""
        return self.images / f"{disk_id}.raw"

    def point_path(self, number: int) -> Path:
        """The folder of an older generation."""
        return self.points / str(number)

    def undo(self, number: int, made: Undo) -> Path:
        """The delta that leads a disk back to an older generation."""
        return self.point_path(number) / (made.file or f"{made.disk_id}.phcbt01")

    def kept_image(self, number: int, disk_id: str) -> Path:
        """The image of a disk that the generation after this one did not have any more."""
        return self.point_path(number) / f"{disk_id}.raw"

    def state(self) -> ReplicaState | None:
        """The state, or None for a replica that does not exist; raise StoreError."""
        try:
            state = records.load(self.state_path.read_bytes(), ReplicaState, schema=SCHEMA)
        except FileNotFoundError:
            return None
        except (OSError, records.RecordError) as error:
            raise StoreError(f"{self.state_path} cannot be used: {error}") from error
        if (state.cluster, state.vm_id) != (self.cluster, self.vm_id):
            raise StoreError(f"{self.state_path} is of another VM")
        return state

    def existing(self) -> ReplicaState:
        """The state; raise StoreError when there is none."""
        state = self.state()
        if state is None:
            raise StoreError(f"there is no replica {self.name}")
        return state

    def numbers(self, state: ReplicaState) -> list[int]:
        """The older generations that can be had, oldest first."""
        found = (int(p.name) for p in self.points.glob("*") if p.name.isdecimal() and is_point(p))
        return sorted(number for number in found if number < state.number)

    def point(self, number: int) -> PointRecord:
        """The record of an older generation; raise StoreError."""
        path = self.point_path(number) / "point.json"
        try:
            return records.load(path.read_bytes(), PointRecord, schema=SCHEMA)
        except FileNotFoundError as error:
            raise StoreError(f"{self.name} has no generation {number} (any more)") from error
        except (OSError, records.RecordError) as error:
            raise StoreError(f"{path} cannot be used: {error}") from error

    def chain(self, number: int, state: ReplicaState) -> list[PointRecord]:
        """What leads from the images back to an older generation, its own record first.

        Raises StoreError when some of it is missing.
        """
        found: list[PointRecord] = []
        top = state.number + 1 if state.applying else state.number
        while number < top:
            found.append(self.point(number))
            number = found[-1].follower
        return found

    def generation(self, number: int) -> Generation:
        """A generation that can be had, the current one too; raise StoreError."""
        state = self.existing()
        if state.current and number == state.current.number:
            return state.current
        return self.point(number).generation

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Turn what the file system refuses into a StoreError."""
        try:
            yield
        except phcbt01.PhcbtError as error:
            raise StoreError(f"the store of {self.name} cannot be used: {error}") from error
        except OSError as error:
            where = error.filename or self.path
            raise StoreError(
                f"the store cannot be used: {where}: {error.strerror or error}: free space, rights?"
            ) from error

    def lock(self, name: str, *, shared: bool = False, wait: bool = True) -> int | None:
        """A descriptor that holds a lock until it is closed; None when it is taken. OSError."""
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        descriptor = os.open(self.path / f"{name}.lock", flags, 0o600)
        how = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        try:
            fcntl.flock(descriptor, how if wait else how | fcntl.LOCK_NB)
        except BaseException as error:
            os.close(descriptor)
            if isinstance(error, BlockingIOError):
                return None
            raise
        return descriptor


def is_point(path: Path) -> bool:
    """Whether the folder of an older generation is whole: its record is written last."""
    return (path / "point.json").exists()
