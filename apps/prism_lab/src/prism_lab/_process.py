"""System tools and daemons: the only module here that starts a process."""

from __future__ import annotations

import os
import subprocess  # noqa: TID251 - the one module of this package that starts processes
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING

from prism_lab.errors import CommandFailed, StartFailed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

START_SECONDS = 5.0


def run(
    argv: Sequence[str], *, env: Mapping[str, str] | None = None, timeout: float = 600.0
) -> str:
    """Run a tool to its end and return its stdout; CommandFailed if it reports an error."""
    try:
        done = subprocess.run(
            argv,
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise CommandFailed(f"{argv[0]}: {exc}") from exc
    if done.returncode != 0:
        words = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise CommandFailed(f"{argv[0]}: {words[-1] if words else f'exit {done.returncode}'}")
    return done.stdout


def spawn_detached(argv: Sequence[str], log: Path) -> int:
    """Start a program in a session of its own, its output going to `log`; return its pid."""
    with log.open("ab") as sink:
        child = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, start_new_session=True
        )
    pid = child.pid
    child.returncode = 0  # handed over: nobody here waits for it
    return pid


class Daemon:
    """A child process that never outlives this one, however this one ends.

    The kernel ties PR_SET_PDEATHSIG to the *thread* that forked the child, so each daemon has
    a thread that forks it and then waits for it.
    """

    def __init__(self, argv: Sequence[str], *, env: Mapping[str, str], log: Path) -> None:
        """Start `setpriv --pdeathsig KILL argv`; StartFailed when it cannot be started."""
        self._argv = ["setpriv", "--pdeathsig", "KILL", *argv]
        self._env = {**os.environ, **env}
        self._log = log
        self._started: Future[subprocess.Popen[bytes]] = Future()
        self._keeper = threading.Thread(target=self._keep, name=f"keeper of {argv[0]}", daemon=True)
        self._keeper.start()
        try:
            self._child = self._started.result(START_SECONDS)
        except (OSError, TimeoutError) as exc:
            raise StartFailed(f"{argv[0]} could not be started: {exc}") from exc

    def _keep(self) -> None:
        try:
            with self._log.open("ab") as sink:
                child = subprocess.Popen(
                    self._argv, env=self._env, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink
                )
        except OSError as exc:
            self._started.set_exception(exc)
            return
        self._started.set_result(child)
        child.wait()

    @property
    def running(self) -> bool:
        """Is the process still there?"""
        return self._keeper.is_alive()

    def join(self) -> None:
        """Wait until the process has ended."""
        self._keeper.join()

    def kill(self) -> None:
        """SIGKILL and wait; harmless when it is gone already."""
        if self._keeper.is_alive():
            self._child.kill()
        self._keeper.join(START_SECONDS)
