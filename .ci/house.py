#!/usr/bin/env python3
"""How the members are built: sizes, import circles, names of two classes, long functions.

Fails on an import circle, on a class name that occurs twice in a member, and on a member that no
import contract can see. Long functions are shown, since a few have a reason.

usage: house.py [MEMBER...]
"""

from __future__ import annotations

import ast
import re
import statistics
import sys
import tomllib
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import grimp
from members import ROOT, read_members

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from members import Member

LONGEST = 60  # lines of a function that need no reason
GENERATION = re.compile(r"_?(v\d+)(_|$)")  # a module or a folder of one generation of an API


@dataclass(frozen=True)
class Class:
    """A class of a member, at `line` of `file`."""

    name: str
    file: Path
    line: int
    is_protocol: bool

    @property
    def generation(self) -> str | None:
        """Return the generation of the API that its module is for, such as v3."""
        found = (GENERATION.match(part) for part in self.file.with_suffix("").parts)
        return next((match[1] for match in found if match), None)

    def may_share_its_name(self, other: Class) -> bool:
        """Tell whether both may have one name: of two generations, or a Protocol and its form."""
        if self.generation and other.generation:
            return self.generation != other.generation
        return bool(self.generation and other.is_protocol) or bool(
            other.generation and self.is_protocol
        )

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True)
class Function:
    """A function or method of a member, at `line` of `file`; `lines` counts all of its lines."""

    name: str
    file: Path
    line: int
    lines: int


@dataclass
class House:
    """What the sources of one member hold."""

    lines: int = 0
    modules: int = 0
    test_lines: int = 0
    classes: list[Class] = field(default_factory=list)
    functions: list[Function] = field(default_factory=list)
    circles: list[list[str]] = field(default_factory=list)

    def name_clashes(self) -> list[list[Class]]:
        """Return the classes that share a name and may not, one list for each name."""
        by_name: dict[str, list[Class]] = defaultdict(list)
        for found in self.classes:
            by_name[found.name].append(found)
        return [group for _, group in sorted(by_name.items()) if not _may_share(group)]

    def long_functions(self) -> list[Function]:
        """Return the functions over the limit, the longest first."""
        found = (function for function in self.functions if function.lines > LONGEST)
        return sorted(found, key=lambda function: -function.lines)


def _may_share(group: list[Class]) -> bool:
    return all(
        one.may_share_its_name(other)
        for index, one in enumerate(group)
        for other in group[index + 1 :]
    )


def look(root: Path, member: Member) -> House:
    """Read the sources of a member; the package must be importable."""
    folder = root / member.folder
    house = House()
    for file in sorted((folder / "src").rglob("*.py")):
        _read(file, file.relative_to(root), house)
    house.test_lines = sum(_lines(file.read_text()) for file in folder.rglob("test_*.py"))
    graph = grimp.build_graph(member.name, cache_dir=None)
    house.circles = circles(
        {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    )
    return house


def _lines(text: str) -> int:
    return len(text.splitlines())


def _read(file: Path, shown: Path, house: House) -> None:
    text = file.read_text()
    house.modules += 1
    house.lines += _lines(text)
    for node in ast.walk(ast.parse(text, file)):
        if isinstance(node, ast.ClassDef):
            house.classes.append(Class(node.name, shown, node.lineno, _is_protocol(node)))
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            house.functions.append(Function(node.name, shown, node.lineno, lines))


def _is_protocol(node: ast.ClassDef) -> bool:
    """Tell whether Protocol is a base, as `Protocol`, `typing.Protocol` or `Protocol[T]`."""
    bases = (base.value if isinstance(base, ast.Subscript) else base for base in node.bases)
    return any(ast.unparse(base).rpartition(".")[2] == "Protocol" for base in bases)


def circles(imports: Mapping[str, Iterable[str]]) -> list[list[str]]:
    """Return the groups of modules that import each other, directly or by way of others.

    Imports for annotations only and imports inside of functions count: a reader follows them too.
    """
    reached = {module: _reach(imports, module) for module in imports}
    groups = {
        frozenset(other for other in reached[module] if module in reached[other])
        for module in imports
        if module in reached[module]
    }
    return sorted(sorted(group) for group in groups)


def _reach(imports: Mapping[str, Iterable[str]], start: str) -> set[str]:
    reached: set[str] = set()
    waiting = list(imports[start])
    while waiting:
        module = waiting.pop()
        if module not in reached:
            reached.add(module)
            waiting += imports[module]
    return reached


def without_contracts(root: Path, members: Iterable[Member]) -> list[str]:
    """Return the members that import-linter does not look at."""
    settings = tomllib.loads((root / "pyproject.toml").read_text())
    seen = settings["tool"]["importlinter"]["root_packages"]
    return [member.name for member in members if member.name not in seen]


def table(houses: Mapping[Member, House]) -> list[str]:
    """Return the lines of the table of sizes."""
    rows: list[tuple[str, ...]] = [
        ("member", "lines", "modules", "functions", "median", "longest", "tests")
    ]
    for member, house in houses.items():
        lengths = [function.lines for function in house.functions] or [0]
        numbers = (
            house.lines,
            house.modules,
            len(house.functions),
            round(statistics.median(lengths)),
            max(lengths),
            house.test_lines,
        )
        rows.append((str(member.folder), *map(str, numbers)))
    width = max(len(row[0]) for row in rows)
    return [f"{row[0]:<{width}}" + "".join(f"{cell:>11}" for cell in row[1:]) for row in rows]


def problems(houses: Mapping[Member, House]) -> list[str]:
    """Return one line for each import circle and each name clash."""
    found = []
    for member, house in houses.items():
        found += [
            f"{member.name}: import circle: {' <-> '.join(circle)}" for circle in house.circles
        ]
        for group in house.name_clashes():
            places = ", ".join(str(place) for place in group)
            found.append(
                f"{member.name}: {len(group)} classes are called {group[0].name}: {places}"
            )
    return found


def main(names: list[str]) -> int:
    """Print the house; return 1 if something in it must be repaired."""
    members = read_members()
    chosen = [members[name] for name in names] or list(members.values())
    houses = {member: look(ROOT, member) for member in chosen}
    print(*table(houses), sep="\n")
    for house in houses.values():
        for function in house.long_functions():
            place = f"{function.file}:{function.line}"
            print(f"over {LONGEST} lines: {place} {function.name}: {function.lines}")
    found = problems(houses)
    found += [
        f"{name}: missing in root_packages of [tool.importlinter] in pyproject.toml"
        for name in without_contracts(ROOT, chosen)
    ]
    for problem in found:
        print(f"FAILED {problem}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
