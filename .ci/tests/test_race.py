"""Races of benchmarks: what they measure, and when they count."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import chain, repeat
from typing import TYPE_CHECKING

import pytest
import race

if TYPE_CHECKING:
    from pathlib import Path

GIB = 1 << 30
STEADY = repeat(2.0)


def run(ours: object, peer: object, goal: float = 1.0) -> race.Result:
    mine, other = iter(ours), iter(peer)  # type: ignore[call-overload]
    return race.race("r", ("a", lambda: next(mine)), ("b", lambda: next(other)), GIB, goal)


@pytest.fixture(autouse=True)
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the results of a test go."""
    path = tmp_path / "results"
    monkeypatch.setenv(race.RESULTS, str(path))
    return path


def test_the_ratio_is_that_of_the_peer_to_ours(results: Path) -> None:
    result = run(repeat(1.0), STEADY)
    assert (result.ratio, result.spread, result.runs) == (2.0, 0.0, 1)
    assert result.verdict == "reached"
    assert run(repeat(4.0), STEADY).verdict == "missed"
    found = [json.loads(line) for line in results.read_text().splitlines()]
    assert [line["ratio"] for line in found] == [2.0, 0.5]


def test_work_may_say_its_seconds_and_its_cpu_seconds() -> None:
    result = run(repeat((1.0, 3.0)), repeat((2.0, 2.0)))
    assert (result.ratio, result.cpu_ours, result.cpu_peer) == (2.0, 3.0, 2.0)


@pytest.mark.parametrize(("most", "verdict"), [(1.6, "reached"), (1.4, "missed: CPU")])
def test_a_goal_may_be_one_of_cpu_too(most: float, verdict: str, results: Path) -> None:
    ours, peer = ("a", lambda: (1.0, 3.0)), ("b", lambda: (2.0, 2.0))
    assert race.race("r", ours, peer, GIB, 1.0, most_cpu=most).verdict == verdict
    assert json.loads(results.read_text())["verdict"] == verdict


def test_a_race_that_scatters_is_run_again(capsys: pytest.CaptureFixture[str]) -> None:
    wild = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]
    result = run(chain([1.0], wild, repeat(1.0)), STEADY)
    assert (result.runs, result.counts) == (2, True)
    assert "the ratios scatter by" in capsys.readouterr().out


def test_a_race_that_goes_on_scattering_does_not_count() -> None:
    wild = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]
    result = run(chain([1.0], wild, wild, wild), STEADY)
    assert result.runs == race.RUNS
    assert result.verdict == "too wide: does not count"


def test_the_cpu_time_of_a_process_that_still_runs_counts() -> None:
    before = race.cpu_seconds()
    code = "sum(range(20_000_000)); print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        mine = race.cpu_seconds() - before
        process.communicate(b"\n")
    assert mine > 0.05
