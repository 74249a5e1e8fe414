"""How many jobs it takes until the sample finds one block of which Prism lists no change."""

from __future__ import annotations

import math
import random
import statistics
from itertools import compress
from typing import TYPE_CHECKING

import pytest
from digests import BLOCK
from nutanix_backend.backup.proof import SMALLEST_SAMPLE
from nutanix_backend.references.proven import ProvenTimes
from nutanix_backend.settings.table import BY_NAME

if TYPE_CHECKING:
    from collections.abc import Callable

GIB = 1 << 30
DEFAULT = float(BY_NAME["scrub"].default) / 100


def jobs_until_found(blocks: int, sample: int, dice: random.Random) -> int:
    """Run jobs until each block had its turn, with one block that went wrong at some time."""
    times, everything = ProvenTimes(blocks * BLOCK), bytearray([1]) * blocks
    wrong, when = dice.randrange(blocks), dice.randrange(blocks // sample + 1)
    job = 0
    while True:
        job += 1
        chosen = times.choose(everything, sample)
        if job > when and chosen[wrong]:
            return job - when
        for number in compress(range(blocks), chosen):
            times.mark(number * BLOCK, BLOCK, job)


@pytest.mark.parametrize("gib", [1, 10, 100])
def test_the_default_sample(gib: int, tell: Callable[[str], None]) -> None:
    """Computed: every block has its turn within blocks / sample jobs, and on average in half."""
    blocks = gib * GIB // BLOCK
    sample = max(math.ceil(DEFAULT * blocks), SMALLEST_SAMPLE)
    most = math.ceil(blocks / sample)
    dice = random.Random(gib)
    found = [jobs_until_found(blocks, sample, dice) for _ in range(40 if gib < 100 else 1)]
    tell(
        f"\n{gib} GiB, {sample} of {blocks} blocks a job: computed {most / 2:.0f} jobs on average, "
        f"at most {most}; simulated {statistics.mean(found):.0f} and {max(found)}"
    )
    assert max(found) <= most
    if gib < 100:
        assert 0.6 * most / 2 <= statistics.mean(found) <= 1.4 * most / 2 + 1
