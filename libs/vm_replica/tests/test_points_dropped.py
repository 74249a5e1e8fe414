"""Points dropped from the middle, rolled back to, and whole replicas dropped; exact to the byte."""

from __future__ import annotations

import shutil
from contextlib import suppress
from itertools import count
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from phcbt01.testing import encode
from vm_replica.errors import CycleRefused, ReplicaDamaged, ReplicationError, StoreError
from vm_replica.protocol.manifest import CycleDisk
from vm_replica.store import thinning
from vm_replica.store.replica import Store

from libs.vm_replica.tests.test_store import (
    CLUSTER,
    NO_RESERVE,
    SOURCE,
    VM,
    Crash,
    Disk,
    Vm,
    check,
    newest,
    replica_in,
    send,
    unsynced,
    verify_all,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from vm_replica.store.replica import Replica

pytestmark = pytest.mark.security


def cycles(replica: Replica, vm: Vm, number: int) -> None:
    """Commit so many."""
    for at in range(number):
        sent = vm.cycle(seed=at == 0)
        vm.has_committed(send(replica, sent), sent)


def drop_some(replica: Replica, doomed: set[int]) -> list[int]:
    """Drop these generations, as the retention would."""
    state = replica.files.existing()
    records = [replica.files.point(number) for number in replica.files.numbers(state)]
    return thinning.drop(replica.files, records, doomed, lambda: None)


@settings(max_examples=15)
@given(st.builds(Random, st.integers(0, 2**32)))
def test_what_is_left_is_exact_whichever_points_go(random: Random) -> None:
    with TemporaryDirectory() as folder, unsynced():
        replica, vm = replica_in(Path(folder)), Vm(random)
        cycles(replica, vm, 8)
        for _ in range(3):
            there = [point.number for point in replica.points()][:-1]
            gone = drop_some(replica, {n for n in there if random.random() < 0.5})
            assert [p.number for p in replica.points()][:-1] == [n for n in there if n not in gone]
            check(replica, vm)
            verify_all(replica)
        sent = vm.cycle()
        vm.has_committed(send(replica, sent), sent)
        check(replica, vm)


def plain(start: int = 1) -> Vm:
    """A VM whose disks keep their size, so that every point can go."""

    class Steady(Vm):
        def _disk(self, name: str, index: int, base: str) -> tuple[CycleDisk, bytes, bytes]:
            old = self.disks.get(name)
            content = bytearray(old or bytes(300_000))
            at = self.random.randrange(200_000)
            data = self.random.randbytes(70_000)
            content[at : at + len(data)] = data
            whole = old is None or not base
            change = [(0, bytes(content))] if whole else [(at, data)]
            stream = encode(len(content), change)
            made = CycleDisk(name, index, len(content), whole, len(stream), 1)
            return made, stream, bytes(content)

    vm = Steady(Random(start))
    vm.random.__dict__["random"] = lambda: 0.5  # all disks, every time
    return vm


def test_points_in_the_middle_go_and_their_space_with_them(tmp_path: Path) -> None:
    replica, vm = replica_in(tmp_path), plain()
    cycles(replica, vm, 10)
    assert drop_some(replica, {2, 3, 4, 6, 8}) == [2, 3, 4, 6, 8]
    assert [point.number for point in replica.points()] == [1, 5, 7, 9, 10]
    assert {path.name for path in replica.files.points.iterdir()} == {"1", "5", "7", "9"}
    check(replica, vm)
    verify_all(replica)
    assert drop_some(replica, {1, 7}) == [1, 7]
    check(replica, vm)
    verify_all(replica)


def test_what_is_damaged_is_not_merged_into_what_looks_sound(tmp_path: Path) -> None:
    replica, vm = replica_in(tmp_path), plain()
    cycles(replica, vm, 4)
    victim = next(replica.files.point_path(2).glob("*.phcbt01"))
    content = victim.read_bytes()
    victim.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ReplicaDamaged):
        drop_some(replica, {2})
    victim.write_bytes(content)
    check(replica, vm)
    verify_all(replica)


def crashes(
    before: Path,
    root: Path,
    disk: Disk,
    work: Callable[[Replica], object],
    after: Callable[[Replica, bool], None],
) -> int:
    """Do something on a copy, killed before each call that changes anything; how many."""
    for fatal in count(1):
        shutil.copytree(before, root)
        disk.remember(root)
        disk.order(fatal)
        with suppress(Crash):
            work(replica_in(root))
        is_dead = disk.dead
        disk.order(0)
        if is_dead:
            disk.cut_power(root, Random(fatal) if fatal % 2 else None)
            disk.remember(root)
        after(replica_in(root), is_dead)
        shutil.rmtree(root)
        if not is_dead:
            return fatal
    raise AssertionError


def test_a_power_cut_while_points_are_joined_loses_none_that_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, vm = Disk(monkeypatch), plain()
    cycles(replica_in(tmp_path / "before"), vm, 5)

    def after(replica: Replica, _: bool) -> None:
        left = {point.number for point in replica.points()}
        assert left >= {1, 4, 5}
        check_some(replica, vm)
        drop_some(replica, {2, 3})
        assert [point.number for point in replica.points()] == [1, 4, 5]
        check(replica, vm)
        verify_all(replica)

    steps = crashes(
        tmp_path / "before", tmp_path / "root", disk, lambda r: drop_some(r, {2, 3}), after
    )
    disk.forget()
    assert steps > 10


def check_some(replica: Replica, vm: Vm) -> None:
    """The points that stay are exact, whatever the dropped ones are in the middle of it."""
    for number in (1, 4, 5):
        for name, content in vm.committed[number].items():
            with replica.reader(number, name) as reader:
                assert bytes(reader.read(0, len(content))) == content


# --- rollback -------------------------------------------------------------------------------------


@settings(max_examples=15)
@given(st.builds(Random, st.integers(0, 2**32)))
def test_a_rollback_is_exact_and_cycles_go_on_from_there(random: Random) -> None:
    """Disks come, go, grow, shrink and come back between the points."""
    with TemporaryDirectory() as folder, unsynced():
        replica, vm = replica_in(Path(folder)), Vm(random)
        cycles(replica, vm, 7)
        drop_some(replica, {n for n in range(1, 7) if random.random() < 0.3})
        wanted = random.choice(replica.points()[:-1] or replica.points()).number
        if wanted == 7:
            return
        replica.roll_back(wanted)
        assert replica.points()[-1].number == wanted
        check(replica, vm)
        verify_all(replica)
        vm.disks, vm.base = vm.committed[wanted], vm.digests[wanted]
        sent = vm.cycle()
        vm.has_committed(send(replica, sent), sent)
        check(replica, vm)


def test_a_rollback_that_breaks_off_is_finished_by_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, vm = Disk(monkeypatch), Vm(Random(11))
    cycles(replica_in(tmp_path / "before"), vm, 5)
    outcomes = set()

    def after(replica: Replica, is_dead: bool) -> None:
        state = replica.files.existing()
        if state.rolling:
            with pytest.raises(CycleRefused, match="recovered"):
                replica.begin_cycle(vm.cycle(seed=True).manifest, SOURCE)
        replica.recover()
        found = replica.points()[-1].number
        outcomes.add(found)
        assert is_dead or found == 2
        check(replica, vm)
        verify_all(replica)

    crashes(tmp_path / "before", tmp_path / "root", disk, lambda r: r.roll_back(2), after)
    disk.forget()
    assert outcomes == {2, 5}


def test_a_commit_that_can_never_be_applied_is_rolled_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica, vm = replica_in(tmp_path), plain()
    cycles(replica, vm, 3)
    with monkeypatch.context() as patch:

        def refuse(*_: object) -> None:
            raise OSError(27, "File too large")

        patch.setattr("vm_replica.store.undo.apply", refuse)
        sent = vm.cycle()
        with pytest.raises(StoreError):
            send(replica, sent)
        with pytest.raises(StoreError):
            replica.recover()
    replica.roll_back(3)
    state = replica.files.existing()
    assert state.is_whole
    check(replica, vm)
    replica.roll_back(1)
    check(replica, vm)
    with pytest.raises(StoreError, match="is the current one"):
        replica.roll_back(1)
    with pytest.raises(StoreError, match="has no generation 3"):
        replica.roll_back(3)


def test_a_replica_in_use_is_neither_rolled_back_nor_dropped(tmp_path: Path) -> None:
    replica, vm = replica_in(tmp_path), plain()
    cycles(replica, vm, 2)
    with replica.reader(1, "x"):
        with pytest.raises(StoreError, match="is being read"):
            replica.roll_back(1)
        with pytest.raises(StoreError, match="is being read"):
            replica.drop()
    with replica.begin_cycle(vm.cycle().manifest, SOURCE):
        with pytest.raises(StoreError, match="is sending"):
            replica.roll_back(1)
        with pytest.raises(StoreError, match="is sending"):
            replica.drop()
    check(replica, vm)


def test_a_replica_that_is_dropped_is_gone_and_can_be_seeded_again(tmp_path: Path) -> None:
    replica, vm = replica_in(tmp_path), plain()
    cycles(replica, vm, 3)
    replica.files.state_path.write_text("{")
    replica.drop()
    assert not replica.files.path.exists()
    assert not list((tmp_path / "dropped").iterdir())
    with pytest.raises(ReplicationError, match="no replica"):
        replica.drop()
    fresh = plain(2)
    cycles(Store(tmp_path, NO_RESERVE).replica(CLUSTER, VM), fresh, 2)
    check(replica, fresh)
    assert replica.prune(newest(0)) == [1]
