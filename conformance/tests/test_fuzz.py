"""Every fuzz target runs and finds nothing; with its planted bug it finds that."""

from __future__ import annotations

import subprocess
import sys

import pytest
from fuzzing.targets import TARGETS
from vectortool.vectors import ROOT


def fuzz(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fuzzing", *arguments]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=250, check=False
    )


pytestmark = pytest.mark.timeout(300)


@pytest.mark.parametrize("target", TARGETS)
def test_nothing_is_found(target: str) -> None:
    done = fuzz(target, "1")
    assert (done.returncode, done.stderr) == (0, "")
    assert "no findings" in done.stdout


@pytest.mark.parametrize("target", TARGETS)
def test_a_planted_bug_is_found(target: str) -> None:
    done = fuzz(target, "30", "--planted")
    assert done.returncode == 1, done.stdout
    assert "FOUND" in done.stdout
