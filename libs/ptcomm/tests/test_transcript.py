"""Transcripts: recorded by endpoints, read back, and printed by the command line."""

from __future__ import annotations

import io
import runpy
import sys
from typing import TYPE_CHECKING

import pytest
from ptcomm import (
    Data,
    Endpoint,
    Message,
    Role,
    Session,
    Severity,
    TranscriptError,
    TranscriptWriter,
    read_transcript,
)
from ptcomm import __main__ as main_module
from ptcomm.__main__ import dump, main
from ptcomm.testing import conversations

if TYPE_CHECKING:
    from pathlib import Path

    Pipes = tuple[tuple[int, int], tuple[int, int]]

B, P = Role.BACKEND, Role.PLUGIN
MAGIC = b"PTCOMM transcript 1\n"


def record(*said: tuple[Role, bytes]) -> io.BytesIO:
    file = io.BytesIO()
    writer = TranscriptWriter(file)
    for who, data in said:
        writer.write(who, data)
    file.seek(0)
    return file


def test_a_transcript_is_these_bytes() -> None:
    file = io.BytesIO()
    writer = TranscriptWriter(file)
    writer.write(P, b"C000004\n", memoryview(b"END\n"))
    writer.write(B)
    assert file.getvalue() == MAGIC + b"plugin 12\nC000004\nEND\n\nbackend 0\n\n"
    file.seek(0)
    assert list(read_transcript(file)) == [(P, b"C000004\nEND\n"), (B, b"")]


def test_long_records_are_read_in_pieces() -> None:
    said = list(read_transcript(record((B, bytes(2_500_000)))))
    assert {who for who, _ in said} == {B}
    assert sum(len(data) for _, data in said) == 2_500_000
    assert max(len(data) for _, data in said) <= 1_048_576


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not a PTCOMM transcript"),
        (b"PTCOMM transcript 2\n", "not a PTCOMM transcript"),
        (MAGIC + b"director 1\nx\n", "unknown record"),
        (MAGIC + b"\xff 1\nx\n", "unknown record"),
        (MAGIC + b"plugin\n", "without a length"),
        (MAGIC + b"plugin -1\nx\n", "without a length"),
        (MAGIC + b"plugin 1", "without a length"),
        (MAGIC + b"plugin " + b"1" * 100 + b"\n", "without a length"),
        (MAGIC + b"plugin 999999999999\nx", "cut off 999999999998 bytes before"),
        (MAGIC + b"plugin 1\nx", "does not end with a newline"),
        (MAGIC + b"plugin 1\nxy", "does not end with a newline"),
    ],
)
def test_files_that_are_no_transcript(data: bytes, reason: str) -> None:
    with pytest.raises(TranscriptError, match=reason):
        list(read_transcript(io.BytesIO(data)))


@pytest.mark.parametrize("role", Role)
def test_either_end_records_both_directions(role: Role, pipes: Pipes) -> None:
    script = conversations()["restore"]
    files = {B: io.BytesIO(), P: io.BytesIO()}
    with (
        Endpoint(B, *pipes[0], record=files[B]) as backend,
        Endpoint(P, *pipes[1], record=files[P]) as plugin,
    ):
        ends = {B: backend, P: plugin}
        for who, event in script:
            ends[who].send(event)
            ends[who.peer].receive()
        plugin.close_output()
        backend.receive()
        backend.close()
        plugin.receive()
    heard = dict.fromkeys(Role, b"")
    ended = []
    files[role].seek(0)
    for who, data in read_transcript(files[role]):
        heard[who] += data
        ended += [] if data else [who]
    said = {who: Session(who) for who in Role}
    expected = dict.fromkeys(Role, b"")
    for who, event in script:
        wire = b"".join(said[who].send(event))
        expected[who] += wire
        said[who.peer].receive_data(wire)
        list(said[who.peer].events())
    assert heard == expected
    assert ended == [P, B]


# --- the command line ---------------------------------------------------------------------------


def backup() -> list[tuple[Role, bytes]]:
    """A backup up to its first data, as said by both."""
    ends = {who: Session(who) for who in Role}
    said = []
    for who, event in conversations()["backup"]:
        wire = b"".join(ends[who].send(event))
        ends[who.peer].receive_data(wire)
        list(ends[who.peer].events())
        said.append((who, wire))
        if isinstance(event, Data):
            return said
    raise AssertionError


def dumped(tmp_path: Path, capsys: pytest.CaptureFixture[str], data: bytes) -> tuple[int, str, str]:
    path = tmp_path / "transcript"
    path.write_bytes(data)
    code = main(["dump", str(path)])
    return code, *capsys.readouterr()


def test_dump_prints_a_line_a_packet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    payload = bytes(range(40))
    said = [*backup(), (B, b"D000040\n" + payload), (B, b"I000003\n\xff\n\n"), (B, b"")]
    code, out, err = dumped(tmp_path, capsys, record(*said).getvalue())
    lines = out.splitlines()
    assert (code, err) == (0, "")
    assert lines[0] == (
        "plugin   C 000016  'Hello example 1\\n'  => PluginHello(plugin='example', api='1')"
    )
    assert lines[2] == "plugin   C 000004  'Job\\n'"
    assert lines[-4] == "backend  D 000003  616263  => Data(3 bytes)"
    assert lines[-3] == (
        "backend  D 000040  00010203 04050607 08090a0b 0c0d0e0f"
        " 10111213 14151617 18191a1b 1c1d1e1f...  => Data(40 bytes)"
    )
    assert lines[-2].startswith(r"backend  I 000003  '\\xff\n\n'  => Message(")
    assert lines[-1] == "backend  EndOfInput()"


def test_dump_marks_what_does_harm(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = [*backup(), (B, b"E000002\nx\n")]
    code, out, _ = dumped(tmp_path, capsys, record(*said).getvalue())
    assert code == 0
    assert f"{Message(Severity.ERROR, 'x')!r}  HARMFUL: bacula-fd would drop the rest" in out


def test_dump_takes_the_ends_of_both_pipes() -> None:
    ends = io.BytesIO(MAGIC + b"plugin 0\n\nbackend 0\n\n")
    assert list(dump(ends)) == ["plugin   EndOfInput()", "backend  EndOfInput()"]


@pytest.mark.parametrize(
    ("last", "reason"),
    [
        ((B, b"C000003\nOK\n"), "out-of-order"),
        ((P, b"X000000\n"), "bad-status"),
        ((P, b""), None),
    ],
)
def test_dump_says_where_it_is_illegal(
    last: tuple[Role, bytes],
    reason: str | None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    said = backup()
    offset = sum(len(data) for who, data in said if who is last[0])
    code, out, err = dumped(tmp_path, capsys, record(*said, last).getvalue())
    illegal = [line for line in out.splitlines() if line.startswith("ILLEGAL")]
    assert err == ""
    if reason is None:
        assert (code, illegal) == (0, [])
    else:
        assert code == 1
        assert f"at byte {offset}:" in illegal[0]
        assert illegal[0].endswith(f"({reason})")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"not one", "not a PTCOMM transcript"),
        (MAGIC + b"plugin 9\nC000009\nH\n", "9 bytes into a packet of the plugin"),
    ],
)
def test_dump_of_a_broken_file(
    data: bytes, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = dumped(tmp_path, capsys, data)
    assert code == 1
    assert reason in err


def test_dump_of_no_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dump", str(tmp_path / "none")]) == 1
    assert "No such file" in capsys.readouterr().err


def test_the_module_is_a_program(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "transcript"
    path.write_bytes(record((P, b"C000010\nHello x 1\n")).getvalue())
    monkeypatch.setattr(sys, "argv", ["ptcomm", "dump", str(path)])
    assert main_module.__file__ is not None
    with pytest.raises(SystemExit) as exited:
        runpy.run_path(main_module.__file__, run_name="__main__")
    assert exited.value.code == 0
    assert capsys.readouterr().out.count("\n") == 1
