"""Releases, made in scratch clones of this repository."""

from __future__ import annotations

import subprocess
import zipfile
from typing import TYPE_CHECKING

import pytest
import release
from members import ROOT
from packaging.version import Version

if TYPE_CHECKING:
    from pathlib import Path

CODE = "libs/ptcomm/src/ptcomm/__init__.py"


class Clone:
    """A clone of the repository's HEAD, in which ptcomm has one fragment and no release."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.git("clone", "--quiet", "--no-tags", str(ROOT), ".")
        fragments = root / "libs/ptcomm/changelog.d"
        for old in fragments.glob("*.md"):
            old.unlink()
        self.set_version("0.1.0")
        self.write(
            "libs/ptcomm/CHANGELOG.md", release.HEADING.format(name="ptcomm") + release.MARKER
        )
        self.write("libs/ptcomm/changelog.d/+first.added.md", "First version.\n")
        self.commit()

    def git(self, *arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=self.root, capture_output=True, text=True, check=True
        ).stdout.strip()

    def write(self, name: str, text: str) -> None:
        (self.root / name).parent.mkdir(exist_ok=True)
        (self.root / name).write_text(text)

    def set_version(self, version: str) -> None:
        code = (self.root / CODE).read_text()
        before = code.partition('__version__ = "')[2].partition('"')[0]
        self.write(CODE, code.replace(f'"{before}"', f'"{version}"', 1))

    def commit(self) -> None:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "-m", "a change")

    def release(self, *arguments: str) -> int:
        return release.main(["ptcomm", *arguments], self.root)

    def state(self) -> tuple[str, str, str]:
        return self.git("rev-parse", "HEAD"), self.git("tag"), self.git("status", "--porcelain")


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Clone:
    for role in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{role}_NAME", "tester")
        monkeypatch.setenv(f"GIT_{role}_EMAIL", "tester@example.com")
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "safe.directory")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "*")
    return Clone(tmp_path)


def test_the_first_release_and_the_next(clone: Clone) -> None:
    assert clone.release() == 0
    assert clone.git("tag") == "ptcomm-v0.1.0"
    assert clone.git("status", "--porcelain") == ""
    assert clone.git("log", "-1", "--format=%s") == "ptcomm 0.1.0"
    clone.write("libs/ptcomm/changelog.d/+limit.fixed.md", "The limit is checked.\n")
    clone.commit()
    assert clone.release() == 0
    assert clone.git("tag") == "ptcomm-v0.1.0\nptcomm-v0.1.1"
    assert '__version__ = "0.1.1"' in (clone.root / CODE).read_text()
    changelog = (clone.root / "libs/ptcomm/CHANGELOG.md").read_text()
    assert changelog.index("## 0.1.1 (") < changelog.index("## 0.1.0 (")
    assert "### Fixed\n\n- The limit is checked.\n" in changelog
    assert "### Added\n\n- First version.\n" in changelog
    assert not list((clone.root / "libs/ptcomm").glob("changelog.d/*"))
    made = sorted(file.name for file in (clone.root / "dist").iterdir())
    assert made == [
        f"ptcomm-{version}{end}"
        for version in ("0.1.0", "0.1.1")
        for end in ("-py3-none-any.whl", ".tar.gz")
    ]
    with zipfile.ZipFile(clone.root / "dist/ptcomm-0.1.1-py3-none-any.whl") as wheel:
        assert b"\nVersion: 0.1.1\n" in wheel.read("ptcomm-0.1.1.dist-info/METADATA")
        assert b'__version__ = "0.1.1"' in wheel.read("ptcomm/__init__.py")


def test_a_version_may_be_given(clone: Clone) -> None:
    assert clone.release("0.1.7") == 0
    assert clone.git("tag") == "ptcomm-v0.1.7"


@pytest.mark.parametrize(
    ("arguments", "change", "reason"),
    [
        ([], "README.md", "commit or remove these changes first:\n?? libs/ptcomm/README.md.new"),
        (["0.0.9"], None, "must not be below 0.1.0, 0.0.9 is"),
        (["new"], None, "new is not a version"),
        (["0.2.0"], None, "does not allow ptcomm 0.2.0: change that range first"),
        ([], "+wire.security.md", "must end with .breaking.md or .added.md or .fixed.md"),
        ([], "no fragment", "there is nothing to release"),
        ([], "no build backend", "failed:"),
        ([], "no marker", "CHANGELOG.md has no line <!-- releases -->"),
    ],
)
def test_a_refused_release_changes_nothing(
    clone: Clone,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    change: str | None,
    reason: str,
) -> None:
    if change == "README.md":
        clone.write("libs/ptcomm/README.md.new", "not committed")
    elif change == "no fragment":
        (clone.root / "libs/ptcomm/changelog.d/+first.added.md").unlink()
        clone.commit()
    elif change == "no build backend":
        settings = (clone.root / "libs/ptcomm/pyproject.toml").read_text()
        clone.write("libs/ptcomm/pyproject.toml", settings.replace("hatchling", "no_backend"))
        clone.commit()
    elif change == "no marker":
        clone.write("libs/ptcomm/CHANGELOG.md", "# Changelog\n")
        clone.commit()
    elif change:
        clone.write(f"libs/ptcomm/changelog.d/{change}", "A change.\n")
        clone.commit()
    before = clone.state()
    assert clone.release(*arguments) == 1
    assert reason in capsys.readouterr().err
    assert clone.state() == before
    assert not (clone.root / "dist").exists()


def test_a_version_is_released_once(clone: Clone, capsys: pytest.CaptureFixture[str]) -> None:
    assert clone.release() == 0
    clone.write("libs/ptcomm/changelog.d/+more.added.md", "More.\n")
    clone.commit()
    assert clone.release("0.1.0") == 1
    assert "ptcomm 0.1.0 is released already" in capsys.readouterr().err


def test_an_unknown_member_is_named(clone: Clone, capsys: pytest.CaptureFixture[str]) -> None:
    assert release.main(["ptcom"], clone.root) == 1
    assert "ptcom is no member: known are" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("current", "kinds", "after"),
    [
        ("0.1.4", ["fixed"], "0.1.5"),
        ("0.1.4", ["fixed", "added"], "0.1.5"),
        ("0.1.4", ["added", "breaking"], "0.2.0"),
        ("1.2.3", ["fixed"], "1.2.4"),
        ("1.2.3", ["fixed", "added"], "1.3.0"),
        ("1.2.3", ["breaking", "fixed"], "2.0.0"),
    ],
)
def test_the_version_follows_from_the_fragments(current: str, kinds: list[str], after: str) -> None:
    assert release.next_version(Version(current), kinds) == Version(after)
