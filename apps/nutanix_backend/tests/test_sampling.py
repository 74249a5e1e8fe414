"""The sample of unchanged blocks finds what Prism's list of changes leaves out."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import iscsi_attach
import pytest
from digests import BLOCK, ImageDigests
from nutanix_backend.backup.proof import Difference, DiskProof
from nutanix_backend.disks.plan import DiskPlan
from nutanix_backend.disks.regions import Region, RegionList
from nutanix_backend.references.lists import ListStore
from nutanix_backend.references.proven import NEVER, ProvenTimes
from prism_client import DiskSnapshotRef, VmDisk
from prism_lab import tracking
from ptcomm import Level, Severity
from ptcomm_runner.catalog import Status

from apps.nutanix_backend.tests.conftest import said

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from apps.nutanix_backend.tests.conftest import Product

KIB, MIB = 1 << 10, 1 << 20
FULL, INCREMENTAL = Level.FULL, Level.INCREMENTAL
THEN, NOW = datetime(2026, 11, 20, 1, tzinfo=UTC), datetime(2026, 11, 21, 1, tzinfo=UTC)


@pytest.fixture
def spoiled(product: Product) -> Iterator[Callable[[Any], None]]:
    """Make the lab's lists of changes wrong, for this test."""
    yield product.lab.spoil_changes
    product.lab.spoil_changes(None)


# --- through the product -------------------------------------------------------------------------


def test_a_change_that_prism_forgets_makes_a_full_at_once(
    product: Product, spoiled: Callable[[Any], None]
) -> None:
    guest = product.guest(8 * MIB, 4 * MIB)
    product.good_backup(FULL, guest)
    guest.write(0, 5 * MIB, 64 * KIB)
    spoiled(tracking.forget(0))
    result = product.backup(INCREMENTAL, guest)
    assert result.status is Status.GOOD
    (warning,) = said(result, Severity.WARNING)
    assert warning.startswith(
        f"VM {guest.name} is backed up in full: disk 0 changed where Prism lists no change: "
        f"1 of 8 blocks that were compared, the first at byte {5 * MIB}, at a time that is not "
    )
    assert set(product.files(result, guest)) == {"0-raw", "1-raw"}
    product.assert_restores(result, guest)
    spoiled(None)
    guest.write(0, 7 * MIB, 10)
    after = product.good_backup(INCREMENTAL, guest)
    product.assert_restores(after, guest)


def test_where_no_full_is_wanted_the_vm_fails(
    product: Product, spoiled: Callable[[Any], None]
) -> None:
    guest = product.guest(4 * MIB)
    product.good_backup(FULL, guest)
    guest.write(0, 2 * MIB, 64 * KIB)
    spoiled(tracking.forget(0))
    result = product.backup(INCREMENTAL, guest, fallback_to_full="no")
    assert result.status is Status.FAILED
    assert "disk 0 changed where Prism lists no change" in said(result, Severity.FATAL)[0]


@pytest.mark.parametrize(
    ("scrub", "compared"), [("0", "0 B"), ("all", "79.0 MiB"), ("0.1", "64.0 MiB")]
)
def test_how_much_is_compared_can_be_chosen(product: Product, scrub: str, compared: str) -> None:
    guest = product.guest(80 * MIB)
    product.good_backup(FULL, guest)
    guest.write(0, 50 * MIB, 64 * KIB)
    result = product.good_backup(INCREMENTAL, guest, scrub=scrub)
    assert any(
        f"{compared} without changes read and compared, 1.0 MiB with changes in part" in text
        for text in said(result, Severity.INFO)
    )


# --- a disk by itself ----------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path) -> ListStore:
    return ListStore(tmp_path / "lists")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[bytes | bytearray], iscsi_attach.BlockDevice]]:
    """A disk with this content."""
    opened: list[iscsi_attach.BlockDevice] = []

    def with_content(content: bytes | bytearray) -> iscsi_attach.BlockDevice:
        path = tmp_path / f"disk-{len(opened)}.raw"
        path.write_bytes(content)
        opened.append(iscsi_attach.open_direct(path))
        return opened[-1]

    yield with_content
    for device in opened:
        device.close()


def proof_of(
    store: ListStore, regions: RegionList, when: datetime = NOW, base_root: str | None = None
) -> DiskProof:
    """A disk in a job, whole or on the list of a base."""
    snapshot = DiskSnapshotRef("p", "v", "d")
    made = VmDisk("e", "d", "SCSI", 0, regions.size, "c")
    base = "" if base_root is None else "sha256:m"
    plan = DiskPlan(3, made, snapshot, regions, base, base_root or "")
    return DiskProof(plan, store, when, lambda _what, _total: lambda _length: None)


def after_a_full(store: ListStore, content: bytearray, regions: RegionList) -> str:
    """The root of a disk that a full saved, of which it read these regions."""
    proof = proof_of(store, regions, THEN)
    proof.image.update(0, content)
    assert proof.complete(None) == 0
    proof.save()
    return proof.image.root()


def pattern(blocks: int) -> bytearray:
    return bytearray(b"".join(bytes([n + 1]) * BLOCK for n in range(blocks)))


def test_what_was_read_is_proven_and_nothing_else(
    store: ListStore, disk: Callable[[bytes | bytearray], iscsi_attach.BlockDevice]
) -> None:
    """A full does not read what is not allocated; an incremental reads blocks changed in part."""
    content = pattern(5)
    size = len(content)
    root = after_a_full(store, content, RegionList(size, [Region(0, 2 * BLOCK + 1)]))
    then, now = int(THEN.timestamp()), int(NOW.timestamp())
    times = store.proven_times(root, size)
    assert [times.at(n * BLOCK) for n in range(5)] == [then, then, NEVER, NEVER, NEVER]
    regions = RegionList(
        size,
        [Region(BLOCK, BLOCK, zeroed=True), Region(2 * BLOCK, 10), Region(3 * BLOCK, BLOCK)],
    )
    proof = proof_of(store, regions, NOW, root)
    content[BLOCK : 2 * BLOCK] = bytes(BLOCK)
    for region in regions:
        proof.image.update(region.offset, content[region.offset : region.end])
    assert proof.complete(disk(content)) == BLOCK
    assert [proof.proven.at(n * BLOCK) for n in range(5)] == [then, NEVER, now, now, NEVER]
    assert proof.compare(disk(content), 1.0) == []


def test_what_differs_is_told_with_its_place_and_time(
    store: ListStore, disk: Callable[[bytes | bytearray], iscsi_attach.BlockDevice]
) -> None:
    content = pattern(6)
    root = after_a_full(store, content, RegionList(len(content), [Region(0, 4 * BLOCK)]))
    content[2 * BLOCK + 7] ^= 1
    proof = proof_of(store, RegionList(len(content), [Region(0, 5)]), NOW, root)
    (found,) = proof.compare(disk(content), 0.001)
    assert found == Difference(3, [2 * BLOCK], 5, int(THEN.timestamp()))
    assert str(found) == (
        "disk 3 changed where Prism lists no change: 1 of 5 blocks that were compared, the first "
        "at byte 2097152, after 2026-11-20 01:00 UTC; backups from then on may hold old content "
        "there"
    )
    content[5 * BLOCK] ^= 1
    (both,) = proof_of(store, RegionList(len(content)), NOW, root).compare(disk(content), 1.0)
    assert both.offsets == [2 * BLOCK, 5 * BLOCK]
    assert "at a time that is not known; " in str(both), "that block was never read"


def test_the_end_of_a_disk_that_grew_is_read_and_not_compared(
    store: ListStore, disk: Callable[[bytes | bytearray], iscsi_attach.BlockDevice]
) -> None:
    content = pattern(2)[: BLOCK + 512]
    root = after_a_full(store, content, RegionList(len(content), [Region(0, len(content))]))
    content += bytes(2 * BLOCK)
    content[BLOCK + 600] = 1  # in the new part, and listed
    regions = RegionList(len(content), [Region(BLOCK + 512, 512)])
    proof = proof_of(store, regions, NOW, root)
    assert proof.compare(disk(content), 1.0) == []
    assert proof.compared_bytes == 2 * BLOCK + 512, "the second of four has news, the last is short"
    proof.image.update(BLOCK + 512, content[BLOCK + 512 : BLOCK + 1024])
    assert proof.complete(disk(content)) == BLOCK
    expected = ImageDigests(len(content))
    expected.update(0, content)
    assert proof.image.root() == expected.root()


def test_without_the_list_of_the_base_there_is_nothing_to_compare_with(store: ListStore) -> None:
    proof = proof_of(store, RegionList(3 * BLOCK), NOW, "xxh3-128:00")
    assert proof.is_unknown
    assert proof.compare(None, 1.0) == []  # type: ignore[arg-type]  # nothing is read


# --- when blocks were proven ---------------------------------------------------------------------


def test_blocks_inside_are_proven_and_blocks_touched_are_forgotten() -> None:
    times = ProvenTimes(4 * BLOCK + 10)
    times.mark(1, 4 * BLOCK + 9, 7)
    assert [times.at(n * BLOCK) for n in range(5)] == [0, 7, 7, 7, 7]
    times.forget(2 * BLOCK - 1, 2)
    assert [times.at(n * BLOCK) for n in range(5)] == [0, 0, 0, 7, 7]
    times.mark(BLOCK + 1, BLOCK, 9)
    assert [times.at(n * BLOCK) for n in range(5)] == [0, 0, 0, 7, 7]
    times.resize(6 * BLOCK)
    assert [times.at(n * BLOCK) for n in range(6)] == [0, 0, 0, 7, 0, 0]


def test_times_are_kept_on_the_host_and_may_be_lost() -> None:
    times = ProvenTimes(3000 * BLOCK)
    times.mark(5 * BLOCK, BLOCK, 123)
    data = times.encode()
    assert len(data) < 200, "most blocks have the time of some other"
    assert ProvenTimes.decode(data, 3000 * BLOCK).at(5 * BLOCK) == 123
    for damaged in (data[:-3], b"", b"no", ProvenTimes(1).encode()):
        assert ProvenTimes.decode(damaged, 3000 * BLOCK).at(5 * BLOCK) == NEVER


def chosen(times: ProvenTimes, candidates: list[int], count: int) -> list[int]:
    """The numbers of the blocks that are chosen."""
    return [n for n, byte in enumerate(times.choose(bytearray(candidates), count)) if byte]


def test_every_block_has_its_turn() -> None:
    """After as many jobs as there are samples in the disk each block was chosen once."""
    times, everything = ProvenTimes(100 * BLOCK), [1] * 100
    for job in range(4):
        numbers = chosen(times, everything, 25)
        assert len(numbers) == 25
        for number in numbers:
            assert times.at(number * BLOCK) == NEVER
            times.mark(number * BLOCK, BLOCK, job + 1)
    assert {times.at(n * BLOCK) for n in range(100)} == {1, 2, 3, 4}
    assert all(times.at(n * BLOCK) == 1 for n in chosen(times, everything, 25))
    assert [times.at(n * BLOCK) for n in chosen(times, everything, 30)].count(2) == 5


def test_only_candidates_are_chosen_and_no_more_than_there_are() -> None:
    times = ProvenTimes(5 * BLOCK)
    assert chosen(times, [0, 1, 0, 1, 0], 64) == [1, 3]
    assert chosen(times, [0, 1, 0, 1, 0], 2) == [1, 3]
    assert chosen(times, [0] * 5, 64) == []
    assert chosen(times, [1] * 5, 0) == []


def test_which_of_equally_old_blocks_are_chosen_differs() -> None:
    times = ProvenTimes(1000 * BLOCK)
    found = {tuple(chosen(times, [1] * 1000, 10)) for _ in range(5)}
    assert len(found) == 5
