"""What the daemon does with events that a well-behaved peer, or ptcomm itself, would not let by."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import attrs
import pytest
from ptcomm import (
    Ack,
    Answer,
    BackendHello,
    Data,
    DataEnd,
    DataStart,
    EndOfInput,
    Event,
    File,
    FileType,
    Finish,
    Job,
    JobType,
    Level,
    Message,
    NoMoreFiles,
    Parameters,
    PeerGone,
    Reply,
    Severity,
    Stat,
    Times,
)
from ptcomm_runner.catalog import Kind, Store
from ptcomm_runner.daemon import FileItem, Talk, run_backup, run_restore
from ptcomm_runner.display import Silent
from ptcomm_runner.errors import (
    BackendFailed,
    BackendFatal,
    BackendGone,
    BackendMisbehaved,
    RunnerError,
)
from ptcomm_runner.files import SparseFile
from ptcomm_runner.joblog import JobLog

if TYPE_CHECKING:
    from pathlib import Path

PROLOGUE = (BackendHello(), Ack(), Ack(), Ack())
FATAL = Message(Severity.FATAL, "no such VM")
ERROR = Message(Severity.ERROR, "no storage")
FILE = File("disk.raw", Stat(FileType.REGULAR, 200_000), Times(1, 2, 3))
ACCEPTED = Reply(Answer.OK)


class ScriptedWire:
    """Answers with events given beforehand; stops listening after `listens` sends."""

    def __init__(self, *answers: Event, listens: int = 1000, early: bool = False) -> None:
        self._answers = deque((*PROLOGUE, *answers))
        self._listens = listens
        self._early = early
        self.sent: list[Event] = []

    def send(self, *events: Event) -> None:
        if len(self.sent) >= self._listens:
            raise PeerGone("nobody reads")
        self.sent.extend(events)

    def receive(self) -> Event:
        return self._answers.popleft() if self._answers else EndOfInput()

    def pending(self) -> bool:
        return self._early and bool(self._answers)


@attrs.frozen
class Stored:
    data_bytes: int
    digest: str


@pytest.fixture
def item(tmp_path: Path) -> FileItem:
    with SparseFile(tmp_path / "disk.raw") as target:
        target.write(b"d" * 200_000)
    return FileItem(FILE, tmp_path / "disk.raw", Stored(target.size, target.digest()))


def restore(wire: ScriptedWire, item: FileItem) -> None:
    talk = Talk(wire, JobLog(Silent()), Silent())
    run_restore(talk, Job("vm", 1, JobType.RESTORE), Parameters(), [], [item])


def test_the_last_words_of_a_backend_that_stopped_listening_are_heard(item: FileItem) -> None:
    with pytest.raises(BackendFatal, match="no such VM"):
        restore(ScriptedWire(ACCEPTED, FATAL, listens=6), item)


@pytest.mark.parametrize("answers", [(), (ACCEPTED, Ack())])
def test_a_backend_that_stopped_listening_without_a_word(
    item: FileItem, answers: tuple[Event, ...]
) -> None:
    with pytest.raises(BackendGone, match="in the middle of the job"):
        restore(ScriptedWire(*answers, listens=6), item)


@pytest.mark.parametrize(
    ("early", "expected", "text"),
    [
        (ACCEPTED, BackendMisbehaved, "the backend sent Reply while it was given data"),
        (EndOfInput(), BackendGone, "ended in the middle"),
        (FATAL, BackendFatal, "no such VM"),
    ],
)
def test_what_comes_while_data_is_given_is_judged_at_once(
    item: FileItem, early: Event, expected: type[RunnerError], text: str
) -> None:
    wire = ScriptedWire(ACCEPTED, early, early=True)
    with pytest.raises(expected, match=text):
        restore(wire, item)
    assert [len(event) for event in wire.sent if isinstance(event, Data)] == [65_536]


def test_messages_that_come_while_data_is_given_are_taken_out(item: FileItem) -> None:
    note = Message(Severity.INFO, "writing")
    wire = ScriptedWire(ACCEPTED, note, note, early=True)
    with pytest.raises(BackendGone):
        restore(wire, item)
    assert [len(event) for event in wire.sent if isinstance(event, Data)] == [65_536] * 3 + [3392]


def test_an_error_while_data_is_given_ends_the_file_and_the_restore(item: FileItem) -> None:
    wire = ScriptedWire(ACCEPTED, ERROR, early=True)
    with pytest.raises(BackendGone):  # the script does not answer Finish
        restore(wire, item)
    assert wire.sent[-2:] == [DataEnd(), Finish()]


def backup(folder: Path, *answers: Event) -> None:
    talk = Talk(ScriptedWire(*answers), JobLog(Silent()), Silent())
    with Store(folder / "store").lock():
        target = Store(folder / "store").begin("vm", Kind.BACKUP, Level.FULL)
        run_backup(talk, Job("vm", 1, JobType.BACKUP), Parameters(), target)


def test_an_event_out_of_place_is_named(tmp_path: Path) -> None:
    with pytest.raises(BackendMisbehaved, match="sent Reply instead of File or RestoreObject"):
        backup(tmp_path, ACCEPTED)


def test_a_folder_has_no_data(tmp_path: Path) -> None:
    folder = File("folder/", Stat(FileType.DIRECTORY, 0), Times(1, 2, 3))
    with pytest.raises(BackendMisbehaved, match="sent DataStart instead of DataEnd"):
        backup(tmp_path, folder, DataStart())


def test_an_error_in_a_backup_is_no_end_of_it(tmp_path: Path) -> None:
    with pytest.raises(BackendFailed, match="drop the rest"):
        backup(tmp_path, ERROR, NoMoreFiles(), Ack())
