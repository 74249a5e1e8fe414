"""The folder catalog: jobs, their files and their objects. Pure file work, no process, no protocol.

    <store>/<name>/<id>-<level>/job.json             the record, written last and fsynced
    <store>/<name>/<id>-<level>/files/<virtual path> data, stored with holes for zeros
    <store>/<name>/<id>-<level>/objects/<n>.json|bin restore objects

The folder is called `<id>-<level>.partial` while its job runs, and `<id>-<level>.failed`, with
nothing but the record in it, when the job failed: no file looks whole that is not.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import time
from contextlib import contextmanager, suppress
from datetime import datetime
from enum import Enum
from typing import TYPE_CHECKING, TypeVar

import attrs
from durable import records
from ptcomm.events import File, FileType, Level, Message, PluginObject, Severity

from ptcomm_runner.errors import NoSuchJob, StoreBusy, StoreDamaged, UnsafeName
from ptcomm_runner.files import SparseFile, safe_path

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence
    from pathlib import Path

T = TypeVar("T", bound=attrs.AttrsInstance)
SCHEMA = 1
WITH_DATA = {FileType.REGULAR, FileType.EMPTY}
"""The types of file that have contents; folders and links are only recorded."""
RESERVED_NAMES = {"working"}  # the default working directory lies in the store, beside the jobs
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _.:-]{0,62}")
_FOLDER = re.compile(r"(?P<id>[0-9]{1,9})-[a-z]+(?P<state>\.partial|\.failed|)")


class Kind(Enum):
    """What a job did, with the file daemon's letters."""

    BACKUP = "B"
    RESTORE = "R"


class Status(Enum):
    """How a job ended, with Bacula's letters."""

    RUNNING = "R"
    GOOD = "T"
    WARNINGS = "W"
    FAILED = "f"
    CANCELED = "A"

    @property
    def good(self) -> bool:
        """Whether a later job may stand on this one."""
        return self in {Status.GOOD, Status.WARNINGS}


@attrs.frozen
class StoredFile:
    """A file of a job: its name and attributes, the bytes stored, and their xxh3_128 digest."""

    file: File
    data_bytes: int
    digest: str


@attrs.frozen
class StoredObject:
    """A restore object: its name, its file below `objects`, its bytes and their digest."""

    name: str
    path: str
    data_bytes: int
    digest: str


@attrs.frozen
class Job:
    """The record of one job. `started` and `ended` are unix seconds.

    `job_name` is the unique name the backend knew it by, `predecessor` the one it was told to stand
    on. The plugin parameters are not part of it: they may hold a password.
    """

    schema: int
    job_id: int
    name: str
    job_name: str
    kind: Kind
    level: Level | None
    status: Status
    started: int
    ended: int
    predecessor: str
    files: tuple[StoredFile, ...] = ()
    objects: tuple[StoredObject, ...] = ()
    plugin_objects: tuple[PluginObject, ...] = ()
    log: tuple[Message, ...] = ()

    @property
    def folder(self) -> str:
        """Name of the folder of this job once it ended good."""
        return f"{self.job_id}-{self.level.name.lower() if self.level else 'restore'}"

    @property
    def data_bytes(self) -> int:
        """Bytes of all files."""
        return sum(stored.data_bytes for stored in self.files)


# -- what the Director computes -------------------------------------------------------------------


def predecessor(jobs: Sequence[Job], level: Level) -> Job | None:
    """The job that a backup of `level` stands on; None when it has to be a full.

    An incremental stands on the last good backup, a differential on the last good full; failed and
    cancelled jobs count for nothing, and without a good full there is no predecessor at all.
    """
    good = _good_backups(jobs)
    fulls = [job for job in good if job.level is Level.FULL]
    if level is Level.FULL or not fulls:
        return None
    return good[-1] if level is Level.INCREMENTAL else fulls[-1]


def chain(jobs: Sequence[Job], job_id: int | None = None) -> list[Job]:
    """The jobs a restore of `job_id` needs, oldest first; the newest good backup when it is None.

    That is its full, the last differential since, and the incrementals since that one: a
    differential holds everything the incrementals before it held.
    """
    good = _good_backups(jobs)
    if not good:
        raise NoSuchJob("there is no good backup to restore from")
    wanted = good[-1].job_id if job_id is None else job_id
    until = [job for job in good if job.job_id <= wanted]
    if not until or until[-1].job_id != wanted:
        raise NoSuchJob(f"job {wanted} is not a good backup of this name: see `job list`")
    since_full = _since_last(until, Level.FULL)
    if not since_full:
        raise NoSuchJob(f"job {wanted} stands on a full backup that is not in the store any more")
    return [since_full[0], *(_since_last(since_full, Level.DIFFERENTIAL) or since_full[1:])]


def newest_files(jobs: Iterable[Job]) -> list[tuple[Job, int, StoredFile]]:
    """The files of a chain in job order, with their number in their job, counted from 1.

    Of a name that occurs twice, only the newest.
    """
    chosen: dict[str, tuple[Job, int, StoredFile]] = {}
    for job in jobs:
        for index, stored in enumerate(job.files, 1):
            chosen.pop(stored.file.name, None)
            chosen[stored.file.name] = (job, index, stored)
    return list(chosen.values())


def _good_backups(jobs: Iterable[Job]) -> list[Job]:
    return [job for job in jobs if job.kind is Kind.BACKUP and job.status.good]


def _since_last(jobs: Sequence[Job], level: Level) -> list[Job]:
    starts = [number for number, job in enumerate(jobs) if job.level is level]
    return list(jobs[starts[-1] :]) if starts else []


# -- the store ------------------------------------------------------------------------------------


def check_job_name(name: str) -> str:
    """Return `name` if it can name a job and its folder; raise UnsafeName otherwise."""
    if not _NAME.fullmatch(name) or name in RESERVED_NAMES:
        raise UnsafeName(
            f"{name!r} cannot name a job: use letters, digits, space and _ . : -, "
            f"at most 63, not {' or '.join(sorted(RESERVED_NAMES))}"
        )
    return name


def unique_name(name: str, now: datetime, taken: Collection[str]) -> str:
    """A name for one run of a job, made as Bacula makes it, that is not among those taken."""
    stem = f"{name.replace(' ', '_')}.{now:%Y-%m-%d_%H.%M.%S}"
    numbers = range(1, len(taken) + 2)
    return next(unique for n in numbers if (unique := f"{stem}_{n:02}") not in taken)


class RunningJob:
    """A job being written: its `.partial` folder and its record so far."""

    def __init__(self, folder: Path, record: Job) -> None:
        self._folder = folder
        self._record = record
        self._files: list[StoredFile] = []
        self._objects: list[StoredObject] = []
        self._plugin_objects: list[PluginObject] = []

    @property
    def record(self) -> Job:
        """The record as the job began."""
        return self._record

    @contextmanager
    def file(self, file: File) -> Iterator[SparseFile]:
        """Take the data of a file; it belongs to the job once the block ends without an error."""
        path = safe_path(self._folder / "files", file.name)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            target = SparseFile(path)
        except (FileExistsError, NotADirectoryError) as error:
            raise UnsafeName(
                f"the backend named {file.name!r} beside a file of its name"
            ) from error
        with target:
            yield target
        self._files.append(_checked(StoredFile(file, target.size, target.digest())))

    def entry(self, file: File) -> None:
        """Record what has no data: a folder or a link."""
        safe_path(self._folder / "files", file.name.removesuffix("/"))
        self._files.append(_checked(StoredFile(file, 0, "")))

    @contextmanager
    def object(self, name: str) -> Iterator[SparseFile]:
        """Take the data of a restore object, as for `file`; its name is data and not a path."""
        suffix = ".json" if name.endswith(".json") else ".bin"
        path = self._folder / "objects" / f"{len(self._objects) + 1}{suffix}"
        path.parent.mkdir(exist_ok=True)
        with SparseFile(path) as target:
            yield target
        stored = StoredObject(name, path.name, target.size, target.digest())
        self._objects.append(_checked(stored))

    def plugin_object(self, item: PluginObject) -> None:
        """Record what the backend reports for the catalog's Object table."""
        self._plugin_objects.append(_checked(item))

    def end(self, status: Status, log: Iterable[Message]) -> Job:
        """Write the record; keep the data of a good job, remove that of any other."""
        record = attrs.evolve(self._record, status=status, ended=int(time.time()), log=tuple(log))
        if not status.good:
            return _bury(self._folder, record)
        record = attrs.evolve(
            record,
            files=tuple(self._files),
            objects=tuple(self._objects),
            plugin_objects=tuple(self._plugin_objects),
        )
        for folder, _, _ in os.walk(self._folder):
            _sync_folder(folder)
        _write_record(self._folder, record)
        _rename(self._folder, record.folder)
        return record


class Store:
    """A folder of jobs. One job at a time runs in it; reading needs no lock."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the store for one job, and clean up after jobs whose runner is gone.

        Raises StoreBusy at once when another job holds it.
        """
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (self.root / ".lock").open("a", encoding="ascii") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise StoreBusy(
                    f"a job is running in {self.root}: wait for it to end, or cancel it"
                ) from error
            self._sweep()
            yield

    def begin(
        self, name: str, kind: Kind, level: Level | None = None, before: Job | None = None
    ) -> RunningJob:
        """Start a job under the lock: give it an id and a unique name, make its folder."""
        now = datetime.now().astimezone()
        record = Job(
            schema=SCHEMA,
            job_id=1 + max((number for number, _ in self._folders()), default=0),
            name=check_job_name(name),
            job_name=unique_name(name, now, {job.job_name for job in self.jobs()}),
            kind=kind,
            level=level,
            status=Status.RUNNING,
            started=int(now.timestamp()),
            ended=0,
            predecessor=before.job_name if before else "",
        )
        folder = self.root / name / f"{record.folder}.partial"
        folder.mkdir(mode=0o700, parents=True)
        _sync_folder(self.root)
        _write_record(folder, record)
        return RunningJob(folder, record)

    def jobs(self, name: str | None = None) -> list[Job]:
        """The jobs of one name, or all, by id; raise StoreDamaged for a record that is not ours."""
        found = (
            _read_record(path, number)
            for number, path in self._folders()
            if name in {None, path.parent.name}
        )
        return sorted((job for job in found if job), key=lambda job: job.job_id)

    def file_path(self, job: Job, stored: StoredFile) -> Path:
        """Where the data of a file of a good job lies, if it has any."""
        return safe_path(self._job_folder(job) / "files", stored.file.name.removesuffix("/"))

    def object_path(self, job: Job, stored: StoredObject) -> Path:
        """Where the data of a restore object of a good job lies."""
        return safe_path(self._job_folder(job) / "objects", stored.path)

    def _job_folder(self, job: Job) -> Path:
        return self.root / job.name / job.folder

    def _folders(self) -> Iterator[tuple[int, Path]]:
        for path in self.root.glob("*/*"):
            match = _FOLDER.fullmatch(path.name)
            if match and path.parent.name not in RESERVED_NAMES:
                yield int(match["id"]), path

    def _sweep(self) -> None:
        lost = Message(Severity.FATAL, "the runner ended before the job did")
        for number, path in list(self._folders()):
            if path.suffix != ".partial":
                continue
            record = _read_record(path, number)
            if record is None:  # killed before the first record, so before the backend was started
                shutil.rmtree(path)
            elif record.status.good:  # killed between the record and the new name: all is durable
                _rename(path, record.folder)
            else:
                status = Status.FAILED if record.status is Status.RUNNING else record.status
                _bury(path, attrs.evolve(record, status=status, log=(*record.log, lost)))


def _checked(item: T) -> T:
    """Return an item of a record; raise UnsafeName if a text in it cannot be written down."""
    try:
        records.dump(item)
    except UnicodeEncodeError as error:
        near = error.object[max(error.start - 40, 0) : error.end]
        raise UnsafeName(f"the backend sent a text that is not UTF-8: {near!r}") from error
    return item


def _bury(folder: Path, record: Job) -> Job:
    """Keep only the record of a job that failed."""
    _write_record(folder, record)
    for data in ("files", "objects"):
        with suppress(FileNotFoundError):
            shutil.rmtree(folder / data)
    _rename(folder, f"{record.folder}.failed")
    return record


def _write_record(folder: Path, record: Job) -> None:
    new = folder / "job.json.new"
    with new.open("wb") as file:
        file.write(records.dump(record))
        file.flush()
        os.fsync(file.fileno())
    new.replace(folder / "job.json")
    _sync_folder(folder)


def _read_record(folder: Path, job_id: int) -> Job | None:
    """The record of a job; None when there is none (any more)."""
    path = folder / "job.json"
    try:
        record = records.load(path.read_bytes(), Job)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except records.RecordError as error:
        raise StoreDamaged(f"{path} cannot be read ({error}): move its folder away") from error
    if (record.schema, record.job_id, record.name) != (SCHEMA, job_id, folder.parent.name):
        raise StoreDamaged(f"{path} is not the record of this folder: move its folder away")
    return record


def _rename(folder: Path, name: str) -> None:
    folder.rename(folder.with_name(name))
    _sync_folder(folder.parent)


def _sync_folder(folder: Path | str) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
