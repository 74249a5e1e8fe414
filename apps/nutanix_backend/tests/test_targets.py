"""Targets: a LUN holds what any sequence of writes and zeros makes of zeros; a lie is found."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from iscsi_attach.testing import MemoryDevice
from nutanix_backend.disks.difference import DifferenceDisk
from nutanix_backend.disks.regions import Region, RegionList
from nutanix_backend.disks.targets import ALLOCATION, GATHERED, LunDisk, LunTarget, at_path
from nutanix_backend.errors import RestoreFailed
from nutanix_backend.restore.plan import plan_vm
from nutanix_backend.restore.writer import DiskWriter
from phcbt01 import ShrunkDisk, TargetTooSmall

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future
    from pathlib import Path

    from apps.nutanix_backend.tests.conftest import MadeUp

KIB, MIB = 1 << 10, 1 << 20
SIZE = 4 * MIB

offsets = st.integers(0, SIZE - 1)
lengths = st.sampled_from([1, 511, 512, 4096, 64 * KIB, ALLOCATION, GATHERED, 3 * MIB])


@given(st.lists(st.tuples(offsets, lengths, st.booleans()), max_size=12))
def test_a_lun_is_what_was_written_last(works: list[tuple[int, int, bool]]) -> None:
    device = MemoryDevice(bytes(SIZE))
    disk = LunDisk(device, SIZE)
    wanted = bytearray(SIZE)
    for number, (offset, length, is_zero) in enumerate(works, start=1):
        count = min(length, SIZE - offset)
        if is_zero:
            disk.zero(offset, count)
            wanted[offset : offset + count] = bytes(count)
        else:
            disk.write(offset, bytes([number]) * count)
            wanted[offset : offset + count] = bytes([number]) * count
    disk.flush()
    assert device.content == wanted


def test_zeros_of_a_fresh_disk_are_not_written() -> None:
    device = MemoryDevice(bytes(SIZE))
    disk = LunDisk(device, SIZE)
    disk.zero(0, SIZE)
    disk.write(MIB, b"x" * 4096)
    disk.zero(2 * MIB, MIB)
    disk.flush()
    assert disk.written == 4096
    disk.zero(MIB, ALLOCATION)
    disk.flush()
    assert disk.written == 4096 + ALLOCATION
    assert device.content == bytes(SIZE)


def test_what_a_used_disk_gains_reads_as_zeros() -> None:
    device = MemoryDevice(b"\xff" * SIZE)
    disk = LunDisk(device, MIB, is_blank=False)
    disk.write(0, b"x" * MIB)
    disk.resize(SIZE)
    disk.write(SIZE - 4096, b"y" * 4096)
    disk.flush()
    assert device.content == b"x" * MIB + bytes(SIZE - MIB - 4096) + b"y" * 4096


def test_a_difference_leaves_alone_what_a_disk_gains_unless_it_differs() -> None:
    device = MemoryDevice(b"\xff" * SIZE)
    regions = RegionList(SIZE, [Region(2 * MIB, MIB)])
    disk = DifferenceDisk(LunDisk(device, MIB, is_blank=False), regions)
    disk.resize(SIZE)
    disk.flush()
    assert device.content == b"\xff" * 2 * MIB + bytes(MIB) + b"\xff" * MIB


class Counting(MemoryDevice):
    """Keeps the lengths of what is written."""

    def __init__(self, size: int) -> None:
        super().__init__(bytes(size))
        self.lengths: list[int] = []

    def submit_write(self, offset: int, buffer: memoryview) -> Future[None]:
        """Write at once."""
        self.lengths.append(len(buffer))
        return super().submit_write(offset, buffer)


def test_small_pieces_go_out_together() -> None:
    device = Counting(SIZE)
    disk = LunDisk(device, SIZE)
    for at in range(0, SIZE, 64 * KIB):
        disk.write(at, b"y" * 64 * KIB)
    disk.flush()
    assert device.lengths == [GATHERED] * (SIZE // GATHERED)


def test_a_lun_grows_to_its_size_and_never_shrinks() -> None:
    disk = LunDisk(MemoryDevice(bytes(SIZE)), MIB)
    with pytest.raises(TargetTooSmall):
        disk.write(MIB - 1, b"12")
    disk.resize(SIZE)
    disk.write(SIZE - 2, b"12")
    with pytest.raises(TargetTooSmall):
        disk.resize(SIZE + 1)
    with pytest.raises(ShrunkDisk):
        disk.resize(MIB)


@pytest.fixture
def backup(made_up: Callable[[], MadeUp]) -> MadeUp:
    """A full and an incremental that zeroes, writes and grows."""
    backup = made_up()
    backup.full(b"base" * 64 * KIB)
    backup.incremental(
        [(0, bytes(64 * KIB)), (128 * KIB, b"new" * 1000), (256 * KIB, b"grown")],
        sizes=[260 * KIB],
    )
    return backup


def give(writer: DiskWriter, backup: MadeUp) -> None:
    for file in writer.chain.files:
        writer.begin(file.name)
        content = memoryview(backup.files[file.name])
        for at in range(0, len(content), 50_000):
            writer.write(content[at : at + 50_000])
        writer.end()


def test_a_chain_is_written_in_place_and_read_back(backup: MadeUp, tmp_path: Path) -> None:
    (chain,) = plan_vm(backup.manifests).disks
    device = MemoryDevice(bytes(260 * KIB))
    ended: list[str] = []
    target = LunTarget("lun", lambda _: device, lambda: ended.append("session"))
    give(DiskWriter(chain, target, verify=True), backup)
    assert device.content == backup.images[0]
    assert ended == ["session"]

    path = tmp_path / "disk.raw"
    give(DiskWriter(chain, at_path(path), verify=True), backup)
    assert path.read_bytes() == backup.images[0]


def test_a_medium_that_forgets_is_found(backup: MadeUp) -> None:
    (chain,) = plan_vm(backup.manifests).disks

    class Forgetful(MemoryDevice):
        def read_into(self, offset: int, buffer: memoryview) -> None:
            super().read_into(offset, buffer)
            if offset <= 200 * KIB < offset + len(buffer):
                buffer[200 * KIB - offset] ^= 1

    target = LunTarget("lun", lambda _: Forgetful(bytes(260 * KIB)), lambda: None)
    with pytest.raises(RestoreFailed, match="does not hold what was written to it from"):
        give(DiskWriter(chain, target, verify=True), backup)
