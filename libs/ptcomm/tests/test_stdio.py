"""The endpoint on real pipes, and a real process that claims its standard descriptors."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from ptcomm import (
    Ack,
    BackendHello,
    Data,
    DataEnd,
    End,
    EndOfInput,
    Endpoint,
    Event,
    File,
    FileType,
    LocalProtocolError,
    Message,
    NoMoreFiles,
    Parameters,
    PeerGone,
    PluginHello,
    RemoteProtocolError,
    Role,
    Severity,
    Stat,
    Terminate,
    Times,
    claim_stdio,
)
from ptcomm.events import DataStart
from ptcomm.stdio import PIPE_SIZE, _widen_pipe
from ptcomm.testing import conversations

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

    Pipes = tuple[tuple[int, int], tuple[int, int]]

B, P = Role.BACKEND, Role.PLUGIN
FILE = File("/f", Stat(FileType.REGULAR, 1), Times(1, 2, 3))


@pytest.fixture
def pair(pipes: Pipes) -> Iterator[tuple[Endpoint, Endpoint]]:
    """A backend's and a plugin's endpoint on two pipes."""
    with Endpoint(B, *pipes[0]) as backend, Endpoint(P, *pipes[1]) as plugin:
        yield backend, plugin


def lead(backend: Endpoint, plugin: Endpoint, phase: str, last: type[Event]) -> None:
    """Both ends say their part of a conversation, up to the first event of that type."""
    ends = {B: backend, P: plugin}
    for who, event in conversations()[phase]:
        ends[who].send(event)
        assert ends[who.peer].receive() == event
        if isinstance(event, last):
            return


@pytest.mark.parametrize("name", conversations())
def test_whole_conversations(name: str, pair: tuple[Endpoint, Endpoint]) -> None:
    backend, plugin = pair
    lead(backend, plugin, name, Terminate)
    plugin.close_output()
    assert backend.receive() == EndOfInput()
    backend.close()
    assert plugin.receive() == EndOfInput()


def test_after_the_end_there_is_only_the_end(pair: tuple[Endpoint, Endpoint]) -> None:
    backend, plugin = pair
    plugin.close()
    assert [backend.receive() for _ in range(3)] == [EndOfInput()] * 3
    assert backend.pending()


def test_expect_returns_what_was_expected(pair: tuple[Endpoint, Endpoint]) -> None:
    backend, plugin = pair
    plugin.send(PluginHello("x", "1"))
    assert backend.expect(PluginHello).plugin == "x"


def test_expect_refuses_the_rest(pair: tuple[Endpoint, Endpoint]) -> None:
    backend, plugin = pair
    lead(backend, plugin, "backup", BackendHello)
    plugin.close()
    with pytest.raises(RemoteProtocolError, match="expected Ack or End, got EndOfInput") as caught:
        backend.expect(Ack, End)
    assert caught.value.code == "out-of-order"


def test_a_broken_peer_is_an_error(pipes: Pipes) -> None:
    with Endpoint(B, *pipes[0]) as backend:
        os.write(pipes[1][1], b"garbage!")
        with pytest.raises(RemoteProtocolError, match="bad-status"):
            backend.receive()


# --- sending ------------------------------------------------------------------------------------


def test_data_larger_than_the_pipe_arrives_whole(pair: tuple[Endpoint, Endpoint]) -> None:
    backend, plugin = pair
    lead(backend, plugin, "backup", DataStart)
    parts = [bytes([at]) * 300_000 for at in range(3)]
    writer = threading.Thread(target=backend.send, args=(Data(*parts), DataEnd()))
    writer.start()
    data = plugin.expect(Data)
    assert bytes(data) == b"".join(parts)
    assert plugin.receive() == DataEnd()
    writer.join()


def test_more_buffers_than_one_call_takes(pair: tuple[Endpoint, Endpoint]) -> None:
    backend, plugin = pair
    lead(backend, plugin, "backup", DataStart)
    parts = [b"x", b""] * 2000
    backend.send(Data(*parts), DataEnd())
    assert bytes(plugin.expect(Data)) == b"x" * 2000


def test_one_bad_event_of_several_keeps_all_of_them_back(pair: tuple[Endpoint, Endpoint]) -> None:
    backend, plugin = pair
    lead(backend, plugin, "backup", Parameters)
    with pytest.raises(LocalProtocolError):
        backend.send(Ack(), NoMoreFiles())
    assert not plugin.pending()


def test_a_peer_that_no_longer_reads_is_gone(pair: tuple[Endpoint, Endpoint]) -> None:
    backend, plugin = pair
    plugin.close()
    for _ in range(2):
        with pytest.raises(PeerGone):
            backend.send(Message(Severity.INFO, "anybody?"))


class Cancelled(Exception):
    """Raised by a signal handler."""


class Alarm:
    """SIGALRM 50 ms after it is set; the handler raises Cancelled if it is told to."""

    def __init__(self) -> None:
        self.rang = threading.Event()
        self._raises = False

    def set(self, *, raises: bool) -> None:
        self._raises = raises
        signal.setitimer(signal.ITIMER_REAL, 0.05)

    def ring(self, _: int, __: FrameType | None) -> None:
        self.rang.set()
        if self._raises:
            raise Cancelled


@pytest.fixture
def alarm() -> Iterator[Alarm]:
    alarm = Alarm()
    before = signal.signal(signal.SIGALRM, alarm.ring)
    yield alarm
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def test_a_packet_cut_short_by_a_cancel_ends_the_stream(
    pair: tuple[Endpoint, Endpoint], alarm: Alarm
) -> None:
    """What was to follow would be taken for the missing payload."""
    backend, plugin = pair
    lead(backend, plugin, "backup", DataStart)
    alarm.set(raises=True)
    with pytest.raises(Cancelled):
        backend.send(Data(bytes(900_000)))
    with pytest.raises(PeerGone, match="only in part"):
        backend.send(Message(Severity.FATAL, "cancelled"))


def test_a_signal_alone_changes_nothing(pair: tuple[Endpoint, Endpoint], alarm: Alarm) -> None:
    """It cuts the write short, and the rest follows."""
    backend, plugin = pair
    lead(backend, plugin, "backup", DataStart)
    heard: list[Event] = []

    def read_when_it_rang() -> None:
        alarm.rang.wait(10)
        heard.append(plugin.receive())

    reader = threading.Thread(target=read_when_it_rang)
    reader.start()
    alarm.set(raises=False)
    content = bytes(range(250)) * 3600
    backend.send(Data(content))
    reader.join()
    assert heard == [Data(content)]


# --- looking ahead ------------------------------------------------------------------------------


def test_pending_tells_whether_receive_would_wait(pair: tuple[Endpoint, Endpoint]) -> None:
    backend, plugin = pair
    assert not backend.pending()
    assert not backend.pending(timeout=0.01)
    lead(backend, plugin, "backup", DataStart)
    assert not backend.pending()
    plugin.send(End(), Terminate())
    assert backend.pending()
    assert backend.receive() == End()
    assert backend.pending()
    assert backend.receive() == Terminate()
    assert not backend.pending()
    plugin.close()
    assert backend.pending(timeout=1)


# --- closing ------------------------------------------------------------------------------------


def test_a_second_close_does_nothing(pair: tuple[Endpoint, Endpoint]) -> None:
    backend, plugin = pair
    backend.close()
    backend.close()
    for use in (lambda: backend.send(BackendHello()), backend.receive, backend.pending):
        with pytest.raises(LocalProtocolError):
            use()
    assert plugin.receive() == EndOfInput()


# --- the standard descriptors -------------------------------------------------------------------

BACKEND = """
import os, subprocess, sys
from ptcomm import *
sys.stdout.write("before\\n")
log = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
with claim_stdio(log) as endpoint:
    print("stray print", flush=True)
    os.write(2, b"stray error\\n")
    subprocess.run(["sh", "-c", "echo child; cat; ls /proc/self/fd | wc -l"], check=True)
    endpoint.expect(PluginHello)
    endpoint.send(BackendHello())
    assert endpoint.receive() == EndOfInput()
sys.exit(7)
"""


def start_backend(log: Path, stdout: int) -> subprocess.Popen[bytes]:
    buffered = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    return subprocess.Popen(
        [sys.executable, "-c", BACKEND, str(log)],
        env=buffered,
        stdin=subprocess.PIPE,
        stdout=stdout,
        stderr=subprocess.PIPE,
    )


def test_claimed_descriptors_carry_packets_only(tmp_path: Path) -> None:
    read_fd, write_fd = os.pipe()
    with start_backend(tmp_path / "log", write_fd) as process:
        os.close(write_fd)
        assert process.stdin is not None
        assert process.stderr is not None
        with Endpoint(P, read_fd, os.dup(process.stdin.fileno())) as plugin:
            process.stdin.close()
            plugin.send(PluginHello("x", "1"))
            assert plugin.receive() == BackendHello()
            assert fcntl.fcntl(read_fd, fcntl.F_GETPIPE_SZ) == PIPE_SIZE
            assert not _is_closed(process.stderr.fileno())
            plugin.close_output()
            assert plugin.receive() == EndOfInput()
        assert process.stderr.read() == b""
        assert process.wait(timeout=10) == 7
    lines = (tmp_path / "log").read_text().splitlines()
    assert lines[:4] == ["before", "stray print", "stray error", "child"]
    assert int(lines[4]) <= 5  # its three, the pipe to wc and the folder it lists: none of ours


def _is_closed(fd: int) -> bool:
    """Whether nobody can write to the pipe any more."""
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    fcntl.fcntl(fd, fcntl.F_SETFL, flags | os.O_NONBLOCK)
    try:
        return os.read(fd, 1) == b""
    except BlockingIOError:
        return False
    finally:
        fcntl.fcntl(fd, fcntl.F_SETFL, flags)


def test_stdout_need_not_be_a_pipe(tmp_path: Path) -> None:
    with (tmp_path / "out").open("w+b") as out:
        with start_backend(tmp_path / "log", out.fileno()) as process:
            _, errors = process.communicate(b"C000010\nHello x 1\n", timeout=10)
        assert (process.returncode, errors) == (7, b"")
        out.seek(0)
        assert out.read() == b"C000013\nHello Bacula\n"


@pytest.fixture
def standard() -> Iterator[None]:
    """Puts the standard descriptors back after a test that changed them."""
    saved = [os.dup(fd) for fd in range(3)]
    yield
    for fd, copy in enumerate(saved):
        os.dup2(copy, fd)
        os.close(copy)


@pytest.mark.usefixtures("standard")
def test_claiming_in_this_process(pipes: Pipes, tmp_path: Path) -> None:
    os.dup2(pipes[0][0], 0)
    os.dup2(pipes[0][1], 1)
    with (tmp_path / "log").open("w+b", buffering=0) as log, claim_stdio(log.fileno()) as backend:
        with Endpoint(P, *pipes[1]) as plugin:
            plugin.send(PluginHello("x", "1"))
            backend.expect(PluginHello)
            os.write(1, b"stray")
            os.write(2, b" words")
            backend.send(BackendHello())
            plugin.expect(BackendHello)
        assert os.read(0, 1) == b""
        assert os.pread(log.fileno(), 100, 0) == b"stray words"


def test_a_pipe_that_may_not_grow_stays_as_it_is(pipes: Pipes) -> None:
    limit = int(Path("/proc/sys/fs/pipe-max-size").read_text())
    fd = pipes[0][1]
    before = fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ)
    user = os.geteuid()
    os.seteuid(user or 65534)  # root may exceed the limit
    try:
        _widen_pipe(fd, limit * 2)
    finally:
        os.seteuid(user)
    assert fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ) == before


def test_what_is_no_pipe_is_left_alone(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as file:
        _widen_pipe(file.fileno(), PIPE_SIZE)
        with pytest.raises(OSError, match="Bad file descriptor"):
            fcntl.fcntl(file.fileno(), fcntl.F_GETPIPE_SZ)
