"""Killed at random moments, and with the power cut: exactly one committed generation, always."""

from __future__ import annotations

import random
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from vm_replica.errors import ReplicationError

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable
    from pathlib import Path

    from suites.replication.conftest import (
        Model,
        PowerDisk,
        Prepared,
        Receiver,
        Site,
    )

MIB = 1 << 20
RECEIVERS = 140
POWER_CUTS = 60
SOURCES = 60
CALLS = 130
"""Calls that change the file system: about so many in a start and a cycle."""


def test_the_receiver_is_killed(
    receiver: Receiver, make_model: type[Model], tmp_path: Path, tally: Counter[str]
) -> None:
    deaths(receiver, make_model("killed", 5), tmp_path, RECEIVERS, lambda: None)
    tally["receivers killed"] += RECEIVERS


def test_the_power_of_the_receiver_is_cut(
    powered: Receiver,
    power: PowerDisk,
    make_model: type[Model],
    tmp_path: Path,
    tally: Counter[str],
) -> None:
    deaths(powered, make_model("dark", 6), tmp_path, POWER_CUTS, power.cut)
    tally["receivers whose power was cut"] += POWER_CUTS


def deaths(
    receiver: Receiver,
    model: Model,
    folder: Path,
    count: int,
    afterwards: Callable[[], None],
) -> None:
    """Let the receiver die in its start or in a cycle, then start it again and see what it has."""
    chance = random.Random(count)
    for number in range(count):
        receiver.start(calls=chance.randrange(1, CALLS) * chance.choice((1, -1)))
        began = time.monotonic()
        with suppress(ReplicationError, OSError):
            for _ in range(30):
                with receiver.connect() as session:
                    model.change()
                    model.send(session)
        assert time.monotonic() - began < 30, "a source has waited in silence"
        assert receiver.wait() == -9, receiver.log.read_text()[-2000:]
        afterwards()
        receiver.start()
        with receiver.connect() as session:
            if number % 2:
                model.change()
            model.send(session)
        model.check(receiver.store, folder)
        assert receiver.kill()
        if number % 2:  # also while it has nothing to do
            afterwards()
    receiver.start()
    model.check(receiver.store, folder, points=100)


def test_the_source_is_killed(
    site: Site, forks: tuple[Prepared, Prepared], tmp_path: Path, tally: Counter[str]
) -> None:
    guest = site.guest(8 * MIB, 2 * MIB)
    group = site.group(guest, MIB)
    chance = random.Random(7)
    sources = forks[1]
    log = tmp_path / "source.log"
    longest = 1.0
    generation = 0
    for number in range(SOURCES):
        guest.write(0, chance.randrange(6) * MIB, chance.choice((4096, MIB)))
        guest.discard(1, 0, 4096 * chance.randrange(1, 100))
        with site.lab.volume_disk_file(group, 0).open("r+b") as disk:
            disk.write(chance.randbytes(4096))
        sources.start(argv=site.argv(guest), log=str(log))
        time.sleep(chance.uniform(0, longest))
        killed = sources.kill()
        tally["sources killed" if killed else "sources that were faster"] += 1
        site.settle()
        is_last = number == SOURCES - 1  # which leaves nothing to the other tests
        if number % 3 == 0 or is_last or not killed:  # some are killed again and again
            began = time.monotonic()
            before = site.generation(guest)  # a source that was faster has committed one
            (done,) = site.cycle(guest)
            longest = 0.8 * longest + 0.2 * (time.monotonic() - began)
            assert done.result, (done.error, log.read_text()[-2000:])
            assert done.result.seed == (before == 0), site.listener.lines
            assert done.result.generation > generation
            generation = done.result.generation
            site.assert_same(guest)
            site.assert_clean(guest)
        elif generation:
            assert site.current(guest).number >= generation
    site.lab._groups.delete(site.lab._world.volume_groups[group])
