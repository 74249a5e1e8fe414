"""What the tests with a real Bacula share: a cluster, the daemons, and a corner for each test."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from prism_lab import Lab

from suites.bacula.harness import daemons as bacula
from suites.bacula.harness.console import Console
from suites.bacula.harness.report import Report
from suites.bacula.harness.site import Site

if TYPE_CHECKING:
    from collections.abc import Iterator

REPORT = Report()


@pytest.fixture(scope="session")
def installation(tmp_path_factory: pytest.TempPathFactory) -> bacula.Installation:
    """The built package and Bacula's, unpacked."""
    try:
        prefix, package = Path(os.environ["BACULA_PREFIX"]), Path(os.environ["PODHEITOR_PACKAGE"])
    except KeyError as error:
        pytest.fail(f"{error} is not set: start these tests with ./run e2e-bacula")
    return bacula.unpack(prefix, package, tmp_path_factory.mktemp("installed"))


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """One cluster for all tests; each makes its own VMs."""
    with Lab.start(tmp_path_factory.mktemp("lab")) as running:
        yield running


@pytest.fixture(scope="session")
def daemons(
    installation: bacula.Installation, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[bacula.Daemons]:
    """One Director, one Storage Daemon and one File Daemon for all tests."""
    with bacula.running(installation, tmp_path_factory.mktemp("bacula")) as running:
        yield running


@pytest.fixture
def console(daemons: bacula.Daemons) -> Console:
    """The administrator."""
    return Console(daemons)


@pytest.fixture
def site(
    request: pytest.FixtureRequest, tmp_path: Path, lab: Lab, daemons: bacula.Daemons,
    console: Console,
) -> Iterator[Site]:  # fmt: skip
    """The corner of one test, clean at its end: no process, only references on the cluster."""
    name = re.sub(r"\W+", "-", request.node.name.removeprefix("test_"))[:40].strip("-")
    made = Site(name, tmp_path, lab, daemons, console, REPORT)
    made.connect()
    yield made
    pending = lab.faults.pending()
    lab.faults.clear()
    assert not pending, f"faults that never happened: {pending}"
    made.assert_clean()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the report."""
    if REPORT.entries:
        terminalreporter.section("backup jobs")
        for line in REPORT.lines():
            terminalreporter.write_line(line)
