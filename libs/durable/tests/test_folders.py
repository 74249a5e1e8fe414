"""Folders that another user may write to, and records that cost too much."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import durable
import pytest

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.security
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give files to another user")
NOBODY = 65_534


def test_a_folder_is_made_with_those_above_for_us_alone(tmp_path: Path) -> None:
    folder = durable.open_folder(tmp_path / "a" / "b")
    (durable.at(folder) / "file").touch()
    os.close(folder)
    assert (tmp_path / "a" / "b" / "file").exists()
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("where", ["relative", "absolute"])
def test_a_link_of_ours_is_followed(tmp_path: Path, where: str) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there" if where == "absolute" else "there")
    os.close(durable.open_folder(tmp_path / "link" / "below"))
    assert (tmp_path / "there" / "below").is_dir()


@as_root
def test_a_link_of_another_user_is_refused(tmp_path: Path) -> None:
    link = tmp_path / "link"
    (tmp_path / "there").mkdir()
    link.symlink_to(tmp_path / "there")
    os.chown(link, NOBODY, NOBODY, follow_symlinks=False)
    with pytest.raises(PermissionError, match="link is a link of user 65534: remove it"):
        durable.open_folder(link / "below")
    assert not list((tmp_path / "there").iterdir())


def test_links_in_a_circle_and_files_are_no_folders(tmp_path: Path) -> None:
    (tmp_path / "circle").symlink_to("circle")
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="Too many levels"):
        durable.open_folder(tmp_path / "circle")
    with pytest.raises(NotADirectoryError):
        durable.open_folder(tmp_path / "file")


def test_a_folder_that_is_moved_while_it_is_open_leads_nowhere_else(tmp_path: Path) -> None:
    folder = durable.open_folder(tmp_path / "ours")
    (tmp_path / "ours").rename(tmp_path / "moved")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "ours").symlink_to("elsewhere")
    (durable.at(folder) / "file").touch()
    os.close(folder)
    assert [path.name for path in (tmp_path / "moved").iterdir()] == ["file"]
    assert not list((tmp_path / "elsewhere").iterdir())


def test_no_file_is_written_through_a_link(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("of root")
    (tmp_path / "state.new").symlink_to(victim)
    (tmp_path / "lock").symlink_to(tmp_path / "made")
    durable.replace(tmp_path / "state.json", b"x")
    with pytest.raises(OSError, match="Too many levels"):
        durable.open_locked(tmp_path / "lock")
    assert victim.read_text() == "of root"
    assert (tmp_path / "state.json").read_bytes() == b"x"
    assert not (tmp_path / "state.json").is_symlink()
    assert not (tmp_path / "made").exists()


def test_what_lies_in_place_of_the_new_file_is_not_written_to(tmp_path: Path) -> None:
    """Another user may have made it, and still have it open."""
    planted = tmp_path / "state.new"
    planted.write_text("planted")
    planted.chmod(0o666)
    with planted.open() as held:
        durable.replace(tmp_path / "state.json", b"secret")
        assert held.read() == "planted"
    assert (tmp_path / "state.json").stat().st_mode & 0o777 == 0o600


def test_a_file_with_a_second_name_is_not_opened(tmp_path: Path) -> None:
    (tmp_path / "shadow").write_text("of root")
    (tmp_path / "lock").hardlink_to(tmp_path / "shadow")
    with pytest.raises(PermissionError, match="has a second name"):
        durable.open_locked(tmp_path / "lock")


@as_root
def test_root_leaves_what_it_makes_to_the_owner_of_the_folder(tmp_path: Path) -> None:
    """Root's commands would lock a service out that runs as the owner."""
    home = tmp_path / "home"
    home.mkdir()
    os.chown(home, NOBODY, NOBODY)
    durable.make_folder(home / "a" / "b")
    durable.replace(home / "a" / "b" / "state.json", b"x")
    durable.replace(home / "a" / "b" / "state.json", b"y")
    os.close(durable.open_locked(home / "a" / "b" / "lock"))
    made = [home / "a", *(home / "a").rglob("*")]
    assert len(made) == 4
    assert {(path.stat().st_uid, path.stat().st_gid) for path in made} == {(NOBODY, NOBODY)}


@as_root
def test_root_follows_no_link_of_another_user_to_a_folder(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "below").mkdir()
    link = tmp_path / "link"
    link.symlink_to("there")
    durable.make_folder(link / "ours")
    os.chown(link, NOBODY, NOBODY, follow_symlinks=False)
    for folder in (link / "new", link / "below"):
        with pytest.raises(PermissionError, match="link is a link of user 65534: remove it"):
            durable.make_folder(folder)
    assert {path.name for path in (tmp_path / "there").iterdir()} == {"below", "ours"}


def test_a_record_of_many_lists_is_refused_before_memory_is_spent() -> None:
    """60 MiB of nested lists took 1.5 GiB; the child may have 1 GiB of addresses."""
    program = (
        "import resource; from durable import records\n"
        "data = b'[' + b'[],' * 20_000_000 + b'[]]'\n"
        "resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))\n"
        "try: records.load(data, dict)\n"
        "except records.RecordError as error: print(error)\n"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert "it holds more than 2000000 values" in done.stdout
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < 20, (
        f"{time.monotonic() - started} s"
    )
