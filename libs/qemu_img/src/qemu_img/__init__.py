"""qemu-img as a child process with limits, in a sandbox."""

from __future__ import annotations

from qemu_img._run import Bounds, Files, ToolFailed, convert_to_qcow2, run, weakness

__version__ = "0.1.0"
__all__ = ["Bounds", "Files", "ToolFailed", "convert_to_qcow2", "run", "weakness"]
