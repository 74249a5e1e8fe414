"""Restores of many VMs: disks are made ahead of their data, VMs finished behind it, and started."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import attrs
import pytest
from prism_lab import Lab
from ptcomm import Answer, Level, Reply, Severity
from ptcomm_runner.catalog import Status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ptcomm_runner.jobs import Result

    from apps.nutanix_backend.tests.conftest import Daemon, Guest, Product

KIB, MIB = 1 << 10, 1 << 20
PATIENCE = 60.0
"""Seconds after which what should come is taken not to come."""


def texts(result: Result, severity: Severity) -> list[str]:
    """The messages of one kind."""
    return [message.text for message in result.log if message.severity is severity]


@attrs.frozen
class ByHand:
    """A full backup of some VMs, given back file by file."""

    product: Product
    guests: list[Guest]
    result: Result
    wire: Daemon

    def begin(self, **parameters: object) -> None:
        """Start the restore and hand the manifests over."""
        given = dict(self.product.parameters(**parameters))
        self.wire.start_restore("/", **given)
        (job,) = self.product.jobs()
        for stored in job.objects:
            content = self.product.store.object_path(job, stored).read_bytes()
            self.wire.offer_object(stored.name, content)
            self.wire.hear(Reply)

    def files(self, guest: Guest) -> list[tuple[str, bytes]]:
        """The files of a VM in their order."""
        (job,) = self.product.jobs()
        return [
            (f"/{stored.file.name}", self.product.store.file_path(job, stored).read_bytes())
            for stored in job.files
            if f"/{guest.ext_id}/" in stored.file.name
        ]

    def give(self, guest: Guest) -> None:
        """Hand all files of a VM over."""
        for name, content in self.files(guest):
            assert self.wire.give_file(name, content) is Answer.OK

    def open_disk(self, guest: Guest) -> tuple[str, bytes]:
        """Hand the configuration over, and announce the first disk; its name and content."""
        (configuration, content), disk, *_ = self.files(guest)
        self.wire.give_file(configuration, content)
        self.wire.offer_file(disk[0], len(disk[1]))
        assert self.wire.hear(Reply).answer is Answer.OK
        return disk

    def made(self, guest: Guest) -> list[str]:
        """The ids of the VMs that were made of a VM."""
        vms = self.product.lab.state()["vms"]
        return [vm["ext_id"] for vm in vms if vm["name"] == f"{guest.name}-restore-78"]

    def groups(self, guest: Guest) -> int:
        """How many disks of a VM are on the cluster, for this host to write to."""
        groups = self.product.lab.state()["volume_groups"]
        return sum(guest.ext_id in group["name"] for group in groups)

    def assert_restored(self, *guests: Guest) -> None:
        """Each of the VMs is there, with its disks."""
        for guest in guests:
            (made,) = self.made(guest)
            for index, point in enumerate(self.product.points(self.result, guest)):
                assert self.product.lab.disk_file(made, index).read_bytes() == point.read_bytes()


def soon(what: Callable[[], bool]) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < deadline, "it does not come"
        time.sleep(0.05)


@pytest.fixture
def by_hand(product: Product, daemon: Callable[..., Daemon]) -> Callable[..., ByHand]:
    """Back up VMs with so many disks, to be restored by hand."""

    def make(*disks: int) -> ByHand:
        guests = [product.guest(*[MIB] * count) for count in disks]
        result = product.good_backup(Level.FULL, *guests)
        return ByHand(product, guests, result, daemon())

    return make


def test_a_vm_is_finished_while_the_next_one_comes(by_hand: Callable[..., ByHand]) -> None:
    restore = by_hand(1, 1)
    one, two = restore.guests
    restore.begin(parallel_vms=1)
    restore.give(one)
    restore.open_disk(two)
    soon(lambda: bool(restore.made(one)))
    assert not restore.made(two)
    restore.wire.hang_up()
    restore.wire.process.wait(PATIENCE)
    restore.assert_restored(one)
    assert not restore.made(two)
    restore.product.assert_nothing_left()
    assert not list((restore.product.root / "state" / "journal").iterdir())


def test_the_disks_of_a_vm_are_made_ahead(by_hand: Callable[..., ByHand]) -> None:
    restore = by_hand(4)
    (guest,) = restore.guests
    restore.begin(parallel_vms=2)
    _, content = restore.open_disk(guest)
    soon(lambda: restore.groups(guest) == 3)
    restore.wire.send_content(content)
    restore.wire.hear(Reply)
    for name, rest in restore.files(guest)[2:]:
        assert restore.wire.give_file(name, rest) is Answer.OK
    restore.wire.finish()
    restore.assert_restored(guest)
    restore.product.assert_nothing_left()


def test_vms_are_prepared_ahead_once_they_come_in_a_row(by_hand: Callable[..., ByHand]) -> None:
    restore = by_hand(1, 1, 1, 2)
    one, two, three, four = restore.guests
    restore.begin(parallel_vms=2)
    restore.give(one)
    _, content = restore.open_disk(two)
    soon(lambda: restore.groups(three) == 1)
    assert not restore.groups(four), "one came behind another once"
    restore.wire.send_content(content)
    restore.wire.hear(Reply)
    for name, rest in restore.files(two)[2:]:
        restore.wire.give_file(name, rest)
    restore.give(three)
    soon(lambda: restore.groups(four) == 2)
    restore.wire.finish()
    restore.assert_restored(one, two, three)
    restore.product.assert_nothing_left()
    said = "\n".join(message.text for message in restore.wire.messages)
    assert four.name not in said, "it was not asked for"


def test_nothing_is_made_for_vms_that_were_not_selected(by_hand: Callable[..., ByHand]) -> None:
    restore = by_hand(1, 1, 1)
    lab, guest = restore.product.lab, restore.guests[1]
    before = len(lab.requests)
    restore.begin()
    restore.give(guest)
    restore.wire.finish()
    restore.assert_restored(guest)
    made = [p for m, p, _ in lab.requests[before:] if m == "POST" and p.endswith("/volume-groups")]
    assert len(made) == 2, "the trial, and the disk"


@pytest.mark.parametrize("via", ["volume_group", "image"])
def test_many_vms_are_restored_side_by_side(product: Product, via: str) -> None:
    guests = [product.guest(2 * MIB, MIB) for _ in range(5)]
    product.good_backup(Level.FULL, *guests)
    for guest in guests:
        guest.write(0, 70 * KIB, 100 * KIB)
    last = product.good_backup(Level.INCREMENTAL, *guests)
    restored = product.good_restore(restore_via=via, parallel_vms=3)
    assert sum(" is restored as " in text for text in texts(restored, Severity.INFO)) == 5
    for guest in guests:
        name = f"{guest.name}-restore-{restored.job_id}"
        for index, point in enumerate(product.points(last, guest)):
            assert product.lab.disk_file(name, index).read_bytes() == point.read_bytes()


def test_a_vm_that_cannot_be_made_fails_alone(product: Product) -> None:
    guests = [product.guest(MIB) for _ in range(4)]
    product.good_backup(Level.FULL, *guests)
    product.lab.faults.fail_task("POST */ahv/config/vms", skip=2, times=2, message="no VM today")
    restored = product.restore(parallel_vms=1)  # Prism is asked twice for one VM
    assert restored.status is Status.WARNINGS
    (line,) = texts(restored, Severity.NONFATAL)
    assert "is not restored" in line
    assert "no VM today" in line
    assert sum(" is restored as " in text for text in texts(restored, Severity.INFO)) == 3


def test_with_abort_on_error_the_first_one_ends_them_all(product: Product) -> None:
    guests = [product.guest(MIB) for _ in range(4)]
    product.good_backup(Level.FULL, *guests)
    product.lab.faults.fail_task("POST */ahv/config/vms", skip=1, times=2, message="no VM today")
    restored = product.restore(abort_on_error="yes", parallel_vms=1)
    assert not restored.status.good
    assert "no VM today" in restored.log[-1].text


# --- starting in order ---------------------------------------------------------------------------


@pytest.fixture(params=["7.6", "2023.4"], ids=["v4", "v3"])
def other(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    make_product: Callable[[Lab, Path], Product],
) -> Iterator[Product]:
    """The product with a cluster of each generation."""
    with Lab.start(tmp_path / "lab", personality=request.param, task_seconds=0) as lab:
        yield make_product(lab, tmp_path / "host")


def started(result: Result) -> list[str]:
    """The VMs that were started, in their order."""
    return [t.split()[1] for t in texts(result, Severity.INFO) if t.endswith(" is started")]


def power(product: Product, result: Result, guest: Guest) -> str:
    """Whether the VM that a restore made is on."""
    name = f"{guest.name}-restore-{result.job_id}"
    (found,) = (vm for vm in product.lab._world.vms.values() if vm.name == name)
    return found.power_state


def test_vms_are_started_in_the_order_given(other: Product) -> None:
    web, db, app, idle = (other.guest(MIB, name=name) for name in ("a-web", "b-db", "c-app", "d"))
    other.good_backup(Level.FULL, web, db, app, idle)
    done = other.good_restore(restore_start=["b-db, c-app", web.ext_id])
    suffix = f"-restore-{done.job_id}"
    assert started(done) == [f"b-db{suffix}", f"c-app{suffix}", f"a-web{suffix}"]
    assert [power(other, done, g) for g in (web, db, app, idle)] == ["ON", "ON", "ON", "OFF"]
    (last, *_) = [t for t in reversed(texts(done, Severity.INFO)) if " is restored as " in t]
    log = texts(done, Severity.INFO)
    assert log.index(last) < log.index(f"VM b-db{suffix} is started"), "all are complete by then"
    rest = other.good_restore(restore_start="b-db", restore_powerstate="on")
    assert started(rest) == [f"b-db-restore-{rest.job_id}"]
    assert [power(other, rest, g) for g in (web, db, app, idle)] == ["ON"] * 4


def test_a_vm_that_does_not_start_does_not_stop_the_others(product: Product) -> None:
    one, two = product.guest(MIB), product.guest(MIB)
    product.good_backup(Level.FULL, one, two)
    order = f"nobody,{one.name},{two.name}"
    product.lab.faults.fail_task("POST */power-on", message="no host has room")
    done = product.restore(restore_start=order)
    assert done.status is Status.WARNINGS
    nobody, broken = texts(done, Severity.NONFATAL)
    assert nobody == "VM nobody is not started: it was not restored by this job"
    assert f"VM {one.name}-restore-{done.job_id} is complete, but it was not started" in broken
    assert "no host has room" in broken
    assert started(done) == [f"{two.name}-restore-{done.job_id}"]
    strict = product.restore(restore_start=order, abort_on_error="yes")
    assert not strict.status.good
    assert strict.log[-1].text == nobody
    assert not started(strict)
