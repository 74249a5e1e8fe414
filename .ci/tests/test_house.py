"""The check of the house: on small members that have what it looks for, and on ours."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import house
import pytest
from members import Member

if TYPE_CHECKING:
    from collections.abc import Callable

    Build = Callable[..., house.House]  # takes the text of each module


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Build:
    """Make a member `sample` of the given modules, and look at it."""

    def make(**modules: str) -> house.House:
        folder = tmp_path / "libs" / "sample"
        package = folder / "src" / "sample"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("")
        for name, text in modules.items():
            file = package / f"{name.replace('__', '/')}.py"
            file.parent.mkdir(exist_ok=True)
            (file.parent / "__init__.py").touch()
            file.write_text(textwrap.dedent(text))
        monkeypatch.syspath_prepend(str(folder / "src"))
        for loaded in [name for name in sys.modules if name.partition(".")[0] == "sample"]:
            monkeypatch.delitem(sys.modules, loaded)
        member = Member("sample", Path("libs/sample"), (), None, None)
        return house.look(tmp_path, member)

    return make


def clashing(found: house.House) -> list[str]:
    return [group[0].name for group in found.name_clashes()]


def test_a_house_in_order(build: Build) -> None:
    found = build(a="class A:\n    def f(self):\n        return 1\n", b="from sample import a\n")
    assert (found.lines, found.modules) == (4, 3)
    assert not found.circles
    assert not found.name_clashes()
    assert not found.long_functions()


def test_an_import_circle_is_found_by_way_of_others(build: Build) -> None:
    found = build(
        a="from sample import b",
        b="from sample.c import C",
        c="import sample.a\nclass C: ...",
        d="from sample import a",
    )
    assert found.circles == [["sample.a", "sample.b", "sample.c"]]


@pytest.mark.parametrize(
    "text",
    [
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from sample.a import A",
        "def f():\n    from sample.a import A\n    return A",
    ],
    ids=["for annotations", "in a function"],
)
def test_hidden_imports_make_a_circle_too(build: Build, text: str) -> None:
    found = build(a="import sample.b\nclass A: ...", b=text)
    assert found.circles == [["sample.a", "sample.b"]]


def test_two_circles_are_two() -> None:
    graph = {"a": ["b"], "b": ["a", "c"], "c": ["d"], "d": ["c"], "e": ["a"]}
    assert house.circles(graph) == [["a", "b"], ["c", "d"]]


def test_a_name_may_be_taken_once(build: Build) -> None:
    found = build(a="class State: ...\nclass Only: ...", b="class Outer:\n    class State: ...")
    assert clashing(found) == ["State"]


PROTOCOL = "from typing import Protocol\nclass Images(Protocol): ..."


def test_generations_and_their_protocol_share_a_name(build: Build) -> None:
    form = "class Images: ..."
    assert not clashing(
        build(services=PROTOCOL, _v3__images=form, v4__images=form, _v2_images=form)
    )


def test_a_generation_uses_a_name_once(build: Build) -> None:
    found = build(_v3__images="class Images: ...", _v3__pictures="class Images: ...")
    assert clashing(found) == ["Images"]


def test_a_generation_and_a_class_that_is_no_protocol_clash(build: Build) -> None:
    found = build(services="class Images: ...", _v3__images="class Images: ...")
    assert clashing(found) == ["Images"]


def test_two_protocols_clash(build: Build) -> None:
    generic = "import typing\nclass Images(typing.Protocol[int]): ..."
    assert clashing(build(services=PROTOCOL, others=generic)) == ["Images"]


def test_long_functions_are_listed_the_longest_first(build: Build) -> None:
    body = "    x = 1\n"
    found = build(
        a=f"def fits():\n{body * 59}\ndef long():\n{body * 60}\nasync def longer():\n{body * 70}"
    )
    assert [(function.name, function.lines) for function in found.long_functions()] == [
        ("longer", 71),
        ("long", 61),
    ]


def test_every_problem_is_one_line(build: Build) -> None:
    found = build(
        a="from sample import b\nclass State: ...", b="from sample import a\nclass State: ..."
    )
    member = Member("sample", Path("libs/sample"), (), None, None)
    lines = house.problems({member: found})
    places = [f"libs/sample/src/sample/{name}.py:2" for name in ("a", "b")]
    assert lines == [
        "sample: import circle: sample.a <-> sample.b",
        f"sample: 2 classes are called State: {', '.join(places)}",
    ]
    assert house.table({member: found})[1].split()[:3] == ["libs/sample", "4", "3"]


def test_a_member_without_a_contract_is_named(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[tool.importlinter]\nroot_packages = ["a"]\n')
    members = [Member(name, Path("libs") / name, (), None, None) for name in ("a", "b")]
    assert house.without_contracts(tmp_path, members) == ["b"]


def test_the_command_prints_a_member(capsys: pytest.CaptureFixture[str]) -> None:
    assert house.main(["ptcomm"]) == 0
    heading, row = capsys.readouterr().out.splitlines()
    assert heading.split()[0] == "member"
    assert row.startswith("libs/ptcomm ")
    assert int(row.split()[1]) > 1000
