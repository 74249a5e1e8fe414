"""The mutation check makes the mutants it should, and tells who survives."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from mutation.mutants import mutants
from vectortool.vectors import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable

SOURCE = '''
"""A text."""
TABLE: dict[str, int] = {"a": 1}


def clipped(a: int) -> int:
    """Another."""
    if not 0 <= a < 9:
        raise ValueError(f"{a} + 1")
    return a + 1
'''


def test_each_step_is_changed_in_turn_and_texts_are_left_alone() -> None:
    names = [mutant.name.removeprefix("m.py: ") for mutant in mutants("m.py", SOURCE)]
    assert sorted(names) == sorted(
        [
            """TABLE: dict[str, int] = {"a": 1}: 'a' dropped""",
            """TABLE: dict[str, int] = {"a": 1}: 'a' to 'a~'""",
            """TABLE: dict[str, int] = {"a": 1}: 1 to 2""",
            "if not 0 <= a < 9:: not dropped",
            "if not 0 <= a < 9:: LtE to Lt",
            "if not 0 <= a < 9:: Lt to LtE",
            "if not 0 <= a < 9:: 0 to 1",
            "if not 0 <= a < 9:: 9 to 10",
            'raise ValueError(f"{a} + 1"): statement dropped',
            "return a + 1: value dropped",
            "return a + 1: Add to Sub",
            "return a + 1: 1 to 2",
        ]
    )


def test_a_mutant_runs() -> None:
    (mutant,) = (mutant for mutant in mutants("m.py", SOURCE) if mutant.name.endswith("LtE to Lt"))
    space: dict[str, Callable[[int], int]] = {}
    exec(mutant.source, space)
    assert space["clipped"](1) == 2
    with pytest.raises(ValueError, match="0"):
        space["clipped"](0)


def test_who_survives_is_told_unless_listed() -> None:
    command = [sys.executable, "-m", "mutation", "phcbt01", "--match", "index.py: if number < 0 or"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False
    )
    assert "phcbt01: 4 mutants" in done.stdout, done.stdout + done.stderr
    assert ("SURVIVES" in done.stdout) == (done.returncode != 0)
    assert "tests fail without any mutant" not in done.stdout
