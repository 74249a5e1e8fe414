"""The one place that starts qemu-img."""

from __future__ import annotations

import subprocess  # noqa: TID251 - this module exists to start a program
from typing import TYPE_CHECKING

from nutanix_backend.errors import ToolFailed

if TYPE_CHECKING:
    from pathlib import Path


def convert_to_qcow2(raw: Path, qcow2: Path) -> None:
    """Make a qcow2 of a raw image; its holes and zeros take no space. Raises ToolFailed.

    Both formats are named, never probed: the bytes of a disk are the guest's to choose.
    """
    command = ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(raw), str(qcow2)]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise ToolFailed("qemu-img is not installed: install qemu-utils") from error
    except subprocess.CalledProcessError as error:
        words = error.stderr.strip().splitlines() or ["no message"]
        raise ToolFailed(f"qemu-img cannot convert {raw.name}: {words[-1]}") from error
