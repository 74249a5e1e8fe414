"""Files and block devices: real ones, with what is stored and what is a hole read back."""

from __future__ import annotations

import errno
import os
import resource
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from phcbt01 import ApplyError, FileTarget, ShrunkDisk, TargetTooSmall, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

P = 4096
DATA = b"\xab" * P
OLD = b"\xee"  # what is on the device fixture
DEVICE_SIZE = 1 << 20


def stored(path: Path) -> int:
    """Bytes that take space, once delayed allocation is settled."""
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)
    return path.stat().st_blocks * 512


def test_create_makes_a_private_hole(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    with FileTarget.create(path, 10 * P + 1) as target:
        assert target.size == 10 * P + 1
    assert path.read_bytes() == bytes(10 * P + 1)
    assert stored(path) == 0
    assert path.stat().st_mode & 0o777 == 0o600


def test_create_never_overwrites(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(b"precious")
    with pytest.raises(FileExistsError):
        FileTarget.create(path, 100)
    assert path.read_bytes() == b"precious"


def test_create_leaves_nothing_when_the_size_is_impossible(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (P, hard))
    try:
        with pytest.raises(ApplyError, match="cannot grow"):
            FileTarget.create(path, 2 * P)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not path.exists()


def test_write_and_zero(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    with FileTarget.create(path, 8 * P) as target:
        target.write(0, DATA * 4)
        target.zero(P, 2 * P)
        target.write(7 * P, memoryview(DATA))
        target.zero(100, 10)
        target.flush()
    assert (
        path.read_bytes()
        == DATA[:100] + bytes(10) + DATA[110:] + bytes(2 * P) + DATA + bytes(3 * P) + DATA
    )
    assert stored(path) == 3 * P


def test_write_sparse_stores_only_pages_with_data(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    content = DATA + bytes(5 * P) + DATA + bytes(P) + b"tail"
    with FileTarget.create(path, len(content)) as target:
        target.write_sparse(0, content)
    assert path.read_bytes() == content
    assert stored(path) == 3 * P


@pytest.mark.parametrize("piece", [512, 1000, P, 3 * P + 1, 1 << 20])
def test_zeros_that_come_in_pieces_still_become_holes(tmp_path: Path, piece: int) -> None:
    path = tmp_path / "disk"
    path.write_bytes(DATA * 64)
    zeros = memoryview(bytes(32 * P))
    with FileTarget.open(path) as target:
        for at in range(0, len(zeros), piece):
            target.write_sparse(16 * P + at, zeros[at : at + piece])
        assert stored(path) == 32 * P
    assert path.read_bytes() == DATA * 16 + zeros + DATA * 16


def test_a_page_that_was_written_in_between_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(DATA * 4)
    with FileTarget.open(path) as target:
        target.zero(0, 1000)
        target.write(10, b"new")
        target.zero(1000, 10)
        target.zero(1010, 2 * P)
    expected = bytes(10) + b"new" + bytes(1010 + 2 * P - 13)
    assert path.read_bytes() == expected + (DATA * 4)[len(expected) :]


def test_resize_grows_with_zeros_and_never_shrinks(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(b"base")
    with FileTarget.open(path) as target:
        target.resize(4)
        target.resize(3 * P)
        assert target.size == 3 * P
        target.write(2 * P, b"x")
        with pytest.raises(ShrunkDisk, match=f"{3 * P} bytes and is not cut to 4"):
            target.resize(4)
    assert path.read_bytes() == b"base" + bytes(2 * P - 4) + b"x" + bytes(P - 1)


def test_nothing_is_written_past_the_end(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    with FileTarget.create(path, 100) as target:
        with pytest.raises(TargetTooSmall, match="has 100 bytes, 101 are needed"):
            target.write(99, b"ab")
        with pytest.raises(TargetTooSmall, match="has 100 bytes, 101 are needed"):
            target.write_sparse(99, b"ab")
        with pytest.raises(TargetTooSmall, match="has 100 bytes, 101 are needed"):
            target.zero(99, 2)
    assert path.read_bytes() == bytes(100)


def test_the_size_given_for_a_file_must_be_its_size(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(b"base")
    with FileTarget.open(path, size=4) as target:
        assert target.size == 4
    with pytest.raises(ApplyError, match="has 4 bytes, not 3"):
        FileTarget.open(path, size=3)
    with pytest.raises(TargetTooSmall, match="has 4 bytes, 5 are needed"):
        FileTarget.open(path, size=5)


def test_only_files_and_devices_are_opened(tmp_path: Path) -> None:
    with pytest.raises(ApplyError, match="/dev/null is neither a regular file nor a block device"):
        FileTarget.open(Path("/dev/null"))
    with pytest.raises(FileNotFoundError):
        FileTarget.open(tmp_path / "nothing")


def test_close_twice(tmp_path: Path) -> None:
    target = FileTarget.create(tmp_path / "disk", 100)
    target.close()
    target.close()
    with pytest.raises(UsageError, match="disk: it was closed"):
        target.write(0, b"x")
    with pytest.raises(UsageError, match="disk: it was closed"):
        target.resize(200)
    with pytest.raises(UsageError, match="disk: it was closed"):
        target.flush()


@pytest.fixture
def full_disk() -> Iterator[None]:
    """No file of this process can grow beyond 64 KiB, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def test_a_short_write_is_continued_and_then_fails(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    path = tmp_path / "disk"
    with FileTarget.create(path, 1 << 17) as target:
        request.getfixturevalue("full_disk")
        with pytest.raises(ApplyError, match="cannot write 8192 bytes at 61440") as caught:
            target.write((1 << 16) - P, DATA * 2)
        with pytest.raises(ApplyError, match="cannot grow to 131073 bytes"):
            target.resize((1 << 17) + 1)
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == errno.EFBIG
    assert path.read_bytes() == bytes((1 << 16) - P) + DATA + bytes(1 << 16)


def test_an_unwritable_descriptor_is_one_clear_line(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(DATA)
    with FileTarget(os.open(path, os.O_RDONLY), name="the disk") as target:
        with pytest.raises(ApplyError, match="cannot write 1 bytes at 7 on the disk: Bad file"):
            target.write(7, b"x")
        with pytest.raises(ApplyError, match="cannot zero 10 bytes at 7 on the disk: Bad file"):
            target.zero(7, 10)


# --- block devices


def test_a_device_is_zeroed_where_nothing_is_written(device: Path) -> None:
    with FileTarget.create(device, DEVICE_SIZE) as target:
        assert target.size == DEVICE_SIZE
        target.write(4 * P, DATA)
        target.write_sparse(8 * P, bytes(P) + DATA)
        target.flush()
    expected = bytes(4 * P) + DATA + bytes(4 * P) + DATA
    assert device.read_bytes() == expected + bytes(DEVICE_SIZE - len(expected))


def test_a_device_larger_than_the_disk_keeps_its_rest(device: Path) -> None:
    with FileTarget.create(device, 10 * P) as target:
        target.write(0, DATA)
        target.flush()
    assert device.read_bytes() == DATA + bytes(9 * P) + OLD * (DEVICE_SIZE - 10 * P)


def test_an_opened_device_keeps_what_is_not_written(device: Path) -> None:
    with FileTarget.open(device) as target:
        assert target.size == DEVICE_SIZE
        target.write(P, DATA)
        target.zero(4 * P, P)
        target.flush()
    middle = OLD * P + DATA + OLD * (2 * P) + bytes(P)
    assert device.read_bytes() == middle + OLD * (DEVICE_SIZE - len(middle))


def test_what_a_device_gains_reads_as_zeros(device: Path) -> None:
    with FileTarget.open(device, size=4 * P) as target:
        target.resize(12 * P)
        target.write(8 * P, DATA)
        target.flush()
    grown = OLD * (4 * P) + bytes(4 * P) + DATA + bytes(3 * P)
    assert device.read_bytes() == grown + OLD * (DEVICE_SIZE - len(grown))


def test_unaligned_zeros_on_a_device_are_written(device: Path) -> None:
    with FileTarget.open(device) as target:
        target.zero(100, 2 * P)
        target.flush()
    assert device.read_bytes() == OLD * 100 + bytes(2 * P) + OLD * (DEVICE_SIZE - 100 - 2 * P)


def test_a_device_that_is_too_small(device: Path) -> None:
    with pytest.raises(TargetTooSmall, match=f"{DEVICE_SIZE + 1} are needed"):
        FileTarget.create(device, DEVICE_SIZE + 1)
    with pytest.raises(TargetTooSmall, match=f"{DEVICE_SIZE + 1} are needed"):
        FileTarget.open(device, size=DEVICE_SIZE + 1)
    with FileTarget.open(device) as target, pytest.raises(TargetTooSmall):
        target.resize(DEVICE_SIZE + 1)
    assert device.read_bytes() == OLD * DEVICE_SIZE


def test_a_device_in_use_is_refused(device: Path) -> None:
    with FileTarget.open(device), pytest.raises(OSError, match="busy"):
        FileTarget.create(device, P)
