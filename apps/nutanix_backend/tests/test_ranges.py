"""The hybrid path: changes by HTTP ranges where a cluster offers them, and what follows from lies.

No public release is known to offer ranges; the lab does when it is told to, at a path of its own.
"""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING, Any

import attrs
import pytest
from nutanix_backend.disks.ranged import PROBED
from prism_lab import Lab
from ptcomm import Level, Severity
from ptcomm_runner.catalog import Status

from apps.nutanix_backend.tests.conftest import PATIENCE, FaultyProduct, said, words

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ptcomm_runner.jobs import Result

    from apps.nutanix_backend.tests.conftest import Daemon, Guest, Product

KIB, MIB = 1 << 10, 1 << 20
FULL, INCREMENTAL = Level.FULL, Level.INCREMENTAL
DATA = "GET */data"


@pytest.fixture(scope="module")
def ranged_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("ranged")
    with Lab.start(folder, ranged_reads="yes", task_seconds=0, block_size=32 * KIB) as lab:
        yield lab


def started_at_once(lab: Lab, folder: Path, door: Path) -> FaultyProduct:
    """A product whose backends start at once: most of a small job is the start of its process."""
    product = FaultyProduct(lab, folder / "host", door=door)
    product.order()
    return product


@attrs.define
class Hybrid:
    """A product whose cluster offers ranges, a VM with a full, and the record of the proof."""

    product: Product
    guest: Guest
    record: Path
    proven: bytes
    changes: int = 0

    @property
    def lab(self) -> Lab:
        return self.product.lab

    def change(self) -> None:
        """Change something in both disks, each time elsewhere: a restore proves all jobs before."""
        moved = self.changes * 76 * KIB
        self.changes += 1
        for index, offset in ((0, 70 * KIB), (0, 3 * MIB), (0, 5 * MIB - 4096), (1, MIB + 4096)):
            self.guest.write(index, offset + moved, 70 * KIB)

    def incremental(self, **parameters: Any) -> Result:
        self.change()
        return self.product.backup(INCREMENTAL, self.guest, **parameters)

    def groups_made(self) -> int:
        return len(self.lab.made()["volume_groups"])

    def ranges(self, start: int = 0) -> list[int]:
        """The answers to ranges, from a request on."""
        return [status for _, path, status in self.lab.requests[start:] if path.endswith("/data")]


@pytest.fixture
def hybrid(ranged_lab: Lab, tmp_path: Path, prepared_door: Path) -> Iterator[Hybrid]:
    product = started_at_once(ranged_lab, tmp_path, prepared_door)
    guest = product.guest(8 * MIB, 4 * MIB)
    product.good_backup(FULL, guest)
    (record,) = (product.root / "state" / "ranges").iterdir()
    yield Hybrid(product, guest, record, record.read_bytes())
    unused = ranged_lab.faults.pending()
    ranged_lab.faults.clear()
    ranged_lab.answer_ranges("yes")
    product.clear_away()
    assert not unused, f"faults that never happened: {unused}"


def test_changes_come_by_range_and_no_volume_group_is_made(hybrid: Hybrid) -> None:
    groups, before = hybrid.groups_made(), len(hybrid.lab.requests)
    assert set(hybrid.ranges()) == {206}, "the full proved it on some blocks"
    hybrid.change()
    result = hybrid.product.good_backup(INCREMENTAL, hybrid.guest)
    assert hybrid.groups_made() == groups
    assert set(hybrid.ranges(before)) == {206}
    assert set(hybrid.product.files(result, hybrid.guest)) == {"0-phcbt01", "1-phcbt01"}
    hybrid.product.assert_restores(result, hybrid.guest)

    hybrid.change()
    result = hybrid.product.good_backup(INCREMENTAL, hybrid.guest, data_path="iscsi")
    assert hybrid.groups_made() == groups + 1
    hybrid.product.assert_restores(result, hybrid.guest)


def test_a_disk_that_needs_a_volume_group_takes_the_others_along(hybrid: Hybrid) -> None:
    """So many small changes of one disk are read over iSCSI, with the gaps between them."""
    other = hybrid.product.guest(52 * MIB, MIB)
    hybrid.product.good_backup(FULL, other)
    groups, before = hybrid.groups_made(), len(hybrid.lab.requests)
    with other.disk(0).open("r+b") as disk:
        for piece in range(800):
            disk.seek(piece * 64 * KIB)
            disk.write(b"changed!")
    other.write(1, 0, 5)
    result = hybrid.product.good_backup(INCREMENTAL, other)
    assert hybrid.groups_made() == groups + 1
    assert set(hybrid.ranges(before)) == {206}, "the job compared some blocks again"
    assert len(hybrid.ranges(before)) <= PROBED
    assert hybrid.product.files(result, other)["0-phcbt01"] < 26 * MIB, "no gap was sent"
    hybrid.product.assert_restores(result, other)


LIES: dict[str, Callable[[Lab, int], object]] = {
    "200 with everything": lambda lab, after: lab.answer_ranges("whole", after=after),
    "206 with a wrong range": lambda lab, after: lab.answer_ranges("shifted", after=after),
    "a short body": lambda lab, after: lab.answer_ranges("short", after=after),
    "404": lambda lab, after: lab.answer_ranges("no", after=after),
    "500": lambda lab, after: lab.faults.status(DATA, 500, skip=after),
    "503, come later": lambda lab, after: lab.faults.status(DATA, 503, retry_after=9, skip=after),
    "reset": lambda lab, after: lab.faults.reset(DATA, skip=after),
    "closed": lambda lab, after: lab.faults.drop(DATA, skip=after),
    "cut in the body": lambda lab, after: lab.faults.truncate(DATA, skip=after),
    "a login page": lambda lab, after: lab.faults.html(DATA, skip=after),
}
LASTING = {"200 with everything", "206 with a wrong range", "a short body", "a login page"}


AT: dict[int, tuple[str, ...]] = {
    0: ("200 with everything", "404", "500", "reset", "a short body"),
    5: ("206 with a wrong range", "503, come later", "cut in the body", "a short body"),
    13: ("200 with everything", "closed", "a login page", "a short body", "reset"),
}
"""At the first range, in the middle, and behind the sample, when data is sent."""


def test_every_lie_is_tried() -> None:
    assert {lie for lies in AT.values() for lie in lies} == set(LIES)


def lied_to(hybrid: Hybrid, lie: str, after: int) -> Result:
    """An incremental that gets a wrong answer after so many right ones."""
    hybrid.record.write_bytes(hybrid.proven)
    hybrid.lab.answer_ranges("yes")
    groups, before = hybrid.groups_made(), len(hybrid.lab.requests)
    LIES[lie](hybrid.lab, after)
    result = hybrid.incremental()
    assert result.status is Status.GOOD, (lie, words(result))
    (warning,) = said(result, Severity.WARNING)
    assert "gave a wrong answer to an HTTP range: disks are read over iSCSI" in warning
    assert hybrid.groups_made() == groups + 1, lie
    assert len(hybrid.ranges(before)) >= after + 1, lie
    assert set(hybrid.product.files(result, hybrid.guest)) == {"0-phcbt01", "1-phcbt01"}
    assert (hybrid.record.read_bytes() != hybrid.proven) == (lie in LASTING), lie
    return result


@pytest.mark.parametrize("after", AT)
def test_a_wrong_answer_leads_to_iscsi_and_costs_no_byte(hybrid: Hybrid, after: int) -> None:
    results = [lied_to(hybrid, lie, after) for lie in AT[after]]
    hybrid.product.assert_restores(results[-1], hybrid.guest)


def test_what_fails_the_proof_is_not_used(hybrid: Hybrid) -> None:
    for lie in ("no", "whole", "shifted", "short", "wrong", "500"):
        hybrid.record.unlink()
        hybrid.lab.answer_ranges("yes" if lie == "500" else lie)
        if lie == "500":
            hybrid.lab.faults.status(DATA, 500)
        before = len(hybrid.lab.requests)
        result = hybrid.incremental()
        warnings = said(result, Severity.WARNING)
        assert len(warnings) == (lie != "no"), "that it is not offered is no news"
        assert len(hybrid.ranges(before)) == 1, "one call, and no more"
        assert hybrid.record.exists() == (lie != "500"), "a passing failure is asked again"
    hybrid.lab.answer_ranges("yes")
    before = len(hybrid.lab.requests)
    result = hybrid.incremental()
    assert hybrid.ranges(before)
    assert hybrid.record.read_bytes() == hybrid.proven
    hybrid.record.write_bytes(hybrid.proven.replace(b'"refused":""', b'"refused":"404"'))
    before = len(hybrid.lab.requests)
    result = hybrid.incremental()
    assert not hybrid.ranges(before), "what is not offered is asked for once in a release"
    assert not said(result, Severity.WARNING)
    hybrid.product.assert_restores(result, hybrid.guest)


def test_a_cluster_is_asked_again_once_its_release_has_changed(hybrid: Hybrid) -> None:
    older = hybrid.proven.replace(b'"release":"', b'"release":"before ')
    assert older != hybrid.proven
    hybrid.record.write_bytes(older)
    groups, before = hybrid.groups_made(), len(hybrid.lab.requests)
    hybrid.change()
    hybrid.product.good_backup(INCREMENTAL, hybrid.guest)
    assert hybrid.groups_made() == groups + 1, "nothing is assumed of the new release"
    assert hybrid.ranges(before)
    assert hybrid.record.read_bytes() == hybrid.proven
    hybrid.record.write_bytes(b"damaged")
    hybrid.change()
    hybrid.product.good_backup(INCREMENTAL, hybrid.guest)
    assert hybrid.record.read_bytes() == hybrid.proven


def test_wrong_bytes_are_found_by_the_sample_before_anything_is_sent(hybrid: Hybrid) -> None:
    hybrid.lab.answer_ranges("wrong")
    result = hybrid.incremental()
    (warning,) = said(result, Severity.WARNING)
    assert "blocks of a disk were not those that iSCSI gives" in warning
    assert set(hybrid.product.files(result, hybrid.guest)) == {"0-phcbt01", "1-phcbt01"}
    hybrid.product.assert_restores(result, hybrid.guest)
    assert hybrid.record.read_bytes() != hybrid.proven


def test_wrong_bytes_that_were_sent_fail_the_job(hybrid: Hybrid) -> None:
    """They come behind the sample, and show when a later answer leads to iSCSI."""
    hybrid.lab.answer_ranges("wrong")
    hybrid.lab.faults.status(DATA, 500, skip=4)
    result = hybrid.incremental(scrub="0")
    assert result.status is Status.FAILED
    (fatal,) = said(result, Severity.FATAL)
    assert "came wrong by HTTP range" in fatal
    hybrid.product.assert_nothing_left()
    again = hybrid.incremental()
    assert again.status is Status.GOOD
    hybrid.product.assert_restores(again, hybrid.guest)


def test_a_volume_group_that_cannot_be_made_fails_the_vm_once(hybrid: Hybrid) -> None:
    hybrid.lab.answer_ranges("whole")
    hybrid.lab.faults.fail_task("POST */volume-groups", message="no space", after_effect=False)
    result = hybrid.incremental()
    assert result.status is Status.FAILED
    assert "no space" in said(result, Severity.FATAL)[0]
    hybrid.product.assert_nothing_left()


def test_several_vms_find_out_once(hybrid: Hybrid) -> None:
    others = [hybrid.product.guest(4 * MIB) for _ in range(3)]
    hybrid.product.good_backup(FULL, hybrid.guest, *others)
    hybrid.record.write_bytes(hybrid.proven)
    for guest in others:
        guest.write(0, 0, 70 * KIB)
    hybrid.change()
    hybrid.lab.answer_ranges("short", after=9)
    result = hybrid.product.backup(INCREMENTAL, hybrid.guest, *others)
    assert len(said(result, Severity.WARNING)) == 1
    hybrid.product.assert_restores(result, hybrid.guest, *others)


# --- the end, in the middle ----------------------------------------------------------------------


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGUSR1])
@pytest.mark.parametrize("lie", ["yes", "short"])
def test_the_end_in_the_middle_leaves_nothing(
    hybrid: Hybrid, daemon: Callable[..., Daemon], end: signal.Signals, lie: str
) -> None:
    """While ranges are read; and while the volume group is made in their place."""
    hybrid.change()
    hybrid.lab.answer_ranges(lie)
    slow = DATA if lie == "yes" else "POST */volume-groups"
    hybrid.lab.faults.delay(slow, 2.0, skip=5 if lie == "yes" else 0)
    asked = len(hybrid.lab.requests)
    wire = daemon()
    wire.start_backup(hybrid.product.parameters(vm=[hybrid.guest.name]))
    deadline = time.monotonic() + PATIENCE
    while not hybrid.ranges(asked):
        assert time.monotonic() < deadline, "no range was asked for"
        time.sleep(0.02)
    wire.process.send_signal(end)
    if end is signal.SIGUSR1:
        wire.read_to_end()
        wire.assert_ended_well()
        hybrid.product.assert_nothing_left()
    wire.process.wait()
    time.sleep(0.1)
    hybrid.lab.faults.clear()
    hybrid.lab.answer_ranges("yes")
    result = hybrid.product.good_backup(FULL, hybrid.guest)
    hybrid.product.assert_nothing_left()
    hybrid.product.assert_restores(result, hybrid.guest)


# --- what a release without ranges costs ---------------------------------------------------------


@pytest.mark.parametrize("personality", ["7.6", "2023.4"])
def test_a_release_without_ranges_is_asked_once_and_v3_never(
    personality: str, tmp_path: Path, prepared_door: Path
) -> None:
    with Lab.start(tmp_path / "lab", personality=personality, task_seconds=0) as lab:
        product = started_at_once(lab, tmp_path, prepared_door)
        guests = [product.guest(MIB) for _ in range(3)]

        def asked() -> int:
            return sum(path.endswith("/data") for _, path, _ in lab.requests)

        product.good_backup(FULL, *guests, data_path="iscsi")
        assert asked() == 0
        for level in (FULL, INCREMENTAL):
            product.good_backup(level, *guests)
            assert asked() == (personality == "7.6")
        if personality == "7.6":
            lab.upgrade("7.3", ranged_reads="yes")
            for guest in guests:
                guest.write(0, 0, 70 * KIB)
            product.good_backup(INCREMENTAL, *guests)
            assert asked() > 1
            made = len(lab.made()["volume_groups"])
            result = product.good_backup(INCREMENTAL, *guests)
            assert len(lab.made()["volume_groups"]) == made
            product.assert_restores(result, *guests)
