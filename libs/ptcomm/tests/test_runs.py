"""The content of a file into a buffer: the same bytes, in fewer events."""

from __future__ import annotations

import itertools
import os
import threading
from typing import TYPE_CHECKING

import pytest
from ptcomm import (
    Data,
    DataEnd,
    DataStart,
    EndOfInput,
    Endpoint,
    File,
    FileType,
    RemoteProtocolError,
    Role,
    Stat,
    Status,
    Times,
    encode_packet,
)
from ptcomm._run import Run
from ptcomm.testing import conversations

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    Pipes = tuple[tuple[int, int], tuple[int, int]]

B, P = Role.BACKEND, Role.PLUGIN
FILE = File("/f", Stat(FileType.REGULAR, 1), Times(1, 2, 3))
KIB = 1024


@pytest.fixture
def restore(pipes: Pipes) -> Iterator[tuple[Endpoint, int]]:
    """A backend that has been offered a file, and the descriptor that bacula-fd writes to."""
    with Endpoint(B, *pipes[0]) as backend, Endpoint(P, *pipes[1]) as plugin:
        lead_to_content(backend, plugin)
        yield backend, pipes[1][1]


def lead_to_content(backend: Endpoint, plugin: Endpoint) -> None:
    ends = {B: (backend, plugin), P: (plugin, backend)}
    for who, event in conversations()["restore"]:
        speaker, listener = ends[who]
        speaker.send(event)
        listener.receive()
        if isinstance(event, DataStart):
            return


def packets(*contents: bytes) -> bytes:
    return b"".join(part for content in contents for part in encode_packet(Status.DATA, content))


def content(length: int, seed: int = 1) -> bytes:
    return bytes([seed, 0, 255, seed]) * (length // 4) + b"x" * (length % 4)


def said_in(blocks: Iterator[bytes], descriptor: int) -> threading.Thread:
    def say() -> None:
        for block in blocks:
            os.write(descriptor, block)

    thread = threading.Thread(target=say)
    thread.start()
    return thread


def heard(backend: Endpoint, size: int) -> tuple[bytes, int]:
    """The content of a file, and in how many events it came."""
    taken, count, buffer = bytearray(), 0, memoryview(bytearray(size))
    while isinstance(event := backend.expect(Data, DataEnd, buffer=buffer), Data):
        taken += bytes(event)
        count += 1
    return bytes(taken), count


FILES = {
    "packets of one length": [content(8 * KIB, n) for n in range(40)],
    "a short last packet": [*(content(8 * KIB, n) for n in range(20)), content(5)],
    "several lengths": [content(length) for length in (4096, 4096, 8192, 8192, 8192, 4096, 1, 1)],
    "an empty packet": [content(8192), content(8192), b"", content(8192), content(8192)],
    "packets that the buffer has no room for": [content(100_000), content(100_000)],
    "content that looks like a packet": [packets(content(8184)) for _ in range(30)],
}


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("block", [1 << 20, 131_072, 8200, 4099])
def test_content_is_the_same_however_it_is_cut(
    restore: tuple[Endpoint, int], file: str, block: int
) -> None:
    backend, descriptor = restore
    wire = packets(*FILES[file]) + encode_packet(Status.END_OF_DATA)[0]
    blocks = (wire[at : at + block] for at in range(0, len(wire), block))
    thread = said_in(blocks, descriptor)
    assert heard(backend, 65_536)[0] == b"".join(FILES[file])
    thread.join()


def test_packets_of_one_length_come_as_one_event(restore: tuple[Endpoint, int]) -> None:
    backend, descriptor = restore
    wire = packets(*[content(65_536)] * 64) + encode_packet(Status.END_OF_DATA)[0]
    thread = said_in(iter([wire]), descriptor)
    _, count = heard(backend, 1 << 20)
    thread.join()
    assert count <= 8


def test_an_end_of_input_inside_a_run_is_one(pipes: Pipes) -> None:
    with Endpoint(B, *pipes[0]) as backend:
        with Endpoint(P, *pipes[1]) as plugin:
            lead_to_content(backend, plugin)
            wire = packets(content(8192), content(8192), content(8192))[:-1]
            os.write(pipes[1][1], wire[:8200])
            buffer = memoryview(bytearray(65_536))
            assert isinstance(backend.receive(buffer), Data)
            os.write(pipes[1][1], wire[8200:])
        assert backend.receive(buffer) == Data(content(8192))
        with pytest.raises(RemoteProtocolError, match="8199 bytes into a packet") as caught:
            backend.receive(buffer)
        assert caught.value.code == "truncated"


def test_an_end_of_input_between_packets_ends_the_file(pipes: Pipes) -> None:
    with Endpoint(B, *pipes[0]) as backend:
        with Endpoint(P, *pipes[1]) as plugin:
            lead_to_content(backend, plugin)
            os.write(pipes[1][1], packets(content(8192)))
            assert backend.receive(memoryview(bytearray(65_536))) == Data(content(8192))
        assert backend.receive(memoryview(bytearray(65_536))) == EndOfInput()


def test_garbage_inside_a_run_is_found_where_it_is(restore: tuple[Endpoint, int]) -> None:
    backend, descriptor = restore
    buffer = memoryview(bytearray(65_536))
    os.write(descriptor, packets(content(8192)))
    backend.receive(buffer)
    before = backend._session.received
    os.write(descriptor, packets(content(8192), content(8192)) + b"garbage!" + bytes(100))
    assert bytes(backend.expect(Data, buffer=buffer)) == content(8192) * 2
    with pytest.raises(RemoteProtocolError, match="bad-status") as caught:
        backend.receive(buffer)
    assert caught.value.offset == before + 2 * 8200


def test_what_a_signal_interrupts_is_not_lost(
    restore: tuple[Endpoint, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    backend, descriptor = restore
    buffer = memoryview(bytearray(65_536))
    wire = packets(content(8192), content(8192, 2), content(8192, 3))
    os.write(descriptor, wire[:8200])
    backend.receive(buffer)
    os.write(descriptor, wire[8200:-10])
    readv, reads = os.readv, itertools.count()

    def interrupted(fd: int, parts: list[memoryview]) -> int:
        if next(reads):
            raise InterruptedError  # as a signal handler may
        return readv(fd, parts)

    with monkeypatch.context() as patch:
        patch.setattr(os, "readv", interrupted)
        with pytest.raises(InterruptedError):
            backend.receive(buffer)
    os.write(descriptor, wire[-10:] + encode_packet(Status.END_OF_DATA)[0])
    assert heard(backend, 65_536)[0] == content(8192, 2) + content(8192, 3)


def test_a_recorded_conversation_has_every_byte(pipes: Pipes, tmp_path: Path) -> None:
    with (
        (tmp_path / "record").open("wb") as file,
        Endpoint(B, *pipes[0], record=file) as backend,
        Endpoint(P, *pipes[1]) as plugin,
    ):
        lead_to_content(backend, plugin)
        os.write(pipes[1][1], packets(*[content(8192)] * 3) + encode_packet(Status.END_OF_DATA)[0])
        assert heard(backend, 65_536)[0] == content(8192) * 3
    assert (tmp_path / "record").read_bytes().count(content(8192)) == 3


def test_a_run_hands_back_what_is_none() -> None:
    wire = memoryview(packets(content(8192), content(8192)) + b"F000000\n" + bytes(20_000))
    at = 0

    def readv(parts: list[memoryview]) -> int:
        nonlocal at
        begin = at
        for part in parts:
            count = min(len(part), len(wire) - at)
            part[:count] = wire[at : at + count]
            at += count
        return at - begin

    run = Run(memoryview(bytearray(65_536)), 8192)
    assert run.read(readv)
    assert run.whole == 2
    assert run.rest(run.whole) == wire[2 * 8200 :]
