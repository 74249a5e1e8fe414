"""Four VMs in flight, and a fault at every kind of call at once: what fails stays with its VM.

Of each kind of call some are hit, of whichever VM makes them. However the job ends, it says why in
lines of its own, the next job removes what was left, is good, and restores to what the disks hold.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from ptcomm import Level, Severity
from ptcomm_runner.catalog import Status

from suites.faults.test_matrix import FAULTS

if TYPE_CHECKING:
    from collections import Counter

    from ptcomm_runner.jobs import Result

    from apps.nutanix_backend.tests.conftest import FaultyProduct

KIB, MIB = 1 << 10, 1 << 20
_ID = re.compile(r"[^/]*[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f-]{22}[^/]*")
SKIPPED = (0, 3)
"""Which call of each kind is hit: the first, or one of a later VM."""


@pytest.mark.parametrize("skip", SKIPPED)
@pytest.mark.parametrize("fault", FAULTS)
def test_four_vms_in_flight_survive_a_fault_at_every_kind_of_call(
    faulty: FaultyProduct, fault: str, skip: int, tally: Counter[str]
) -> None:
    guests = [faulty.guest(MIB) for _ in range(4)]
    assert faulty.job(Level.FULL, *guests).status is Status.GOOD
    before = len(faulty.lab.requests)
    assert faulty.job(Level.INCREMENTAL, *guests).status is Status.GOOD
    kinds = {f"{m} {_ID.sub('*', path)}" for m, path, _ in faulty.lab.requests[before:]}
    for guest in guests:
        guest.write(0, 0, 70 * KIB)
    for kind in kinds:
        FAULTS[fault](faulty.lab.faults, kind, skip)
    result = faulty.job(Level.INCREMENTAL, *guests, timeout=1)
    faulty.wait_for_backend()
    faulty.lab.faults.clear()
    tally[f"jobs of four VMs that ended {result.status.name.lower()}"] += 1
    assert_says_why(result)
    following = faulty.job(Level.INCREMENTAL, *guests)
    assert following.status is Status.GOOD, following.log
    faulty.assert_clean(*guests, most=4)  # a delete that failed is tried again by the next job
    faulty.assert_chain_restores(*guests)


def assert_says_why(result: Result) -> None:
    """A job that is not good says so in lines for people."""
    bad = [m.text for m in result.log if m.severity in {Severity.FATAL, Severity.NONFATAL}]
    assert bool(bad) == (result.status is not Status.GOOD), result.log
    assert not [text for text in bad if "\n" in text or "internal error" in text]
