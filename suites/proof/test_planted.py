"""Change tracking that is wrong is found: by the sample of the same job, or by putting the disk
together again. What neither may do is to restore a disk that the guest never had.
"""

from __future__ import annotations

import os
import re
import shutil
from typing import TYPE_CHECKING

import pytest
from prism_lab import tracking
from ptcomm import Level, Severity
from ptcomm_runner.catalog import Status

from apps.nutanix_backend.tests.conftest import said

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from apps.nutanix_backend.tests.conftest import FaultyProduct, Guest

KIB, MIB = 1 << 10, 1 << 20
REGION = 64 * KIB
SIZE = 12 * MIB
FULL, INCREMENTAL = Level.FULL, Level.INCREMENTAL


@pytest.fixture
def product(faulty: FaultyProduct) -> Iterator[FaultyProduct]:
    """The product on a lab whose change tracking is right again afterwards."""
    yield faulty
    faulty.lab.spoil_changes(None)


def rewrite_base(product: FaultyProduct, guest: Guest) -> None:
    """The base is not the state that was backed up: the cluster compares with the present one."""
    (point,) = guest.recovery_points()
    base = product.lab.recovery_point_file(point, guest.disk_ids()[0])
    shutil.copyfile(guest.disk(0), base)


def forget(product: FaultyProduct, guest: Guest) -> None:
    guest.write(0, 9 * MIB, REGION)
    product.lab.spoil_changes(tracking.forget(0))


def forget_beside_others(product: FaultyProduct, guest: Guest) -> None:
    for part in range(3):
        guest.write(0, 9 * MIB + 2 * part * REGION, REGION)
    product.lab.spoil_changes(tracking.forget(1))


def stale_base(product: FaultyProduct, guest: Guest) -> None:
    guest.write(0, 5 * MIB, 2 * REGION)
    rewrite_base(product, guest)
    guest.write(0, 8 * MIB, REGION)


def miss_a_discard(product: FaultyProduct, guest: Guest) -> None:
    guest.discard(0, 0, MIB)
    product.lab.spoil_changes(tracking.miss_discards)


def shift_by_a_block(product: FaultyProduct, guest: Guest) -> None:
    guest.write(0, 7 * MIB - REGION, REGION)
    product.lab.spoil_changes(tracking.shift)


def shift_beside_others(product: FaultyProduct, guest: Guest) -> None:
    guest.write(0, 6 * MIB, REGION)
    guest.write(0, 7 * MIB - REGION, REGION)
    product.lab.spoil_changes(tracking.shift)


SAMPLED = [forget, stale_base, miss_a_discard, shift_by_a_block]
"""Faults that hide a change in a block of which Prism lists nothing."""


def prepared(product: FaultyProduct, plant: Callable[[FaultyProduct, Guest], None]) -> Guest:
    """A VM with a full backup, then changes of which Prism's list will be wrong."""
    guest = product.guest(SIZE)
    product.good_backup(FULL, guest)
    plant(product, guest)
    return guest


@pytest.mark.parametrize("plant", SAMPLED)
def test_the_sample_of_the_same_job_finds_it(
    product: FaultyProduct, plant: Callable[[FaultyProduct, Guest], None]
) -> None:
    guest = prepared(product, plant)
    result = product.backup(INCREMENTAL, guest)
    assert result.status is Status.GOOD
    (warning,) = said(result, Severity.WARNING)
    assert "is backed up in full: disk 0 changed where Prism lists no change: 1 of 1" in warning
    assert set(product.files(result, guest)) == {"0-raw"}
    product.assert_restores(result, guest)
    product.lab.spoil_changes(None)
    product.assert_restores(product.good_backup(INCREMENTAL, guest), guest)


@pytest.mark.parametrize("plant", [forget_beside_others, shift_beside_others])
def test_putting_the_disk_together_finds_what_no_sample_sees(
    product: FaultyProduct, plant: Callable[[FaultyProduct, Guest], None]
) -> None:
    """A block that changed in part is read whole: the list is right where the delta is not."""
    guest = prepared(product, plant)
    result = product.good_backup(INCREMENTAL, guest, scrub="0")
    where = product.root / "restored"
    restored = product.restore(where, job_id=result.job_id)
    assert restored.status is Status.FAILED
    (reason,) = said(restored, Severity.FATAL)
    assert "disk 0 is not the one that was backed up, although each of its 2 files" in reason
    assert not list(where.rglob("disks/*")), "nothing looks like a disk"


def test_one_of_ten_thousand_regions(product: FaultyProduct, tell: Callable[[str], None]) -> None:
    """Forgotten in a block that has other news: the disk is put together, and is not the one."""
    guest = product.guest(1250 * MIB)
    full = product.good_backup(FULL, guest)
    with guest.disk(0).open("r+b") as disk:
        for number in range(10_000):
            disk.seek(number * 2 * REGION)
            disk.write(b"%d" % number)
    product.lab.spoil_changes(tracking.forget(7_777))
    result = product.good_backup(INCREMENTAL, guest)
    (line,) = (text for text in said(result, Severity.INFO) if "for the digest lists" in text)
    tell(f"\n1 of 10,000 regions forgotten: {line}")
    restored = product.restore(product.root / "restored", job_id=result.job_id)
    assert "is not the one that was backed up" in said(restored, Severity.FATAL)[0]
    product.assert_restores(full, guest)


def test_what_the_proof_costs(product: FaultyProduct, tell: Callable[[str], None]) -> None:
    """Bytes and seconds of an incremental, by the part of the unchanged blocks that it compares."""
    guest = product.guest(1024 * MIB)
    with guest.disk(0).open("r+b") as disk:
        for number in range(1024):
            disk.seek(number * MIB)
            disk.write(os.urandom(MIB))
    product.good_backup(FULL, guest)
    for scrub in ("0", "0.1", "10", "all"):
        for number in range(20):
            guest.write(0, number * 50 * MIB, REGION)
        product.good_backup(INCREMENTAL, guest, scrub=scrub)
        log = (product.root / "state" / "log" / "backend.log").read_text()
        read = re.findall(r"disk 0, (.*: .* read in .* s)", log)[-2:]
        tell(f"\n1 GiB, 20 changes of 64 KiB, scrub={scrub}: {'; '.join(read)}")
