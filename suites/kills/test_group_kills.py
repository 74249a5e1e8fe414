"""Kill -9 in jobs with a volume group: the next job is good, and no chain of VM or group breaks."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

import attrs
import pytest
from ptcomm import Level
from ptcomm_runner.catalog import Status

from suites.kills.test_kills import Killing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from apps.nutanix_backend.tests.conftest import FaultyProduct

KIB, MIB = 1 << 10, 1 << 20
STEP = 3
"""Every third call is one to die at: those before their effect, and others after it."""


@attrs.define
class KillingGroup(Killing):
    """A VM with a volume group."""

    group: str = ""

    def change(self) -> None:
        """The guest writes to both."""
        super().change()
        with self.product.lab.volume_disk_file(self.group, 0).open("r+b") as disk:
            disk.seek(self.random.randrange(0, MIB - 70 * KIB))
            disk.write(self.random.randbytes(70 * KIB))


@pytest.fixture
def killing(faulty: FaultyProduct, tell: Callable[[str], None]) -> Iterator[KillingGroup]:
    """A VM and its volume group with one good full backup."""
    guest = faulty.guest(MIB)
    group = faulty.volume_group("data", [MIB], guest)
    assert faulty.job(Level.FULL, guest).status is Status.GOOD
    yield KillingGroup(faulty, (guest,), tell, group=group)
    faulty.remove_user_groups()


def test_a_job_with_a_group_killed_at_every_third_step(killing: KillingGroup) -> None:
    for first, when in enumerate(("before", "after"), start=1):
        for number in count(first, STEP):
            if not killing.case(place="prism", call=number, when=when):
                break
    killing.report("a job with a volume group killed")
