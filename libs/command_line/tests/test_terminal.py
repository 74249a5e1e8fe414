"""JSON for programs."""

from __future__ import annotations

import json
from enum import Enum

import pytest
from command_line import terminal


class Colour(Enum):
    """An enumeration."""

    RED = "red"


def test_json_has_the_values_of_enumerations(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.show_json([{"colour": Colour.RED, "n": 1}])
    assert json.loads(capsys.readouterr().out) == [{"colour": "red", "n": 1}]


def test_json_of_something_else_is_a_defect() -> None:
    with pytest.raises(TypeError, match="bytes is nothing that JSON knows"):
        terminal.show_json([{"x": b""}])
