"""Writing disks: what has its name is whole and proven; anything else is gone or says so."""

from __future__ import annotations

import random
import resource
from contextlib import contextmanager
from typing import TYPE_CHECKING

import attrs
import phcbt01
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nutanix_backend.disks.targets import at_path
from nutanix_backend.errors import RestoreFailed, RestoreRefused
from nutanix_backend.restore.plan import DiskChain, plan_vm
from nutanix_backend.restore.writer import DiskWriter, refuse_full_disk, refuse_unfit, write_whole

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from apps.nutanix_backend.tests.conftest import MadeUp

KIB = 1 << 10
SIZE = 256 * KIB
RANDOM = random.Random(1).randbytes(SIZE)


@pytest.fixture
def backup(made_up: Callable[[], MadeUp]) -> MadeUp:
    """A disk in a full and two incrementals, growing in the last."""
    backup = made_up()
    backup.full(RANDOM)
    backup.incremental([(3, b"first"), (64 * KIB, bytes(32 * KIB))])
    backup.incremental([(4, b"second"), (SIZE, b"grown")], sizes=[SIZE + 8 * KIB])
    return backup


def chain_of(backup: MadeUp) -> DiskChain:
    """How the one disk is put together."""
    (chain,) = plan_vm(backup.manifests).disks
    return chain


def restore(writer: DiskWriter, backup: MadeUp, unit: int = 64 * KIB) -> None:
    """Give the writer every file of its chain."""
    for file in writer.chain.files:
        give(writer, file.name, backup.files[file.name], unit)


def give(writer: DiskWriter, name: str, content: bytes, unit: int = 64 * KIB) -> None:
    """One file, in pieces."""
    writer.begin(name)
    for at in range(0, len(content), unit):
        writer.write(memoryview(content)[at : at + unit])
    writer.end()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the disk goes."""
    return tmp_path / "folder" / "disk.raw"


def test_image_and_deltas_make_the_disk(backup: MadeUp, path: Path) -> None:
    writer = DiskWriter(chain_of(backup), at_path(path))
    assert not path.parent.exists(), "nothing is written before there is anything to write"
    restore(writer, backup)
    assert writer.complete
    assert writer.missing() is None
    assert path.read_bytes() == backup.images[0]
    assert list(path.parent.iterdir()) == [path]
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.stat().st_blocks * 512 < path.stat().st_size, "zeros are holes"
    writer.abandon()
    assert path.exists(), "what is complete is not abandoned"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
@given(st.integers(1, 100_000))
def test_pieces_may_be_cut_anywhere(backup: MadeUp, path: Path, unit: int) -> None:
    path.unlink(missing_ok=True)
    writer = DiskWriter(chain_of(backup), at_path(path))
    restore(writer, backup, unit=max(unit, 64))
    assert path.read_bytes() == backup.images[0]


def test_nothing_has_the_name_of_the_disk_before_it_is_complete(backup: MadeUp, path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"the old disk")
    writer = DiskWriter(chain_of(backup), at_path(path))
    for file in writer.chain.files[:-1]:
        give(writer, file.name, backup.files[file.name])
        assert path.read_bytes() == b"the old disk"
    assert writer.missing() == writer.chain.files[-1]
    writer.abandon()
    writer.abandon()
    assert list(path.parent.iterdir()) == [path]
    assert path.read_bytes() == b"the old disk"


def test_what_a_killed_restore_left_is_no_obstacle(backup: MadeUp, path: Path) -> None:
    path.parent.mkdir()
    path.with_name("disk.raw.partial").write_bytes(b"\xee" * 2 * SIZE)
    restore(DiskWriter(chain_of(backup), at_path(path)), backup)
    assert path.read_bytes() == backup.images[0]


def test_files_out_of_order_are_refused(backup: MadeUp, path: Path) -> None:
    writer = DiskWriter(chain_of(backup), at_path(path))
    raw, first, second = (file.name for file in writer.chain.files)
    assert all(writer.needs(name) for name in (raw, first, second))
    assert not writer.needs(raw + "x")
    words = "arrived out of order: the file that it is based on did not arrive before it"
    for early in (first, second):
        with pytest.raises(RestoreRefused, match=words):
            writer.begin(early)
    give(writer, raw, backup.files[raw])
    for wrong in (raw, second):
        with pytest.raises(RestoreRefused, match=words):
            writer.begin(wrong)
    give(writer, first, backup.files[first])
    give(writer, second, backup.files[second])
    with pytest.raises(RestoreRefused, match=words):
        writer.begin(second)


def test_data_outside_of_a_file_is_an_error(backup: MadeUp, path: Path) -> None:
    writer = DiskWriter(chain_of(backup), at_path(path))
    with pytest.raises(RestoreFailed, match="outside of a file"):
        writer.write(memoryview(b"x"))
    with pytest.raises(RestoreFailed, match="was not started"):
        writer.end()


def flipped(content: bytes, at: int) -> bytes:
    """One bit is another."""
    return content[:at] + bytes([content[at] ^ 0x10]) + content[at + 1 :]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(st.data())
def test_a_damaged_file_never_becomes_a_disk(
    backup: MadeUp, path: Path, data: st.DataObject
) -> None:
    """A bit flipped, bytes lost or added, at any place of any file of the chain."""
    chain = chain_of(backup)
    victim = data.draw(st.sampled_from(chain.files)).name
    content = backup.files[victim]
    at = data.draw(st.integers(0, len(content) - 1))
    kind = data.draw(st.sampled_from(["flip", "lose", "end", "add"]))
    damaged = {
        "flip": flipped(content, at),
        "lose": content[:at] + content[at + 1 :],
        "end": content[:at],
        "add": content[:at] + b"\0" + content[at:],
    }[kind]
    writer = DiskWriter(chain, at_path(path))
    backup.files[victim] = damaged
    try:
        with pytest.raises((RestoreFailed, phcbt01.ApplyError)) as caught:
            restore(writer, backup)
    finally:
        backup.files[victim] = content
    assert "\n" not in str(caught.value)
    if isinstance(caught.value, RestoreFailed) and "longer than" not in str(caught.value):
        assert victim in str(caught.value)
        assert "is not what was backed up" in str(caught.value)
    writer.abandon()
    assert not list(path.parent.glob("*"))


def test_a_header_that_lies_about_the_size_is_found_even_with_a_manifest_that_agrees(
    made_up: Callable[[], MadeUp], path: Path
) -> None:
    backup = made_up()
    backup.full(RANDOM)
    stream = phcbt01.Encoder(SIZE + 512, 0).start()
    backup.job("I", [backup.entry(0, stream, size=SIZE, base=backup.manifests[0].digest())])
    writer = DiskWriter(chain_of(backup), at_path(path))
    with pytest.raises(
        RestoreFailed, match=f"makes a disk of {SIZE + 512} bytes where {SIZE} were"
    ):
        restore(writer, backup)
    writer.abandon()
    assert not path.exists()


def test_a_header_that_claims_more_than_a_file_can_have_is_an_error(
    made_up: Callable[[], MadeUp], path: Path
) -> None:
    backup = made_up()
    backup.full(RANDOM)
    stream = phcbt01.Encoder(phcbt01.MAX_SIZE, 0).start()
    base = backup.manifests[0].digest()
    backup.job("I", [backup.entry(0, stream, size=phcbt01.MAX_SIZE, base=base)])
    writer = DiskWriter(chain_of(backup), at_path(path))
    refusal = pytest.raises(phcbt01.ApplyError, match="cannot grow to")
    with files_limited_to(1 << 40), refusal:  # a file in memory may be as large as it claims
        restore(writer, backup)
    writer.abandon()
    assert not path.exists()


@contextmanager
def files_limited_to(size: int) -> Iterator[None]:
    """Let writing behind `size` bytes of any file fail, as on a full file system."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_file_system_leaves_nothing_that_looks_whole(backup: MadeUp, path: Path) -> None:
    for limit in (0, 4 * KIB, SIZE, SIZE + 4 * KIB):
        writer = DiskWriter(chain_of(backup), at_path(path))
        with files_limited_to(limit), pytest.raises(phcbt01.ApplyError, match="File too large"):
            restore(writer, backup)
        writer.abandon()
        assert not list(path.parent.glob("*"))


def test_a_small_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "vm-metadata.json"
    write_whole(path, b"{}")
    with files_limited_to(10), pytest.raises(OSError, match="File too large"):
        write_whole(path, bytes(100))
    assert path.read_bytes() == b"{}"
    assert list(tmp_path.iterdir()) == [path]


# --- what is refused before anything is written --------------------------------------------------


def test_what_is_not_there_may_be_written(tmp_path: Path) -> None:
    refuse_unfit(tmp_path / "no" / "such" / "disk", 1 << 60, overwrite=False)


def test_an_existing_file_is_replaced_only_when_told(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.touch()
    with pytest.raises(RestoreRefused, match="exists: give overwrite=yes to replace its content"):
        refuse_unfit(path, 1, overwrite=False)
    refuse_unfit(path, 1, overwrite=True)


@pytest.mark.parametrize("name", ["/dev/null", "/"])
def test_neither_file_nor_block_device(name: str, tmp_path: Path) -> None:
    with pytest.raises(RestoreRefused, match="is neither a file nor a block device"):
        refuse_unfit(tmp_path / name, 1, overwrite=True)


def test_a_device_must_be_large_enough_free_and_given_up(
    loop_device: Callable[[int], Path],
) -> None:
    device = loop_device(SIZE)
    refuse_unfit(device, SIZE, overwrite=True)
    refuse_unfit(device, SIZE, overwrite=False)  # it is blank
    for at, mark, what in MARKS:
        device.write_bytes(bytes(at) + mark)
        with pytest.raises(RestoreRefused, match=f"holds {what}: give overwrite=yes"):
            refuse_unfit(device, SIZE, overwrite=False)
        refuse_unfit(device, SIZE, overwrite=True)
        device.write_bytes(bytes(SIZE))
    with pytest.raises(RestoreRefused, match=f"has {SIZE} bytes, the disk needs {SIZE + 512}"):
        refuse_unfit(device, SIZE + 512, overwrite=True)
    with phcbt01.FileTarget.open(device), pytest.raises(RestoreRefused, match="mounted or in use"):
        refuse_unfit(device, SIZE, overwrite=True)


MARKS = [
    (1080, b"\x53\xef", "an ext file system"),
    (512, b"EFI PART", "a GPT partition table"),
    (510, b"\x55\xaa", "a partition table or boot sector"),
    (4086, b"SWAPSPACE2", "swap space"),
    (SIZE - 1, b"x", "data"),
]


def test_a_device_is_written_in_place(backup: MadeUp, loop_device: Callable[[int], Path]) -> None:
    device = loop_device(SIZE + 64 * KIB)
    device.write_bytes(b"\xee" * (SIZE + 64 * KIB))
    restore(DiskWriter(chain_of(backup), at_path(device)), backup)
    written = len(backup.images[0])
    assert device.read_bytes() == backup.images[0] + b"\xee" * (SIZE + 64 * KIB - written)


def test_a_device_that_is_given_up_stays(
    backup: MadeUp, loop_device: Callable[[int], Path]
) -> None:
    device = loop_device(SIZE + 64 * KIB)
    writer = DiskWriter(chain_of(backup), at_path(device))
    writer.begin(writer.chain.files[0].name)
    writer.abandon()
    assert device.exists()
    refuse_unfit(device, SIZE, overwrite=True)


def test_a_restore_that_cannot_fit_is_refused_before_it_begins(
    backup: MadeUp, tmp_path: Path, loop_device: Callable[[int], Path]
) -> None:
    chain = chain_of(backup)
    files = tuple(attrs.evolve(f, data_bytes=1 << 60, size=1 << 60) for f in chain.files)
    huge = attrs.evolve(chain, files=files)
    folder = tmp_path / "not" / "there" / "yet"
    refuse_full_disk(
        [DiskWriter(chain, at_path(folder / "a")), DiskWriter(chain, at_path(folder / "b"))]
    )
    refuse_full_disk([DiskWriter(huge, at_path(loop_device(SIZE)))])
    with pytest.raises(RestoreRefused, match=r"has .* free, the restore needs 1048576\.0 TiB"):
        refuse_full_disk([DiskWriter(huge, at_path(folder / "a"))])
