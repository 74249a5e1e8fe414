"""Cancel and death in mid-disk: the right status, no file that looks whole, a clean cluster."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

from suites.bacula.harness.site import MIB, SLOW

if TYPE_CHECKING:
    from suites.bacula.harness.console import BaculaJob
    from suites.bacula.harness.site import Guest, Site


def test_backup_is_cancelled(site: Site) -> None:
    """The backend cleans up at once; the cancelled job leaves nothing to restore."""
    _, _, job_id = in_mid_disk(site)
    site.console.cancel(job_id)
    job = site.wait(job_id)
    assert job.status == "A", job.words
    site.assert_clean()
    assert_nothing_whole(site, job)


def test_backend_is_killed(site: Site) -> None:
    """The job fails, and the next one sweeps what is left of it."""
    guest, full, job_id = in_mid_disk(site)
    (backend,) = site.daemons.backends()
    os.kill(backend, signal.SIGKILL)
    job = site.wait(job_id)
    assert job.status == "f", job.words
    assert_nothing_whole(site, job)
    goes_on(site, guest, full)
    site.assert_clean()


def test_file_daemon_is_killed(site: Site) -> None:
    """The backend notices that it is alone, cleans up and ends."""
    guest, full, job_id = in_mid_disk(site)
    os.kill(site.daemons.pid("bacula-fd"), signal.SIGKILL)
    site.assert_clean()
    site.daemons.stop("bacula-fd")
    site.daemons.start("bacula-fd")
    job = site.wait(job_id)
    assert job.status == "f", job.words
    assert_nothing_whole(site, job)
    goes_on(site, guest, full)


def test_storage_daemon_is_killed(site: Site) -> None:
    """The job fails and the backend cleans up at once."""
    guest, full, job_id = in_mid_disk(site)
    site.daemons.stop("bacula-sd")
    job = site.wait(job_id)
    assert job.status == "f", job.words
    site.assert_clean()
    assert_nothing_whole(site, job)
    site.daemons.start("bacula-sd")
    goes_on(site, guest, full)


def test_storage_is_full(site: Site) -> None:
    """The volume is full in mid-disk and there is no other: the job waits, and is cancelled."""
    guest = site.guest(48 * MIB)
    guest.write(0, 0, 48 * MIB)
    site.define(f"vm={guest.name}", storage="small")
    job_id = site.start("Full")
    site.console.wait_until(
        lambda: "BLOCKED waiting for" in site.console.say("status storage=small"),
        "the volume to be full",
    )
    site.console.cancel(job_id)
    job = site.wait(job_id)
    assert job.status == "A", job.words
    site.assert_clean()
    assert_nothing_whole(site, job)


def test_restore_is_cancelled(site: Site) -> None:
    """No image that looks whole is left, nor any other file."""
    guest = site.guest(160 * MIB)
    guest.write(0, 0, 160 * MIB)
    site.define(f"vm={guest.name}")
    full = site.good("Full")
    where = site.folder / "cancelled"
    job_id = site.console.start_restore(str(full.job_id), where, job="slow-restore")
    site.console.wait_until(lambda: list(where.rglob("*.partial")), "the image to grow")
    site.console.cancel(job_id)
    job = site.console.wait(job_id)
    assert job.status == "A", job.words
    site.console.wait_until(lambda: not site.daemons.backends(), "the backend to end")
    assert not list(where.rglob("*.raw*"))


def in_mid_disk(site: Site) -> tuple[Guest, BaculaJob, int]:
    """A guest, its good Full, and an Incremental whose data is on its way."""
    guest = site.guest(24 * MIB)
    site.define(f"vm={guest.name}", options=SLOW)
    full = site.good("Full")
    guest.write(0, 0, 24 * MIB)
    job_id = site.start_and_wait_for_data("Incremental")
    return guest, full, job_id


def assert_nothing_whole(site: Site, job: BaculaJob) -> None:
    """A job that did not end well has no disk in the catalog, and is part of no restore."""
    assert not [name for name in site.console.files(job.job_id) if "/disks/" in name]


def goes_on(site: Site, guest: Guest, full: BaculaJob) -> None:
    """The next job stands on the Full, and both are restored bit for bit."""
    guest.write(0, 4 * MIB, MIB)
    site.good("Incremental", base=full)
    site.assert_every_good_job_restores()
