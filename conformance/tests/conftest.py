"""The two testees, and the counts per suite at the end of a run."""

from __future__ import annotations

import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from vectortool.testee import Program
from vectortool.vectors import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from vectortool.runner import Report

REPORTS = pytest.StashKey[list["Report"]]()
PYTHON = [sys.executable, str(ROOT / "testees/python_testee.py")]
FLAGS = ("-std=c11", "-O2", "-Wall", "-Wextra", "-Werror")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[REPORTS] = []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for report in terminalreporter.config.stash[REPORTS]:
        for line in report.lines():
            if " 0 passed" not in line or "skipped" in line:
                terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def reports(request: pytest.FixtureRequest) -> list[Report]:
    return request.config.stash[REPORTS]


@pytest.fixture(scope="session")
def python_command() -> list[str]:
    return PYTHON


@pytest.fixture(scope="session")
def c_command(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler (cc) for the testee in C")
    program = tmp_path_factory.mktemp("testee") / "testee"
    source = ROOT / "testees/c/testee.c"
    subprocess.run([compiler, *FLAGS, "-o", program, source], check=True, timeout=100)
    return [str(program)]


@pytest.fixture(scope="session")
def commands(python_command: list[str], c_command: list[str]) -> dict[str, list[str]]:
    return {"python": python_command, "c": c_command}


@pytest.fixture
def testee(request: pytest.FixtureRequest, commands: dict[str, list[str]]) -> Iterator[Program]:
    with Program(commands[request.param]) as testee:
        yield testee


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The set in a folder of its own, to be damaged."""
    root = tmp_path / "conformance"
    shutil.copytree(ROOT, root, ignore=shutil.ignore_patterns("__pycache__", "tests", "src"))
    return root
