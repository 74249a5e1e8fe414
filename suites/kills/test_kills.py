"""Kill -9 at every step, and power cuts: the next job sweeps what was left, and no chain breaks.

Each case is a job that is killed, then the next job, as the Director would start it: it sweeps and
is good. With `references=lean` exactly one recovery point of the VM is there behind it, its own;
else also the one that it stands on, in case that it does not count, and the one of their full.
Every so often the chain is restored and compared.
"""

from __future__ import annotations

import json
import os
import runpy
import shutil
from itertools import count
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import attrs
import pytest
from nutanix_backend.references import state
from ptcomm import Level
from ptcomm_runner.catalog import Status

if TYPE_CHECKING:
    from collections.abc import Callable

    from apps.nutanix_backend.tests.conftest import FaultyProduct, Guest

PREPARED = Path(__file__).parents[2] / "apps" / "nutanix_backend" / "tests" / "prepared_backend.py"
KIB, MIB = 1 << 10, 1 << 20
PLACES = ("state", "prism", "pipe")
FULLS = 8
"""Every so many jobs there is a full, so that chains stay short."""
RANDOM = 64
"""Kills at random moments; with those at every step there are over 200."""
RESTORES = 8
"""Every so many cases, and at the end, the chain is restored."""


@attrs.define
class Killing:
    """VMs whose jobs are killed, and what came of it."""

    product: FaultyProduct
    guests: tuple[Guest, ...]
    tell: Callable[[str], None]
    references: str = "lean"
    cases: int = 0
    kills: int = 0
    removed: int = 0
    restores: int = 0
    random: Random = attrs.field(factory=lambda: Random(5))
    cut_power: Callable[[], None] = lambda: None
    shadow: dict[str, str] = attrs.field(factory=dict)

    def case(self, **order: Any) -> str:
        """Kill a job, run the next; returns where it was killed, or nothing if it was not."""
        self.change()
        self.product.order(act="kill", **order, **self.shadow)
        result = self.product.job(self.level(), *self.guests, references=self.references)
        where = self.product.sprung()
        self.kills += result.status is not Status.GOOD
        self.cut_power()
        self.next_job(where)
        return where

    def level(self) -> Level:
        """A full now and then, incrementals between them."""
        return Level.FULL if self.kills % FULLS == FULLS - 1 else Level.INCREMENTAL

    def change(self) -> None:
        """The guests write somewhere."""
        for guest in self.guests:
            guest.write(0, self.random.randrange(0, MIB - 70 * KIB), 70 * KIB)

    def next_job(self, where: str) -> None:
        """The next job cleans up, is good, and leaves the references that a chain may have."""
        self.change()
        self.product.order(**self.shadow)
        result = self.product.job(self.level(), *self.guests, references=self.references)
        words = "\n".join(message.text for message in result.log)
        assert result.status is Status.GOOD, (where, words)
        self.removed += words.count("which was killed")
        self.product.sprung()
        self.product.assert_nothing_left()
        known = state.recorded_points(self.product.root / "state")
        points = [guest.recovery_points() for guest in self.guests]
        assert set().union(*points) == set(known), (where, words)
        for found in points:
            assert len(found) in ({1} if self.references == "lean" else {1, 2, 3}), (where, words)
            assert known[found[-1]] == result.job_name
        self.product.let_an_hour_pass()
        self.cases += 1
        if self.cases % RESTORES == 0:
            self.product.assert_chain_restores(*self.guests)
            self.restores += 1

    def report(self, what: str) -> None:
        """Say what was tried and found."""
        self.product.assert_chain_restores(*self.guests)
        self.tell(
            f"{what}: {self.kills} kills; {self.removed} things swept by the next jobs; "
            f"{self.restores + 1} restores identical; nothing was left"
        )


@pytest.fixture
def killing(faulty: FaultyProduct, tell: Callable[[str], None]) -> Killing:
    """A VM with one good full backup."""
    guest = faulty.guest(MIB)
    assert faulty.job(Level.FULL, guest).status is Status.GOOD
    return Killing(faulty, (guest,), tell)


@pytest.fixture
def killing_four(faulty: FaultyProduct, tell: Callable[[str], None]) -> Killing:
    """Four VMs with one good full backup, which are in flight at the same time."""
    guests = tuple(faulty.guest(MIB) for _ in range(4))
    assert faulty.job(Level.FULL, *guests).status is Status.GOOD
    return Killing(faulty, guests, tell)


@pytest.fixture
def killing_chains(killing: Killing) -> Killing:
    """The same, where what differentials may need stays on the cluster."""
    killing.references = "chain"
    return killing


@pytest.mark.parametrize("place", PLACES)
def test_killed_at_every_step(killing: Killing, place: str) -> None:
    for when in ("before", "after"):
        for number in count(1):
            if not killing.case(place=place, call=number, when=when):
                break
    killing.report(f"killed at every step / {place}")


def test_killed_at_random_moments_of_the_data(killing_chains: Killing) -> None:
    killing = killing_chains
    for _ in range(RANDOM):
        killing.case(timer=killing.random.uniform(0.0, 0.05))
    killing.report("killed at random moments of the data")


@pytest.mark.parametrize("place", PLACES)
def test_killed_at_every_third_step_with_four_vms_in_flight(
    killing_four: Killing, place: str
) -> None:
    """Which VM is at which step differs from job to job."""
    for first, when in enumerate(("before", "after"), start=1):
        for number in count(first, 3):
            if not killing_four.case(place=place, call=number, when=when):
                break
    killing_four.report(f"killed with four VMs in flight / {place}")


def test_killed_at_random_moments_of_the_data_of_four_vms(killing_four: Killing) -> None:
    killing = killing_four
    killing.references = "chain"
    for _ in range(RANDOM // 4):
        killing.case(timer=killing.random.uniform(0.0, 0.3))
    killing.report("killed at random moments of the data of four VMs")


@pytest.mark.parametrize("place", ["state", "prism"])
def test_a_restore_killed_at_every_step(killing: Killing, place: str) -> None:
    """Of a killed restore nothing stays but a VM that is whole, and the chain is as it was."""
    product, name = killing.product, f"{killing.guests[0].name}-new"
    killed = whole = 0
    for when in ("before", "after"):
        for number in count(1):
            product.order(act="kill", place=place, call=number, when=when)
            result = product.restore_without_checks(name)
            where = product.sprung()
            made = product.take_vm(name)
            killing.next_job(where)
            if not where:
                assert made, result.log
                break
            killed, whole = killed + 1, whole + made
    killing.kills = killed
    killing.report(f"restore killed at every step / {place}; the VM was whole {whole} times")


def test_a_restore_of_four_vms_killed_at_every_fifteenth_step(killing_four: Killing) -> None:
    """Disks are made and VMs finished beside the stream: journals name what is on its way."""
    product = killing_four.product
    names = [guest.name for guest in killing_four.guests]
    killed = whole = 0
    for first, when in enumerate(("before", "after"), start=1):
        for number in count(first, 15):
            product.order(act="kill", place="prism", call=number, when=when)
            result = product.restore_without_checks()
            where = product.sprung()
            made = [product.take_vm(f"{name}-restore-{result.job_id}") for name in names]
            killing_four.next_job(where)
            if not where:
                assert all(made), result.log
                break
            killed, whole = killed + 1, whole + sum(made)
    killing_four.kills = killed
    killing_four.report(f"restore of four VMs killed; {whole} VMs were whole")


# --- power cuts ----------------------------------------------------------------------------------


def test_a_power_cut_at_every_step(killing_chains: Killing, tmp_path: Path) -> None:
    """What was not synced is gone, or in every other case only some of it: the same promise."""
    killing = killing_chains
    disk = Disk(killing.product.root / "state", tmp_path / "shadow")
    killing.cut_power = disk.cut_power
    killing.shadow = {"shadow": str(disk.shadow)}
    disk.remember_all()
    for when in ("before", "after"):
        for number in count(1):
            disk.some = number % 2 == 0
            if not killing.case(place="state", call=number, when=when):
                break
    killing.report("power cut at every write")


@attrs.define
class Disk:
    """The disk below the state folder, which forgets what was not synced when power is cut."""

    folder: Path
    shadow: Path
    some: bool = False
    """Whether some of what was not synced is there all the same."""
    _random: Random = attrs.field(factory=lambda: Random(7))

    def remember_all(self) -> None:
        """All that is there now is synced."""
        shutil.rmtree(self.shadow, ignore_errors=True)
        self.shadow.mkdir()
        made = runpy.run_path(str(PREPARED))
        synced = made["Shadow"](str(self.shadow))
        for path in [self.folder, *self.folder.rglob("*")]:
            descriptor = os.open(path, os.O_RDONLY)
            synced.fsync(descriptor)
            os.close(descriptor)

    def cut_power(self) -> None:
        """Bring the folder to what was synced."""
        there = {path.stat().st_ino: path for path in [self.folder, *self.folder.rglob("*")]}
        after = self.folder.with_name("after-the-cut")
        self._rebuild(self.folder.stat().st_ino, there, after)
        shutil.rmtree(self.folder)
        after.rename(self.folder)
        self.remember_all()

    def _rebuild(self, inode: int, there: dict[int, Path], target: Path) -> None:
        if inode in there and there[inode].is_dir():
            target.mkdir()
            for name, child in self._names(inode, there[inode]).items():
                self._rebuild(child, there, target / name)
        else:
            target.write_bytes(self._content(inode, there.get(inode)))

    def _names(self, inode: int, now: Path) -> dict[str, int]:
        synced = self.shadow / f"d{inode}"
        names: dict[str, int] = json.loads(synced.read_text()) if synced.exists() else {}
        if self.some:
            for path in now.iterdir():
                if self._random.random() < 0.5:
                    names[path.name] = path.stat().st_ino
        return names

    def _content(self, inode: int, now: Path | None) -> bytes:
        synced = self.shadow / f"i{inode}"
        content = synced.read_bytes() if synced.exists() else b""
        if self.some and now:
            unsynced = now.read_bytes()
            if unsynced.startswith(content):
                content = unsynced[: self._random.randint(len(content), len(unsynced))]
        return content
