#!/usr/bin/env python3
"""Release one member: version, changelog, commit, tag, and the wheel and sdist in dist/.

The version follows from the fragments in the member's changelog.d/, which are called
+WORDS.breaking.md, +WORDS.added.md or +WORDS.fixed.md. From 1.0 on, these raise the first, second
or third number; before, `breaking` raises the second number and the others the third, as the ranges
of our dependencies (>=0.1,<0.2) expect. The first release has the version that the code has.

The tag is MEMBER-vVERSION. If a step fails, the working tree is put back and there is no tag.

usage: release.py MEMBER [VERSION]
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from members import ROOT, closure, read_members
from packaging.requirements import Requirement
from packaging.version import InvalidVersion, Version

if TYPE_CHECKING:
    from collections.abc import Iterable

    from members import Member

HERE = Path(__file__).resolve().parent
HEADING = "# Changelog of {name}\n\nChanges that are not released yet are in `changelog.d/`.\n\n"
MARKER = "<!-- releases -->\n"
KINDS = ("breaking", "added", "fixed")


class ReleaseRefused(Exception):
    """Nothing was released; the message says why and what to do."""


def next_version(current: Version, kinds: Iterable[str]) -> Version:
    """Return the version after `current` that fragments of these kinds ask for."""
    rank = min(KINDS.index(kind) for kind in kinds)  # 0: breaking
    if current.major == 0:
        rank += 1 if rank < 2 else 0
    numbers = [current.major, current.minor, current.micro]
    numbers[rank] += 1
    numbers[rank + 1 :] = [0] * (2 - rank)
    return Version(".".join(map(str, numbers)))


class Release:
    """One release of `member`, in the repository at `root`."""

    def __init__(self, root: Path, member: Member, members: dict[str, Member]) -> None:
        """Take a member of the workspace at `root`."""
        self._root = root
        self._member = member
        self._members = members

    def run(self, wanted: str | None) -> Version:
        """Make the release and return its version. Raises ReleaseRefused."""
        self._check_tree()
        version = self._choose_version(wanted)
        self._check_ranges(version)
        with tempfile.TemporaryDirectory() as made:
            try:
                self._write_version(version)
                self._write_changelog(version)
                self._build(version, Path(made))
                self._git("commit", "--quiet", "--all", "-m", f"{self._member.name} {version}")
            except BaseException:
                self._git("reset", "--quiet", "--hard")
                raise
            tag = self._tag(version)
            self._git("tag", "--annotate", "-m", f"{self._member.name} {version}", tag)
            (self._root / "dist").mkdir(exist_ok=True)
            for file in sorted(Path(made).iterdir()):
                print(shutil.copy(file, self._root / "dist"))
        print(f"{self._member.name} {version} is released: commit and tag {tag}")
        return version

    def _check_tree(self) -> None:
        changed = self._git("status", "--porcelain")
        if changed:
            raise ReleaseRefused(f"commit or remove these changes first:\n{changed}")

    def _choose_version(self, wanted: str | None) -> Version:
        """Return the version given, or the one that follows from the fragments."""
        current = Version(self._version_line()[1])
        released = self._is_tagged(current)
        kinds = self._fragment_kinds()
        if not kinds:
            raise ReleaseRefused(
                f"{self._member.folder}/changelog.d holds no fragment: "
                "there is nothing to release. Describe the changes there first"
            )
        if wanted is None:
            wanted = str(next_version(current, kinds) if released else current)
        try:
            version = Version(wanted)
        except InvalidVersion as error:
            raise ReleaseRefused(f"{wanted} is not a version, such as 1.4.0") from error
        if version < current:
            raise ReleaseRefused(f"the version must not be below {current}, {version} is")
        if self._is_tagged(version):
            raise ReleaseRefused(f"{self._member.name} {version} is released already")
        return version

    def _fragment_kinds(self) -> list[str]:
        """Return the kind of each fragment."""
        kinds = []
        folder = self._root / self._member.folder / "changelog.d"
        for file in sorted(folder.glob("[!.]*")):
            named = re.fullmatch(r".+\.(\w+)\.md", file.name)
            if not named or named[1] not in KINDS:
                raise ReleaseRefused(
                    f"the name of {file.relative_to(self._root)} must end with "
                    + " or ".join(f".{kind}.md" for kind in KINDS)
                )
            kinds.append(named[1])
        return kinds

    def _check_ranges(self, version: Version) -> None:
        """Refuse a version that a member which needs this one does not allow."""
        name = self._member.name
        for member in self._members.values():
            for text in (*member.dependencies, *(member.test_dependencies or ())):
                needed = Requirement(text)
                if needed.name.replace("-", "_") == name and version not in needed.specifier:
                    raise ReleaseRefused(
                        f"{member.folder}/pyproject.toml needs {text}, which does not allow "
                        f"{name} {version}: change that range first"
                    )

    def _version_line(self) -> re.Match[str]:
        """Return the line of the version in the code; its group 1 is the version."""
        file = self._root / self._member.version_file
        found = re.search(r'^__version__ = "(.+)"$', file.read_text(), re.MULTILINE)
        if not found:
            raise ReleaseRefused(f"{self._member.version_file} has no line __version__ =")
        return found

    def _write_version(self, version: Version) -> None:
        file = self._root / self._member.version_file
        line = self._version_line()[0]
        file.write_text(file.read_text().replace(line, f'__version__ = "{version}"', 1))

    def _write_changelog(self, version: Version) -> None:
        """Turn the fragments into a section of CHANGELOG.md, and remove them."""
        folder = self._root / self._member.folder
        changelog = folder / "CHANGELOG.md"
        if not changelog.exists():
            changelog.write_text(HEADING.format(name=self._member.name) + MARKER)
            self._git("add", str(changelog))
        if MARKER not in changelog.read_text():
            raise ReleaseRefused(f"{self._member.folder}/CHANGELOG.md has no line {MARKER.strip()}")
        options = ("--config", str(HERE / "towncrier.toml"), "--dir", str(folder))
        self._tool(
            sys.executable,
            "-m",
            "towncrier",
            "build",
            "--yes",
            *options,
            "--name",
            self._member.name,
            "--version",
            str(version),
        )

    def _build(self, version: Version, folder: Path) -> None:
        """Make the sdist, and the wheel from it, so that the sdist is complete."""
        os.environ.setdefault("SOURCE_DATE_EPOCH", self._git("log", "-1", "--format=%ct"))
        self._tool(
            "uv",
            "build",
            "--quiet",
            "--no-build-isolation",
            "--python",
            sys.executable,
            "--out-dir",
            str(folder),
            str(self._root / self._member.folder),
        )
        (folder / ".gitignore").unlink(missing_ok=True)  # uv's own
        made = {file.name for file in folder.iterdir()}
        stem = f"{self._member.name}-{version}"
        if made != {f"{stem}.tar.gz", f"{stem}-py3-none-any.whl"}:
            raise ReleaseRefused(f"the build made {sorted(made)}, not {stem}")

    def _tag(self, version: Version) -> str:
        return f"{self._member.name}-v{version}"

    def _is_tagged(self, version: Version) -> bool:
        return bool(self._git("tag", "--list", self._tag(version)))

    def _git(self, *arguments: str) -> str:
        return self._tool("git", *arguments)

    def _tool(self, *command: str) -> str:
        """Run a command in the repository and return its output. Raises ReleaseRefused."""
        done = subprocess.run(command, cwd=self._root, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ReleaseRefused(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}".strip())
        return done.stdout.strip()


def main(arguments: list[str], root: Path = ROOT) -> int:
    """Release the member that is named; return the exit code."""
    if len(arguments) not in (1, 2):
        print(__doc__, file=sys.stderr)
        return 2
    name, wanted = arguments[0], arguments[1] if len(arguments) == 2 else None
    members = read_members(root)
    try:
        Release(root, closure(members, [name])[-1], members).run(wanted)
    except (ReleaseRefused, LookupError) as error:
        print(f"release: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
