"""Files that survive a power cut: whole or old, and locked by one."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import durable
import pytest
from durable.names import component

if TYPE_CHECKING:
    from pathlib import Path


def test_a_replaced_file_is_private_and_whole(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    durable.replace(path, b"one")
    durable.replace(path, b"two")
    assert path.read_bytes() == b"two"
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_folders_are_made_with_those_above(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    durable.make_folder(folder)
    durable.make_folder(folder)
    assert folder.stat().st_mode & 0o777 == 0o700


def test_one_holder_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    first = durable.open_locked(path)
    with pytest.raises(BlockingIOError):
        durable.open_locked(path)
    os.close(first)
    os.close(durable.open_locked(path))


def test_a_line_after_a_torn_one_stands_alone(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"torn")
    descriptor = durable.open_locked(path)
    durable.append(descriptor, b"whole")
    os.close(descriptor)
    assert path.read_bytes().splitlines() == [b"torn", b"whole"]


def test_renamed_and_removed(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.touch()
    durable.rename(old, new)
    durable.remove(new)
    assert not list(tmp_path.iterdir())


def test_a_name_never_leaves_its_folder() -> None:
    assert component("a/b") == "a%2Fb"
    assert component("..") == "%2E%2E"
    assert component("web 01") == "web 01"
