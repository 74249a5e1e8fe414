"""The one place that starts qemu-img, always in the sandbox."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import shutil
import signal
import stat
import subprocess  # noqa: TID251 - this module exists to start a program
import sys
import time
from functools import cache
from typing import TYPE_CHECKING

import attrs

from qemu_img import sandbox

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

log = logging.getLogger(__name__)

PULSE = 0.2
"""Seconds between two looks at whether a run goes on."""
NO_SANDBOX = 125
"""The exit code of a sandbox that could not be made."""


class ToolFailed(Exception):
    """qemu-img is not installed or failed; the text carries its own last words."""


@attrs.frozen
class Bounds:
    """What one run may use: seconds of processor and clock, bytes of memory and of each file."""

    cpu: int
    wall: int
    memory: int
    output: int


@attrs.frozen
class Files:
    """All that one run may use of this host: what it reads (files, folders), and what it writes.

    A file that is written and does not exist is made, with mode 0600.
    """

    read: tuple[Path, ...] = ()
    write: tuple[Path, ...] = ()

    def name(self, path: Path) -> str:
        """The name of one of them for qemu-img, which does not see the path."""
        return sandbox.path_of((*self.read, *self.write).index(path))

    def show(self, text: str) -> str:
        """A message of qemu-img with the paths in place of these names."""
        for path in (*self.read, *self.write):
            text = text.replace(self.name(path), str(path))
        return text


_BOUNDS_MET = {
    -signal.SIGXCPU: "it used more than {0.cpu} s of processor time",
    -signal.SIGKILL: "it used more than {0.cpu} s of processor time",
    -signal.SIGXFSZ: "it wrote more than {0.output} bytes",
    -signal.SIGABRT: "it wanted more than {0.memory} bytes of memory",
}


def _go_on() -> None:
    """Nothing ends it."""


def convert_to_qcow2(raw: Path, qcow2: Path, check: Callable[[], None] = _go_on) -> None:
    """Make a qcow2 of a raw image; its holes and zeros take no space. Raises ToolFailed.

    `check` is called several times a second, and may raise to end it. Both formats are named,
    never probed: the bytes of a disk are the guest's to choose.
    """
    files = Files(read=(raw,), write=(qcow2,))
    formats = ["-f", "raw", "-O", "qcow2"]
    try:
        arguments = ["convert", *formats, files.name(raw), files.name(qcow2)]
        run(arguments, f"convert {raw.name}", files, check=check)
    except BaseException:
        qcow2.unlink(missing_ok=True)
        raise


def run(
    arguments: list[str],
    what: str,
    files: Files,
    bounds: Bounds | None = None,
    check: Callable[[], None] = _go_on,
) -> None:
    """Run qemu-img to do `what` with `files`, within `bounds` if given, until `check` raises.

    Raises ToolFailed with its last words.
    """
    program = shutil.which("qemu-img")
    if program is None:
        raise ToolFailed("qemu-img is not installed: install qemu-utils")
    _warn_without_landlock()
    try:
        with _opened(files) as descriptors:
            command = _command(program, arguments, len(files.read), descriptors, bounds)
            wall = bounds.wall if bounds else None
            status, stderr = _start(command, descriptors, wall, check)
    except subprocess.TimeoutExpired as error:
        raise ToolFailed(
            f"qemu-img cannot {what}: stopped, it took more than {error.timeout} s"
        ) from error
    except OSError as error:
        raise ToolFailed(f"qemu-img cannot {what}: {error.strerror}") from error
    if status == 0:
        return
    if bounds and status in _BOUNDS_MET:
        reason = _BOUNDS_MET[status].format(bounds)
        raise ToolFailed(f"qemu-img cannot {what}: stopped, {reason}")
    words = stderr.strip().splitlines() or [f"no message, status {status}"]
    said = files.show(words[-1].removeprefix("qemu-img: "))
    raise ToolFailed(f"qemu-img cannot {what}: {said}")


def _command(
    program: str,
    arguments: list[str],
    readable: int,
    descriptors: list[int],
    bounds: Bounds | None,
) -> list[str]:
    """The program in its sandbox."""
    order = {
        "read": descriptors[:readable],
        "write": descriptors[readable:],
        "limits": _limits(bounds),
    }
    launcher = [sys.executable, "-IS", sandbox.__file__, json.dumps(order)]
    return [*launcher, program, *arguments]


def _start(
    command: list[str], descriptors: list[int], wall: float | None, check: Callable[[], None]
) -> tuple[int, str]:
    """Run a command to its end, however that comes: its status, and what it wrote to stderr."""
    with subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        stdin=subprocess.DEVNULL,
        env={},
        pass_fds=descriptors,
    ) as child:
        try:
            stderr = _words(child, wall, check)
        except BaseException:
            child.kill()
            raise
    return child.returncode, stderr


def _words(child: subprocess.Popen[str], wall: float | None, check: Callable[[], None]) -> str:
    """What a child writes to stderr until it ends; raise TimeoutExpired after `wall` seconds."""
    end = math.inf if wall is None else time.monotonic() + wall
    while True:
        try:
            return child.communicate(timeout=min(PULSE, max(0.0, end - time.monotonic())))[1]
        except subprocess.TimeoutExpired:
            check()
            if wall is not None and time.monotonic() >= end:
                raise subprocess.TimeoutExpired(child.args, wall) from None


def _limits(bounds: Bounds | None) -> dict[str, tuple[int, int]]:
    limits = {"RLIMIT_CORE": (0, 0)}
    if bounds:
        limits["RLIMIT_CPU"] = (bounds.cpu, bounds.cpu + 5)
        limits["RLIMIT_AS"] = (bounds.memory, bounds.memory)
        limits["RLIMIT_FSIZE"] = (bounds.output, bounds.output)
    return limits


@contextlib.contextmanager
def _opened(files: Files) -> Iterator[list[int]]:
    """Open the files; while they are open they belong to the sandbox's user, if we are root."""
    with contextlib.ExitStack() as stack:
        descriptors = []
        for path in files.read:
            descriptors.append(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC))
            stack.callback(os.close, descriptors[-1])
        for path in files.write:
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptors.append(os.open(path, flags, 0o600))
            stack.callback(os.close, descriptors[-1])
        if os.geteuid() == 0:
            for descriptor in descriptors:
                _lend(descriptor, stack)
        yield descriptors


def _lend(descriptor: int, stack: contextlib.ExitStack) -> None:
    """Give a file to the user of the sandbox until the stack ends."""
    found = os.fstat(descriptor)
    stack.callback(os.fchmod, descriptor, stat.S_IMODE(found.st_mode))
    stack.callback(os.fchown, descriptor, found.st_uid, found.st_gid)
    os.fchown(descriptor, sandbox.NOBODY, sandbox.NOBODY)
    os.fchmod(descriptor, 0o700 if stat.S_ISDIR(found.st_mode) else 0o600)


def weakness() -> str:
    """What the sandbox lacks on this host; empty when it has everything."""
    if sandbox.landlock_version():
        return ""
    return (
        "this kernel has no Landlock: qemu-img could read files of this host that everybody can "
        "read; use a kernel of 5.13 or later with lsm=landlock"
    )


@cache
def _warn_without_landlock() -> None:
    """Say it once in the log; `doctor` says it too."""
    if found := weakness():
        log.warning("%s", found)
