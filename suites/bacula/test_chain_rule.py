"""Whatever happens to a job of the chain: the next one stands on a base that the catalog holds, or
is a full that says why; and every good job is restored bit for bit.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from suites.bacula.harness.site import KIB, MIB, SLOW

if TYPE_CHECKING:
    from suites.bacula.harness.site import Site


def test_job_that_fails_after_its_data_was_sent(site: Site) -> None:
    """The first plugin line is done when the second fails the job: its reference does not count."""
    sent = site.guest(8 * MIB, name="late-sent")
    fails = site.guest(4 * MIB, name="late-fails")
    site.define(f"vm={sent.name}", f"vm={fails.name} abort_on_error=yes")
    full = site.good("Full")
    sent.write(0, 2 * MIB, 300 * KIB)
    site.lab.faults.fail_task("POST */recovery-points", skip=1, message="no snapshot today")
    failed = site.backup("Incremental")
    assert failed.status == "f", failed.words
    assert failed.size > 300 * KIB

    sent.write(0, 6 * MIB, 100 * KIB)
    site.good("Incremental", base=full)
    site.assert_every_good_job_restores()


def test_cancelled_job(site: Site) -> None:
    """One VM is done and one is in mid-disk when the job is cancelled."""
    done = site.guest(8 * MIB, name="cancel-done")
    half = site.guest(24 * MIB, name="cancel-half")
    site.define("vm=cancel-*", options=SLOW)
    full = site.good("Full")
    done.write(0, 2 * MIB, 300 * KIB)
    half.write(0, 0, 24 * MIB)
    job_id = site.start_and_wait_for_data("Incremental")
    site.console.cancel(job_id)
    cancelled = site.wait(job_id)
    assert cancelled.status == "A", cancelled.words
    site.assert_clean()

    site.good("Incremental", base=full)
    site.assert_every_good_job_restores()


def test_job_deleted_from_the_catalog(site: Site) -> None:
    """The chain goes on from the job before; when that reference is gone, with a full."""
    guest = site.guest(8 * MIB)
    site.define(f"vm={guest.name}")
    full = site.good("Full")
    guest.write(0, 1 * MIB, 200 * KIB)
    first = site.good("Incremental", base=full)
    guest.write(0, 2 * MIB, 200 * KIB)
    deleted = site.good("Incremental", base=first)
    site.forget(deleted)
    guest.write(0, 3 * MIB, 200 * KIB)
    second = site.good("Incremental", base=first)
    guest.write(0, 4 * MIB, 200 * KIB)
    third = site.good("Incremental", base=second)
    site.assert_every_good_job_restores()

    site.forget(third)
    site.forget(second)
    guest.write(0, 5 * MIB, 200 * KIB)
    whole = site.backup("Incremental")
    assert whole.status in {"T", "W"}, whole.words
    assert site.report.bases(whole) == ["none"]
    assert whole.said("is backed up in full: no reference of this VM is recorded for job")
    site.assert_every_good_job_restores()


def test_lost_state_file(site: Site) -> None:
    """Without state there is no base: a full that says so, and a chain that goes on from it."""
    guest = site.guest(8 * MIB)
    site.define(f"vm={guest.name}")
    site.good("Full")
    guest.write(0, 1 * MIB, 200 * KIB)
    for folder in site.state_dir.iterdir():
        shutil.rmtree(folder)
    site.references += 1  # nobody knows that of the Full any more; it expires by itself
    whole = site.backup("Incremental")
    assert whole.status in {"T", "W"}, whole.words
    assert site.report.bases(whole) == ["none"]
    assert whole.said("is backed up in full: no state of this VM is on this host")
    guest.write(0, 5 * MIB, 200 * KIB)
    site.good("Incremental", base=whole)
    site.assert_every_good_job_restores()


def test_vm_that_failed_in_one_job_of_the_chain(site: Site) -> None:
    """The next job walks past the one in which it failed; the other VM does not notice."""
    first = site.guest(8 * MIB, name="walk-1")
    second = site.guest(8 * MIB, name="walk-2")
    site.define("vm=walk-*")
    full = site.good("Full")
    first.write(0, 1 * MIB, 200 * KIB)
    second.write(0, 1 * MIB, 200 * KIB)
    site.lab.faults.fail_task("POST */recovery-points", skip=1, message="no snapshot today")
    partial = site.backup("Incremental")
    assert partial.status == "W", partial.words
    second.write(0, 5 * MIB, 100 * KIB)
    last = site.backup("Incremental")
    assert last.status == "T", last.words
    assert site.report.bases(last) == [str(full.job_id), str(partial.job_id)]
    site.assert_every_good_job_restores()


def test_differential_after_incrementals(site: Site) -> None:
    """It stands on its Full, however many Incrementals came between."""
    guest = site.guest(8 * MIB)
    site.define(f"vm={guest.name}")
    full = site.good("Full")
    guest.write(0, 1 * MIB, 200 * KIB)
    incremental = site.good("Incremental", base=full)
    guest.write(0, 2 * MIB, 200 * KIB)
    site.good("Incremental", base=incremental)
    guest.write(0, 4 * MIB, 200 * KIB)
    differential = site.good("Differential", base=full)
    guest.write(0, 6 * MIB, 200 * KIB)
    site.good("Incremental", base=differential)
    site.assert_every_good_job_restores()
