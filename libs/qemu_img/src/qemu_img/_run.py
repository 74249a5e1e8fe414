"""The one place that starts qemu-img."""

from __future__ import annotations

import shutil
import signal
import subprocess  # noqa: TID251 - this module exists to start a program
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from pathlib import Path


class ToolFailed(Exception):
    """qemu-img is not installed or failed; the text carries its own last words."""


@attrs.frozen
class Bounds:
    """What one run may use: seconds of processor and clock, bytes of memory and of each file."""

    cpu: int
    wall: int
    memory: int
    output: int


_BOUNDS_MET = {
    -signal.SIGXCPU: "it used more than {0.cpu} s of processor time",
    -signal.SIGKILL: "it used more than {0.cpu} s of processor time",
    -signal.SIGXFSZ: "it wrote more than {0.output} bytes",
    -signal.SIGABRT: "it wanted more than {0.memory} bytes of memory",
}


def convert_to_qcow2(raw: Path, qcow2: Path) -> None:
    """Make a qcow2 of a raw image; its holes and zeros take no space. Raises ToolFailed.

    Both formats are named, never probed: the bytes of a disk are the guest's to choose.
    """
    run(["convert", "-f", "raw", "-O", "qcow2", str(raw), str(qcow2)], f"convert {raw.name}")


def run(arguments: list[str], what: str, bounds: Bounds | None = None) -> None:
    """Run qemu-img to do `what`, within `bounds` if given; raise ToolFailed with its last words."""
    if shutil.which("qemu-img") is None:
        raise ToolFailed("qemu-img is not installed: install qemu-utils")
    command = ["qemu-img", *arguments]
    if bounds:
        limits = [f"--cpu={bounds.cpu}:{bounds.cpu + 5}", f"--as={bounds.memory}"]
        command = ["prlimit", *limits, f"--fsize={bounds.output}", "--core=0", "--", *command]
    try:
        done = subprocess.run(
            command,
            check=False,
            capture_output=True,
            text=True,
            errors="replace",
            stdin=subprocess.DEVNULL,
            timeout=bounds.wall if bounds else None,
        )
    except subprocess.TimeoutExpired as error:
        raise ToolFailed(
            f"qemu-img cannot {what}: stopped, it took more than {error.timeout} s"
        ) from error
    if done.returncode == 0:
        return
    if bounds and done.returncode in _BOUNDS_MET:
        reason = _BOUNDS_MET[done.returncode].format(bounds)
        raise ToolFailed(f"qemu-img cannot {what}: stopped, {reason}")
    words = done.stderr.strip().splitlines() or [f"no message, status {done.returncode}"]
    raise ToolFailed(f"qemu-img cannot {what}: {words[-1].removeprefix('qemu-img: ')}")
