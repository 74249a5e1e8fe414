"""Every kind of job through a real Director, Storage Daemon and File Daemon."""

from __future__ import annotations

from typing import TYPE_CHECKING

from apps.nutanix_backend.tests_bacula.harness.site import KIB, MIB

if TYPE_CHECKING:
    from apps.nutanix_backend.tests_bacula.harness.site import Site


def test_chain(site: Site) -> None:
    """Full, Incremental, Differential, Incremental: each point in time, to a folder and to a VM."""
    guest = site.guest(32 * MIB, 8 * MIB)
    site.define(f"vm={guest.name}")
    full = site.good("Full")
    guest.write(0, 3 * MIB + 123, 400 * KIB)
    site.good("Incremental", base=full)
    guest.write(1, 5 * MIB, 200 * KIB)
    differential = site.good("Differential", base=full)
    guest.write(0, 20 * MIB, 300 * KIB)
    last = site.good("Incremental", base=differential)

    site.assert_every_good_job_restores()
    made = site.restore(last, "/")
    assert made.status == "T", made.words
    site.assert_made(last, f"{guest.name}-restore-{made.job_id}")
