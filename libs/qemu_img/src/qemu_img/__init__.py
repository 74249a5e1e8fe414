"""qemu-img as a child process with limits."""

from __future__ import annotations

from qemu_img._run import Bounds, ToolFailed, convert_to_qcow2, run

__version__ = "0.1.0"
__all__ = ["Bounds", "ToolFailed", "convert_to_qcow2", "run"]
