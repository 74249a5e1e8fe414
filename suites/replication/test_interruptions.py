"""Cut lines, silent receivers, full disks: the old generation or the new one, never silence."""

from __future__ import annotations

import random
import shutil
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import attrs
from nutanix_backend.replicate import cycles
from vm_replica.errors import Code, CycleRefused, PeerLost, ReplicationError
from vm_replica.protocol import messages
from vm_replica.protocol.channel import Patience

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable
    from pathlib import Path

    import pytest
    from vm_replica.protocol.channel import Channel

    from suites.replication.conftest import (
        Line,
        Model,
        PowerDisk,
        Receiver,
        Site,
    )

MIB = 1 << 20
CUTS = 60
FULL = 16
M = TypeVar("M")
SHORT = Patience(connect=1, idle=1, message=1)


def test_the_line_is_cut_at_random_bytes(
    receiver: Receiver, line: Line, make_model: type[Model], tmp_path: Path, tally: Counter[str]
) -> None:
    receiver.start()
    model, chance = make_model("cut", 1), random.Random(2)
    for _ in range(CUTS):
        model.change()
        line.left = chance.choice((chance.randrange(20_000), chance.randrange(1_500_000)))
        with suppress(ReplicationError, OSError), receiver.connect() as session:
            model.send(session)
        line.left = 1 << 60
        line.cut()
        with receiver.connect() as session:
            settle(model, session)
        model.check(receiver.store, tmp_path, points=1)
        tally["lines cut at a random byte"] += 1
    assert len(model.committed) >= CUTS


def settle(model: Model, session: Channel, patience: float = 20.0) -> None:
    """A good cycle; a receiver that has not noticed the cut yet may be busy for a moment."""
    deadline = time.monotonic() + patience
    while True:
        try:
            model.send(session)
        except CycleRefused as refused:
            if refused.code is not Code.BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return


def test_a_source_whose_line_is_cut_goes_on_where_it_was(
    site: Site, line: Line, tally: Counter[str]
) -> None:
    """The real source: its cycle fails with words, the next one goes on with the same snapshot."""
    guest = site.guest(8 * MIB, 2 * MIB)
    guest.write(0, 0, 6 * MIB)
    for left in (300_000, 3_000_000, 6_000_000):
        line.left = left
        (done,) = site.cycle(guest)
        assert isinstance(done.error, ReplicationError), done
        site.assert_clean(guest)
        line.left = 1 << 60
        tally["real cycles cut off"] += 1
        points = guest.recovery_points()
        (done,) = site.cycle(guest)
        assert done.result, done.error
        if left > MIB:
            assert done.result.resumed > 0
            assert guest.recovery_points() == points[-1:]
        site.assert_same(guest)
        guest.write(0, MIB, 6 * MIB)


def test_a_receiver_that_goes_silent_is_given_up_in_time(
    site: Site, line: Line, monkeypatch: pytest.MonkeyPatch, tally: Counter[str]
) -> None:
    guest = site.guest(4 * MIB)
    monkeypatch.setattr(cycles, "PATIENCE", SHORT)
    line.silent = True
    for left in (0, 600, 5_000, 200_000):
        line.left = left
        began = time.monotonic()
        (done,) = site.cycle(guest)
        assert isinstance(done.error, PeerLost), done.error
        assert time.monotonic() - began < 30
        site.assert_clean(guest)
        line.cut()
        tally["receivers gone silent, given up in time"] += 1
    line.left = 1 << 60
    (done,) = site.cycle(guest)
    assert done.result, done.error
    site.assert_same(guest)


def test_a_full_disk_at_the_receiver_is_refused_or_fails_and_harms_nothing(
    powered: Receiver,
    power: PowerDisk,
    make_model: type[Model],
    tmp_path: Path,
    tally: Counter[str],
) -> None:
    """Filled up to some bytes, before a cycle and in the middle of one."""
    powered.start()
    model, chance = make_model("full", 3), random.Random(4)
    with powered.connect() as session:
        model.send(session)
    filler = power.mounted / "filler"
    for _ in range(FULL):
        model.change()
        room = chance.randrange(0, MIB)
        moment = chance.choice((messages.Open, messages.Disk, messages.EndOfDisk, messages.Commit))
        try:
            with powered.connect() as session:
                model.send(Midway(session, moment, partial(fill_up, filler, room)))
        except CycleRefused as refused:
            tally[f"full disks: refused ({refused.code.value})"] += 1
        except (ReplicationError, OSError) as error:
            said = "and said why" if "no space left" in str(error).lower() else f"with {error}"
            tally[f"full disks: the session failed, {said}"] += 1
        else:
            tally["full disks: room enough"] += 1
        filler.unlink(missing_ok=True)
        with powered.connect() as session:
            settle(model, session)
        model.check(powered.store, tmp_path)
    assert tally["full disks: the session failed, and said why"], "no disk was full in the middle"


@attrs.frozen
class Midway:
    """A session in which something happens just before a message of some kind is sent."""

    _session: Channel
    _moment: type
    _act: Callable[[], None]

    def send(self, message: messages.Message) -> None:
        """As a channel does."""
        if isinstance(message, self._moment):
            self._act()
        self._session.send(message)

    def expect(self, *kinds: type[M]) -> M:
        """As a channel does."""
        return self._session.expect(*kinds)


def fill_up(filler: Path, leave: int) -> None:
    """Fill the file system up to some bytes."""
    free = shutil.disk_usage(filler.parent).free
    with suppress(OSError), filler.open("ab") as file:
        while free > leave:
            free -= file.write(bytes(min(MIB, free - leave)))
            file.flush()


def test_a_cycle_waits_for_nobody_when_the_receiver_is_gone(site: Site) -> None:
    guest = site.guest(MIB)
    site.receiver.kill()
    (done,) = site.cycle(guest)
    assert "no receiver answers" in str(done.error)
    assert guest.recovery_points() == [], "nothing is made before the receiver answers"
