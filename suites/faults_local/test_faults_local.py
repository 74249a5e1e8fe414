"""The N-th call sweep: every call of a job fails once, before or after its effect.

Call 1, then 2, then 3, … to one place goes wrong, until a job runs to its end without meeting the
fault. After each the job says what went wrong, its conversation ends as bacula-fd expects, nothing
is left on the cluster, and no backup is good that does not restore.
"""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

import pytest
from ptcomm import Level, Severity
from ptcomm_runner.catalog import Status

if TYPE_CHECKING:
    from collections.abc import Callable

    from ptcomm_runner.jobs import Result

    from apps.nutanix_backend.tests.conftest import FaultyProduct, Guest

KIB, MIB = 1 << 10, 1 << 20
PLACES = ("prism", "state", "pipe")
ORDERED = "ordered by the test"


@pytest.mark.parametrize(
    ("job", "place"),
    [
        *((job, place) for job in ("full", "incremental") for place in (*PLACES, "iscsi")),
        *(("restore", place) for place in PLACES),
    ],
)
def test_every_call_may_fail(
    faulty: FaultyProduct, tell: Callable[[str], None], job: str, place: str
) -> None:
    guest = faulty.guest(MIB)
    if job != "full":
        assert faulty.job(Level.FULL, guest).status is Status.GOOD
        guest.write(0, 512 * KIB, 70 * KIB)
    if job == "restore":
        assert faulty.job(Level.INCREMENTAL, guest).status is Status.GOOD
    tried = {"before": 0, "after": 0}
    ends: dict[str, int] = {}
    for when in tried:
        for number in count(1):
            faulty.order(place=place, call=number, when=when)
            result = run(faulty, guest, job)
            what = faulty.sprung()
            if not what:
                assert result.status is Status.GOOD, said(result)
                faulty.take_vm(f"{guest.name}-new")
                break
            check(faulty, guest, job, result, what)
            tried[when] += 1
            ends[result.status.name.lower()] = ends.get(result.status.name.lower(), 0) + 1
    faulty.assert_chain_restores(guest)
    found = ", ".join(f"{number} jobs {end}" for end, number in sorted(ends.items()))
    tell(
        f"{job} / {place}: {tried['before']} calls failed before, {tried['after']} after their "
        f"effect; {found or 'no such call'}; nothing was left"
    )


@pytest.mark.parametrize("place", [*PLACES, "iscsi"])
def test_every_call_may_fail_with_four_vms_in_flight(
    faulty: FaultyProduct, tell: Callable[[str], None], place: str
) -> None:
    """What fails stays with its VM: the others are saved, and restore to what they hold."""
    guests = [faulty.guest(MIB) for _ in range(4)]
    assert faulty.job(Level.FULL, *guests).status is Status.GOOD
    tried = saved = 0
    for when in ("before", "after"):
        for number in count(1):
            for guest in guests:
                guest.write(0, 512 * KIB, 70 * KIB)
            faulty.order(place=place, call=number, when=when)
            result = faulty.job(Level.INCREMENTAL, *guests)
            what = faulty.sprung()
            if not what:
                assert result.status is Status.GOOD, said(result)
                break
            check_ending(result, what)
            good = [guest for guest in guests if is_saved(result, guest)]
            assert len(good) >= 3 or result.status is Status.FAILED, said(result)
            clear_up(faulty, result, what, *guests, most=4)  # one may not have been deleted
            if number % RESTORED == 0 and result.status.good:
                faulty.assert_chain_restores(*good)
            tried, saved = tried + 1, saved + len(good) * result.status.good
    faulty.assert_chain_restores(*guests)
    tell(f"four VMs / {place}: {tried} calls failed; {saved} VMs were saved; nothing was left")


@pytest.mark.parametrize(
    ("level", "place"),
    [
        (Level.INCREMENTAL, "prism"),
        (Level.INCREMENTAL, "iscsi"),
        (Level.INCREMENTAL, "state"),
        (Level.FULL, "state"),
    ],
)
def test_every_third_call_may_fail_with_a_volume_group(
    faulty: FaultyProduct, tell: Callable[[str], None], level: Level, place: str
) -> None:
    """What fails of a group stays with it, or fails the job; the next job has both chains."""
    guest = faulty.guest(MIB)
    group = faulty.volume_group("data", [MIB], guest)
    assert faulty.job(Level.FULL, guest).status is Status.GOOD
    disk = faulty.lab.volume_disk_file(group, 0)
    tried = good = 0
    for first, when in enumerate(("before", "after"), start=1):
        for number in count(first, 3):
            guest.write(0, 512 * KIB, 70 * KIB)
            with disk.open("r+b") as file:
                file.seek(number * KIB)
                file.write(b"x" * 300)
            faulty.order(place=place, call=number, when=when)
            result = faulty.job(level, guest)
            what = faulty.sprung()
            if not what:
                assert result.status is Status.GOOD, said(result)
                break
            check_ending(result, what)
            clear_up(faulty, result, what, guest, most=4)
            tried, good = tried + 1, good + result.status.good
    faulty.assert_chain_restores(guest)
    faulty.remove_user_groups()
    job = level.name.lower()
    tell(f"a VM with a volume group, {job} / {place}: {tried} calls failed, {good} jobs were good")


RESTORED = 5
"""Every so many cases, the chains are restored."""


def is_saved(result: Result, guest: Guest) -> bool:
    """Whether a job that is good has saved a VM: what it has not, it says."""
    return f"VM {guest.name} is not backed up: " not in said(result)


def run(faulty: FaultyProduct, guest: Guest, job: str) -> Result:
    """Run the job that is to go wrong."""
    if job == "restore":
        return faulty.restore_without_checks(f"{guest.name}-new")
    return faulty.job(Level.FULL if job == "full" else Level.INCREMENTAL, guest)


def said(result: Result) -> str:
    """The whole job log, for people."""
    return "\n".join(f"{message.severity.value} {message.text}" for message in result.log)


def check(faulty: FaultyProduct, guest: Guest, job: str, result: Result, what: str) -> None:
    """After a fault: the right error, the right ending, a clean cluster."""
    check_ending(result, what)
    clear_up(faulty, result, what, guest, most=3)
    if job == "restore":
        made = faulty.take_vm(f"{guest.name}-new")
        whole = "pipe" in what and made  # when the daemon goes after the VM is made, it stays
        assert made == result.status.good or whole, (what, said(result))
    elif result.status is Status.GOOD:
        faulty.assert_chain_restores(guest)


def check_ending(result: Result, what: str) -> None:
    """The job says what went wrong, and ends as bacula-fd expects."""
    log = said(result)
    fatal = [m for m in result.log if m.severity is Severity.FATAL]
    assert len(fatal) == (result.status is Status.FAILED), (what, log)
    assert not [m for m in result.log if m.severity is Severity.ERROR], (what, log)
    if result.status is not Status.GOOD and " pipe " not in what:
        assert ORDERED in log, (what, log)


def clear_up(faulty: FaultyProduct, result: Result, what: str, *guests: Guest, most: int) -> None:
    """Sweep, and see that nothing is left."""
    if faulty.journals():  # an undo failed, or a create was not answered and may come late
        faulty.sweep()
    try:
        faulty.assert_clean(*guests, most=most)
    except AssertionError as error:
        error.add_note(f"{what}\n{said(result)}")
        raise
