"""The metrics of backup jobs, as node_exporter reads them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from prometheus_client.parser import text_string_to_metric_families
from ptcomm import Level, Severity
from ptcomm_runner import jobs
from ptcomm_runner.catalog import Status

from apps.nutanix_backend.tests.conftest import said

if TYPE_CHECKING:
    from pathlib import Path

    from prism_lab import Lab
    from prometheus_client import Metric

    from apps.nutanix_backend.tests.conftest import Product

MIB = 1 << 20
PREFIX = "podheitor_nutanix_"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of node_exporter."""
    made = tmp_path / "node-exporter"
    made.mkdir()
    return made


def metrics_in(folder: Path) -> dict[str, Metric]:
    """The metrics of the one job, by name without our prefix."""
    (file,) = folder.iterdir()
    assert file.suffix == ".prom"
    assert file.stat().st_mode & 0o777 == 0o644
    families = text_string_to_metric_families(file.read_text())
    return {family.name.removeprefix(PREFIX): family for family in families}


def value(metric: Metric, **labels: str) -> float:
    """The value of the one sample with these labels."""
    (found,) = [s.value for s in metric.samples if labels.items() <= s.labels.items()]
    return found


def test_a_job_tells_what_it_did(product: Product, folder: Path) -> None:
    guest, began = product.guest(2 * MIB, MIB), time.time()
    product.good_backup(Level.FULL, guest, metrics_dir=folder)
    found = metrics_in(folder)
    assert value(found["job_success"], backup_job="job") == 1
    assert began <= value(found["job_end_timestamp_seconds"]) <= time.time()
    assert value(found["job_duration_seconds"]) > 0
    assert value(found["leftovers"]) == 0
    assert found["errors"].samples == []
    of_vm = {"vm": guest.name, "uuid": guest.ext_id}
    assert value(found["vm_last_success_timestamp_seconds"], **of_vm) >= int(began)
    assert value(found["vm_references"], **of_vm) == 1
    assert began - 1 <= value(found["vm_oldest_proof_timestamp_seconds"], **of_vm) <= time.time()
    assert value(found["vm_bytes"], direction="sent", **of_vm) == 3 * MIB
    for stage in ("prepare", "stream", "clean_up"):
        assert value(found["vm_duration_seconds"], stage=stage, **of_vm) >= 0


def test_a_vm_that_fails_keeps_its_last_success(product: Product, lab: Lab, folder: Path) -> None:
    guests, began = [product.guest(MIB) for _ in range(2)], int(time.time())
    product.good_backup(Level.FULL, *guests, metrics_dir=folder)
    before = metrics_in(folder)["vm_last_success_timestamp_seconds"]
    lab.faults.fail_task("POST */recovery-points", message="no space")
    assert product.backup(Level.FULL, *guests, metrics_dir=folder).status is Status.WARNINGS
    found = metrics_in(folder)
    assert value(found["job_success"]) == 0
    (error,) = found["errors"].samples
    assert error.value == 1
    assert error.labels["kind"] == "TaskFailed"
    (saved,) = {sample.labels["uuid"] for sample in found["vm_bytes"].samples}
    (failed,) = {guest.ext_id for guest in guests} - {saved}
    after = found["vm_last_success_timestamp_seconds"]
    assert began <= value(after, uuid=failed) <= value(before, uuid=failed)
    assert value(found["vm_references"], uuid=failed) == 1


def test_a_job_that_cannot_begin_tells_why(product: Product, folder: Path) -> None:
    guest = product.guest(MIB)
    product.good_backup(Level.FULL, guest, metrics_dir=folder)
    settings = product.settings(vm=guest.name, metrics_dir=folder, prism="127.0.0.1:1")
    assert jobs.backup(product.store, "job", Level.FULL, settings).status is Status.FAILED
    found = metrics_in(folder)
    assert value(found["job_success"]) == 0
    assert [sample.labels["kind"] for sample in found["errors"].samples] == ["Unreachable"]
    assert value(found["vm_last_success_timestamp_seconds"], uuid=guest.ext_id) > 0


def test_a_value_that_selects_no_vm_is_a_failure(product: Product, folder: Path) -> None:
    guest = product.guest(MIB)
    settings = product.settings(vm=[guest.name, "nobody"], metrics_dir=folder)
    jobs.backup(product.store, "job", Level.FULL, settings)
    found = metrics_in(folder)
    assert value(found["job_success"]) == 0
    assert value(found["errors"], kind="SelectionError") == 1


def test_metrics_that_cannot_be_written_fail_no_job(product: Product, tmp_path: Path) -> None:
    guest = product.guest(MIB)
    result = product.backup(Level.FULL, guest, metrics_dir=tmp_path / "missing")
    (line,) = [text for text in said(result, Severity.WARNING) if "metrics" in text]
    assert line.startswith("the metrics of this job are not in metrics_dir: ")
    product.assert_restores(result, guest)
