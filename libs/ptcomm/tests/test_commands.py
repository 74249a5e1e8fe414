"""Every event against bytes written by hand, and lines that are no event."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from ptcomm import (
    Ack,
    Answer,
    BackendHello,
    Data,
    DataEnd,
    DataStart,
    End,
    Event,
    File,
    FileType,
    Finish,
    Job,
    JobType,
    Level,
    LocalProtocolError,
    Message,
    NoMoreFiles,
    ObjectStatus,
    Parameters,
    Phase,
    PluginHello,
    PluginObject,
    QueryRow,
    RemoteProtocolError,
    Replace,
    Reply,
    RestoreObject,
    Role,
    Session,
    Severity,
    Start,
    Stat,
    Status,
    Terminate,
    Times,
    encode_packet,
)
from ptcomm._reader import MAX_BLOCK
from ptcomm._state import State

if TYPE_CHECKING:
    from collections.abc import Callable

B, P = Role.BACKEND, Role.PLUGIN


def commands(*lines: str, end: bytes = b"F000000\n") -> bytes:
    """C packets of the lines, and the F."""
    payloads = [line.encode("utf-8", "surrogateescape") + b"\n" for line in lines]
    return b"".join(b"C%06d\n%s" % (len(payload), payload) for payload in payloads) + end


def word(line: str) -> bytes:
    return commands(line, end=b"")


FILE = ("FNAME:/f", "STAT:F 7 0 0 100600 1", "TSTAMP:1 2 3")
REGULAR = Stat(FileType.REGULAR, 7)
TIMES = Times(1, 2, 3)
JOB = ("Job", "Name=n", "JobID=1", "Type=B")
EMPTIES = ("Namespace=", "PrevJobName=", "WorkingDir=", "SysconfigPath=", "ExePath=")

ON_THE_WIRE: list[tuple[State, Role, Event, bytes]] = [
    (State.CONNECTED, P, PluginHello("Nutanix AHV", "3"), b"C000020\nHello Nutanix AHV 3\n"),
    (State.GREETING, B, BackendHello(), b"C000013\nHello Bacula\n"),
    (State.GREETED, P, Job("n", 1, JobType.BACKUP), commands(*JOB, *EMPTIES)),
    (
        State.GREETED,
        P,
        Job(
            "n",
            2147483647,
            JobType.RESTORE,
            level=Level.DIFFERENTIAL,
            since=-1,
            where="",
            regex_where="!a=b!c!",
            replace=Replace.IF_NEWER,
            namespace="@n",
            prev_job_name="p",
            working_dir="/w w ",
            sysconfig_path="/s",
            exe_path="/e",
            extra=(("New", "1"), ("New", "2")),
        ),
        commands(
            *("Job", "Name=n", "JobID=2147483647", "Type=R", "Level=D", "Since=-1", "Where="),
            *("RegexWhere=!a=b!c!", "Replace=w", "Namespace=@n", "PrevJobName=p"),
            *("WorkingDir=/w w ", "SysconfigPath=/s", "ExePath=/e", "New=1", "New=2"),
        ),
    ),
    (State.JOB_KNOWN, P, Parameters(), commands("Params")),
    (
        State.JOB_KNOWN,
        P,
        Parameters((("vm", "a=b"), ("vm", ""), ("DATA", "\udcff"))),
        commands("Params", "vm=a=b", "vm=", "DATA=\udcff"),
    ),
    (State.PREPARED, P, Start(Phase.BACKUP), b"C000012\nBackupStart\n"),
    (State.PREPARED, P, Start(Phase.ESTIMATE), b"C000014\nEstimateStart\n"),
    (State.PREPARED, P, Start(Phase.LISTING), b"C000013\nListingStart\n"),
    (State.PREPARED, P, Start(Phase.QUERY), b"C000011\nQueryStart\n"),
    (State.PREPARED, P, Start(Phase.RESTORE), b"C000013\nRestoreStart\n"),
    (State.STARTING_BACKUP, B, Ack(), b"F000000\n"),
    (State.BACKUP, B, File("/f", REGULAR, TIMES), commands(*FILE)),
    (
        State.BACKUP,
        B,
        File(
            "/\udcff é",
            Stat(FileType.DIRECTORY, 2**63 - 1, -2, 4294967294, 0o40755, 2147483647, -1),
            Times(-(2**63), 0, 2**63 - 1),
        ),
        commands(
            "FNAME:/\udcff é",
            "STAT:D 9223372036854775807 -2 4294967294 040755 2147483647 -1",
            "TSTAMP:-9223372036854775808 0 9223372036854775807",
        ),
    ),
    (
        State.LISTING,
        B,
        File("/l", Stat(FileType.SYMLINK, 0, mode=0), TIMES, link="../a b"),
        commands("FNAME:/l", "STAT:S 0 0 0 000000 1", "TSTAMP:1 2 3", "LSTAT:../a b"),
    ),
    (State.RESTORE, P, File("/f ", REGULAR, TIMES), commands("FNAME:/f ", *FILE[1:])),
    (State.BACKUP_FILE, B, DataStart(), b"C000005\nDATA\n"),
    (State.BACKUP_DATA, B, Data(b"F000000\n"), b"D000008\nF000000\n"),
    (State.RESTORE_DATA, P, Data(b""), b"D000000\n"),
    (State.BACKUP_DATA, B, DataEnd(), b"F000000\n"),
    (
        State.BACKUP,
        B,
        RestoreObject("m n", 2147483647),
        commands("RESTOREOBJ:m n", "RESTOREOBJ_LEN:2147483647", end=b""),
    ),
    (State.BACKUP, B, PluginObject("p"), commands("PLUGINOBJ:p")),
    (
        State.BACKUP,
        B,
        PluginObject("p", "c", "t", "n:m", "", "u", 2**63 - 1, 0, ObjectStatus.WARNING),
        commands(
            *("PLUGINOBJ:p", "PLUGINOBJ_CAT:c", "PLUGINOBJ_TYPE:t", "PLUGINOBJ_NAME:n:m"),
            *("PLUGINOBJ_SRC:", "PLUGINOBJ_UUID:u", "PLUGINOBJ_SIZE:9223372036854775807"),
            *("PLUGINOBJ_COUNT:0", "PLUGINOBJ_STATUS:WARNING"),
        ),
    ),
    (State.QUERY, B, QueryRow("FNAME:/f"), word("FNAME:/f")),
    (State.QUERY, B, QueryRow("END"), word("END")),
    (State.QUERY, B, QueryRow(""), word("")),
    (State.QUERY, B, Data(b"a,b\n"), b"D000004\na,b\n"),
    (State.BACKUP, B, NoMoreFiles(), b"F000000\n"),
    (State.RESTORE_OFFERED, B, Reply(Answer.OK), b"C000003\nOK\n"),
    (State.RESTORE_OFFERED, B, Reply(Answer.SKIP), b"C000005\nSKIP\n"),
    (State.RESTORE_OFFERED, B, Reply(Answer.CORE), b"C000005\nCORE\n"),
    (State.RESTORE, P, Finish(), b"C000007\nFINISH\n"),
    (State.DONE, P, End(), b"C000004\nEND\n"),
    (State.ENDED, P, Terminate(), b"T000000\n"),
    (State.BACKUP, B, Message(Severity.INFO, ""), b"I000001\n\n"),
    (State.BACKUP, B, Message(Severity.NONFATAL, "é"), b"Q000003\n\xc3\xa9\n"),
]


@pytest.mark.parametrize(("state", "sender", "event", "wire"), ON_THE_WIRE)
def test_an_event_and_its_bytes(
    state: State,
    sender: Role,
    event: Event,
    wire: bytes,
    session_in: Callable[[Role, State], Session],
) -> None:
    assert b"".join(session_in(sender, state).send(event)) == wire
    listener = session_in(sender.peer, state)
    listener.receive_data(wire)
    assert list(listener.events()) == [event]


@pytest.mark.parametrize(
    ("state", "sender", "lines"),
    [
        (State.CONNECTED, P, ["Hello"]),
        (State.CONNECTED, P, ["Hello x"]),
        (State.CONNECTED, P, ["Hello  3"]),
        (State.CONNECTED, P, ["Hello x "]),
        (State.CONNECTED, P, ["hello x 3"]),
        (State.CONNECTED, P, [""]),
        (State.CONNECTED, P, ["Hello x\n3"]),
        (State.CONNECTED, P, ["Hello x\x003"]),
        (State.GREETING, B, ["Hello Bacula "]),
        (State.GREETED, P, ["Job:"]),
        (State.GREETED, P, ["Jobs"]),
        (State.GREETED, P, ["Job"]),
        (State.GREETED, P, [*JOB[:3]]),
        (State.GREETED, P, [*JOB, "Name=n"]),
        (State.GREETED, P, [*JOB, "Since"]),
        (State.GREETED, P, [*JOB, "Since="]),
        (State.GREETED, P, [*JOB, "Since=1.5"]),
        (State.GREETED, P, [*JOB, "Since=٣"]),
        (State.GREETED, P, [*JOB, "Since=9223372036854775808"]),
        (State.GREETED, P, [*JOB, "Since=" + "9" * 5000]),
        (State.GREETED, P, [*JOB, "Level=B"]),
        (State.GREETED, P, [*JOB, "=x"]),
        (State.GREETED, P, ["Job", "Name=n", "JobID=-1", "Type=B"]),
        (State.JOB_KNOWN, P, ["Params", "debug"]),
        (State.JOB_KNOWN, P, ["Params", "=1"]),
        (State.PREPARED, P, ["BackupStart "]),
        (State.PREPARED, P, ["backupstart"]),
        (State.BACKUP, B, ["FNAME"]),
        (State.BACKUP, B, ["FNAME:", *FILE[1:]]),
        (State.BACKUP, B, ["FNAME:/f ", *FILE[1:]]),
        (State.BACKUP, B, ["FNAME:/f"]),
        (State.BACKUP, B, ["FNAME:/f", FILE[1]]),
        (State.BACKUP, B, ["FNAME:/f", FILE[2], FILE[1]]),
        (State.BACKUP, B, [*FILE, "XATTR"]),
        (State.BACKUP, B, [*FILE, "LSTAT:a", "LSTAT:b"]),
        (State.BACKUP, B, [FILE[0], "STAT:F 7 0 0 100600", FILE[2]]),
        (State.BACKUP, B, [FILE[0], "STAT:F 7 0 0 100600 1 2 3", FILE[2]]),
        (State.BACKUP, B, [FILE[0], "STAT:F  7 0 0 100600 1", FILE[2]]),
        (State.BACKUP, B, [FILE[0], "STAT:X 7 0 0 100600 1", FILE[2]]),
        (State.BACKUP, B, [FILE[0], "STAT:F -7 0 0 100600 1", FILE[2]]),
        (State.BACKUP, B, [FILE[0], "STAT:F 07 0 0 100600 1", FILE[2]]),
        (State.BACKUP, B, [FILE[0], "STAT:F +7 0 0 100600 1", FILE[2]]),
        (State.BACKUP, B, [FILE[0], "STAT:F 7 0 0 600 1", FILE[2]]),
        (State.BACKUP, B, [FILE[0], "STAT:F 7 0 0 100680 1", FILE[2]]),
        (State.BACKUP, B, [FILE[0], "STAT:F 7 -0 0 100600 1", FILE[2]]),
        (State.BACKUP, B, [FILE[0], "STAT:F 9223372036854775808 0 0 100600 1", FILE[2]]),
        (State.BACKUP, B, [FILE[0], FILE[1], "TSTAMP:1 2"]),
        (State.BACKUP, B, ["RESTOREOBJ:", "RESTOREOBJ_LEN:0"]),
        (State.BACKUP, B, ["RESTOREOBJ:m"]),
        (State.BACKUP, B, ["RESTOREOBJ:m", "RESTOREOBJ_LEN:-1"]),
        (State.BACKUP, B, ["RESTOREOBJ:m", "RESTOREOBJ_LEN:2147483648"]),
        (State.BACKUP, B, ["RESTOREOBJ:m", "RESTOREOBJ_LENGTH:1"]),
        (State.BACKUP, B, ["PLUGINOBJ:"]),
        (State.BACKUP, B, ["PLUGINOBJ:p", "PLUGINOBJ_SIZE:1024kB"]),
        (State.BACKUP, B, ["PLUGINOBJ:p", "PLUGINOBJ_STATUS:T"]),
        (State.BACKUP, B, ["PLUGINOBJ:p", "PLUGINOBJ_COLOR:red"]),
        (State.BACKUP, B, ["PLUGINOBJ:p", "PLUGINOBJ_TYPE:t", "PLUGINOBJ_CAT:c"]),
        (State.BACKUP, B, ["PLUGINOBJ:p", "PLUGINOBJ_CAT:c", "PLUGINOBJ_CAT:c"]),
        (State.BACKUP, B, ["PLUGINOBJ:p", "PLUGINOBJ_CAT"]),
        (State.RESTORE_OFFERED, B, ["ok"]),
        (State.RESTORE_OFFERED, B, ["OK\r"]),
        (State.QUERY, B, ["a=b\t"]),
    ],
)
def test_lines_that_are_no_event(
    state: State,
    sender: Role,
    lines: list[str],
    session_in: Callable[[Role, State], Session],
) -> None:
    listener = session_in(sender.peer, state)
    before = listener.received
    wire = commands(*lines)
    listener.receive_data(wire)
    with pytest.raises(RemoteProtocolError) as caught:
        list(listener.events())
    assert caught.value.code == "bad-command"
    assert before <= caught.value.offset < before + len(wire)


def test_a_command_ends_with_a_newline() -> None:
    backend = Session(B)
    backend.receive_data(b"C000009\nHello x 3")
    with pytest.raises(RemoteProtocolError, match="does not end with a newline") as caught:
        list(backend.events())
    assert (caught.value.code, caught.value.offset) == ("bad-command", 0)


def test_job_keys_come_in_any_order(session_in: Callable[[Role, State], Session]) -> None:
    backend = session_in(B, State.GREETED)
    backend.receive_data(commands("Job", "New=1", "Type=E", "JobID=0", "Name=n", "Since=5"))
    assert list(backend.events()) == [
        Job("n", 0, JobType.ESTIMATE, since=5, extra=(("New", "1"),)),
    ]


@pytest.mark.parametrize(
    ("state", "sender", "event"),
    [
        (State.CONNECTED, P, PluginHello("", "3")),
        (State.CONNECTED, P, PluginHello("x", "")),
        (State.CONNECTED, P, PluginHello("x", "3 4")),
        (State.CONNECTED, P, PluginHello("x\n", "3")),
        (State.CONNECTED, P, PluginHello("\ud800", "3")),
        (State.GREETED, P, Job("n", -1, JobType.BACKUP)),
        (State.GREETED, P, Job("n\n", 1, JobType.BACKUP)),
        (State.GREETED, P, Job("n", 1, JobType.BACKUP, extra=(("Where", "/"),))),
        (State.GREETED, P, Job("n", 1, JobType.BACKUP, extra=(("a=b", "c"),))),
        (State.JOB_KNOWN, P, Parameters((("a=b", "c"),))),
        (State.JOB_KNOWN, P, Parameters((("", "c"),))),
        (State.JOB_KNOWN, P, Parameters((("a", "b\nc=d"),))),
        (State.BACKUP, B, File("", REGULAR, TIMES)),
        (State.BACKUP, B, File("/f ", REGULAR, TIMES)),
        (State.BACKUP, B, File("/f\nDATA", REGULAR, TIMES)),
        (State.BACKUP, B, File("/f\0", REGULAR, TIMES)),
        (State.BACKUP, B, File("/f", Stat(FileType.REGULAR, -1), TIMES)),
        (State.BACKUP, B, File("/f", Stat(FileType.REGULAR, 2**63), TIMES)),
        (State.BACKUP, B, File("/f", Stat(FileType.REGULAR, 1, mode=-1), TIMES)),
        (State.BACKUP, B, RestoreObject("m", 2**31)),
        (State.BACKUP, B, PluginObject("p", count=-1)),
        (State.QUERY, B, QueryRow("a\nb")),
        (State.QUERY, B, QueryRow("a ")),
    ],
)
def test_events_without_a_form_on_the_wire(
    state: State,
    sender: Role,
    event: Event,
    session_in: Callable[[Role, State], Session],
) -> None:
    with pytest.raises(LocalProtocolError, match="cannot be sent"):
        session_in(sender, state).send(event)


def test_a_block_is_bounded(session_in: Callable[[Role, State], Session]) -> None:
    backend = session_in(B, State.JOB_KNOWN)
    backend.receive_data(word("Params"))
    flood = b"".join(encode_packet(Status.COMMAND, b"k=" + b"v" * 99_989 + b"\n"))
    for _ in range(MAX_BLOCK // len(flood)):
        backend.receive_data(flood)
        assert list(backend.events()) == []
    backend.receive_data(flood)
    with pytest.raises(RemoteProtocolError, match="oversized"):
        list(backend.events())


def test_parameters_know_accurate_mode() -> None:
    assert Parameters((("a", "b"), ("Accurate", "1"))).accurate
    assert not Parameters((("a", "Accurate"),)).accurate


def test_a_file_knows_its_size() -> None:
    assert File("/f", REGULAR, TIMES).size == 7


def test_data_counts_bytes_in_all_its_parts() -> None:
    data = Data(b"ab", memoryview(b"cdefghij").cast("I"))
    assert len(data) == 10
    assert bytes(data) == b"abcdefghij"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("one\ntwo", "one two"),
        ("one \r\n\r\n two\n", "one two"),
        ("\n\0one\0", "one"),
        ("  kept  inside ", "  kept  inside "),
    ],
)
def test_a_message_is_one_line(text: str, line: str) -> None:
    assert Message(Severity.INFO, text).text == line


def test_a_message_is_never_too_long_or_too_odd_to_be_sent() -> None:
    backend = Session(B)
    header, payload = backend.send(Message(Severity.INFO, "x" * 2_000_000))
    assert header == b"I999999\n"
    assert bytes(payload) == b"x" * 999_998 + b"\n"
    assert b"".join(backend.send(Message(Severity.INFO, "\ud800"))) == b"I000007\n\\ud800\n"


@pytest.mark.parametrize("payload", [b"text", b"text\n", b"text\n\n", b"text\0\n"])
def test_messages_of_other_backends_are_made_one_line(payload: bytes) -> None:
    plugin = Session(P)
    plugin.receive_data(b"".join(encode_packet(Status.WARNING, payload)))
    assert list(plugin.events()) == [Message(Severity.WARNING, "text")]


@pytest.mark.parametrize("lines", [["Params", "password=s3cret\0"], ["password=s3cret"]])
def test_values_stay_out_of_errors(
    lines: list[str], session_in: Callable[[Role, State], Session]
) -> None:
    backend = session_in(B, State.JOB_KNOWN)
    backend.receive_data(commands(*lines))
    with pytest.raises(RemoteProtocolError) as caught:
        list(backend.events())
    assert "password=" in str(caught.value)
    assert "s3cret" not in str(caught.value)
    assert "s3cret" not in repr(Parameters((("password", "s3cret"),)))
