"""Volume groups of replicas: which generation of which replica has their disks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs
import pytest
from phcbt01.testing import encode
from vm_replica.failover import ledger, stored
from vm_replica.failover.copies import PointCopies
from vm_replica.failover.errors import FailoverRefused, LedgerError
from vm_replica.failover.point import SiblingCopy
from vm_replica.failover.transitions import SCHEMA as RECORD
from vm_replica.failover.transitions import Copy, Record, State
from vm_replica.protocol.manifest import (
    GROUPS_SCHEMA,
    SCHEMA,
    Configuration,
    CycleDisk,
    CycleManifest,
    ReplicaGroup,
)
from vm_replica.status import Level, Status, statuses
from vm_replica.store.admission import Limits
from vm_replica.store.replica import Store

if TYPE_CHECKING:
    from pathlib import Path

SIZE = 4096
OURS = ReplicaGroup("group-1", "quorum", ("of-group",))
CONFIGURATION = Configuration("@proxmox", "cores: 1\nscsi0: local:own,size=4K\n")


def stands(keeper: Keeper, vm: str) -> Status:
    """The status of a replica at 100."""
    (found,) = (one for one in statuses(keeper.store, 100) if one.vm_id == vm)
    return found


@attrs.frozen
class Keeper:
    """A store, and cycles that come to it."""

    store: Store

    def cycle(self, vm: str, taken: int, *groups: ReplicaGroup, source: str = "source") -> None:
        """A cycle whose disks are full of the moment at which it was taken."""
        replica = self.store.replica("c", vm)
        state = replica.state()
        base = state.current.digest if state and state.current else ""
        names = ["own", *(disk for group in groups for disk in group.disks)]
        stream = encode(SIZE, [(0, taken.to_bytes(4, "big") * (SIZE // 4))])
        manifest = CycleManifest(
            GROUPS_SCHEMA if groups else SCHEMA, "c", vm, vm, base, taken, 60, "crash", f"p{taken}",
            CONFIGURATION,
            tuple(CycleDisk(d, n, SIZE, True, len(stream), 1) for n, d in enumerate(names)),
            groups,
        )  # fmt: skip
        with replica.begin_cycle(manifest, source) as incoming:
            for name in names:
                with incoming.disk(name, 0) as spool:
                    spool.write(stream)
                    spool.finish()
            incoming.commit(manifest.digest())

    def found(self, vm: str, number: int | None = None) -> list[int]:
        """When the disks of the groups of a point were taken, by what they hold."""
        point = stored.find(self.store, vm).point(number)
        assert [disk.disk_id for disk in point.disks] == ["own"]
        moments = []
        for group in point.groups:
            (disk,) = group.disks
            path = self.store.root / f"{vm}-{number}"
            disk.write(path)
            moments.append(int.from_bytes(path.read_bytes()[:4], "big"))
            path.unlink()
            assert moments[-1] == group.taken
        return moments


@pytest.fixture
def keeper(tmp_path: Path) -> Keeper:
    """VM `a` has a group in its cycles of 10 and 30; VM `b` shares it: cycles of 5, 20 and 40."""
    made = Keeper(Store(tmp_path / "store", Limits(reserve=0)))
    theirs = attrs.evolve(OURS, name="", disks=(), replica="a")
    for vm, taken in (("b", 5), ("a", 10), ("b", 20), ("a", 30), ("b", 40)):
        made.cycle(vm, taken, OURS if vm == "a" else theirs)
    made.cycle("foreign", 50, OURS, source="another source")
    return made


def test_a_group_is_taken_from_where_its_disks_are(keeper: Keeper) -> None:
    assert keeper.found("a") == [30]
    assert keeper.found("a", 1) == [10]
    assert keeper.found("b") == [30], "the newest there is, not of another source"
    assert keeper.found("b", 2) == [10], "not younger than the point"
    old = stored.find(keeper.store, "b").point(1)
    assert old.groups == ()
    (line,) = old.missing
    assert "group-1 is not in this copy: it should be in the replica of VM a" in line


def test_a_move_waits_for_the_replica_that_has_the_group(keeper: Keeper) -> None:
    second = stored.find(keeper.store, "b")
    assert second.taken() == 30
    assert second.groups() == {"group-1"}
    keeper.cycle("a", 60, OURS)
    assert second.taken() == 40
    keeper.cycle("a", 61)
    assert not second.groups(), "its cycles come without the group now"
    keeper.cycle("a", 62, OURS)
    keeper.store.replica("c", "a").fence()
    assert not second.groups(), "nothing that is written to it comes any more"
    assert not stored.find(keeper.store, "a").groups()
    keeper.store.replica("c", "a").files.state_path.write_bytes(b"{")
    assert not second.taken()
    assert not second.groups()
    assert second.point(None).missing


def test_a_replica_lags_by_the_oldest_of_its_disks_and_groups(keeper: Keeper) -> None:
    second = stands(keeper, "b")
    assert (second.lag, second.level) == (70, Level.WARNING), "its group is of 30, it is of 40"
    assert "it lags 70 s behind, 60 s are allowed" in second.why
    keeper.cycle("a", 60, OURS)
    assert (stands(keeper, "b").lag, stands(keeper, "b").level) == (60, Level.OK)
    keeper.store.replica("c", "a").files.state_path.write_bytes(b"{")
    second = stands(keeper, "b")
    assert second.level is Level.CRITICAL
    assert second.why == "no replica has the disks of its volume group group-1"
    keeper.store.replica("c", "b").fence()
    assert stands(keeper, "b").level is Level.OK, "it was failed over to: no cycles come"


def failed_over(keeper: Keeper, vm: str, state: State, doing: str = "", key: str = "key") -> Path:
    """Write down how a failover of a VM stands; the folder of its replica."""
    copy = Copy(key, f"{vm}-failover", "ahv", "prism", 2) if key else None
    folder = keeper.store.replica("c", vm).files.path
    with ledger.opened(folder) as held:
        held.keep(Record(RECORD, state, doing=doing, copy=copy))
    return folder


def test_only_whole_copies_of_the_other_vms_are_known(keeper: Keeper) -> None:
    second = stored.find(keeper.store, "b")

    def known() -> tuple[SiblingCopy, ...]:
        (group,) = second.point(None).groups
        return group.siblings

    whole = SiblingCopy("a", "key", "prism")
    for state in (State.FAILED_OVER, State.PERMANENT):
        failed_over(keeper, "a", state)
        assert known() == (whole,)
    failed_over(keeper, "a", State.FAILED_OVER, "end-test")
    assert known() == (whole,), "the copy is not touched by that"
    failed_over(keeper, "a", State.FAILED_OVER, "undo")
    assert known() == (attrs.evolve(whole, doing="undo"),)
    for event in ("planned", "unplanned"):
        failed_over(keeper, "a", State.FAILING_OVER, event)
        assert known() == (attrs.evolve(whole, doing=event),)
    failed_over(keeper, "a", State.FAILING_OVER, "planned", key="")
    assert known() == (SiblingCopy("a", "", "", "planned"),), "it has none yet, and will have"
    failed_over(keeper, "a", State.TESTING, "test", key="")
    assert known() == ()
    folder = failed_over(keeper, "a", State.FAILED_OVER)
    (folder / ledger.RECORD).write_bytes(b"{")
    assert known() == ()


def test_a_failover_of_a_vm_without_the_group_does_not_count(keeper: Keeper) -> None:
    keeper.cycle("alone", 70)
    failed_over(keeper, "alone", State.FAILING_OVER, "unplanned")
    (group,) = stored.find(keeper.store, "b").point(None).groups
    assert group.siblings == ()


def test_an_undo_waits_for_failovers_of_vms_that_share_a_group(keeper: Keeper) -> None:
    second = stored.find(keeper.store, "b")
    failed_over(keeper, "a", State.FAILED_OVER)
    second.refuse_unfinished("prism", only_live=False)
    waits = r"VM a shares volume group quorum, and its failover \(undo\)"
    folder = failed_over(keeper, "a", State.FAILED_OVER, "undo")
    with pytest.raises(FailoverRefused, match=waits):
        second.refuse_unfinished("prism", only_live=False)
    second.refuse_unfinished("another place", only_live=False)
    second.refuse_unfinished("prism", only_live=True)
    with ledger.opened(folder), pytest.raises(FailoverRefused, match=waits):
        second.refuse_unfinished("prism", only_live=True)
    keeper.cycle("alone", 70)
    stored.find(keeper.store, "alone").refuse_unfinished("prism", only_live=False)


def test_failovers_begin_one_after_the_other(
    keeper: Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "_WAIT", 0.05)
    first, second = (stored.find(keeper.store, vm) for vm in ("a", "b"))
    with first.turn(), pytest.raises(LedgerError, match=r"failover\.lock cannot be locked"):
        second.turn().__enter__()
    with second.turn():
        pass


def test_an_event_that_shares_no_groups_waits_for_nobody(keeper: Keeper) -> None:
    """A copy on this host has images of its own."""

    class Target:
        """An activator."""

        kind, place = "ahv", "prism"
        shares_groups = True
        leaves_groups = False

    folder = failed_over(keeper, "a", State.FAILED_OVER, "undo")
    activator: Any = Target()
    copies = PointCopies(stored.find(keeper.store, "b"), activator)
    making = Record(RECORD, State.FAILING_OVER, doing="unplanned")
    undo = Record(RECORD, State.FAILED_OVER, doing="undo", copy=Copy("key", "x", "ahv", "prism", 1))
    for record in (making, undo):
        with pytest.raises(FailoverRefused, match="VM a shares"):
            copies.turn(record, recovers=False).__enter__()
    with copies.turn(attrs.evolve(making, doing="test"), recovers=False):
        pass
    with copies.turn(making, recovers=True):
        pass
    (folder / ledger.RECORD).write_bytes(b"{")
    with pytest.raises(FailoverRefused, match="cannot be read"):
        copies.turn(making, recovers=False).__enter__()
    with copies.turn(undo, recovers=False):
        pass
    activator.leaves_groups = True
    with copies.turn(making, recovers=False):
        pass
    activator.shares_groups = False
    with copies.turn(undo, recovers=False):
        pass


def test_groups_of_permanent_and_unreadable_copies_are_kept(keeper: Keeper) -> None:
    second = stored.find(keeper.store, "b")
    failed_over(keeper, "a", State.FAILED_OVER)
    assert second.kept_groups("prism") == {}
    folder = failed_over(keeper, "a", State.PERMANENT)
    (why,) = second.kept_groups("prism").values()
    assert why.startswith("VM a shares it, and its copy is permanent")
    assert second.kept_groups("another place") == {}
    (folder / ledger.RECORD).write_bytes(b"{")
    (why,) = second.kept_groups("prism").values()
    assert why.startswith("it is not known whether a copy of c/a needs it: ")
    (folder / ledger.RECORD).unlink()
    keeper.store.replica("c", "a").files.state_path.write_bytes(b"{")
    assert list(second.kept_groups("prism")) == ["group-1"]


def test_no_copy_is_made_beside_one_that_cannot_be_read(keeper: Keeper) -> None:
    """A second copy of the group was made, and the two differed."""
    second = stored.find(keeper.store, "b")
    folder = failed_over(keeper, "a", State.FAILED_OVER)
    second.refuse_unreadable()
    words = "a failover of the replica c/a may have brought volume group .* cannot be read"
    (folder / ledger.RECORD).write_bytes(b"{")
    with pytest.raises(FailoverRefused, match=words):
        second.refuse_unreadable()
    (folder / ledger.RECORD).unlink()
    keeper.store.replica("c", "a").files.state_path.write_bytes(b"{")
    with pytest.raises(FailoverRefused, match=words):
        second.refuse_unreadable()


def test_a_copy_without_a_group_is_only_made_when_that_is_wanted(keeper: Keeper) -> None:
    class Target:
        """An activator that takes groups, unless it is told to leave them."""

        place = "there"
        takes_groups = True
        leaves_groups = False
        refuse_unfit = make = staticmethod(lambda *given, test: given)

    activator: Any = Target()
    copies = PointCopies(stored.find(keeper.store, "b"), activator, generation=1, exact=True)
    with pytest.raises(FailoverRefused, match=r"group-1 is not in this copy.*volume_groups=no"):
        copies.refuse_unfit(test=False)
    activator.leaves_groups = True
    copies.refuse_unfit(test=False)
    made: Any = copies.make(Copy("key", "x", "ahv", "prism", 2), test=False)
    assert [group.exact for group in made[1].groups] == [True]


def test_a_target_that_knows_no_groups_is_refused(keeper: Keeper) -> None:
    class Older:
        """An activator of a package that is older than volume groups."""

        place = "there"

    activator: Any = Older()
    copies = PointCopies(stored.find(keeper.store, "b"), activator)
    with pytest.raises(FailoverRefused, match=r"would be without its volume groups \(quorum\)"):
        copies.refuse_unfit(test=False)
