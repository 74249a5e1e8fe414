"""Cancel: whenever it comes, and however, the backend clears up and ends with 0."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest
from ptcomm import Data, DataEnd, DataStart, End, File, Level, Reply, RestoreObject
from ptcomm_runner.catalog import Status

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from prism_lab import Lab

    from apps.nutanix_backend.tests.conftest import Daemon, Guest, MadeUp, Product

KIB, MIB = 1 << 10, 1 << 20
FULL, INCREMENTAL = Level.FULL, Level.INCREMENTAL
BIG = 24 * MIB
"""More than pipes and buffers take: a backend that is not heard is in the middle of it."""


@pytest.fixture
def guest(product: Product) -> Guest:
    """A VM with a full backup, and much that changed since."""
    guest = product.guest(BIG)
    product.good_backup(FULL, guest)
    guest.write(0, 0, BIG)
    return guest


@pytest.fixture
def incremental(product: Product, daemon: Callable[..., Daemon], guest: Guest) -> Daemon:
    """An incremental in the middle of its disk."""
    wire = daemon()
    wire.start_backup(
        product.parameters(vm=guest.name), INCREMENTAL, previous=product.jobs()[-1].job_name
    )
    for kind in (File, DataStart, Data, DataEnd, File, DataStart, Data, Data):
        wire.hear(kind)
    assert product.lab.state()["sessions"], "it reads"
    return wire


def assert_nothing_is_left(product: Product, guest: Guest) -> None:
    """But the reference of the full."""
    product.assert_nothing_left()
    assert len(guest.recovery_points()) == 1


def assert_the_next_incremental_works(product: Product, guest: Guest) -> None:
    """The chain goes on."""
    last = product.good_backup(INCREMENTAL, guest)
    product.assert_restores(last, guest)


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_a_signal_in_the_middle_of_a_disk(
    product: Product, guest: Guest, incremental: Daemon, number: signal.Signals
) -> None:
    """The daemon waits for the process, and reads no more; a second signal changes nothing."""
    incremental.process.send_signal(number)
    incremental.process.send_signal(number)
    incremental.assert_ended_well()
    assert_nothing_is_left(product, guest)
    assert_the_next_incremental_works(product, guest)


def test_the_end_of_input_in_the_middle_of_a_disk(
    product: Product, guest: Guest, incremental: Daemon
) -> None:
    incremental.close_input()
    incremental.read_to_end()
    incremental.assert_ended_well()
    assert_nothing_is_left(product, guest)


def test_a_daemon_that_gives_the_job_up(
    product: Product, guest: Guest, incremental: Daemon
) -> None:
    """bacula-fd says END early when its storage daemon is lost."""
    incremental.say(End())
    incremental.read_to_end()
    incremental.assert_ended_well()
    assert_nothing_is_left(product, guest)


def test_a_daemon_that_dies(product: Product, guest: Guest, incremental: Daemon) -> None:
    """Both pipes close at once."""
    incremental.hang_up()
    incremental.assert_ended_well()
    assert_nothing_is_left(product, guest)


def test_a_cancel_while_the_cluster_works_ends_the_whole_job(
    product: Product, lab: Lab, daemon: Callable[..., Daemon]
) -> None:
    """Not only the VM that it hits: the others are not backed up either."""
    guests = [product.guest(MIB), product.guest(MIB)]
    wire = daemon()

    def cancel(_answer: dict[str, object]) -> None:
        wire.process.send_signal(signal.SIGUSR1)

    lab.faults.edit("POST */recovery-points", cancel)
    wire.start_backup(product.parameters(vm=[guest.name for guest in guests]))
    wire.assert_ended_well()
    assert not wire.messages
    product.assert_nothing_left()
    assert not any(guest.recovery_points() for guest in guests)


@pytest.mark.parametrize("call", ["POST */volume-groups", "POST */attach-iscsi-client"])
def test_a_cancel_between_a_create_and_its_answer(
    product: Product, lab: Lab, daemon: Callable[..., Daemon], call: str
) -> None:
    guest = product.guest(MIB)
    wire = daemon()
    lab.faults.edit(call, lambda _answer: wire.process.send_signal(signal.SIGTERM))
    wire.start_backup(product.parameters(vm=guest.name, debug=1))
    wire.assert_ended_well()
    product.assert_nothing_left()
    assert not guest.recovery_points()


def test_a_cancel_while_it_clears_up_is_no_reason_to_leave_something(
    product: Product, lab: Lab, daemon: Callable[..., Daemon]
) -> None:
    """The signal comes after the data, when the volume group is being deleted."""
    guest = product.guest(MIB)
    wire = daemon()
    lab.faults.edit(
        "POST */detach-iscsi-client", lambda _answer: wire.process.send_signal(signal.SIGUSR1)
    )
    wire.start_backup(product.parameters(vm=guest.name))
    while not isinstance(wire.next(), RestoreObject):
        pass
    wire.read_to_end()
    wire.assert_ended_well()
    product.assert_nothing_left()
    assert product.backup(FULL, guest).status is Status.GOOD


def test_a_cancel_of_a_restore_leaves_no_disk(
    daemon: Callable[..., Daemon], made_up: Callable[..., MadeUp], tmp_path: Path
) -> None:
    backup = made_up()
    backup.full(os.urandom(512 * KIB))
    wire = daemon()
    wire.start_restore(tmp_path / "out")
    wire.give_manifests(backup)
    wire.offer_file(f"{tmp_path}/out/{next(iter(backup.files))}")
    wire.hear(Reply)
    wire.say(DataStart(), Data(bytes(65_536)))
    wire.process.send_signal(signal.SIGUSR1)
    wire.assert_ended_well()
    assert not list((tmp_path / "out").rglob("disk-*"))


def test_a_cancel_after_the_job_failed_ends_it(
    daemon: Callable[..., Daemon], product: Product
) -> None:
    wire = daemon()
    wire.start_backup(product.parameters(vm="nobody"))
    assert "no VM is called nobody" in wire.fatal()
    wire.process.send_signal(signal.SIGUSR1)
    wire.assert_ended_well()


def test_a_cancel_before_anything_was_asked(daemon: Callable[..., Daemon]) -> None:
    wire = daemon()
    wire.greet()
    wire.process.send_signal(signal.SIGTERM)
    wire.assert_ended_well()
