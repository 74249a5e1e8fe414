"""A folder for the lab in which copying a disk costs as little as a clone costs a cluster.

The lab clones disks by reference where the file system can. Most cannot, and then it copies them,
several times for one job: a benchmark would measure that. So it gets an XFS of its own, in a sparse
file. That needs root and mkfs.xfs (Debian: xfsprogs); elsewhere it says so and copies.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

SIZE = 1 << 40
"""Bytes of the file system; it takes what is written to it."""


@contextmanager
def cloning_folder() -> Iterator[Path]:
    """A temporary folder in which files are cloned by reference, if that can be had."""
    with tempfile.TemporaryDirectory(prefix="podheitor-bench-") as name:
        folder, image = Path(name, "mounted"), Path(name, "xfs.img")
        folder.mkdir()
        if os.geteuid() or not shutil.which("mkfs.xfs"):
            print("disks are copied, not cloned: that needs root and mkfs.xfs", file=sys.stderr)
            yield folder
            return
        with image.open("wb") as file:
            file.truncate(SIZE)
        subprocess.run(["mkfs.xfs", "-q", "-m", "reflink=1", image], check=True)
        subprocess.run(["mount", "-o", "loop", image, folder], check=True)
        try:
            yield folder
        finally:
            subprocess.run(["umount", "--lazy", folder], check=True)
