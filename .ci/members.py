#!/usr/bin/env python3
"""The members of the workspace: the one list, which `run`, tox and the package build read.

A member is a folder with a pyproject.toml that `[tool.uv.workspace]` of the root names.
A new member needs no entry elsewhere. What its tests need, besides what it declares for its
users, stands in its own `[dependency-groups] test`.

usage: members.py folders [MEMBER...]   the folders of all members; or of some and of what they need
       members.py names                 the names of all members
       members.py libraries             the names of the libraries
       members.py sources               the source folders, for MYPYPATH
       members.py install [--editable] [MEMBER...]
                                        into the environment that is active: these members (all, if
                                        none is named) with what they and their tests declare
       members.py test MEMBER [ARGUMENT...]
                                        pytest on the tests of a member

For `install` and `test`, a tox environment, such as py312-MEMBER, stands for its member.

`RESOLUTION` in the environment is one more option for `uv pip install`.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


class UnknownMember(LookupError):
    """No member has this name."""


@dataclass(frozen=True)
class Member:
    """One separately versioned package. `folder` is relative to the workspace."""

    name: str
    folder: Path
    dependencies: tuple[str, ...]  # requirements, as pyproject.toml has them
    test_dependencies: tuple[str, ...] | None  # of its group `test`; None: it has no such group
    coverage: int | None  # percent of its branches that its tests must reach

    @property
    def version_file(self) -> Path:
        """Return the file that its version stands in."""
        return self.folder / "src" / self.name / "__init__.py"

    @property
    def is_library(self) -> bool:
        """Whether it is made to be imported by others."""
        return self.folder.parts[0] == "libs"


def read_members(root: Path = ROOT) -> dict[str, Member]:
    """Return every member by its name."""
    workspace = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["uv"]["workspace"]
    files = [
        file
        for glob in workspace["members"]
        for file in sorted(root.glob(f"{glob}/pyproject.toml"))
    ]
    members = [_read_member(root, file.parent) for file in files]
    return {member.name: member for member in members}


def _read_member(root: Path, folder: Path) -> Member:
    settings: dict[str, Any] = tomllib.loads((folder / "pyproject.toml").read_text())
    project = settings["project"]
    test = settings.get("dependency-groups", {}).get("test")
    report = settings.get("tool", {}).get("coverage", {}).get("report", {})
    return Member(
        name=project["name"],
        folder=folder.relative_to(root),
        dependencies=tuple(project.get("dependencies", [])),
        test_dependencies=None if test is None else tuple(test),
        coverage=report.get("fail_under"),
    )


def _needed(members: dict[str, Member], requirements: tuple[str, ...]) -> list[str]:
    """Return the names of the members among the requirements."""
    names = (re.split(r"[^\w.-]", text, maxsplit=1)[0].replace("-", "_") for text in requirements)
    return [name for name in names if name in members]


def closure(members: dict[str, Member], names: list[str], *, tests: bool = False) -> list[Member]:
    """Return these members and those that they need, a needed one before who needs it.

    With `tests`, what the tests of `names` need is included. Raises UnknownMember.
    """
    found: dict[str, Member] = {}

    def visit(name: str) -> None:
        for needed in _needed(members, members[name].dependencies):
            if needed not in found:
                visit(needed)
        found[name] = members[name]

    for name in names:
        if name not in members:
            raise UnknownMember(f"{name} is no member: known are {' '.join(members)}")
        for needed in _needed(members, members[name].test_dependencies or ()) if tests else ():
            visit(needed)
        visit(name)
    return list(found.values())


def install_command(members: dict[str, Member], names: list[str], *, editable: bool) -> list[str]:
    """Return the command that installs these members with what they and their tests declare."""
    names = [name.rpartition("-")[2] for name in names] or list(members)
    wanted = closure(members, names, tests=True)
    command = ["uv", "pip", "install", "--quiet", *os.environ.get("RESOLUTION", "").split()]
    for name in names:
        if members[name].test_dependencies is not None:
            command += ["--group", f"{members[name].folder}/pyproject.toml:test"]
    for member in wanted:
        command += ["--reinstall-package", member.name]
        command += ["--editable"] * editable + [f"./{member.folder}"]
    return command


def test_command(members: dict[str, Member], environment: str) -> list[str]:
    """Return the command that runs the tests of a member, or of the member of a tox environment.

    Coverage is judged in the environment `py-` only: versions of Python differ in what they count.
    """
    python, _, name = environment.rpartition("-")
    if name not in members:
        raise UnknownMember(f"{name} is no member: known are {' '.join(members)}")
    member = members[name]
    command = [sys.executable, "-bb", "-m", "pytest", str(member.folder / "tests")]
    if python == "py" and member.coverage is not None:
        command += [f"--cov={name}", "--cov-branch", f"--cov-fail-under={member.coverage}"]
    return command


def main(arguments: list[str]) -> int:
    """Run one of the commands of the usage."""
    members = read_members()
    match arguments:
        case ["folders", *names]:
            chosen = closure(members, names) if names else list(members.values())
            print(*(member.folder for member in chosen), sep="\n")
        case ["names"]:
            print(*members, sep="\n")
        case ["libraries"]:
            print(*(member.name for member in members.values() if member.is_library), sep="\n")
        case ["sources"]:
            print(*(ROOT / member.folder / "src" for member in members.values()), sep=":")
        case ["install", "--editable", *names]:
            return _run(install_command(members, names, editable=True))
        case ["install", *names]:
            return _run(install_command(members, names, editable=False))
        case ["test", environment, *rest]:
            return _run([*test_command(members, environment), *rest])
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    return 0


def _run(command: list[str]) -> int:
    return subprocess.run(command, cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except UnknownMember as error:
        sys.exit(f"members: {error}")
