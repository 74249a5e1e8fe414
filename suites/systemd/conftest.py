"""A host that is booted by a real systemd, with our packages; a cluster and a source beside it."""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import pytest
from prism_lab import Lab

from suites.install.conftest import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

UNIT = "podheitor-receiver"
BOOT = (
    *("systemd-nspawn", "--quiet", "--boot", "--register=no", "--keep-unit"),
    *("--console=pipe", "--directory"),
)
MOST_FILES = 65_536
"""What the unit asks for. Where this machine may not give so many, it gets what there is."""


@attrs.frozen
class Booted:
    """The host: its files in `root`, its first process `init` as seen from outside."""

    root: Path
    init: int

    def run(self, *words: object, user: str = "", check: bool = True) -> str:
        """Run a command inside, as root or as a user; return what it prints."""
        enter = ("nsenter", "--target", self.init, "--mount", "--pid", "--uts", "--ipc", "--root")
        clean = ("env", "-i", "PATH=/usr/sbin:/usr/bin", "LC_ALL=C.UTF-8", "HOME=/")
        as_user = ("runuser", "-u", user, "--") if user else ()
        done = subprocess.run(
            [str(word) for word in (*enter, "--wd=/", *clean, *as_user, *words)],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0 or not check, f"{words}: {done.returncode}\n{done.stdout}"
        return done.stdout

    def receiver(self, *words: object, check: bool = True) -> str:
        """Run a command of the receiver as its user."""
        return self.run("podheitor-receiver", *words, user=UNIT, check=check)

    def shown(self, name: str) -> str:
        """A property of the receiver's unit."""
        return self.run("systemctl", "show", "--value", f"--property={name}", UNIT).strip()

    def path(self, inside: str) -> Path:
        """Where a file of the host is."""
        return self.root / inside.lstrip("/")


@pytest.fixture(scope="session")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Booted]:
    """The host, up."""
    try:
        root = Path(os.environ["SYSTEMD_ROOT"])
    except KeyError:
        pytest.fail("SYSTEMD_ROOT is not set: start these tests with ./run test systemd")
    console = tmp_path_factory.mktemp("host") / "console"
    with (
        console.open("wb") as log,
        subprocess.Popen([*BOOT, root], stdin=subprocess.DEVNULL, stdout=log, stderr=log) as nspawn,
    ):
        try:
            wait_until(lambda: nspawn.poll() is not None or bool(child(nspawn.pid)), "a process")
            assert nspawn.poll() is None, console.read_text(errors="replace")
            booted = Booted(root, child(nspawn.pid))
            state = ("systemctl", "is-system-running")
            ends = {"running", "degraded"}
            wait_until(lambda: booted.run(*state, check=False).strip() in ends, "the boot to end")
            yield booted
            booted.run("systemctl", "poweroff", "--force", check=False)
            with contextlib.suppress(subprocess.TimeoutExpired):
                nspawn.wait(60)
        finally:
            nspawn.kill()


def child(process: int) -> int:
    """The first child of a process; 0: there is none."""
    found = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return int(found[0]) if found else 0


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """One cluster."""
    with Lab.start(tmp_path_factory.mktemp("lab")) as made:
        yield made
