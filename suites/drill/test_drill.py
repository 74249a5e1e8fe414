"""Drills of backups: the verdict is right, and nothing is left."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

import pytest
from ptcomm import Level, Severity
from ptcomm_runner.catalog import Status

from apps.nutanix_backend.tests.conftest import said, words
from suites.drill import guests

if TYPE_CHECKING:
    from collections.abc import Callable

    from ptcomm_runner.jobs import Result

    from apps.nutanix_backend.tests.conftest import Guest
    from suites.drill.conftest import Drills

UEFI = {"bootConfig": {"$objectType": "vmm.v4.ahv.config.UefiBoot"}}
SHORT, LONG = 5, 40
"""Seconds that a guest is watched which shows nothing, and one that has to say its last words."""
PANIC = "Kernel panic - not syncing: VFS: Unable to mount root fs"


def lives(result: Result) -> str:
    """The line of the verdict of a good drill."""
    assert result.status is Status.GOOD, words(result)
    (line,) = (text for text in said(result, Severity.INFO) if " lives: " in text)
    return line


def fails(result: Result) -> str:
    """The line of the verdict of a drill that is not good."""
    assert result.status is Status.FAILED, words(result)
    (line,) = said(result, Severity.FATAL)
    assert "the drill of VM vm" in line
    return line


def test_a_line_on_the_console(drills: Drills, saved: Guest) -> None:
    line = lives(drills.drill(saved.name))
    assert f"its serial console says {guests.BOOTED!r}" in line
    assert drills.last(saved).good


@pytest.mark.parametrize("way", ["volume_group", "image"])
@pytest.mark.parametrize("sign", ["tools", "on"])
def test_guest_tools(drills: Drills, sign: str, way: str) -> None:
    guest = drills.guest(guests.WITH_TOOLS)
    result = drills.drill(guest.name, drill_sign=sign, restore_via=way)
    assert "its guest tools answer" in lives(result)


def test_on_is_the_least(drills: Drills, saved: Guest) -> None:
    result = drills.drill(saved.name, drill_sign="on", drill_wait=SHORT)
    assert "it stayed on, and nothing more is known of it" in lives(result)


def test_guest_tools_that_do_not_answer(drills: Drills, saved: Guest) -> None:
    line = fails(drills.drill(saved.name, drill_sign="tools", drill_wait=SHORT))
    assert "but its guest tools did not answer" in line
    assert not drills.last(saved).good


@pytest.mark.parametrize(
    ("sector", "hardware", "wait", "why"),
    [
        (guests.PANICS, {}, LONG, f"the last line of its serial console is {PANIC!r}"),
        (guests.NOTHING, {}, SHORT, "its serial console is empty"),
        (guests.HANGS, {}, SHORT, "its serial console is empty"),
        (guests.RESETS, {}, LONG, "the last line of its serial console is 'about to reset'"),
        (guests.BOOTS, UEFI, SHORT, "no line of its serial console has 'BOOTED'"),
    ],
    ids=["kernel panic", "no boot disk", "hang", "reset", "wrong firmware"],
)
def test_guests_that_do_not_live(
    drills: Drills, sector: bytes, hardware: dict[str, Any], wait: int, why: str
) -> None:
    guest = drills.guest(sector, **hardware)
    line = fails(drills.drill(guest.name, drill_wait=wait))
    assert why in line
    assert "it was on for" in line
    assert not drills.last(guest).good
    assert why in drills.last(guest).text


@pytest.mark.parametrize("sign", ["on", "console"])
def test_a_guest_that_switches_itself_off(drills: Drills, sign: str) -> None:
    line = fails(drills.drill(drills.guest(guests.SWITCHES_OFF).name, drill_sign=sign))
    assert "it was OFF" in line
    assert "'about to switch off'" in line


def test_one_of_two_vms_fails(drills: Drills, saved: Guest) -> None:
    """The other is drilled all the same, and the job is not good."""
    other = drills.guest(guests.PANICS)
    drills.product.good_backup(Level.FULL, saved, other, name="both")
    result = drills.drill("both", drill_wait=SHORT)
    assert result.status is Status.WARNINGS, words(result)
    (problem,) = said(result, Severity.NONFATAL)
    assert f"VM {other.name} fails its drill" in problem
    assert drills.last(saved).good
    assert not drills.last(other).good


def test_an_older_release(start: Callable[..., Drills]) -> None:
    """By v3, which says nothing of guest tools."""
    drills = start(personality="2023.4")
    assert "its serial console says" in lives(drills.drill(drills.guest(guests.WITH_TOOLS).name))


def test_killed_in_the_middle(drills: Drills, saved: Guest) -> None:
    """The sweep, and the next job, remove the VM that still runs."""
    before = drills.lab.state()
    for clear in (drills.sweep, lambda: drills.product.good_backup(Level.FULL, saved, name="next")):
        drills.interrupted(drills.command(saved), signal.SIGKILL)
        assert drills.is_on("podheitor drill")
        clear()
        drills.product.assert_nothing_left()
        assert drills.lab.state()["vms"] == before["vms"]


def test_given_up_in_the_middle(drills: Drills, saved: Guest) -> None:
    before = drills.lab.state()
    drills.interrupted(drills.command(saved), signal.SIGTERM)
    assert drills.lab.state() == before
    drills.product.assert_nothing_left()
