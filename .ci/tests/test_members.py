"""The list of members: who they are, what one needs, and how it is installed and tested."""

from __future__ import annotations

from pathlib import Path

import members
import pytest
from members import Member, closure, read_members

FILES = {
    "libs/codec": 'dependencies = ["attrs>=23.2"]',
    "libs/store": (
        'dependencies = ["codec>=0.1,<0.2", "attrs"]\n[tool.coverage.report]\nfail_under = 100'
    ),
    "apps/lab": "",
    "apps/product": (
        "dependencies = [\"store[fast]>=1 ; sys_platform == 'linux'\"]\n"
        '[dependency-groups]\ntest = ["lab", "trustme>=1.2"]'
    ),
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "pyproject.toml").write_text(
        '[tool.uv.workspace]\nmembers = ["libs/*", "apps/*"]\n'
    )
    (tmp_path / "libs/no_member").mkdir(parents=True)
    for folder, text in FILES.items():
        (tmp_path / folder).mkdir(parents=True)
        name = Path(folder).name
        (tmp_path / folder / "pyproject.toml").write_text(f'[project]\nname = "{name}"\n{text}\n')
    return tmp_path


def test_a_folder_with_a_pyproject_is_a_member(root: Path) -> None:
    found = read_members(root)
    assert list(found) == ["codec", "store", "lab", "product"]
    assert found["product"] == Member(
        "product",
        Path("apps/product"),
        ("store[fast]>=1 ; sys_platform == 'linux'",),
        ("lab", "trustme>=1.2"),
        None,
    )
    assert found["store"].coverage == 100
    assert [member.name for member in found.values() if member.is_library] == ["codec", "store"]


def test_what_a_member_needs_comes_before_it(root: Path) -> None:
    found = read_members(root)
    names = [member.name for member in closure(found, ["product"])]
    assert names == ["codec", "store", "product"]
    tested = {member.name for member in closure(found, ["product"], tests=True)}
    assert tested == {"codec", "store", "lab", "product"}


def test_the_tests_of_what_it_needs_are_not_its_business(root: Path) -> None:
    (root / "libs/codec/pyproject.toml").write_text(
        '[project]\nname = "codec"\n[dependency-groups]\ntest = ["lab"]\n'
    )
    found = read_members(root)
    assert [member.name for member in closure(found, ["store"], tests=True)] == ["codec", "store"]


def test_a_member_is_installed_with_what_it_declares_and_no_more(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RESOLUTION", "--resolution=lowest-direct")
    command = members.install_command(read_members(root), ["lowest-store"], editable=False)
    assert command == [
        *("uv", "pip", "install", "--quiet", "--resolution=lowest-direct"),
        *("--reinstall-package", "codec", "./libs/codec"),
        *("--reinstall-package", "store", "./libs/store"),
    ]


def test_a_group_of_test_requirements_is_installed_too(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RESOLUTION", raising=False)
    command = members.install_command(read_members(root), ["product"], editable=True)
    assert command[4:6] == ["--group", "apps/product/pyproject.toml:test"]
    assert command[8:10] == ["--editable", "./apps/lab"]


def test_no_name_is_every_member(root: Path) -> None:
    command = members.install_command(read_members(root), [], editable=False)
    assert {word for word in command if word.startswith("./")} == {f"./{name}" for name in FILES}


def test_coverage_is_judged_on_one_python(root: Path) -> None:
    found = read_members(root)
    assert "--cov-fail-under=100" in members.test_command(found, "py-store")
    assert "--cov-fail-under=100" not in members.test_command(found, "py312-store")
    assert members.test_command(found, "py-codec")[-1] == "libs/codec/tests"


@pytest.mark.parametrize("name", ["py-storr", "storr"])
def test_an_unknown_member_is_named(root: Path, name: str) -> None:
    with pytest.raises(
        members.UnknownMember, match="storr is no member: known are codec store lab"
    ):
        members.test_command(read_members(root), name)


def test_ours_have_a_place_and_a_readme() -> None:
    for member in read_members().values():
        assert (members.ROOT / member.folder / "README.md").exists(), member.name
        assert member.folder.name == member.name
