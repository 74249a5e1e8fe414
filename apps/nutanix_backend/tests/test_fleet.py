"""Many VMs in one job: side by side before and behind the stream, each on its own."""

from __future__ import annotations

import re
import shutil
import signal
from typing import TYPE_CHECKING

import attrs
import pytest
from nutanix_backend.references import state
from prism_lab import Lab
from ptcomm import Data, End, File, Level, Severity
from ptcomm_runner import jobs
from ptcomm_runner.catalog import Status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ptcomm_runner.jobs import Result

    from apps.nutanix_backend.tests.conftest import Daemon, Guest, Product

KIB, MIB = 1 << 10, 1 << 20
FULL, INCREMENTAL = Level.FULL, Level.INCREMENTAL


def texts(result: Result, severity: Severity) -> list[str]:
    """The messages of one kind."""
    return [message.text for message in result.log if message.severity is severity]


def vms_of(result: Result) -> list[str]:
    """The ids of the VMs in the order in which their files came."""
    return list(dict.fromkeys(file.name.split("/")[2] for file in result.files))


@pytest.fixture
def fleet(product: Product) -> list[Guest]:
    """Six VMs, in the order of their names."""
    return [product.guest(2 * MIB, MIB) for _ in range(6)]


@attrs.define
class Overlap:
    """How many VMs have a volume group while data flows."""

    lab: Lab
    most: int = 0

    def look(self) -> None:
        """Look at the cluster."""
        self.most = max(self.most, len(self.lab.state()["volume_groups"]))


@pytest.mark.parametrize("width", [1, 4])
def test_vms_stream_in_the_order_of_their_names_and_restore(
    product: Product, lab: Lab, fleet: list[Guest], width: int
) -> None:
    overlap = Overlap(lab)
    product.watcher.on_data = overlap.look
    full = product.good_backup(FULL, *fleet, parallel_vms=width)
    for guest in fleet:
        guest.write(0, 300 * KIB, 70 * KIB)
    lab.faults.delay("POST */recovery-points", 0.5)  # one of the first VMs is late
    last = product.good_backup(INCREMENTAL, *fleet, parallel_vms=width)
    for result in (full, last):
        assert vms_of(result) == [guest.ext_id for guest in fleet]
    product.assert_restores(last, *fleet)
    assert overlap.most > 1, "others were open while one streamed"
    assert overlap.most <= 2 * width + 1


def test_what_is_said_of_the_vms_comes_in_their_order(product: Product, fleet: list[Guest]) -> None:
    """Every VM has something to say before its data."""
    product.good_backup(FULL, *fleet)
    shutil.rmtree(product.root / "state")
    log = jobs.backup(
        product.store, "job", INCREMENTAL, product.settings(vm=[guest.name for guest in fleet])
    ).log
    lines = [m.text for m in log if "is backed up in full: no state" in m.text]
    assert [line.split()[1] for line in lines] == [guest.name for guest in fleet]


@pytest.mark.parametrize(
    "call", ["POST */recovery-points", "POST */volume-groups", "POST */attach-iscsi-client"]
)
def test_a_failure_stays_with_its_vm(
    product: Product, lab: Lab, fleet: list[Guest], call: str
) -> None:
    lab.faults.fail_task(call, skip=2, message="this one is unlucky")
    result = product.backup(FULL, *fleet)
    assert result.status is Status.WARNINGS
    (line,) = texts(result, Severity.NONFATAL)
    assert "this one is unlucky" in line
    others = [guest for guest in fleet if f"VM {guest.name} is not backed up" not in line]
    assert vms_of(result) == [guest.ext_id for guest in others]
    assert len(others) == len(fleet) - 1
    product.assert_restores(result, *others)


def test_a_clean_up_that_fails_is_said_of_its_vm(
    product: Product, lab: Lab, fleet: list[Guest]
) -> None:
    lab.faults.fail_task("DELETE */volume-groups/*", skip=2, message="busy", after_effect=False)
    names = [guest.name for guest in fleet]
    result = jobs.backup(product.store, "job", FULL, product.settings(vm=names))
    assert result.status is Status.WARNINGS
    (line,) = texts(result, Severity.NONFATAL)
    assert "is backed up, but temporary objects could not be removed" in line
    assert vms_of(result) == [guest.ext_id for guest in fleet]
    assert len(lab.state()["volume_groups"]) == 1
    product.clear_away()


# --- calls ---------------------------------------------------------------------------------------


@pytest.fixture(params=["7.6", "2023.4"], ids=["v4", "v3"])
def other(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    make_product: Callable[[Lab, Path], Product],
) -> Iterator[Product]:
    """The product with a cluster of each generation, whose tasks have ended when they are named."""
    with Lab.start(tmp_path / "lab", personality=request.param, task_seconds=0) as lab:
        yield make_product(lab, tmp_path / "host")


BUDGET = {"v4": 25, "v3": 34}
"""Calls per VM of an incremental of two disks whose old reference goes; looks at tasks not counted.

v4 looks at seven tasks, v3 too. v3 asks for the clusters once a minute.
"""


def test_a_vm_costs_no_more_calls_than_its_budget(
    other: Product, request: pytest.FixtureRequest
) -> None:
    guests = [other.guest(MIB, MIB) for _ in range(5)]
    spent: list[int] = []
    for chosen in (guests, guests, guests, guests[:1]):
        for guest in guests:
            for index in range(2):
                guest.write(index, 0, 70 * KIB)
        before = len(other.lab.requests)
        other.good_backup(INCREMENTAL if spent else FULL, *chosen, references="lean")
        asked = other.lab.requests[before:]
        spent.append(sum("/tasks/" not in path for _, path, _ in asked))
    each = (spent[2] - spent[3]) / 4
    assert each <= BUDGET[request.node.callspec.id], f"{each} calls for each VM"


_ID = re.compile(r"[^/]*[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f-]{22}[^/]*")


def test_a_job_survives_429_at_every_kind_of_call(other: Product) -> None:
    """Prism Central has too much to do: the first call of every kind is to be made again."""
    guests = [other.guest(MIB, MIB) for _ in range(3)]
    kinds: set[str] = set()
    for level in (FULL, INCREMENTAL, INCREMENTAL):
        before = len(other.lab.requests)
        other.good_backup(level, *guests, references="lean")
        kinds |= {f"{m} {_ID.sub('*', path)}" for m, path, _ in other.lab.requests[before:]}
        for guest in guests:
            guest.write(0, 0, 70 * KIB)
    assert len(kinds) > 15
    for kind in kinds:
        other.lab.faults.status(kind, 429, retry_after=0, message="too many requests")
    last = other.good_backup(INCREMENTAL, *guests, references="lean")
    left = other.lab.faults.pending()
    other.lab.faults.clear()
    assert len(left) < len(kinds) / 2, "most kinds of call were made, and refused at first"
    other.assert_restores(last, *guests)


# --- the end, at any moment ----------------------------------------------------------------------


BIG = 12 * MIB
"""More than pipes and buffers take: a backend that is not heard is in the middle of it."""


def signal_it(wire: Daemon) -> None:
    """Cancel the job."""
    wire.process.send_signal(signal.SIGUSR1)


def close_input(wire: Daemon) -> None:
    """The daemon says no more."""
    wire.close_input()


def give_up(wire: Daemon) -> None:
    """bacula-fd says END early when its storage daemon is lost."""
    wire.say(End())


def hang_up(wire: Daemon) -> None:
    """The daemon dies."""
    wire.hang_up()


@pytest.mark.parametrize("end", [signal_it, close_input, give_up, hang_up])
@pytest.mark.parametrize("number", [1, 3])
def test_the_end_with_several_vms_in_flight_leaves_nothing(
    product: Product,
    daemon: Callable[..., Daemon],
    number: int,
    end: Callable[[Daemon], None],
) -> None:
    """In the middle of the data of the first VM, or of the third, with others before and behind."""
    guests = [product.guest(BIG) for _ in range(5)]
    for guest in guests:
        guest.write(0, 0, BIG)
    wire = daemon()
    wire.start_backup(product.parameters(vm=[guest.name for guest in guests]))
    for _ in range(3 * (number - 1) + 2):  # configuration, disk, digest list; and twice
        wire.hear_until(File)
    wire.hear_until(Data)
    assert product.lab.state()["sessions"], "it reads"
    end(wire)
    if end is not hang_up:
        wire.read_to_end()
    wire.assert_ended_well()
    product.assert_nothing_left()
    points = [point for guest in guests for point in guest.recovery_points()]
    assert set(points) == set(state.recorded_points(product.root / "state"))
    assert len(points) < number + 1
    assert not list((product.root / "state" / "journal").glob("*"))
