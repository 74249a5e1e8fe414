"""Coverage: which VMs nobody protects, and what is left on a cluster."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING

import pytest
from command_line import program
from nutanix_backend.__main__ import command_line
from nutanix_backend.cluster import inventory
from nutanix_backend.queries import coverage
from nutanix_backend.references import state
from nutanix_backend.references.known import _started
from nutanix_backend.settings.parameters import parse
from prism_lab import Lab
from ptcomm import Level
from ptcomm_runner import jobs
from ptcomm_runner.catalog import Status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from nutanix_backend.queries.coverage import CoverageRow

    from apps.nutanix_backend.tests.conftest import Guest, Product

MIB = 1 << 20
DAY = 86_400


@pytest.fixture(params=["7.6", "2023.4"], ids=["v4", "v3"])
def host(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    make_product: Callable[[Lab, Path], Product],
) -> Iterator[Product]:
    """A cluster of its own, of each generation."""
    with Lab.start(tmp_path / "lab", personality=request.param, task_seconds=0) as lab:
        yield make_product(lab, tmp_path / "host")


def found(host: Product, **parameters: object) -> dict[str, CoverageRow]:
    """The findings, by name."""
    settings = parse(host.parameters(**parameters))
    with inventory.connect(settings) as client:
        return {finding.name: finding for finding in coverage.report(client, settings)}


def state_file(host: Product, guest: Guest) -> Path:
    """Where the jobs of a VM are recorded."""
    (path,) = (host.root / "state" / state.BACKUP).rglob(f"{guest.ext_id}.json")
    return path


def test_each_problem_is_named(host: Product) -> None:
    good, old, failed, broken, never = (
        host.guest(MIB, name=name) for name in ("good", "old", "failed", "broken", "never")
    )
    host.good_backup(Level.FULL, good, old, failed, broken)
    host.lab.faults.fail_task("POST */volume-groups", message="no space")
    host.lab.faults.fail_task("POST */volume_groups", message="no space")
    assert host.backup(Level.FULL, failed, name="other").status is Status.FAILED
    host.lab.faults.clear()
    long_ago = time.time() - 5 * DAY - 60
    os.utime(state_file(host, old), (long_ago, long_ago))
    points = host.lab._world.recovery_points | host.lab._world.vm_snapshots
    for shelf in (host.lab._world.recovery_points, host.lab._world.vm_snapshots):
        shelf.pop(broken.recovery_points()[0] if broken.recovery_points() else "", None)
    assert points
    findings = found(host)
    assert list(findings) == ["broken", "failed", "good", "never", "old"]
    problems = {name: finding.problem for name, finding in findings.items()}
    assert problems["good"] == ""
    assert problems["never"] == "never saved by this host"
    assert problems["old"] == "not saved for 5 days"
    assert problems["failed"].startswith("failed in its last job, other.")
    assert problems["broken"] == "chain broken: its reference is gone, the next job is a full"
    assert abs(findings["failed"].saved - time.time()) < 3600, "the good job before counts"
    assert findings["never"].saved == findings["never"].replicated == 0
    assert found(host, coverage_days=6)["old"].problem == ""
    assert found(host, coverage_days=6)[never.name].uuid == never.ext_id


def test_a_replica_protects_too(host: Product) -> None:
    guest = host.guest(MIB, name="replicated")
    host.good_backup(Level.FULL, guest)
    path = state_file(host, guest)
    copy = host.root / "state" / state.REPLICATION / path.parent.name / path.name
    copy.parent.mkdir(parents=True)
    path.rename(copy)
    finding = found(host)["replicated"]
    assert finding.problem == ""
    assert finding.replicated
    long_ago = time.time() - 3 * DAY - 60
    os.utime(copy, (long_ago, long_ago))
    assert found(host)["replicated"].problem == "not replicated for 3 days"


def test_what_no_job_needs_is_found(host: Product) -> None:
    guest = host.guest(MIB, name="left")
    host.good_backup(Level.FULL, guest)
    state_file(host, guest).unlink()
    (point,) = (f for f in found(host).values() if f.kind == "recovery point")
    assert point.uuid in guest.recovery_points()
    assert point.problem.startswith("no job of this host knows it")


@pytest.mark.parametrize(
    ("job", "known"),
    [("a.2026-11-29_17.20.04_01", True), ("a.2026-13-29_17.20.04_01", False), ("by hand", False)],
)
def test_the_time_of_a_job_is_in_its_name(job: str, *, known: bool) -> None:
    began = _started(job)
    assert bool(began) is known
    if known:
        assert time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(began)) == "2026-11-29 17:20:04"


def run(host: Product, *words: str) -> int:
    """Run the command line."""
    given = [f"{name}={value}" for name, value in host.parameters()]
    return program.run(command_line(), ["coverage", *words, *given])


def test_the_command_prints_a_table_or_json(
    host: Product, capsys: pytest.CaptureFixture[str]
) -> None:
    guest = host.guest(MIB, name="web01")
    assert run(host) == 1
    table = capsys.readouterr().out
    assert "never saved by this host" in table
    assert table.endswith("1 VMs, 1 problems\n")
    host.good_backup(Level.FULL, guest)
    assert run(host) == 0
    assert capsys.readouterr().out == "1 VMs, 0 problems\n"
    assert run(host, "--json", "--all") == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["kind"], row["name"], row["problem"]) == ("VM", "web01", "")
    assert run(host, "--all") == 0
    assert "web01" in capsys.readouterr().out


def test_what_is_left_as_json(host: Product, capsys: pytest.CaptureFixture[str]) -> None:
    host.good_backup(Level.FULL, host.guest(MIB))
    given = [f"{name}={value}" for name, value in host.parameters()]
    assert program.run(command_line(), ["leftovers", "--json", *given]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["kind"], row["is_in_use"]) == ("recovery point", True)


def test_queries_give_the_same(host: Product) -> None:
    guest = host.guest(MIB, name="web01")
    host.good_backup(Level.FULL, guest)
    answers = {
        what: jobs.query("query", host.settings(query=what)).rows
        for what in ("coverage", "leftovers", "sweep")
    }
    (row,) = answers["coverage"]
    assert row.startswith(f"kind=VM,name=web01,uuid={guest.ext_id},cluster=lab-cluster,saved=")
    (row,) = answers["leftovers"]
    assert "owner=reference of job job." in row
    assert answers["sweep"] == ()
