"""Restore drills on VMs that really run: guests that live, and ones that do not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import attrs
import pytest
from nutanix_backend.cluster import journal
from nutanix_backend.names import OURS
from nutanix_backend.references import evidence
from prism_lab import Lab
from ptcomm import Level
from ptcomm_runner import jobs
from vm_replica.evidence import TrialKind

from apps.nutanix_backend.tests.conftest import Guest, Product
from suites.drill.guests import BOOTS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ptcomm_runner.jobs import Result
    from vm_replica.evidence import Trial

MIB = 1 << 20
LONGEST = 900
"""Seconds after which a guest that should boot hangs."""


@attrs.define
class Drills:
    """A cluster whose VMs run, and a host that makes drills."""

    product: Product

    @property
    def lab(self) -> Lab:
        """The cluster."""
        return self.product.lab

    def guest(self, sector: bytes, **hardware: Any) -> Guest:
        """A VM with this boot sector, saved by a full backup."""
        name = f"vm{len(self.lab.made()['vms']):03}"
        guest = Guest(self.lab, name, self.lab.create_vm(name, [2 * MIB, MIB], **hardware))
        guest.write(0, MIB, 65536)
        with guest.disk(0).open("r+b") as disk:
            disk.write(sector)
        self.product.good_backup(Level.FULL, guest, name=name)
        return guest

    def parameters(self, **others: object) -> dict[str, object]:
        """Those of a drill that looks for a line."""
        looking = {"drill_sign": "console", "drill_line": "BOOTED", "drill_wait": LONGEST}
        return {"restore_drill": "yes", "drill_console": self.lab.consoles, **looking, **others}

    def drill(self, job: str, **others: object) -> Result:
        """Make a drill of what a job has saved; nothing is left of it."""
        before = self.lab.state()
        settings = self.product.settings(**self.parameters(**others))
        patient = attrs.evolve(settings, timeout=2 * LONGEST)
        result = jobs.restore(self.product.store, job, patient)
        self.product.assert_nothing_left()
        assert self.lab.state() == before
        return result

    def last(self, guest: Guest) -> Trial:
        """What is recorded of the last drill of a VM."""
        found = evidence.recorded(self.product.root / "state")
        (known,) = (one for one in found if one.vm_id == guest.ext_id)
        trial = known.last(TrialKind.DRILL)
        assert trial is not None
        return trial

    def command(self, guest: Guest) -> list[str]:
        """The command line of a drill."""
        given = self.product.parameters(**self.parameters(drill_line="never"))
        return [
            sys.executable, "-m", "nutanix_backend", "job", "restore", "--name", guest.name,
            "--store", str(self.product.store.root), *(f"{name}={text}" for name, text in given),
        ]  # fmt: skip

    def interrupted(self, command: list[str], how: signal.Signals, *, name: str = OURS) -> None:
        """Run a command until a VM of this name is on, and end it with all that it started."""
        with subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        ) as process:
            until = time.monotonic() + LONGEST
            while not self.is_on(name):
                assert process.poll() is None, "it ended by itself"
                assert time.monotonic() < until, "no VM was made"
                time.sleep(0.1)
            if how is signal.SIGKILL:
                self._kill_at_work()
            process.send_signal(how)

    def _kill_at_work(self) -> None:
        """Kill whoever holds a journal: the backend that a job has started."""
        folder = self.product.root
        states = {path.parents[1] for path in folder.rglob("*.journal")}
        for state in states:
            for found in journal.running(state):
                os.kill(int(found.path.stem.rpartition("-")[2]), signal.SIGKILL)
        until = time.monotonic() + LONGEST
        while any(list(journal.running(state)) for state in states):
            assert time.monotonic() < until, "it does not die"
            time.sleep(0.05)

    def is_on(self, name: str) -> bool:
        """Whether a VM whose name begins so runs."""
        vms = self.lab.state()["vms"]
        return any(vm["name"].startswith(name) and vm["power"] == "ON" for vm in vms)

    def sweep(self) -> str:
        """What the command of that name says."""
        given = (f"{name}={text}" for name, text in self.product.parameters())
        command = [sys.executable, "-m", "nutanix_backend", "sweep", *given]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Drills]]:
    """Start a cluster of some kind."""
    running = []

    def started(**settings: Any) -> Drills:
        lab = Lab.start(tmp_path / "lab", run_guests=True, **settings)
        running.append(lab)
        return Drills(Product(lab, tmp_path / "host"))

    yield started
    for lab in running:
        lab.stop()


@pytest.fixture
def drills(start: Callable[..., Drills]) -> Drills:
    """The usual cluster."""
    return start()


@pytest.fixture
def saved(drills: Drills) -> Guest:
    """A VM that boots."""
    return drills.guest(BOOTS)
