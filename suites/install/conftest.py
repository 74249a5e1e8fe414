"""Hosts of their own: bare roots with our packages, entered like machines."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import pytest
from prism_lab import Lab

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ENTER = Path(__file__).parents[2] / ".ci" / "root"
ENVIRONMENT = ("HOME=/root", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8")


@attrs.frozen
class Host:
    """A root with processes of its own; `init` is the first of them, as seen from outside."""

    root: Path
    init: int
    daemons: list[subprocess.Popen[bytes]] = attrs.field(factory=list)

    def command(self, *words: object) -> list[str]:
        """Return the command that runs these words inside."""
        enter = ("nsenter", "--target", self.init, "--mount", "--pid", "--root", "--wd")
        return [str(word) for word in (*enter, "env", "-i", *ENVIRONMENT, *words)]

    def run(self, *words: object, typed: str = "", check: bool = True) -> str:
        """Run a command to its end and return what it prints."""
        done = subprocess.run(
            self.command(*words), input=typed, text=True, check=False,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        assert done.returncode == 0 or not check, f"{words}: {done.returncode}\n{done.stdout}"
        return done.stdout

    def shell(self, script: str) -> str:
        """Run lines as an administrator types them; the first that fails is an error."""
        return self.run("bash", "-ec", script)

    def start(self, *words: object) -> subprocess.Popen[bytes]:
        """Start a daemon; it ends with the host."""
        log = (self.root / "root" / f"{Path(str(words[0])).name}.log").open("wb")
        with log:
            process = subprocess.Popen(
                self.command(*words), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self.daemons.append(process)
        return process

    def path(self, inside: str) -> Path:
        """Return where a file of the host is."""
        return self.root / inside.lstrip("/")


@contextlib.contextmanager
def running(name: str) -> Iterator[Host]:
    """A host that runs while this is open: what was started in it ends with it."""
    try:
        root = Path(os.environ["INSTALL_ROOTS"]) / name
    except KeyError:
        pytest.fail("INSTALL_ROOTS is not set: start these tests with ./run test install")
    with subprocess.Popen([ENTER, "enter", root, "sleep", "infinity"]) as outer:
        try:
            wait_until(lambda: outer.poll() is not None or bool(first_inside(outer.pid)), name)
            assert outer.poll() is None, f"the root {root} cannot be entered"
            host = Host(root, first_inside(outer.pid))
            yield host
        finally:
            outer.kill()
    for daemon in host.daemons:
        daemon.wait()


def first_inside(outer: int) -> int:
    """Return the first process inside of what `.ci/root enter` runs; 0: there is none yet."""
    for child in Path(f"/proc/{outer}/task/{outer}/children").read_text().split():
        with contextlib.suppress(FileNotFoundError):  # it has ended
            if Path(f"/proc/{child}/cmdline").read_text() == "sleep\0infinity\0":
                return int(child)
    return 0


def wait_until(happened: Callable[[], bool], what: str) -> None:
    """Wait for something that happens in seconds, for as long as a busy machine needs."""
    deadline = time.monotonic() + 1800
    while not happened():
        assert time.monotonic() < deadline, f"waited too long for {what}"
        time.sleep(0.2)


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """One cluster."""
    with Lab.start(tmp_path_factory.mktemp("lab")) as made:
        yield made


@pytest.fixture(scope="session")
def client() -> Iterator[Host]:
    """The host with Bacula and the plugin."""
    with running("client") as host:
        yield host
