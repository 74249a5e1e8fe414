"""Shared fixtures: sample images and a real block device."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

DEVICE_SIZE = 1 << 20


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Path]:
    """A loop device of 1 MiB on which an earlier owner left 0xEE everywhere."""
    if os.geteuid() != 0 or not Path("/dev/loop-control").exists():
        pytest.skip("needs root and loop devices")
    backing = tmp_path / "backing"
    backing.write_bytes(b"\xee" * DEVICE_SIZE)
    attach = ["losetup", "--find", "--show", str(backing)]
    name = subprocess.run(attach, check=True, capture_output=True, text=True).stdout.strip()
    try:
        yield Path(name)
    finally:
        subprocess.run(["losetup", "--detach", name], check=True)
