"""What every device promises, on iSCSI disks, files and loop devices alike."""

from __future__ import annotations

import random
import time
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from iscsi_attach import (
    DeviceClosed,
    Extent,
    OutOfRange,
    ReadOnlyDevice,
    open_direct,
    read_extents,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import Any

MIB = 2**20
PATIENCE = 30.0
on_one_disk = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
ranges = st.tuples(st.integers(0, MIB), st.integers(0, MIB)).map(lambda r: (min(r), max(r)))


def test_size_and_block_size(disk: Any) -> None:
    assert disk.device.size == disk.file.stat().st_size
    assert disk.device.block_size in (512, 4096)


def test_no_read_is_overlooked_that_comes_while_others_end(disk: Any) -> None:
    """Each thread reads when the last read of it has ended, at times that have no order."""

    def read(number: int) -> None:
        random_ = random.Random(number)
        for _ in range(300):
            disk.device.read_into(0, memoryview(bytearray(512)))
            time.sleep(random_.choice((0, 0, 1e-5, 1e-4)))

    with ThreadPoolExecutor(4) as pool:
        _, unfinished = wait([pool.submit(read, number) for number in range(4)], PATIENCE)
        assert not unfinished


@on_one_disk
@given(wanted=st.lists(ranges, max_size=5), unit=st.integers(1000, 300_000))
def test_extents_are_the_bytes_of_the_file(
    disk: Any, wanted: list[tuple[int, int]], unit: int
) -> None:
    content = disk.file.read_bytes()
    extents = [Extent(start, end - start) for start, end in wanted]
    got = [bytes(view) for _, view in read_extents(disk.device, extents, unit=unit)]
    assert b"".join(got) == b"".join(content[start:end] for start, end in wanted)


def test_the_whole_disk_to_its_last_byte(disk: Any) -> None:
    whole = [Extent(0, disk.device.size)]
    got = b"".join(bytes(view) for _, view in read_extents(disk.device, whole))
    assert got == disk.file.read_bytes()


@on_one_disk
@given(where=ranges, misplaced=st.integers(0, 9))
def test_any_range_reads_into_any_memory(disk: Any, where: tuple[int, int], misplaced: int) -> None:
    start, end = where
    memory = bytearray(b"\xee" * (end - start + 20))
    disk.device.read_into(start, memoryview(memory)[misplaced : misplaced + end - start])
    assert memory[misplaced : misplaced + end - start] == disk.file.read_bytes()[start:end]
    assert set(memory[:misplaced] + memory[misplaced + end - start :]) == {0xEE}


def test_many_reads_at_a_time(disk: Any) -> None:
    content = disk.file.read_bytes()
    buffers = [memoryview(bytearray(20_000)) for _ in range(50)]
    reads = [disk.device.submit_read(at * 20_000, buffer) for at, buffer in enumerate(buffers)]
    assert not wait(reads, timeout=30).not_done
    assert b"".join(buffers) == content[:MIB][: 50 * 20_000]


@settings(on_one_disk, max_examples=15)
@given(where=ranges, seed=st.integers(0, 99), kind=st.sampled_from([bytes, bytearray]))
def test_a_write_changes_its_range_and_nothing_else(
    disk: Any, where: tuple[int, int], seed: int, kind: Callable[[bytes], bytes]
) -> None:
    start, end = where
    data = random.Random(seed).randbytes(end - start)
    content = bytearray(disk.file.read_bytes())
    content[start:end] = data
    disk.device.write(start, kind(data))
    disk.device.flush()
    back = bytearray(len(content))
    disk.device.read_into(0, memoryview(back))
    assert back == content
    assert disk.file.read_bytes() == content


def test_many_writes_at_a_time(disk: Any) -> None:
    step = 65536
    data = random.Random(5).randbytes(15 * step)
    buffers = [memoryview(bytearray(data[at : at + step])) for at in range(0, len(data), step)]
    writes = [disk.device.submit_write(at * step, view) for at, view in enumerate(buffers)]
    writes.append(disk.device.submit_write(0, memoryview(bytearray())))
    assert not wait(writes, timeout=30).not_done
    assert [write.result() for write in writes] == [None] * len(writes)
    disk.device.flush()
    assert disk.file.read_bytes()[: len(data)] == data


def test_a_partial_block_is_not_written_at_once(disk: Any) -> None:
    for offset, length in ((0, 100), (1, 512), (disk.device.size, 4096)):
        with pytest.raises(OutOfRange):
            disk.device.submit_write(offset, memoryview(bytearray(length)))


def test_the_end_of_the_disk_can_be_written(disk: Any) -> None:
    size = disk.device.size
    disk.device.write(size - 3, b"end")
    disk.device.flush()
    assert disk.file.read_bytes()[-3:] == b"end"
    assert disk.file.stat().st_size == size


def test_nothing_outside_of_the_disk(disk: Any) -> None:
    size = disk.device.size
    for offset, length in ((size, 1), (size - 1, 2), (-1, 1)):
        with pytest.raises(OutOfRange):
            disk.device.submit_read(offset, memoryview(bytearray(length)))
        with pytest.raises(OutOfRange):
            disk.device.write(offset, bytes(length))
    disk.device.read_into(size, memoryview(bytearray()))
    disk.device.write(size, b"")


def test_a_closed_device_refuses_and_closes_again(disk: Any) -> None:
    disk.device.close()
    disk.device.close()
    with pytest.raises(DeviceClosed):
        disk.device.submit_read(0, memoryview(bytearray(512)))
    with pytest.raises(DeviceClosed):
        disk.device.write(0, bytes(512))
    with pytest.raises(DeviceClosed):
        disk.device.flush()


def test_reads_in_flight_end_when_a_device_is_closed(disk: Any) -> None:
    buffers = [memoryview(bytearray(65536)) for _ in range(16)]
    reads = [disk.device.submit_read(at * 65536, buffer) for at, buffer in enumerate(buffers)]
    disk.device.close()
    assert not wait(reads, timeout=30).not_done
    assert b"".join(buffers) == disk.file.read_bytes()[:MIB]


def test_a_file_opened_for_reading_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "disk.raw"
    path.write_bytes(bytes(8192))
    with open_direct(path) as device:
        with pytest.raises(ReadOnlyDevice, match="writable=True"):
            device.write(0, b"x")
        with pytest.raises(ReadOnlyDevice, match="writable=True"):
            device.submit_write(0, memoryview(bytearray(4096)))
        device.flush()
