"""Both testees agree with every vector, and with each other on generated models."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from vectortool import runner, vectors
from vectortool.__main__ import main
from vectortool.cross import cross
from vectortool.testee import Program

if TYPE_CHECKING:
    from vectortool.runner import Report


@pytest.mark.timeout(600)
@pytest.mark.parametrize("suite", vectors.SUITES)
@pytest.mark.parametrize("testee", ["python", "c"], indirect=True)
def test_every_vector(testee: Program, suite: str, reports: list[Report]) -> None:
    report = runner.run(testee, suites=[suite])
    reports.append(report)
    assert report.failures == []
    assert report.passed[suite] + report.skipped[suite] == sum(1 for _ in vectors.cases(suite))


def test_two_implementations_agree_on_generated_models(commands: dict[str, list[str]]) -> None:
    with Program(commands["python"]) as one, Program(commands["c"]) as other:
        assert list(cross(one, other, seed=20261123, count=100)) == []


def test_a_disagreement_is_reported(commands: dict[str, list[str]]) -> None:
    class Wrong(Program):
        def ask(self, request: dict[str, object]) -> dict[str, object]:
            answer: dict[str, object] = super().ask(request)
            return {"ok": []} if request["op"] == "decode" else answer

    with Program(commands["python"]) as one, Wrong(commands["c"]) as other:
        found = list(cross(one, other, seed=1, count=3))
    assert any("phcbt01-streams" in line and "c reads" in line for line in found)


def test_the_command_line(
    commands: dict[str, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = commands["c"][0], commands["c"][0]
    assert main(["run", "names", "--testee", one]) == 0
    assert main(["run", "--cross", one, other, "--count", "2"]) == 0
    assert main(["run", "nonsense", "--testee", one]) == 2
    assert main(["run"]) == 2
    printed = capsys.readouterr().out
    assert f"{sum(1 for _ in vectors.cases('names'))} passed" in printed
    assert "0 disagreements" in printed
