"""One job from its start to its status: the backend process, the conversation and the store."""

from __future__ import annotations

from datetime import datetime
from fnmatch import fnmatchcase
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import attrs
from ptcomm import (
    Job,
    JobType,
    Level,
    Parameters,
    PtcommError,
    Replace,
    RestoreObject,
)

from ptcomm_runner import catalog
from ptcomm_runner.catalog import WITH_DATA, Kind, Status
from ptcomm_runner.daemon import (
    FileItem,
    ObjectItem,
    Talk,
    run_backup,
    run_listing,
    run_query,
    run_restore,
)
from ptcomm_runner.errors import BackendFatal, JobCanceled, NoSuchJob, RunnerError
from ptcomm_runner.files import check_size
from ptcomm_runner.joblog import JobLog
from ptcomm_runner.process import Backend, Cancellation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from ptcomm import File, Message, Phase

    from ptcomm_runner.catalog import RunningJob, Store
    from ptcomm_runner.joblog import Watcher

T = TypeVar("T")


@attrs.frozen
class Settings:
    """What every job needs: the backend, its parameters, who watches, and its time limit (seconds).

    `namespace` is the first folder of the names in its backups ("@nutanix").
    """

    command: tuple[str, ...]
    parameters: tuple[tuple[str, str], ...]
    working_dir: Path
    watcher: Watcher
    timeout: float = 3600.0
    cancellation: Cancellation = attrs.field(factory=Cancellation)
    namespace: str = "@nutanix"


@attrs.frozen
class Result:
    """How a job ended. `job_id` is 0 for jobs that the store does not know; `data_bytes` moved."""

    status: Status
    log: tuple[Message, ...]
    job_id: int = 0
    job_name: str = ""
    level: Level | None = None
    files: tuple[File, ...] = ()
    data_bytes: int = 0
    rows: tuple[str, ...] = ()


def backup(store: Store, name: str, level: Level, settings: Settings) -> Result:
    """Back up into the store. Without a good full to stand on, any level becomes a full."""
    job_log = JobLog(settings.watcher)
    with store.lock():
        before = catalog.predecessor(store.jobs(name), level)
        if level is not Level.FULL and before is None:
            job_log.info(
                f"there is no good full backup of {name}: this {level.name.lower()} is a full"
            )
            level = Level.FULL
        running = store.begin(name, Kind.BACKUP, level, before)
        job = attrs.evolve(
            _job(running.record.job_name, running.record.job_id, JobType.BACKUP, settings),
            level=level,
            since=before.started if before else None,
            prev_job_name=before.job_name if before else "",
        )
        conversation = partial(
            run_backup, job=job, parameters=Parameters(settings.parameters), target=running
        )
        status, _ = _converse(settings, job_log, job.job_id, conversation)
        record = _end(running, job_log, status)
    return _result(record, [stored.file for stored in record.files], record.data_bytes)


def restore(
    store: Store,
    name: str,
    settings: Settings,
    *,
    job_id: int | None = None,
    where: str = "/",
    replace: Replace = Replace.ALWAYS,
    include: Sequence[str] = (),
) -> Result:
    """Restore a backup (the newest good one) and the chain it needs below the folder `where`.

    `include` are globs over the virtual names; empty for everything. Raises NoSuchJob or
    StoreDamaged, before anything is started, if it cannot work.
    """
    job_log = JobLog(settings.watcher)
    with store.lock():
        chain = catalog.chain(store.jobs(name), job_id)
        objects = list(_objects(store, chain))
        files = list(_files(store, chain, "" if where == "/" else where.rstrip("/") + "/", include))
        running = store.begin(name, Kind.RESTORE)
        job = attrs.evolve(
            _job(running.record.job_name, running.record.job_id, JobType.RESTORE, settings),
            where="" if where == "/" else where,
            replace=replace,
        )
        job_log.info(f"restoring from {', '.join(member.job_name for member in chain)}")
        conversation = partial(
            run_restore,
            job=job,
            parameters=Parameters(settings.parameters),
            objects=objects,
            files=files,
        )
        status, _ = _converse(settings, job_log, job.job_id, conversation)
        record = _end(running, job_log, status)
    moved = files if record.status.good else []
    size = sum(item.stored.data_bytes for item in moved)
    return _result(record, [item.head for item in moved], size)


def restore_files(
    name: str, settings: Settings, files: Sequence[FileItem], *, where: str = "/"
) -> Result:
    """Restore files that are in no store, in their order, below the folder `where`.

    Their names begin with the namespace.
    """
    job_log = JobLog(settings.watcher)
    prefix = "" if where == "/" else where.rstrip("/") + "/"
    files = [
        attrs.evolve(item, head=attrs.evolve(item.head, name=prefix + item.head.name))
        for item in files
    ]
    job = attrs.evolve(
        _passing_job(name, settings),
        type=JobType.RESTORE,
        where="" if where == "/" else where,
    )
    conversation = partial(
        run_restore, job=job, parameters=Parameters(settings.parameters), objects=(), files=files
    )
    status, _ = _converse(settings, job_log, job.job_id, conversation)
    size = sum(item.stored.data_bytes for item in files) if status.good else 0
    heads = tuple(item.head for item in files)
    return Result(status, job_log.messages, job_name=job.name, files=heads, data_bytes=size)


def listing(name: str, settings: Settings, phase: Phase) -> Result:
    """What a backend would save (Phase.ESTIMATE) or offers for `listing=` (Phase.LISTING)."""
    job_log, job = JobLog(settings.watcher), _passing_job(name, settings)
    conversation = partial(
        run_listing, job=job, parameters=Parameters(settings.parameters), phase=phase
    )
    status, files = _converse(settings, job_log, job.job_id, conversation)
    files = files or []
    size = sum(file.size for file in files)
    return Result(status, job_log.messages, job_name=job.name, files=tuple(files), data_bytes=size)


def query(name: str, settings: Settings) -> Result:
    """What a backend answers to its parameter `query=`."""
    job_log, job = JobLog(settings.watcher), _passing_job(name, settings)
    conversation = partial(run_query, job=job, parameters=Parameters(settings.parameters))
    status, rows = _converse(settings, job_log, job.job_id, conversation)
    return Result(status, job_log.messages, job_name=job.name, rows=tuple(rows or ()))


def _converse(
    settings: Settings, job_log: JobLog, job_id: int, conversation: Callable[[Talk], T]
) -> tuple[Status, T | None]:
    """Run a conversation with a new backend process; whatever goes wrong becomes a status."""
    answer = None
    try:
        settings.working_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        with Backend(
            settings.command,
            job_log=job_log,
            environment={"BACULA_JOBID": str(job_id)},
            timeout=settings.timeout,
            cancellation=settings.cancellation,
        ) as backend:
            answer = conversation(Talk(backend, job_log, settings.watcher))
    except JobCanceled as error:
        job_log.fatal(str(error))
        return Status.CANCELED, None
    except BackendFatal:
        return Status.FAILED, None  # its own words are in the log already
    except (RunnerError, PtcommError, OSError) as error:
        job_log.fatal(str(error))
    return job_log.status, answer


def _job(name: str, job_id: int, kind: JobType, settings: Settings) -> Job:
    return Job(
        name=name,
        job_id=job_id,
        type=kind,
        namespace=settings.namespace,
        working_dir=str(settings.working_dir),
    )


def _passing_job(name: str, settings: Settings) -> Job:
    """A job that leaves no trace in a catalog: the file daemon gives it the id 0."""
    unique = catalog.unique_name(catalog.check_job_name(name), datetime.now().astimezone(), ())
    return _job(unique, 0, JobType.ESTIMATE, settings)


def _objects(store: Store, chain: Sequence[catalog.Job]) -> Iterator[ObjectItem]:
    for job in chain:
        for stored in job.objects:
            path = store.object_path(job, stored)
            check_size(path, stored)
            yield ObjectItem(RestoreObject(stored.name, stored.data_bytes), path, stored)


def _files(
    store: Store, chain: Sequence[catalog.Job], prefix: str, include: Sequence[str]
) -> Iterator[FileItem]:
    """The files of a restore, numbered as the catalog does; they must be as long as they were."""
    nothing = True
    for job, index, stored in catalog.newest_files(chain):
        name = stored.file.name
        if include and not any(fnmatchcase(name, pattern) for pattern in include):
            continue
        nothing = False
        path = store.file_path(job, stored)
        if stored.file.stat.type in WITH_DATA:
            check_size(path, stored)
        stat = attrs.evolve(stored.file.stat, file_index=index)
        yield FileItem(attrs.evolve(stored.file, name=prefix + name, stat=stat), path, stored)
    if nothing:
        raise NoSuchJob("the backup holds no file that was asked for: see its job.json")


def _end(running: RunningJob, job_log: JobLog, status: Status) -> catalog.Job:
    try:
        return running.end(status, job_log.messages)
    except OSError as error:
        job_log.fatal(f"the job cannot be made durable: {error}")
        return running.end(Status.FAILED, job_log.messages)


def _result(record: catalog.Job, files: Sequence[File], data_bytes: int) -> Result:
    return Result(
        status=record.status,
        log=record.log,
        job_id=record.job_id,
        job_name=record.job_name,
        level=record.level,
        files=tuple(files),
        data_bytes=data_bytes,
    )
