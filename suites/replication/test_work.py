"""Several VMs side by side, as a command that goes on for ever, and as a job of the Director."""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import TYPE_CHECKING

from nutanix_backend.errors import SelectionError
from ptcomm import Level, Phase, Severity
from ptcomm_runner import jobs
from ptcomm_runner.catalog import Status
from ptcomm_runner.catalog import Store as Jobs

from apps.nutanix_backend.tests.conftest import Watcher, said, words

if TYPE_CHECKING:
    from pathlib import Path

    from ptcomm_runner.jobs import Result

    from apps.nutanix_backend.tests.conftest import Guest
    from suites.replication.conftest import Line, Prepared, Site

MIB = 1 << 20


def test_vms_side_by_side_and_one_that_may_not(site: Site) -> None:
    guests = [site.guest(2 * MIB) for _ in range(4)]
    site.lab.protect_vm(guests[1].name, policy="gold")
    done = {d.name: d for d in site.cycle(*guests, replicate_parallel=3)}
    assert isinstance(done.pop(guests[1].name).error, SelectionError)
    assert all(d.result and d.result.seed for d in done.values())
    for guest in (guests[0], *guests[2:]):
        site.assert_same(guest)
        site.assert_clean(guest)
    assert guests[1].recovery_points() == []


def test_a_limit_is_kept_by_all_together(site: Site) -> None:
    guests = [site.guest(2 * MIB) for _ in range(2)]
    for guest in guests:
        guest.write(0, 0, MIB)
    began = time.monotonic()
    done = site.cycle(*guests, replicate_limit=1)
    sent = sum(d.result.sent for d in done if d.result)
    assert sent > 2 * MIB
    assert time.monotonic() - began > 0.8 * sent / MIB


def test_the_command_goes_on_until_it_is_told_to_stop(
    site: Site, forks: tuple[Prepared, Prepared], tmp_path: Path
) -> None:
    guest, log = site.guest(2 * MIB), tmp_path / "source.log"
    forks[1].start(argv=[*site.argv(guest), "--every", "1"], log=str(log))
    deadline = time.monotonic() + 60
    while not (found := site.replica(guest).state()) or found.number < 3:
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)
    os.kill(forks[1].pid, signal.SIGTERM)
    assert forks[1].wait() == 0, log.read_text()
    assert "generation 2 (changes)" in log.read_text()
    site.assert_clean(guest)


def test_a_command_that_is_stopped_goes_on_later_where_it_was(
    site: Site, forks: tuple[Prepared, Prepared], tmp_path: Path
) -> None:
    guest, log = site.guest(8 * MIB), tmp_path / "source.log"
    guest.write(0, 0, 7 * MIB)
    forks[1].start(argv=site.argv(guest, replicate_limit=1), log=str(log))
    deadline = time.monotonic() + 60
    while not arrived(site, guest):
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)
    os.kill(forks[1].pid, signal.SIGTERM)
    assert forks[1].wait() == 1, log.read_text()
    site.assert_clean(guest)
    (done,) = site.cycle(guest)
    assert done.result, done.error
    assert done.result.resumed
    site.assert_same(guest)


def test_a_command_that_waits_for_a_silent_receiver_can_be_stopped(
    site: Site, line: Line, forks: tuple[Prepared, Prepared], tmp_path: Path
) -> None:
    guest, log = site.guest(MIB), tmp_path / "source.log"
    line.silent, line.left = True, 20_000
    forks[1].start(argv=site.argv(guest), log=str(log))
    deadline = time.monotonic() + 60
    while line.left > 0:
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)
    os.kill(forks[1].pid, signal.SIGTERM)
    assert forks[1].wait(20) == 1, log.read_text()
    site.assert_clean(guest)


def arrived(site: Site, guest: Guest) -> bool:
    """Whether something of a cycle is durable at the receiver."""
    spooled = site.replica(guest).resumable()
    return bool(spooled and spooled.durable_bytes)


def test_a_job_replicates_and_sends_a_report(site: Site) -> None:
    guests = [site.guest(MIB), site.guest(MIB)]
    result = job(site, *guests)
    assert result.status is Status.GOOD, words(result)
    for guest in guests:
        assert f"VM {guest.name} is replicated as generation 1 (seed)" in words(result)
        site.assert_same(guest)
        site.assert_clean(guest)
    (stored,) = next(iter(Jobs(site.folder / "jobs").jobs("dr"))).files
    assert stored.file.name == f"@nutanix/replication/{result.job_name}.json"


def test_a_job_of_which_one_vm_fails_and_one_of_which_all_do(site: Site) -> None:
    good, bad = site.guest(MIB), site.guest(MIB)
    site.lab.protect_vm(bad.name, policy="gold")
    result = job(site, good, bad)
    assert result.status is Status.WARNINGS, words(result)
    assert f"VM {bad.name} is not replicated" in "\n".join(said(result, Severity.NONFATAL))
    site.assert_same(good)
    result = job(site, bad)
    assert result.status is Status.FAILED
    assert "protection policy" in "\n".join(said(result, Severity.FATAL))
    site.receiver.kill()
    result = job(site, good)
    assert result.status is Status.FAILED
    assert "no receiver answers" in "\n".join(said(result, Severity.FATAL))
    site.assert_clean(good)


def test_what_else_a_job_does_is_not_changed_by_the_mode(site: Site) -> None:
    guest = site.guest(MIB)
    settings = runner(site, guest)
    for phase in (Phase.ESTIMATE, Phase.LISTING):
        assert jobs.listing("dr", settings, phase).status is Status.GOOD
    assert site.replica(guest).state() is None


def job(site: Site, *guests: Guest) -> Result:
    """A backup job that replicates."""
    return jobs.backup(Jobs(site.folder / "jobs"), "dr", Level.FULL, runner(site, *guests))


def runner(site: Site, *guests: Guest) -> jobs.Settings:
    """What the runner needs."""
    parameters = site.parameters(mode="replicate")
    items = [(name, str(value)) for name, value in parameters.items()]
    return jobs.Settings(
        command=(sys.executable, "-m", "nutanix_backend"),
        parameters=(*items, *(("vm", guest.name) for guest in guests)),
        working_dir=site.folder / "working",
        watcher=Watcher(),
        timeout=60,
    )
