"""The main job on the releases of Prism that the lab plays: only the records tell them apart."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from prism_lab import Lab
from ptcomm import Level, Severity

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from apps.nutanix_backend.tests.conftest import Product

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


def test_a_vm_under_a_policy_is_warned_of(product: Product, lab: Lab) -> None:
    guest = product.guest(MIB)
    lab.protect_vm(guest.name, "RULE_PROTECTED", policy="gold")
    result = product.backup(Level.FULL, guest)
    warnings = [m.text for m in result.log if m.severity is Severity.WARNING]
    assert len(warnings) == 1
    assert "also under a protection policy of Prism (gold)" in warnings[0]
    product.assert_restores(result, guest)
