"""Direct IO on files and devices of this host: opening, claiming, short files."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from iscsi_attach import (
    DeviceBusy,
    DeviceError,
    Extent,
    IoFailed,
    NotABlockDevice,
    ShortRead,
    open_direct,
    read_extents,
)


def test_only_files_and_block_devices(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path, tmp_path / "fifo"):
        with pytest.raises(NotABlockDevice, match=str(path)):
            open_direct(path)
    with pytest.raises(DeviceError, match="No such file") as caught:
        open_direct(tmp_path / "missing")
    assert isinstance(caught.value.__cause__, FileNotFoundError)


def test_a_file_system_without_direct_io_is_named() -> None:
    with pytest.raises(DeviceError, match="O_DIRECT"):
        open_direct(Path("/proc/self/status"))


@pytest.mark.parametrize("left", [0, 4096, 5000])
def test_a_file_that_shrinks_is_a_short_read(tmp_path: Path, left: int) -> None:
    path = tmp_path / "disk.raw"
    path.write_bytes(os.urandom(100_000))
    with open_direct(path) as device:
        os.truncate(path, left)
        for length in (98_304, 100_000, 7):
            offset = 0 if length > 7 else 60_001
            with pytest.raises(ShortRead, match="incomplete"):
                device.read_into(offset, memoryview(bytearray(length)))
        with pytest.raises(ShortRead):
            for _ in read_extents(device, [Extent(0, 100_000)]):
                pass


def test_a_file_that_grows_keeps_its_size(tmp_path: Path) -> None:
    path = tmp_path / "disk.raw"
    path.write_bytes(b"a" * 5000)
    with open_direct(path) as device:
        path.write_bytes(b"b" * 9000)
        got = b"".join(bytes(view) for _, view in read_extents(device, [Extent(0, 5000)]))
    assert got == b"b" * 5000


def test_a_full_device_reports_the_write(tmp_path: Path) -> None:
    path = tmp_path / "disk.raw"
    path.write_bytes(bytes(1 << 20))
    with open_direct(path, writable=True) as device:
        os.close(device._fd)
        device._fd = os.open(path, os.O_RDONLY | os.O_DIRECT)  # a descriptor that cannot write
        with pytest.raises(IoFailed, match=r"write failed: .* at offset 4096"):
            device.write(4096, bytes(8192))


def test_a_device_in_use_is_not_opened_for_writing(loop_device: Path, tmp_path: Path) -> None:
    subprocess.run(["mkfs.ext4", "-q", str(loop_device)], check=True)
    (tmp_path / "mnt").mkdir()
    subprocess.run(["mount", str(loop_device), str(tmp_path / "mnt")], check=True)
    try:
        with pytest.raises(DeviceBusy, match="in use"):
            open_direct(loop_device, writable=True)
        with open_direct(loop_device) as device:
            assert device.size == 1 << 20
    finally:
        subprocess.run(["umount", str(tmp_path / "mnt")], check=True)
    with open_direct(loop_device, writable=True), pytest.raises(DeviceBusy):
        open_direct(loop_device, writable=True)


def test_an_error_of_the_disk_carries_its_offset(tmp_path: Path) -> None:
    path = tmp_path / "disk.raw"
    path.write_bytes(bytes(1 << 16))
    with open_direct(path, writable=True) as device:
        os.close(device._fd)
        device._fd = os.open(path, os.O_WRONLY | os.O_DIRECT)  # a descriptor that cannot read
        with pytest.raises(IoFailed, match="at offset 8192") as caught:
            device.read_into(8192, memoryview(bytearray(4096)))
    assert caught.value.offset == 8192
