"""How fast data packets are decoded and encoded: run it with python, it prints MB/s (10^6 bytes).

copy     copying the same bytes in Python, as a yardstick
decode   a backend's Session in a restore, input in blocks as read(2) returns them
encode   a backend's Session in a backup; payload is passed through, so this is the cost of headers
pipe     a backend process says it, this process hears it, through a pipe of 1 MiB
"""

from __future__ import annotations

import fcntl
import os
from functools import partial
from time import perf_counter, process_time
from typing import TYPE_CHECKING

from ptcomm import Data, DataEnd, DataStart, Endpoint, Event, Role, Session, Status, encode_packet
from ptcomm.stdio import PIPE_SIZE
from ptcomm.testing import SessionPair, conversations

if TYPE_CHECKING:
    from collections.abc import Callable

TOTAL = 512 * 1024 * 1024
SIZES = (65_536, 983_040)  # what bacula-fd sends in a restore; what a backend should send
READS = (65_536, 1_048_576)  # what a pipe returns as it is, and made 1 MiB large


def opening(phase: str) -> list[tuple[Role, Event]]:
    """The conversation up to the first DataStart."""
    script = conversations()[phase]
    kinds = [type(event) for _, event in script]
    return script[: kinds.index(DataStart) + 1]


def backend_in(phase: str) -> Session:
    pair = SessionPair()
    for who, event in opening(phase):
        pair.send(who, event)
    return pair.ends[Role.BACKEND]


def report(name: str, work: Callable[[], int], clock: Callable[[], float] = process_time) -> None:
    start = clock()
    size = work()
    print(f"{name:45} {size / (clock() - start) / 1e6:10,.0f} MB/s")


def copy(size: int) -> int:
    block = bytes(size)
    return sum(len(bytearray(block)) for _ in range(TOTAL // size))


def decode(size: int, read_size: int) -> int:
    packet = b"".join(encode_packet(Status.DATA, bytes(size)))
    wire = packet * (64 * 1024 * 1024 // len(packet))
    reads = [wire[at : at + read_size] for at in range(0, len(wire), read_size)]
    session = backend_in("restore")
    done = 0
    for read in reads * (TOTAL // len(wire)):
        session.receive_data(read)
        done += sum(len(event) for event in session.events() if isinstance(event, Data))
    return done


def encode(size: int) -> int:
    session = backend_in("backup")
    view = memoryview(bytes(size))
    packets = TOTAL // size
    for _ in range(packets):
        session.send(Data(view))
    return packets * size


def follow(endpoint: Endpoint, role: Role) -> None:
    for who, event in opening("backup"):
        if who is role:
            endpoint.send(event)
        else:
            endpoint.receive()


def say_data(read_fd: int, write_fd: int, size: int) -> None:
    view = memoryview(bytes(size))
    with Endpoint(Role.BACKEND, read_fd, write_fd) as backend:
        follow(backend, Role.BACKEND)
        for _ in range(TOTAL // size):
            backend.send(Data(view))
        backend.send(DataEnd())


def pipe(size: int) -> int:
    to_backend, to_plugin = os.pipe(), os.pipe()
    fcntl.fcntl(to_plugin[1], fcntl.F_SETPIPE_SZ, PIPE_SIZE)
    child = os.fork()
    if not child:
        os.close(to_backend[1])
        os.close(to_plugin[0])
        say_data(to_backend[0], to_plugin[1], size)
        os._exit(0)
    os.close(to_backend[0])
    os.close(to_plugin[1])
    done = 0
    with Endpoint(Role.PLUGIN, to_plugin[0], to_backend[1]) as plugin:
        follow(plugin, Role.PLUGIN)
        while isinstance(event := plugin.expect(Data, DataEnd), Data):
            done += len(event)
    os.waitpid(child, 0)
    return done


def main() -> None:
    for size in SIZES:
        report(f"copy    {size:7,}", partial(copy, size))
        for read_size in READS:
            name = f"decode  {size:7,} read in blocks of {read_size:9,}"
            report(name, partial(decode, size, read_size))
        report(f"encode  {size:7,}", partial(encode, size))
        report(f"pipe    {size:7,} (wall clock)", partial(pipe, size), perf_counter)


if __name__ == "__main__":
    main()
