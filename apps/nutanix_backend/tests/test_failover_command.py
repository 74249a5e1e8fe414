"""podheitor-receiver fails over to a cluster, and from the cluster of its source."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import attrs
import pytest
from prism_lab import Lab
from vm_replica.failover import ledger
from vm_replica.failover.transitions import State
from vm_replica.status import Level, statuses
from vm_replica.store.replica import Store

from apps.replica_receiver.tests.failover_site import SIZES, Site, here

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """The power is not cut here; processes are killed."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def site(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Site:
    """A replica with three generations."""
    made = Site(tmp_path, capsys)
    made.copies.mkdir()
    for _ in range(3):
        made.cycle()
    return made


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A cluster whose tasks do not wait."""
    with Lab.start(tmp_path_factory.mktemp("source"), task_seconds=0) as running:
        yield running


def config_of(lab: Lab, folder: Path) -> Path:
    """The file that says how a cluster is reached."""
    file = folder / "prism.conf"
    file.touch(mode=0o600)
    file.write_text(
        f"prism={lab.pc_host}\nuser={lab.user}\npassword={lab.password}\nca={lab.ca_file}\n"
    )
    return file


# --- with a cluster to fail over to -------------------------------------------------------------


@pytest.mark.parametrize("call", ["POST */content/images", "POST */ahv/config/vms"])
def test_killed_on_the_way_to_a_cluster(site: Site, lab: Lab, call: str) -> None:
    """Recovery finds what the killed process was making, by its journal and by its key."""
    parameters = (f"config_file={config_of(lab, site.root)}", "restore_via=image")
    target = [word for parameter in parameters for word in ("--target", parameter)]
    before = len(lab.requests)
    lab.faults.delay(call, 1.0)
    words = ["failover", "unplanned", "--store", str(site.store), "web01", *target]
    with subprocess.Popen([sys.executable, "-m", "replica_receiver", *words]) as process:
        while lab.faults.pending():
            assert process.poll() is None
            time.sleep(0.02)
        process.kill()
    deadline = time.monotonic() + 20
    while len(lab.requests) == before or lab.state()["tasks"]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(1.5)  # the call that was under way takes effect
    assert site.state()["doing"] == "unplanned"
    assert "give --target" in site.refused("recover", "web01")
    site.good("recover", "web01", *target)
    assert site.state()["state"] == "replicating"
    state = lab.state()
    assert not [vm for vm in state["vms"] if vm["name"] == "web01-failover"]
    assert not state["images"]
    assert not list(site.store.glob("podheitor-nutanix-*"))
    site.good("unplanned", "web01", *target, "--off")
    site.good("undo", "web01", *target)
    assert site.cycle() == 4


# --- with the cluster of the source --------------------------------------------------------------


@attrs.define
class Planned:
    """A replica of a VM that runs on a cluster."""

    site: Site
    lab: Lab

    @property
    def words(self) -> tuple[object, ...]:
        lab = self.lab
        parameters = (
            f"config_file={config_of(lab, self.site.root)}",
            f"state_dir={self.site.root / 'state'}",
        )
        sources = [word for parameter in parameters for word in ("--source", parameter)]
        return (*here(self.site), *sources, "--grace", "5")

    @property
    def is_on(self) -> bool:
        vms = self.lab.state()["vms"]
        return bool({vm["ext_id"]: vm["power"] for vm in vms}[self.site.vm_id] == "ON")

    def cycle_when_off(self) -> None:
        """The source goes on, and comes to a cycle when the guest is down."""
        deadline = time.monotonic() + 30
        while self.is_on and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.5)
        self.site.cycle(taken=int(time.time()) + 5)


@pytest.fixture
def planned(lab: Lab, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Planned:
    site = Site(tmp_path, capsys, vm_id=lab.create_vm("web01", list(SIZES.values())))
    site.copies.mkdir()
    site.cycle()
    return Planned(site, lab)


def test_a_planned_failover_loses_nothing(planned: Planned) -> None:
    site = planned.site
    source = threading.Thread(target=planned.cycle_when_off)
    source.start()
    site.good("planned", *planned.words)
    source.join()
    was_on = planned.is_on
    assert not was_on
    assert site.is_copy_of(site.copies / "web01-failover", 2)
    refused = site.refused("undo", site.vm_id)
    assert "give --source" in refused
    site.good("undo", site.vm_id, *planned.words[5:])
    assert planned.is_on
    assert site.state()["state"] == "replicating"


def test_without_a_last_cycle_the_source_is_on_again(planned: Planned) -> None:
    status, said = planned.site.run("planned", *planned.words, "--patience", "1")
    assert status == 1
    assert "no cycle came within 1 s" in said
    assert "planned is taken back: the replica is replicating" in said
    assert planned.is_on
    assert planned.site.cycle() == 2


def test_told_to_stop_it_takes_all_back(planned: Planned) -> None:
    def stop() -> None:
        while planned.is_on:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    stopper = threading.Thread(target=stop)
    stopper.start()
    status, said = planned.site.run("planned", *planned.words)
    stopper.join()
    assert status == 1
    assert "told to stop by SIGTERM" in said
    assert planned.is_on
    assert planned.site.state()["doing"] == ""


def test_a_source_that_is_lost_in_between(planned: Planned) -> None:
    """The storm comes while the source is down: what cannot be taken back is abandoned."""
    site = planned.site
    planned.lab.faults.status("POST */$actions/power-on", 400, times=3)
    status, said = site.run("planned", *planned.words, "--patience", "1")
    assert status == 1
    assert "failover recover" in said
    status, said = site.run("status")
    assert status == 1
    assert "was interrupted" in said
    (replica,) = statuses(Store(site.store), time.time())
    assert (replica.level, replica.why) == (
        Level.CRITICAL,
        "failover planned was interrupted: run failover recover",
    )
    with ledger.opened(replica_folder := site.replica.files.path):
        assert not ledger.is_interrupted(replica_folder, ledger.read(replica_folder))
    assert "possible: recover" in site.refused("unplanned", *planned.words[:5])
    assert "give --source" in site.refused("recover", "web01")
    said = site.good("recover", "web01", "--abandon")
    assert "not done: switch the source on" in said
    planned.lab.faults.clear()
    site.good("unplanned", *planned.words[:5])
    assert site.state()["state"] == State.FAILED_OVER.value
    assert site.is_copy_of(site.copies / "web01-failover", 1)
