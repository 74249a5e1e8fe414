"""The examples of the README run."""

from __future__ import annotations

from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"
EXAMPLES = [part.partition("```")[0] for part in README.read_text().split("```python\n")[1:]]


def test_there_are_examples() -> None:
    assert len(EXAMPLES) == 2


@pytest.mark.parametrize("example", EXAMPLES)
def test_example(example: str) -> None:
    exec(compile(example, str(README), "exec"), {})
