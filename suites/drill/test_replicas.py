"""Drills of replicas: the same verdict, by the command of the receiver."""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING

import pytest
from vm_replica.evidence import TrialKind

from apps.replica_receiver.tests.failover_site import Site
from suites.drill import guests

if TYPE_CHECKING:
    from pathlib import Path

    from vm_replica.evidence import Trial

    from suites.drill.conftest import Drills

LONG = 40
"""Seconds in which a guest says its last words."""


@pytest.fixture
def site(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Site:
    """A receiver's store."""
    return Site(tmp_path / "receiver", capsys)


def words(drills: Drills, **others: object) -> list[str]:
    """The words of the command: where the copy is made, and what shows that it lives."""
    given = drills.parameters(**others)
    del given["restore_drill"]
    pairs = drills.product.parameters(state_dir=drills.product.root / "dr-state", **given)
    return ["web01", *(f"--target={name}={text}" for name, text in pairs)]


def last(site: Site) -> Trial:
    trial = site.replica.trials().last(TrialKind.DRILL)
    assert trial is not None
    return trial


def test_a_replica_that_boots(drills: Drills, site: Site) -> None:
    site.cycle(boot_sector=guests.BOOTS)
    before = drills.lab.state()
    said = site.good("drill", *words(drills))
    assert f"generation 1 lives: its serial console says {guests.BOOTED!r}" in said
    assert last(site).good
    assert last(site).point == "generation 1"
    assert site.state()["state"] == "replicating"
    assert drills.lab.state() == before
    site.cycle()


def test_an_older_point(drills: Drills, site: Site) -> None:
    """The newest does not boot: somebody encrypted it, say."""
    site.cycle(boot_sector=guests.BOOTS)
    site.cycle(boot_sector=guests.PANICS)
    before = drills.lab.state()
    status, said = site.run("drill", *words(drills, drill_wait=LONG))
    assert status == 1
    assert "the drill of generation 2 failed: it was on for" in said
    assert "Kernel panic" in said
    assert not last(site).good
    assert site.state()["state"] == "replicating"
    site.good("drill", *words(drills), "--point", 1)
    assert last(site).good
    assert drills.lab.state() == before


def test_killed_in_the_middle(drills: Drills, site: Site) -> None:
    """The next drill begins with removing what is left."""
    site.cycle(boot_sector=guests.BOOTS)
    before = drills.lab.state()
    command = [
        sys.executable, "-m", "replica_receiver", "failover", "drill", "--store", str(site.store),
        *words(drills, drill_line="never"),
    ]  # fmt: skip
    drills.interrupted(command, signal.SIGKILL, name="web01-test")
    assert drills.is_on("web01-test")
    assert site.state()["doing"] == "drill"
    site.good("drill", *words(drills))
    assert last(site).good
    assert drills.lab.state() == before
    drills.interrupted(command, signal.SIGTERM, name="web01-test")
    assert drills.lab.state() == before
    assert site.state()["state"] == "replicating"


def test_a_folder_starts_nothing(site: Site) -> None:
    site.cycle(boot_sector=guests.BOOTS)
    site.copies.mkdir()
    said = site.refused("drill", "web01", "--folder", site.copies)
    assert "is not started, so no drill is possible" in said
    assert not list(site.copies.iterdir())
