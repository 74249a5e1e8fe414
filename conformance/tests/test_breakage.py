"""A testee that is broken is caught, whatever breaks; lists of known failures cannot go stale."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from vectortool import edit, runner, vectors
from vectortool.testee import Program

BROKEN = Path(__file__).with_name("broken_testee.py")
SUITE = "ptcomm-packets"


@pytest.fixture
def small(copy: Path) -> Path:
    """A set with one packet of each fault: broken testees are slow."""
    path = copy / vectors.SUITES[SUITE]
    data = vectors.read(path)
    seen: set[str] = set()
    for group in data["groups"]:
        group["tests"] = [t for t in group["tests"] if _first(t, seen)]
    path.write_text(json.dumps(data))
    return copy


def _first(test: dict[str, str], seen: set[str]) -> bool:
    kind = test.get("error", test["op"])
    fresh = kind not in seen
    seen.add(kind)
    return fresh


def failures(how: str, root: Path) -> list[str]:
    with Program([sys.executable, str(BROKEN), how], patience=6) as testee:
        return runner.run(testee, root=root, suites=[SUITE]).failures


@pytest.mark.parametrize(
    ("how", "shown"),
    [
        ("value", "instead of"),
        ("position", "instead of {'error': 'bad-length'"),
        ("leniency", "instead of {'error': 'truncated'"),
        ("cuts", "byte by byte"),
        ("crash", "crash"),
        ("death", "crash"),
        ("hang", "hang"),
        ("allocation", "allocation"),
        ("skip", "skipped"),
        ("chatter", "crash"),
    ],
)
def test_breakage_is_caught(how: str, shown: str, small: Path) -> None:
    found = failures(how, small)
    assert found
    assert all(shown in failure for failure in found)
    sound = sum(1 for _ in vectors.cases(SUITE, small))
    assert len(found) < sound or how in {"chatter", "cuts"}


def test_a_listed_failure_that_passes_is_a_failure(small: Path, python_command: list[str]) -> None:
    (small / "known_failures/python.txt").write_text("ptcomm-packets/1  # once\n")
    with Program(python_command) as testee:
        (found,) = runner.run(testee, root=small, suites=[SUITE]).failures
    assert found == "ptcomm-packets/1 is listed as a known failure and passes"


def test_a_program_that_is_no_testee_is_refused() -> None:
    with pytest.raises(RuntimeError, match="is no testee"), Program([sys.executable, "-c", "0"]):
        pass


def test_a_withdrawn_case_does_not_count(copy: Path) -> None:
    (copy / "withdrawn.json").write_text('{"names/1": "wrong"}')
    assert next(test.number for test in vectors.cases("names", copy)) == 2


def test_a_draft_becomes_numbered_cases(copy: Path) -> None:
    before = vectors.read(copy / vectors.SUITES["names"])["numberOfTests"]
    case = {"comment": "x", "flags": ["Foreign"], "op": "decode", "input": "00"}
    case |= {"result": "invalid", "error": "bad-name"}
    source = {"name": "hand", "how": "typed"}
    edit.add("names", {"groups": [{"source": source, "title": "t", "tests": [case]}]}, copy)
    assert [test.number for test in vectors.cases("names", copy)][-1] == before + 1
