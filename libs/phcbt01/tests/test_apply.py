"""Streams onto targets, pushed and pulled."""

from __future__ import annotations

import io
import os
import threading
from typing import TYPE_CHECKING

import pytest
from phcbt01 import (
    Applier,
    ApplyError,
    FileTarget,
    FormatError,
    Header,
    ShrunkDisk,
    UsageError,
    apply,
    testing,
)

if TYPE_CHECKING:
    from pathlib import Path

P = 4096
BASE = b"\xff" * (4 * P)
STREAM = testing.encode(4 * P, [(10, b"abc"), (P, bytes(P)), (3 * P, b"x" + bytes(P - 1))])
RESULT = BASE[:10] + b"abc" + BASE[13:P] + bytes(P) + BASE[:P] + b"x" + bytes(P - 1)


def test_pushed_in_pieces_of_every_size() -> None:
    for size in (1, 5, 16, 100, P, len(STREAM)):
        target = testing.MemoryTarget(BASE)
        applier = Applier(target)
        for at in range(0, len(STREAM), size):
            applier.receive_data(STREAM[at : at + size])
        assert applier.close() == Header(4 * P, 3)
        assert target.content == RESULT
        assert target.flushes == 1


def test_pulled_from_a_file() -> None:
    target = testing.MemoryTarget(BASE)
    assert apply(io.BytesIO(STREAM), target) == Header(4 * P, 3)
    assert target.content == RESULT


def test_pulled_from_a_pipe_that_gives_little_at_a_time() -> None:
    reader, writer = os.pipe()

    def trickle() -> None:
        with os.fdopen(writer, "wb", buffering=0) as out:
            out.writelines(STREAM[at : at + 999] for at in range(0, len(STREAM), 999))

    thread = threading.Thread(target=trickle)
    thread.start()
    target = testing.MemoryTarget(BASE)
    with os.fdopen(reader, "rb", buffering=0) as stream:
        apply(stream, target)
    thread.join(timeout=10)
    assert target.content == RESULT


def test_zero_pages_are_zeroed_not_written() -> None:
    target = testing.MemoryTarget(BASE)
    apply(io.BytesIO(STREAM), target)
    assert target.calls == [("write", 10, 3), ("zero", P, P), ("write", 3 * P, P)]


@pytest.mark.parametrize("piece", [700, P, 100 * P])
def test_a_region_in_pieces_leaves_one_hole_in_a_file(tmp_path: Path, piece: int) -> None:
    path = tmp_path / "disk"
    path.write_bytes(b"\xff" * (64 * P))
    stream = testing.encode(64 * P, [(8 * P, bytes(32 * P))])
    with FileTarget.open(path) as target:
        applier = Applier(target)
        for at in range(0, len(stream), piece):
            applier.receive_data(stream[at : at + piece])
        applier.close()
    assert path.stat().st_blocks * 512 == 32 * P


def test_the_target_grows_first() -> None:
    target = testing.MemoryTarget(b"base")
    assert apply(io.BytesIO(testing.encode(10, [(8, b"zz")])), target) == Header(10, 1)
    assert target.content == b"base" + bytes(4) + b"zz"


def test_a_shrunk_disk_is_refused_before_anything_is_written() -> None:
    target = testing.MemoryTarget(BASE)
    with pytest.raises(ShrunkDisk, match="of a disk of 100 bytes, not of 16384"):
        apply(io.BytesIO(testing.encode(100, [(0, b"a")])), target)
    assert target.content == BASE
    assert target.calls == []


def test_an_incomplete_stream_is_not_flushed() -> None:
    target = testing.MemoryTarget(BASE)
    with pytest.raises(FormatError):
        apply(io.BytesIO(STREAM[:-1]), target)
    assert target.flushes == 0


def test_a_failed_target_ends_it(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(BASE)
    with FileTarget(os.open(path, os.O_RDONLY), name="disk") as target:
        applier = Applier(target)
        with pytest.raises(ApplyError):
            applier.receive_data(STREAM)
        with pytest.raises(UsageError):
            applier.receive_data(b"")
        with pytest.raises(UsageError):
            applier.close()


def test_a_bad_stream_ends_it() -> None:
    applier = Applier(testing.MemoryTarget())
    with pytest.raises(FormatError):
        applier.receive_data(b"x" * 24)
    with pytest.raises(UsageError):
        applier.close()


def test_closing_ends_it() -> None:
    applier = Applier(testing.MemoryTarget())
    applier.receive_data(testing.encode(0, []))
    applier.close()
    with pytest.raises(UsageError):
        applier.close()
