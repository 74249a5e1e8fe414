"""What a cycle is refused for: a table of values, and the rule that keeps older generations."""

from __future__ import annotations

from typing import Any

import attrs
import phcbt01
import pytest
from hypothesis import given
from hypothesis import strategies as st
from vm_replica.errors import Code
from vm_replica.protocol.manifest import SCHEMA, Configuration, CycleDisk, CycleManifest
from vm_replica.store import admission
from vm_replica.store.admission import Limits, Offer, Room
from vm_replica.store.catalog import Generation, ReplicaRole, ReplicaState, StoredDisk
from vm_replica.store.retention import DAY, HOUR, Retention, superfluous

pytestmark = pytest.mark.security

NOW = 1_000_000
MIB = 1 << 20
GIB = 1 << 30
SOURCE, OTHER = "a" * 64, "b" * 64


def disk_of(size: int = MIB, regions: int = 1, data: int = 100, **changes: Any) -> CycleDisk:
    """A disk that comes whole."""
    length = phcbt01.encoded_size(regions, data)
    return attrs.evolve(CycleDisk("d", 0, size, True, length, regions), **changes)


def manifest_of(*disks: CycleDisk, base: str = "", taken: int = NOW - 10) -> CycleManifest:
    """A manifest of these disks."""
    plain = Configuration("@nutanix", "{}")
    return CycleManifest(SCHEMA, "c", "vm", "vm", base, taken, 60, "crash", "p", plain, disks)


SEED = manifest_of(disk_of(), taken=NOW - 1000)
DELTA = manifest_of(disk_of(whole=False), base=SEED.digest())
CURRENT = Generation(1, NOW - 990, SEED.encode().decode(), (StoredDisk("d", 0, MIB, "x"),))
STATE = ReplicaState(1, "c", "vm", SOURCE, ReplicaRole.REPLICA, "", CURRENT, None)
ROOMY = Room(free=GIB)
SMALL = Limits(disks=2, disk_size=2 * MIB, reserve=MIB, replicas=3, points=5)


def offer_of(manifest: CycleManifest, source: str = SOURCE, vm_id: str = "vm") -> Offer:
    """An offer to the replica c/vm."""
    return Offer(manifest, source, "c", vm_id)


TWO = (disk_of(), disk_of(disk_id="e", index=1))
CASES: dict[str, tuple[Offer, ReplicaState | None, Room, Code | None]] = {
    "a seed": (offer_of(SEED), None, ROOMY, None),
    "a delta": (offer_of(DELTA), STATE, ROOMY, None),
    "a delta without a base": (offer_of(DELTA), None, ROOMY, Code.NEEDS_SEED),
    "another base": (
        offer_of(attrs.evolve(DELTA, base="sha256:" + "0" * 64)), STATE, ROOMY, Code.WRONG_BASE,
    ),
    "the same again": (offer_of(SEED), STATE, ROOMY, Code.REPLAYED),
    "an older seed": (
        offer_of(attrs.evolve(SEED, taken=NOW - 2000)), STATE, ROOMY, Code.REPLAYED,
    ),
    "another source": (offer_of(DELTA, OTHER), STATE, ROOMY, Code.NOT_ALLOWED),
    "a fenced replica": (
        offer_of(DELTA), attrs.evolve(STATE, role=ReplicaRole.FENCED), ROOMY, Code.FENCED,
    ),
    "half applied": (
        offer_of(DELTA), attrs.evolve(STATE, applying=CURRENT), ROOMY, Code.NOT_READY,
    ),
    "half rolled back": (
        offer_of(DELTA), attrs.evolve(STATE, rolling=1), ROOMY, Code.NOT_READY,
    ),
    "another VM": (offer_of(SEED, vm_id="other"), None, ROOMY, Code.BAD_MANIFEST),
    "two disks": (offer_of(manifest_of(*TWO)), None, ROOMY, None),
    "three disks": (
        offer_of(manifest_of(*TWO, disk_of(disk_id="f", index=2))), None, ROOMY, Code.TOO_LARGE,
    ),
    "a large disk": (
        offer_of(manifest_of(disk_of(2 * MIB + 1))), None, ROOMY, Code.TOO_LARGE,
    ),
    "a disk that is new": (
        offer_of(attrs.evolve(DELTA, disks=(disk_of(whole=False, disk_id="new"),))),
        STATE, ROOMY, Code.NOT_READY,
    ),
    "a disk that has shrunk": (
        offer_of(attrs.evolve(DELTA, disks=(disk_of(MIB - 1, whole=False),))),
        STATE, ROOMY, Code.NOT_READY,
    ),
    "a little ahead": (offer_of(manifest_of(disk_of(), taken=NOW + 600)), None, ROOMY, None),
    "in the future": (
        offer_of(manifest_of(disk_of(), taken=NOW + 601)), None, ROOMY, Code.BAD_MANIFEST,
    ),
    "a file system with small files": (
        offer_of(SEED), None, attrs.evolve(ROOMY, takes_file=False), Code.TOO_LARGE,
    ),
    "no space": (offer_of(SEED), None, Room(free=MIB), Code.NO_SPACE),
    "space that others were promised": (
        offer_of(SEED), None, Room(free=GIB, booked=GIB - MIB), Code.NO_SPACE,
    ),
    "too many replicas": (offer_of(SEED), None, attrs.evolve(ROOMY, replicas=3), Code.NO_SPACE),
    "an old replica of many": (offer_of(DELTA), STATE, attrs.evolve(ROOMY, replicas=3), None),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_what_is_refused(name: str) -> None:
    offer, state, room, code = CASES[name]
    digests = frozenset({SEED.digest()}) if state else frozenset()
    refused = admission.refuse(offer, state, digests, SMALL, room, NOW)
    assert (refused.code if refused else None) is code, refused
    assert refused is None or "\n" not in str(refused)


def test_a_quota_holds_for_all_that_a_source_has() -> None:
    limits = attrs.evolve(SMALL, quota=100 * MIB)
    full = attrs.evolve(ROOMY, used=100 * MIB)
    refused = admission.refuse(offer_of(DELTA), STATE, frozenset(), limits, full, NOW)
    assert refused
    assert refused.code is Code.NO_SPACE
    assert "may use 100.0 MiB" in str(refused)
    half = attrs.evolve(ROOMY, used=50 * MIB)
    assert admission.refuse(offer_of(DELTA), STATE, frozenset(), limits, half, NOW) is None


def test_points_are_limited_while_they_are_protected() -> None:
    digests = frozenset(str(number) for number in range(5))
    refused = admission.refuse(offer_of(DELTA), STATE, digests, SMALL, ROOMY, NOW)
    assert refused
    assert refused.code is Code.NO_SPACE


def test_small_regions_count_as_blocks() -> None:
    """45,000 regions of a byte are 747 KiB of stream, and 180 MiB of blocks in the image."""
    tiny = manifest_of(disk_of(1 << 40, 45_000, 45_000))
    assert tiny.stream_bytes < MIB
    assert admission.needed(tiny, None, Room(free=0)) > 45_000 * 4096
    small = manifest_of(disk_of(MIB, 100, 100))
    assert admission.needed(small, None, Room(free=0)) < 2 * MIB, (
        "an image is no more than its disk"
    )


def test_a_seed_over_an_old_disk_needs_room_for_what_was_there() -> None:
    again = manifest_of(disk_of())
    room = Room(free=0, allocated={"d": MIB})
    assert admission.needed(again, STATE, room) > MIB


def test_a_replica_that_was_once_in_the_future_takes_cycles_of_today() -> None:
    """A cluster's clock was 26 hours ahead for one cycle, before this was refused."""
    ahead = attrs.evolve(SEED, taken=NOW + 26 * HOUR)
    current = attrs.evolve(CURRENT, manifest_json=ahead.encode().decode())
    delta = attrs.evolve(DELTA, base=ahead.digest())
    state = attrs.evolve(STATE, current=current)
    assert admission.refuse(offer_of(delta), state, frozenset(), SMALL, ROOMY, NOW) is None
    assert current.moment == current.committed


# --- retention ------------------------------------------------------------------------------------


def points_at(*ages: int) -> list[Generation]:
    """Generations of these ages in seconds, the oldest first."""
    return [attrs.evolve(CURRENT, number=n, committed=NOW - age) for n, age in enumerate(ages, 1)]


def test_nothing_young_is_dropped_however_many_there_are() -> None:
    young = points_at(*range(1000, 0, -1))
    assert superfluous(young, Retention(count=0, hours=0, days=0), NOW) == []


def test_older_points_are_thinned_out_by_hour_and_by_day() -> None:
    every_ten_minutes = points_at(*range(10 * DAY, 0, -600))
    retention = Retention(count=0, protect=DAY, hours=48, days=5)
    gone = set(superfluous(every_ten_minutes, retention, NOW))
    left = [point for point in every_ten_minutes if point.number not in gone]
    assert sum(NOW - point.committed <= DAY for point in left) == DAY // 600
    hours = [point for point in left if DAY < NOW - point.committed <= 2 * DAY]
    assert 23 <= len(hours) <= 25
    assert len({point.committed // HOUR for point in hours}) == len(hours)
    days = [point for point in left if NOW - point.committed > 2 * DAY]
    assert 2 <= len(days) <= 4
    assert len({point.committed // DAY for point in days}) == len(days)


@given(
    st.lists(st.integers(0, 20 * DAY)), st.integers(0, 5), st.integers(0, 10 * DAY),
    st.integers(1, 10 * DAY), st.integers(0, 5), st.integers(0, 5),
)  # fmt: skip
def test_no_setting_drops_what_is_protected(
    ages: list[int], count: int, age: int, protect: int, hours: int, days: int
) -> None:
    points = points_at(*sorted(ages, reverse=True))
    gone = set(superfluous(points, Retention(count, age, protect, hours, days), NOW))
    for point in points:
        if NOW - point.committed <= protect:
            assert point.number not in gone
