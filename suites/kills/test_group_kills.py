"""Kill -9 in jobs with a volume group: the next job is good, and no chain of VM or group breaks.

A killed restore leaves nothing but what is whole: a VM, a group, or both.
"""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

import attrs
import pytest
from ptcomm import Level
from ptcomm_runner.catalog import Status

from apps.nutanix_backend.tests.conftest import same
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

    def take_whole_group(self) -> bool:
        """Take away the group that a restore made, which must be whole; whether there was one."""
        lab = self.product.lab
        found = [g for g in lab._world.volume_groups.values() if "-restore-" in g.name]
        for group in found:
            (disk,) = group.disks
            assert same(disk.file, lab.volume_disk_file(self.group, 0)), "half a group is left"
            assert not group.clients
            lab._groups.delete(group)
        return bool(found)


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


def test_a_restore_with_a_group_killed_at_every_third_step(killing: KillingGroup) -> None:
    product = killing.product
    killed = vms = groups = 0
    for first, when in enumerate(("before", "after"), start=1):
        for number in count(first, STEP):
            product.order(act="kill", place="prism", call=number, when=when)
            result = product.restore_without_checks()
            where = product.sprung()
            product.order()
            product.sweep()
            group = killing.take_whole_group()
            vm = product.take_vm(f"{killing.guests[0].name}-restore-{result.job_id}")
            killing.next_job(where)
            if not where:
                assert vm, result.log
                assert group, result.log
                break
            killed, vms, groups = killed + 1, vms + vm, groups + group
    killing.kills = killed
    killing.report(
        f"restore with a volume group killed; the VM was whole {vms} times, the group {groups}"
    )
