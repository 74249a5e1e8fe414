"""How a disk is read: the choice at its boundaries, and gaps that are read but never sent."""

from __future__ import annotations

import io
import random
from contextlib import closing
from typing import TYPE_CHECKING

import iscsi_attach
import phcbt01
import pytest
from digests import BLOCK
from iscsi_attach import UNIT
from nutanix_backend.disks.data_path import (
    GAP,
    GROUP,
    ISCSI,
    REST,
    Reads,
    Way,
    choose,
    partial_blocks,
    reads_of,
    ways,
)
from nutanix_backend.disks.plan import DiskPlan
from nutanix_backend.disks.regions import Region, RegionList
from nutanix_backend.disks.streams import delta_pieces
from prism_client import DiskSnapshotRef, VmDisk

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
PIECE = 64 * KIB
NOTHING = Reads()


def spread(count: int, step: int, length: int = PIECE, size: int = 100 * GIB) -> RegionList:
    return RegionList(size, (Region(number * step, length) for number in range(count)))


def way(regions: RegionList, proof: Reads = NOTHING, *, ranges: bool = True, raw: bool = False,
        group: float = GROUP) -> Way:  # fmt: skip
    return choose(regions, proof, is_raw=raw, offers_ranges=ranges, group=group)


def test_ranges_are_chosen_up_to_where_they_cost_what_a_volume_group_costs() -> None:
    """The last number of extents before the costs cross, and the first behind it."""
    each = REST.of(Reads(1, PIECE)) - ISCSI.of(Reads(1, PIECE))
    crossover = int(GROUP / each)
    assert crossover > 10
    assert way(spread(crossover, 16 * MIB)) is Way.RANGED
    assert way(spread(crossover + 2, 16 * MIB)) is Way.PIPELINED
    assert way(spread(crossover, 16 * MIB), ranges=False) is Way.PIPELINED
    assert way(spread(crossover, 16 * MIB), group=0.0) is Way.PIPELINED, "there is a group anyway"


def test_what_the_digest_list_reads_counts_too() -> None:
    sample = Reads(64, 64 * BLOCK)
    most = int((GROUP - REST.of(sample)) / REST.of(Reads(1, PIECE)))
    assert way(spread(most, 16 * MIB), sample) is Way.RANGED
    whole = Reads(100 * GIB // BLOCK, 100 * GIB)
    assert way(spread(1, 16 * MIB), whole) is not Way.RANGED


def test_few_bytes_by_range_many_over_iscsi() -> None:
    assert way(spread(1, MIB)) is Way.RANGED
    assert way(RegionList(100 * GIB, [Region(0, 100 * GIB)]), raw=True) is Way.SEQUENTIAL
    assert way(RegionList(100 * GIB)) is Way.RANGED, "nothing is to be read"
    assert way(RegionList(100 * GIB), ranges=False) is Way.PIPELINED


def test_gaps_are_read_along_where_that_costs_less_than_another_request() -> None:
    near, far = (spread(4000, PIECE + gap) for gap in (GAP // 2, GAP + 1))
    assert way(near, ranges=False) is Way.SEQUENTIAL
    assert reads_of(near, GAP).requests < 4000
    assert way(far, ranges=False) is Way.PIPELINED
    assert reads_of(far, GAP) == Reads(4000, 4000 * PIECE)


def test_a_raw_image_is_read_sequentially() -> None:
    for count in (3, 1000):
        assert way(spread(count, 64 * MIB), raw=True, ranges=False) is Way.SEQUENTIAL


def plan(index: int, regions: RegionList, base: str = "sha256:m") -> DiskPlan:
    disk = VmDisk("e", f"d{index}", "SCSI", index, regions.size, "c")
    return DiskPlan(index, disk, DiskSnapshotRef("p", "v", f"d{index}"), regions, base)


def test_a_group_that_one_disk_needs_serves_the_others() -> None:
    sparse, dense = plan(0, spread(3, GIB)), plan(1, RegionList(GIB * 50, [Region(0, GIB * 50)]))
    alone = ways([(sparse, NOTHING)], offers_ranges=True)
    assert alone == {0: Way.RANGED}
    both = ways([(sparse, NOTHING), (dense, NOTHING)], offers_ranges=True)
    assert both == {0: Way.PIPELINED, 1: Way.PIPELINED}
    assert ways([], offers_ranges=True) == {}


def test_a_full_is_never_read_by_range() -> None:
    """Nothing of it is compared with a digest list, which would show wrong bytes."""
    whole = plan(0, spread(3, GIB), base="")
    assert ways([(whole, NOTHING)], offers_ranges=True) == {0: Way.SEQUENTIAL}
    changed = plan(1, spread(3, GIB))
    new = ways([(whole, NOTHING), (changed, NOTHING)], offers_ranges=True)
    assert Way.RANGED not in new.values()


def test_several_disks_share_what_the_group_would_cost() -> None:
    """Each by itself is below the crossover; together they are far above it."""
    some = int(0.6 * GROUP / REST.of(Reads(1, PIECE)))
    disks = [(plan(n, spread(some, 16 * MIB)), NOTHING) for n in range(4)]
    assert ways(disks[:1], offers_ranges=True) == {0: Way.RANGED}
    assert set(ways(disks, offers_ranges=True).values()) == {Way.PIPELINED}


def test_requests_and_bytes_are_those_of_the_reads() -> None:
    regions = RegionList(
        GIB,
        [Region(0, PIECE), Region(PIECE, PIECE, True), Region(2 * PIECE, 3 * UNIT + 1)],
    )
    assert reads_of(regions, 0) == Reads(1 + 4, PIECE + 3 * UNIT + 1)
    assert reads_of(regions, PIECE) == Reads(4, 2 * PIECE + 3 * UNIT + 1)


@pytest.mark.parametrize(
    ("regions", "expected"),
    [
        ([(0, BLOCK)], 0),
        ([(0, 1)], 1),
        ([(1, 1), (5, 1), (BLOCK - 1, 1)], 1),
        ([(BLOCK - 1, 2)], 2),
        ([(BLOCK // 2, 3 * BLOCK)], 2),
        ([(9 * BLOCK + 5, BLOCK - 5)], 1),
        ([(9 * BLOCK, BLOCK + 7)], 0),
        ([], 0),
    ],
)
def test_blocks_that_change_in_part(regions: list[tuple[int, int]], expected: int) -> None:
    """The disk ends with 7 bytes of a block."""
    given = RegionList(10 * BLOCK + 7, (Region(*region) for region in regions))
    assert partial_blocks(given) == expected


# --- gaps are not sent ---------------------------------------------------------------------------


def stream(path: Path, regions: RegionList, gap: int) -> bytes:
    with iscsi_attach.open_direct(path) as device:
        return b"".join(map(bytes, delta_pieces(device, regions, gap=gap)))


def some_regions(random_: random.Random, size: int) -> Iterable[Region]:
    at = random_.randrange(3) * 512
    while at < size - 8 * 512:
        length = random_.choice([512, 4096, 5000, PIECE, UNIT, UNIT + 512])
        length = min(length, size - at)
        yield Region(at, length, random_.random() < 0.2)
        at += length + random_.choice([0, 512, 4096, 3 * 4096, PIECE, UNIT - 512, 2 * UNIT])


def test_a_stream_is_the_same_whatever_is_read_along(tmp_path: Path) -> None:
    path = tmp_path / "disk.raw"
    random_ = random.Random(4)
    path.write_bytes(content := random_.randbytes(9 * MIB))
    for _ in range(12):
        regions = RegionList(len(content), some_regions(random_, len(content)))
        exact = stream(path, regions, 0)
        for gap in (512, 4096, GAP, UNIT, 1 << 40):
            assert stream(path, regions, gap) == exact
        position = 0
        target = tmp_path / "target.raw"
        target.unlink(missing_ok=True)
        with closing(phcbt01.FileTarget.create(target, len(content))) as disk:
            phcbt01.apply(io.BytesIO(exact), disk)
        restored = target.read_bytes()
        for region in regions:
            assert not any(restored[position : region.offset]), "the gap was not sent"
            wanted = b"\0" * region.length if region.zeroed else content[region.offset : region.end]
            assert restored[region.offset : region.end] == wanted
            position = region.end
