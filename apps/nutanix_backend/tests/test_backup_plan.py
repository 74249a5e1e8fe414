"""What a backup reads of each disk, and what it makes of a cluster that contradicts itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import attrs
import iscsi_attach
import pytest
from nutanix_backend.cluster import transport
from nutanix_backend.disks.attach import open_luns
from nutanix_backend.disks.plan import DiskPlan, plan_disks
from nutanix_backend.disks.regions import Region
from nutanix_backend.errors import SourceError
from nutanix_backend.references import state
from prism_client import (
    ChangedRegion,
    ChangeTrackingUnavailable,
    IncompleteChangeList,
    NotFound,
    RecoveryPoint,
    VmDisk,
)

if TYPE_CHECKING:
    from apps.nutanix_backend.tests.conftest import FakePrism

KIB = 1 << 10
VM = "11111111-1111-4111-8111-111111111111"


def disk(name: str, index: int = 0, size: int = 1024 * KIB, bus: str = "SCSI") -> VmDisk:
    """A disk of a VM; its own id differs from that of its backing."""
    return VmDisk(f"slot-of-{name}", name, bus, index, size, None)


@attrs.define
class Planner:
    """Plans against one Prism, and keeps the warnings."""

    prism: FakePrism
    point: RecoveryPoint
    warnings: list[str] = attrs.field(factory=list)

    def plan(self, *disks: VmDisk, base: state.Reference | None = None) -> list[DiskPlan]:
        """Plan the disks of the recovery point."""
        return plan_disks(self.prism.client, disks, self.point, base, self.warnings.append)

    def listed(
        self, name: str, regions: list[ChangedRegion] | Exception, since: str | None = None
    ) -> None:
        """Say what Prism lists for a disk."""
        old = f"{name}@{since}" if since else None
        self.prism.regions[f"{name}@{self.point.ext_id}", old] = regions


@pytest.fixture
def planner(prism: FakePrism) -> Planner:
    """With a recovery point of the disks a and b."""
    return Planner(prism, prism.add_point(VM, disks=("a", "b")))


def base_of(*disks: VmDisk) -> state.Reference:
    """The reference of an earlier job."""
    return state.Reference(
        "old",
        "vm@old",
        "sha256:0",
        tuple(state.DiskReference(d.disk_ext_id, d.size, f"{d.disk_ext_id}@old") for d in disks),
    )


def test_a_full_reads_what_is_allocated(planner: Planner) -> None:
    planner.listed("a", [ChangedRegion(64 * KIB, KIB), ChangedRegion(128 * KIB, KIB, zeroed=True)])
    (plan,) = planner.plan(disk("a"))
    assert not plan.base
    assert list(plan.regions) == [Region(64 * KIB, KIB), Region(128 * KIB, KIB, zeroed=True)]
    assert plan.regions.size == 1024 * KIB
    assert plan.snapshot == planner.point.disk_ref(planner.point.disks[0])
    assert not planner.warnings


def test_disks_are_numbered_by_bus_and_place(planner: Planner) -> None:
    planner.listed("a", [])
    planner.listed("b", [])
    plans = planner.plan(disk("b", 3), disk("a", 1, bus="SATA"))
    assert [(plan.index, plan.disk.disk_ext_id) for plan in plans] == [(0, "a"), (1, "b")]


@pytest.mark.parametrize(
    "problem", [ChangeTrackingUnavailable("no tracking"), IncompleteChangeList("a gap")]
)
def test_where_the_server_cannot_say_all_is_read(planner: Planner, problem: Exception) -> None:
    planner.listed("a", problem)
    (plan,) = planner.plan(disk("a"))
    assert list(plan.regions) == [Region(0, 1024 * KIB)]
    assert planner.warnings == [f"disk SCSI.0 is read as a whole: {problem}"]


def test_an_incremental_reads_what_changed(planner: Planner) -> None:
    planner.listed("a", [ChangedRegion(0, KIB)], since="old")
    (plan,) = planner.plan(disk("a"), base=base_of(disk("a")))
    assert plan.base
    assert plan.base == "sha256:0"
    assert list(plan.regions) == [Region(0, KIB)]


def test_a_disk_that_the_base_does_not_know_is_read_whole(planner: Planner) -> None:
    planner.listed("a", [], since="old")
    planner.listed("b", [ChangedRegion(0, KIB)])
    known, new = planner.plan(disk("a", 0), disk("b", 1), base=base_of(disk("a")))
    assert known.base
    assert not new.base


def test_of_a_grown_disk_the_new_part_is_read_too(planner: Planner) -> None:
    """Whatever the list of changes says of the new part: only what is allocated there counts."""
    changes = [ChangedRegion(8 * KIB, KIB), ChangedRegion(500 * KIB, 100 * KIB)]
    allocated = [ChangedRegion(0, 20 * KIB), ChangedRegion(510 * KIB, 10 * KIB)]
    planner.listed("a", changes, since="old")
    planner.listed("a", allocated)
    (plan,) = planner.plan(disk("a"), base=base_of(disk("a", size=512 * KIB)))
    assert list(plan.regions) == [
        Region(8 * KIB, KIB),
        Region(500 * KIB, 20 * KIB),
    ]
    assert plan.regions.size == 1024 * KIB


def test_a_disk_that_became_smaller_is_saved_whole(planner: Planner) -> None:
    planner.listed("a", [ChangedRegion(0, 4 * KIB)])
    (plan,) = planner.plan(disk("a"), base=base_of(disk("a", size=2048 * KIB)))
    assert not plan.base
    assert "disk SCSI.0 became smaller" in planner.warnings[0]


@pytest.mark.parametrize("problem", [ChangeTrackingUnavailable("x"), NotFound("x", status=404)])
def test_changes_that_cannot_be_had_are_the_callers_to_decide(
    planner: Planner, problem: Exception
) -> None:
    planner.listed("a", problem, since="old")
    with pytest.raises(type(problem)):
        planner.plan(disk("a"), base=base_of(disk("a")))


@pytest.mark.parametrize(
    "lie",
    [
        [ChangedRegion(KIB, KIB), ChangedRegion(0, KIB)],
        [ChangedRegion(0, 2 * KIB), ChangedRegion(KIB, KIB)],
        [ChangedRegion(1024 * KIB - 1, 2)],
        [ChangedRegion(0, 0)],
    ],
)
def test_a_list_that_lies_is_not_built_on_though_the_client_let_it_pass(
    planner: Planner, lie: list[ChangedRegion]
) -> None:
    planner.listed("a", lie, since="old")
    with pytest.raises(SourceError, match="the list of regions is not usable"):
        planner.plan(disk("a"), base=base_of(disk("a")))


def test_a_disk_that_is_not_in_the_snapshot_is_an_error(planner: Planner) -> None:
    with pytest.raises(SourceError, match=r"disk SCSI\.0 is not in the recovery point: .* again"):
        planner.plan(disk("c"))


# --- what the target offers ----------------------------------------------------------------------


@attrs.frozen
class Offered:
    """An attachment with LUNs of these sizes."""

    sizes: tuple[int, ...]

    @property
    def luns(self) -> tuple[iscsi_attach.LunInfo, ...]:
        """Numbered from 1: LUN 0 is no disk."""
        return tuple(
            iscsi_attach.LunInfo(number, size, 512, f"serial-{number}", "")
            for number, size in enumerate(self.sizes, 1)
        )

    def open(self, lun: int, *, writable: bool) -> str:
        """A device that is only told apart, and only read."""
        assert not writable
        return f"device of LUN {lun}"


def offered(planner: Planner, *sizes: int) -> dict[int, object]:
    """What is opened for the disks a and b of 512 and 1024 KiB."""
    for name in ("a", "b"):
        planner.listed(name, [ChangedRegion(0, KIB)])
    plans = planner.plan(disk("a", 0, 512 * KIB), disk("b", 1))
    return dict(open_luns(cast("iscsi_attach.Attachment", Offered(sizes)), plans))


def test_luns_come_in_the_order_of_the_disks(planner: Planner) -> None:
    devices = offered(planner, 512 * KIB, 1024 * KIB)
    assert devices == {0: "device of LUN 1", 1: "device of LUN 2"}


@pytest.mark.parametrize("sizes", [(), (512 * KIB,), (512 * KIB, 1024 * KIB, 512 * KIB)])
def test_another_number_of_luns_is_an_error(planner: Planner, sizes: tuple[int, ...]) -> None:
    with pytest.raises(SourceError, match=f"offers {len(sizes)} disks where 2 were asked for"):
        offered(planner, *sizes)


def test_luns_of_other_sizes_are_an_error(planner: Planner) -> None:
    """Be it that they came in another order: the wrong disk would be saved."""
    with pytest.raises(SourceError, match=r"disk SCSI\.0 has 524288 bytes, its snapshot 1048576"):
        offered(planner, 1024 * KIB, 512 * KIB)


def test_the_initiator_is_named_as_iscsi_wants_it() -> None:
    prefix, _, host = transport.initiator_name().partition(":nutanix.")
    assert prefix == "iqn.2026-11.com.podheitor"
    assert host
    assert all(c.isascii() and (c.isalnum() or c in "-.") for c in host)
    assert host == host.lower()
