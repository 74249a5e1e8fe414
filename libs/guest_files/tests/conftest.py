"""Disks in memory and on file, and file systems that mke2fs makes and fills without root."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest
from chain_disk import ChainDisk, ChainFile, Disk
from guest_files.sources import Source

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MIB = 1 << 20


class Memory(Source):
    """A source in memory."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.size = len(content)

    def read_at(self, offset: int, length: int) -> bytes:
        return self.content[offset : offset + length]


class MemoryDisk(Disk):
    """A disk in memory."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    @property
    def size(self) -> int:
        return len(self.content)

    def read(self, offset: int, length: int) -> bytes:
        return self.content[offset : offset + length]

    def extents(self) -> list[tuple[int, int]]:
        return [(0, self.size)]

    def close(self) -> None:
        pass


def disk_of(path: Path) -> Disk:
    return ChainDisk([ChainFile(path, is_delta=False)])


def run(*words: object, text: str | None = None) -> None:
    subprocess.run(
        [str(word) for word in words], check=True, capture_output=True, input=text, text=True
    )


@pytest.fixture
def make_ext(tmp_path: Path) -> Callable[[Path], Path]:
    """Make an ext4 of a folder."""

    def make(folder: Path) -> Path:
        image = tmp_path / "ext4.img"
        image.write_bytes(b"")
        run("mke2fs", "-q", "-t", "ext4", "-d", folder, image, "16m")
        return image

    return make


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A small tree of files."""
    root = tmp_path / "tree"
    (root / "etc" / "nginx" / "conf.d").mkdir(parents=True)
    (root / "etc" / "nginx" / "nginx.conf").write_text("main")
    (root / "etc" / "nginx" / "conf.d" / "a.conf").write_text("a")
    (root / "etc" / "hosts").write_text("127.0.0.1")
    (root / "etc" / "link").symlink_to("hosts")
    (root / "large").write_bytes(bytes(range(256)) * 9000)
    (root / "empty").touch()
    with (root / "sparse").open("wb") as file:
        file.seek(5 * MIB)
        file.write(b"middle")
        file.truncate(8 * MIB)
    return root
