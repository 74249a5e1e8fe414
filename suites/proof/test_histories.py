"""Histories of thirty jobs: each knows its disks as the cluster's own recovery point has them."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
import xxhash
from digests import ImageDigests
from ptcomm import Level

from apps.nutanix_backend.tests.conftest import plain_root

if TYPE_CHECKING:
    from collections.abc import Callable

    from ptcomm_runner.jobs import Result

    from apps.nutanix_backend.tests.conftest import FaultyProduct, Guest

KIB, MIB = 1 << 10, 1 << 20
JOBS = 30


def change(guest: Guest, dice: random.Random, sizes: list[int]) -> None:
    """Do something inside the VM, or with its disks."""
    number = dice.randrange(len(sizes))
    offset = dice.randrange(sizes[number] // 4096) * 4096
    length = min(dice.choice([4 * KIB, 64 * KIB, MIB, 3 * MIB]), sizes[number] - offset)
    kind = dice.choice(["write", "write", "write", "discard", "zero", "grow", "add"])
    if kind == "grow" and sizes[number] < 12 * MIB:
        sizes[number] += dice.choice([4 * KIB, 600 * KIB, 2 * MIB])
        guest.grow(number, sizes[number])
    elif kind == "add" and len(sizes) < 3:
        sizes.append(dice.choice([512 * KIB, 2 * MIB, 3 * MIB + 4 * KIB]))
        guest.add_disk(sizes[-1])
    elif kind == "discard":
        guest.discard(number, offset, length)
    elif kind == "zero":
        guest.zero(number, offset, length)
    else:
        guest.write(number, offset, length, seed=dice.randrange(1 << 30))


def assert_proven(product: FaultyProduct, result: Result, guest: Guest) -> None:
    """Roots and lists are those of the lab's recovery point, which other code has digested."""
    (job,) = (job for job in product.jobs() if job.job_id == result.job_id)
    stored = {s.file.name: s for s in job.files if s.file.name.endswith(".digests")}
    points = product.points(result, guest)
    entries = product.manifest(result, guest).disks
    for entry, point in zip(entries, points, strict=True):
        content = point.read_bytes()
        assert entry.image_root == plain_root(content), f"job {result.job_id}, disk {entry.index}"
        (name,) = (name for name in stored if f"disk-{entry.index}-" in name)
        image = ImageDigests.decode(product.store.file_path(job, stored[name]).read_bytes())
        assert dict(image.data_blocks()) == data_blocks(content)


def data_blocks(content: bytes) -> dict[int, bytes]:
    blocks = {at // MIB: content[at : at + MIB] for at in range(0, len(content), MIB)}
    return {number: xxhash.xxh3_128_digest(b) for number, b in blocks.items() if any(b)}


@pytest.mark.parametrize("seed", [1, 2])
def test_thirty_jobs(faulty: FaultyProduct, seed: int, tell: Callable[[str], None]) -> None:
    dice = random.Random(seed)
    faulty.references = 4
    sizes = [5 * MIB, 2 * MIB + 4 * KIB]
    guest = faulty.guest(*sizes)
    levels, results = [Level.FULL], []
    for number in range(JOBS):
        result = faulty.good_backup(levels[-1], guest)
        assert_proven(faulty, result, guest)
        results.append(result)
        if number % 7 == 6:
            faulty.assert_restores(result, guest)
        for _ in range(dice.randrange(5)):
            change(guest, dice, sizes)
        levels.append(
            dice.choice([Level.INCREMENTAL] * 5 + [Level.DIFFERENTIAL] * 2 + [Level.FULL])
        )
    faulty.assert_restores(dice.choice(results), guest)
    tell(f"\nseed {seed}: {''.join(level.value for level in levels[:JOBS])}, {len(sizes)} disks")
