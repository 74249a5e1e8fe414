"""The conversation: what bacula-fd 15.0.3 says to a backend, and how it takes the answers.

Knows nothing of processes: it talks over a wire, and stops by raising an error. Where bacula-fd
would lose data and call the job good, the runner fails it instead; each such place says so.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

import attrs
from ptcomm import (
    Ack,
    Answer,
    BackendHello,
    Data,
    DataEnd,
    DataStart,
    End,
    EndOfInput,
    File,
    Finish,
    Message,
    NoMoreFiles,
    Parameters,
    PeerGone,
    Phase,
    PluginHello,
    PluginObject,
    QueryRow,
    Replace,
    Reply,
    RestoreObject,
    Severity,
    Start,
    Terminate,
)

from ptcomm_runner import core
from ptcomm_runner.catalog import WITH_DATA
from ptcomm_runner.errors import BackendFailed, BackendFatal, BackendGone, BackendMisbehaved
from ptcomm_runner.files import read_checked

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ptcomm import Event, Job

    from ptcomm_runner.catalog import RunningJob
    from ptcomm_runner.files import SparseFile, Stored
    from ptcomm_runner.joblog import JobLog, Watcher

PLUGIN_NAME = "podheitor-nutanix"
PLUGIN_API = "4"
RESTORE_UNIT = 65_536
"""Bytes of a D packet in a restore, as bacula-fd reads them from its volumes."""

E = TypeVar("E")


class Wire(Protocol):
    """One end of a conversation, as `ptcomm.Endpoint` has it."""

    def send(self, *events: Event) -> None:
        """Send events in one go."""

    def receive(self) -> Event:
        """Wait for the next event."""

    def pending(self) -> bool:
        """Whether something can be received without waiting."""


@attrs.frozen
class ObjectItem:
    """An object to be restored: what is said of it, and where its data lies."""

    head: RestoreObject
    path: Path
    stored: Stored


@attrs.frozen
class FileItem:
    """A file to be restored, likewise."""

    head: File
    path: Path
    stored: Stored


@attrs.frozen
class Talk:
    """A conversation with its job log: messages are taken out of the stream here."""

    wire: Wire
    job_log: JobLog
    watcher: Watcher

    def say(self, *events: Event) -> None:
        """Send events; raise what the backend said last when it does not listen any more."""
        try:
            self.wire.send(*events)
        except PeerGone as error:
            self._next()
            raise BackendGone("the backend closed its input in the middle of the job") from error

    def hear(self, *expected: type[E]) -> E:
        """The next event that is not a message, which must be one of those expected.

        Raises BackendFatal, BackendFailed, BackendGone or BackendMisbehaved otherwise.
        """
        event = self._next()
        if isinstance(event, expected):
            return event
        wanted = " or ".join(kind.__name__ for kind in expected)
        raise BackendMisbehaved(f"the backend sent {type(event).__name__} instead of {wanted}")

    def listen(self) -> None:
        """Take the messages that are already here: a backend must never wait for us to read."""
        while self.wire.pending():
            match self.wire.receive():
                case Message() as message:
                    self._note(message)
                case EndOfInput():
                    raise BackendGone("the backend ended in the middle of the job")
                case event:
                    said = type(event).__name__
                    raise BackendMisbehaved(f"the backend sent {said} while it was given data")

    def _next(self) -> Event:
        while True:
            event = self.wire.receive()
            if isinstance(event, Message):
                self._note(event)
            elif isinstance(event, EndOfInput):
                raise BackendGone("the backend ended in the middle of the job")
            else:
                return event

    def _note(self, message: Message) -> None:
        self.job_log.add(message.severity, message.text)
        if message.severity is Severity.FATAL:
            raise BackendFatal(message.text)
        if message.severity is Severity.ERROR:
            raise BackendFailed(
                "the backend sent an error of status E: bacula-fd would drop the rest of the data "
                "and still call the job good, a backend must send Q or A instead"
            )


# -- the five jobs --------------------------------------------------------------------------------


def run_backup(talk: Talk, job: Job, parameters: Parameters, target: RunningJob) -> None:
    """Take everything a backend saves into `target`."""
    _prologue(talk, job, parameters, Phase.BACKUP)
    while True:
        match talk.hear(File, RestoreObject, PluginObject, NoMoreFiles):
            case File() as file:
                _take_file(talk, file, target)
            case RestoreObject() as head:
                _take_object(talk, head, target)
            case PluginObject() as item:
                target.plugin_object(item)
            case _:
                break
    _epilogue(talk)


def run_listing(talk: Talk, job: Job, parameters: Parameters, phase: Phase) -> list[File]:
    """The files that a backend lists, for Phase.ESTIMATE or Phase.LISTING."""
    _prologue(talk, job, parameters, phase)
    files = []
    while isinstance(event := talk.hear(File, NoMoreFiles), File):
        files.append(event)
    _epilogue(talk)
    return files


def run_query(talk: Talk, job: Job, parameters: Parameters) -> list[str]:
    """The rows a backend answers to a query; raw rows are decoded as UTF-8."""
    _prologue(talk, job, parameters, Phase.QUERY)
    rows = []
    while True:
        match talk.hear(QueryRow, Data, NoMoreFiles):
            case QueryRow() as row:
                rows.append(row.text)
            case Data() as raw:
                rows.append(bytes(raw).decode(errors="replace"))
            case _:
                break
    talk.say(Terminate())  # a query ends without END
    return rows


def run_restore(
    talk: Talk,
    job: Job,
    parameters: Parameters,
    objects: Sequence[ObjectItem],
    files: Sequence[FileItem],
) -> None:
    """Hand all objects, then all files to a backend, and follow its answers."""
    _prologue(talk, job, parameters, Phase.RESTORE)
    for item in objects:
        _give_object(talk, item)
    try:
        for file in files:
            _give_file(talk, job, file)
    except BackendFatal:
        with suppress(BackendGone):  # bacula-fd waits for an answer to FINISH even then
            _finish(talk)
        raise
    except BackendFailed as error:  # after which bacula-fd says FINISH, and leaves without END
        talk.job_log.fatal("the backend failed to restore a file")
        _finish(talk)
        raise BackendFatal(str(error)) from error
    _finish(talk)
    _epilogue(talk)


# -- their parts ----------------------------------------------------------------------------------


def _prologue(talk: Talk, job: Job, parameters: Parameters, phase: Phase) -> None:
    talk.say(PluginHello(PLUGIN_NAME, PLUGIN_API))
    talk.hear(BackendHello)
    for block in (job, parameters, Start(phase)):
        talk.say(block)
        talk.hear(Ack)


def _epilogue(talk: Talk) -> None:
    talk.say(End())
    talk.hear(Ack)
    talk.say(Terminate())


def _finish(talk: Talk) -> None:
    talk.say(Finish())
    talk.hear(Ack)


def _take_file(talk: Talk, file: File, target: RunningJob) -> None:
    talk.watcher.file(file.name, file.size)
    if file.stat.type not in WITH_DATA:
        talk.hear(DataEnd)
        target.entry(file)
        return
    with target.file(file) as out:
        if isinstance(talk.hear(DataStart, DataEnd), DataStart):
            _take_data(talk, out)
    if out.size != file.size:
        talk.job_log.add(
            Severity.NONFATAL,
            f"{file.name}: the backend announced {file.size} bytes and sent {out.size}",
        )


def _take_object(talk: Talk, head: RestoreObject, target: RunningJob) -> None:
    talk.watcher.file(head.name, head.length)
    with target.object(head.name) as out:
        _take_data(talk, out)


def _take_data(talk: Talk, out: SparseFile) -> None:
    while isinstance(event := talk.hear(Data, DataEnd), Data):
        for part in event.parts:
            out.write(part)
        talk.watcher.data(len(event))


def _give_object(talk: Talk, item: ObjectItem) -> None:
    talk.watcher.file(item.head.name, item.head.length)
    talk.say(item.head)
    _give_data(talk, item)
    talk.say(DataEnd())
    talk.hear(Reply)


def _give_file(talk: Talk, job: Job, item: FileItem) -> None:
    talk.watcher.file(item.head.name, item.stored.data_bytes)
    talk.say(item.head)
    answer = talk.hear(Reply).answer
    if answer is Answer.SKIP:
        talk.job_log.add(Severity.SKIPPED, f"{item.head.name}: the backend does not need it")
    elif answer is Answer.CORE:
        _create_here(talk, job, item)
    elif item.stored.data_bytes:  # bacula-fd says no more about an empty file
        _give_contents(talk, item)


def _give_contents(talk: Talk, item: FileItem) -> None:
    talk.say(DataStart())
    try:
        _give_data(talk, item)
    except BackendFailed:  # counts as the reply to this end
        talk.say(DataEnd())
        raise
    talk.say(DataEnd())
    talk.hear(Reply)


def _give_data(talk: Talk, item: ObjectItem | FileItem) -> None:
    for piece in _pieces(talk, item):
        talk.say(Data(piece))
        talk.listen()


def _pieces(talk: Talk, item: ObjectItem | FileItem) -> Iterator[memoryview]:
    for piece in read_checked(item.path, item.stored, RESTORE_UNIT):
        yield piece
        talk.watcher.data(len(piece))


def _create_here(talk: Talk, job: Job, item: FileItem) -> None:
    """Do what bacula-fd's core does with a file that a backend leaves to it."""
    path = Path("/", item.head.name)
    replace = job.replace or Replace.ALWAYS
    if not core.wanted(path, item.head, replace):
        talk.job_log.add(
            Severity.SKIPPED, f"{path}: it exists, and is to be replaced {replace.name}"
        )
        return
    try:
        core.create(path, item.head, _pieces(talk, item))
    except OSError as error:
        talk.job_log.error(f"{path} cannot be created: {error.strerror}")
