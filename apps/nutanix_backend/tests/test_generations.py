"""The main job on the releases of Prism that the lab plays: only the records tell them apart."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from prism_lab import Lab
from ptcomm import Level, Severity
from ptcomm_runner.catalog import Status

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ptcomm_runner.jobs import Result

    from apps.nutanix_backend.tests.conftest import Product

pytestmark = pytest.mark.quick
KIB, MIB = 1 << 10, 1 << 20


@pytest.mark.parametrize(
    ("personality", "recorded"),
    [("2023.4", "snapshot_uuid"), ("7.3", "reference_recovery_point_ext_id")],
)
def test_the_main_job_on_each_generation(
    make_product: Callable[[Lab, Path], Product], tmp_path: Path, personality: str, recorded: str
) -> None:
    with Lab.start(tmp_path / "lab", personality=personality) as lab:
        product = make_product(lab, tmp_path / "host")
        guest = product.guest(4 * MIB, MIB)
        product.good_backup(Level.FULL, guest)
        guest.write(0, 2 * MIB + 123, 200 * KIB)
        guest.zero(0, MIB, 100 * KIB)
        last = product.good_backup(Level.INCREMENTAL, guest)
        assert set(product.files(last, guest)) == {"0-phcbt01", "1-phcbt01"}
        product.assert_restores(last, guest)
        (state,) = (product.root / "state").rglob(f"{guest.ext_id}.json")
        references = [job["reference"] for job in json.loads(state.read_bytes())["jobs"]]
        assert [reference[recorded] for reference in references] == guest.recovery_points()
        product.good_restore("/", restore_vm_name="restored")
        assert "restored" in {vm["name"] for vm in lab.state()["vms"]}


@pytest.mark.parametrize("personality", ["2023.4", "7.3"])
def test_a_vm_under_a_policy_is_warned_of(
    make_product: Callable[[Lab, Path], Product], tmp_path: Path, personality: str
) -> None:
    with Lab.start(tmp_path / "lab", personality=personality) as lab:
        product = make_product(lab, tmp_path / "host")
        guest = product.guest(MIB)
        lab.protect_vm(guest.name, "RULE_PROTECTED", policy="gold")
        result = product.backup(Level.FULL, guest)
        (warning,) = warnings(result)
        assert "also under a protection policy of Prism (gold)" in warning
        product.assert_restores(result, guest)


def test_after_an_upgrade_to_v4_comes_a_full_that_says_why(
    make_product: Callable[[Lab, Path], Product], tmp_path: Path
) -> None:
    with Lab.start(tmp_path / "lab", personality="2023.4") as lab:
        product = make_product(lab, tmp_path / "host")
        guest = product.guest(MIB)
        product.good_backup(Level.FULL, guest)
        (old,) = guest.recovery_points()
        lab.upgrade("7.3")
        first = product.backup(Level.INCREMENTAL, guest)
        assert set(product.files(first, guest)) == {"0-raw"}
        assert any(
            "backed up in full: Prism is used over its API v4 now" in text
            and "of an earlier job" in text
            for text in warnings(first)
        ), first.log
        guest.write(0, 0, KIB)
        product.references += 1  # that of v3 is none of v4's: the warning names it
        second = product.backup(Level.INCREMENTAL, guest)
        assert set(product.files(second, guest)) == {"0-phcbt01"}, "v4 has a chain of its own"
        assert any(f"VM snapshot {old} is not needed any more" in t for t in warnings(second))
        product.assert_restores(second, guest)


Json = dict[str, Any]


def regions_of(answer: Json) -> list[Json]:
    found: list[Json] = answer.get("region_list", answer.get("data")) or []
    return found


class Liar:
    """Changes the second page of regions that a lab answers, and is honest from then on."""

    def __init__(self, lie: Callable[[list[Json], list[Json]], None]) -> None:
        self.lie = lie
        self.first: list[Json] = []
        self.has_lied = False

    def __call__(self, answer: Json) -> None:
        page = regions_of(answer)
        if page and not self.first:
            self.first = [dict(region) for region in page]
        elif page and not self.has_lied:
            self.has_lied = True
            self.lie(self.first, page)


def lose_the_page(_first: list[Json], page: list[Json]) -> None:
    page.clear()


def repeat_a_page(first: list[Json], page: list[Json]) -> None:
    page[:] = first


def overlap(first: list[Json], page: list[Json]) -> None:
    end = page[0]["offset"] + page[0]["length"]
    page[0]["offset"] = first[-1]["offset"] + 4 * KIB
    page[0]["length"] = end - page[0]["offset"]


def go_past_the_end(_first: list[Json], page: list[Json]) -> None:
    page[-1]["length"] = 8 * MIB


LIES = {
    lose_the_page: "a page of the list is missing",
    repeat_a_page: "out of order, overlapping, empty or out of bounds",
    overlap: "out of order, overlapping, empty or out of bounds",
    go_past_the_end: "out of order, overlapping, empty or out of bounds",
}


@pytest.mark.parametrize("personality", ["2023.4", "7.3"])
def test_an_incremental_refuses_a_list_that_is_not_whole(
    make_product: Callable[[Lab, Path], Product], tmp_path: Path, personality: str
) -> None:
    with Lab.start(tmp_path / "lab", personality=personality, regions_per_page=3) as lab:
        product = make_product(lab, tmp_path / "host")
        guest = product.guest(4 * MIB)
        product.good_backup(Level.FULL, guest)
        kept = guest.recovery_points()
        for block in range(2, 60, 6):
            guest.write(0, block * 64 * KIB, KIB)
        for lie, words in LIES.items():
            lab.faults.edit("POST *changed[-_]regions", Liar(lie), times=99)
            result = product.backup(Level.INCREMENTAL, guest)
            lab.faults.clear()
            assert result.status is Status.FAILED, lie
            assert any(words in text for text in said(result, Severity.FATAL)), (lie, result.log)
            assert not product.files(result, guest), "nothing of the disk is stored"
            assert guest.recovery_points() == kept
        product.assert_restores(product.good_backup(Level.INCREMENTAL, guest), guest)


def warnings(result: Result) -> list[str]:
    return said(result, Severity.WARNING)


def said(result: Result, severity: Severity) -> list[str]:
    return [message.text for message in result.log if message.severity is severity]
