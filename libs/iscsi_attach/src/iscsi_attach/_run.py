"""Runs the host's programs. The only module of the library proper that starts processes."""

from __future__ import annotations

import os
import subprocess  # noqa: TID251 - iscsiadm and modprobe are programs
from typing import TYPE_CHECKING, Protocol

import attrs

if TYPE_CHECKING:
    from collections.abc import Sequence

SYSTEM_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
MISSING, TIMED_OUT = 127, 124  # as shell and timeout(1) say it


@attrs.frozen
class Done:
    """How a program ended, and what it said."""

    status: int
    stdout: str = ""
    stderr: str = ""


class Runner(Protocol):
    """Something that runs programs."""

    def __call__(self, argv: Sequence[str], *, timeout: float) -> Done:
        """Run a program to its end, at most ``timeout`` seconds; no status is an exception."""


def run(argv: Sequence[str], *, timeout: float) -> Done:
    """Run a program of this host (see Runner), in the C locale, with nothing on its input."""
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            env={"PATH": SYSTEM_PATH, "LC_ALL": "C"},
            check=False,
        )
    except FileNotFoundError:
        return Done(MISSING, stderr=f"{argv[0]} is not installed")
    except subprocess.TimeoutExpired:
        return Done(TIMED_OUT, stderr=f"{argv[0]} did not end within {timeout:g} seconds")
    return Done(done.returncode, done.stdout, done.stderr)
