"""Random histories of a guest: after each cycle the replica is the recovery point, bit for bit."""

from __future__ import annotations

import random
import shutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections import Counter
    from pathlib import Path

    from apps.nutanix_backend.tests.conftest import Guest
    from suites.replication.conftest import Site

KIB, MIB = 1 << 10, 1 << 20
CYCLES = 50
REBUILDS_EVERY = 10


def test_fifty_cycles_and_every_point_that_is_kept(
    site: Site, tmp_path: Path, tally: Counter[str]
) -> None:
    guest = site.guest(16 * MIB, 8 * MIB)
    chance = random.Random(8)
    kept: dict[int, dict[str, Path]] = {}
    for number in range(1, CYCLES + 1):
        for _ in range(chance.randrange(0, 5)):
            tally[f"changes of a guest: {change(guest, chance)}"] += 1
        (done,) = site.cycle(guest)
        assert done.result, (done.error, site.listener.lines)
        assert done.result.generation == number
        assert done.result.seed == (number == 1)
        assert not done.result.resumed
        site.assert_same(guest)
        site.assert_clean(guest)
        assert len(guest.recovery_points()) == 1, "one reference between two cycles"
        tally["cycles of random histories, all identical"] += 1
        kept[number] = copies(site, guest, tmp_path / "points" / str(number))
        if number % REBUILDS_EVERY == 0:
            rebuild_all(site, guest, kept, tmp_path, tally)


def change(guest: Guest, chance: random.Random) -> str:
    """Something that a guest or its administrator does."""
    index = chance.randrange(len(guest.disk_ids()))
    size = guest.disk(index).stat().st_size
    length = min(chance.choice((512, 5000, 64 * KIB, 300 * KIB)), size)
    offset = chance.randrange(0, (size - length) // 512 + 1) * 512
    what = chance.choices(
        ("write", "wipe", "discard", "grow", "new disk", "disk removed"), (8, 2, 3, 1, 0.5, 0.3)
    )[0]
    match what:
        case "write":
            guest.write(index, offset, length, chance.randrange(1 << 30))
        case "wipe":
            guest.zero(index, offset, length)
        case "discard":
            start = offset // 4096 * 4096
            guest.discard(index, start, min(MIB, size - start))
        case "grow" if size < 24 * MIB:
            guest.grow(index, size + chance.choice((512, 4096, MIB)))
        case "new disk" if len(guest.disk_ids()) < 4:
            guest.add_disk(MIB)
            guest.write(len(guest.disk_ids()) - 1, 4096, 70 * KIB)
        case "disk removed" if len(guest.disk_ids()) > 2:
            guest.remove_disk(len(guest.disk_ids()) - 1)
        case _:
            return "none"
    return what


def copies(site: Site, guest: Guest, folder: Path) -> dict[str, Path]:
    """Copies of the disks of the last generation's recovery point."""
    folder.mkdir(parents=True)
    found = {}
    for disk_id in guest.disk_ids():
        found[disk_id] = folder / f"{disk_id}.raw"
        shutil.copyfile(site.point(guest, disk_id), found[disk_id])
    return found


def rebuild_all(
    site: Site, guest: Guest, kept: dict[int, dict[str, Path]], folder: Path, tally: Counter[str]
) -> None:
    """Each point is still there, and is what the recovery point was."""
    replica = site.replica(guest)
    numbers = [generation.number for generation in replica.points()]
    assert numbers == sorted(kept), "all are younger than the protection time"
    for number in numbers:
        replica.verify(number)
        assert {disk.disk_id for disk in replica.files.generation(number).disks} == set(
            kept[number]
        )
        for disk_id, expected in kept[number].items():
            target = folder / "rebuilt.raw"
            replica.rebuild(number, disk_id, target)
            assert target.read_bytes() == expected.read_bytes()
            target.unlink()
            tally["disks of older points rebuilt, all identical"] += 1
