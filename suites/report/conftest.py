"""The report in a real browser: Chromium, headless, at the size of a desk, a phone and paper."""

from __future__ import annotations

import http.server
import subprocess
import threading
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import attrs
import pytest
from nutanix_backend.cli import page
from nutanix_backend.queries.protection import Protection, Tried
from nutanix_backend.references.known import Blocks
from vm_replica.evidence import Trial, TrialKind

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NOW = 1_790_000_000
HOUR = 3600
DAY = 24 * HOUR
LONGEST = 300
"""Seconds after which a browser hangs."""


def trial(kind: TrialKind, ago: int, point: str, text: str, *, good: bool = True) -> Trial:
    """A trial of some seconds ago."""
    return Trial(kind, NOW - ago, point, good, text)


def sample() -> list[Protection]:
    """Rows of every kind: all is well, nothing is known, and each of the trials failed."""
    proof, drill = TrialKind.PROOF, TrialKind.DRILL
    job = "nightly.2026-09-21_01.00.00_07"
    compared = "2 disks put together and compared"
    login = "its serial console says 'db01 login:', 41 s after it was switched on"
    tools = "its guest tools answer, 38 s after it was switched on"
    panic = (
        "it was on for 300 s, but no line of its serial console has 'login:'; the last line of its "
        "serial console is 'Kernel panic - not syncing: VFS: Unable to mount root fs'"
    )
    return [
        Protection(
            "VM", "db01", "0a3f5c9e-41d2-4f6b-9c0e-5b1d7a2e8f10", "berlin", job, NOW - 9 * HOUR,
            9 * HOUR, Tried(trial(proof, DAY, job, compared)),
            Tried(trial(drill, 2 * DAY, job, login)), Blocks(204_800, 0, NOW - 20 * DAY),
        ),
        Protection(
            "VM", "mail", "7d1b2c3a-9e8f-4a5b-8c7d-6e5f4a3b2c1d", "berlin", job, NOW - 9 * HOUR,
            9 * HOUR, Tried(trial(proof, DAY, job, compared)),
            Tried(trial(drill, 30 * DAY, "nightly.2026-08-22_01.00.00_07", login),
                  trial(drill, 2 * HOUR, job, panic, good=False)),
            Blocks(51_200, 310, NOW - 12 * DAY),
            (f"the drill of {job} failed: {panic}",),
        ),
        Protection(
            "VM", "web01", "c0ffee00-1234-4abc-8def-001122334455", "berlin", job, NOW - 9 * HOUR,
            9 * HOUR, Tried(), Tried(), Blocks(20_480, 20_480, 0),
        ),
        Protection(
            "replica", "web01", "c0ffee00-1234-4abc-8def-001122334455", "berlin", "generation 288",
            NOW - 840, 840, Tried(trial(proof, 3 * DAY, "generation 12", "")),
            Tried(trial(drill, 5 * DAY, "generation 1", tools)),
        ),
    ]  # fmt: skip


@attrs.define
class Site:
    """A folder that a browser is shown over HTTP on loopback; `asked` is what it asked for."""

    folder: Path
    address: str = ""
    asked: list[str] = attrs.field(factory=list)

    @contextmanager
    def served(self) -> Iterator[None]:
        """Answer until this ends."""
        asked = self.asked

        class Handler(http.server.SimpleHTTPRequestHandler):
            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                asked.append(self.path)

        handler = partial(Handler, directory=str(self.folder))
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
            thread.start()
            self.address = f"http://127.0.0.1:{server.server_address[1]}"
            try:
                yield
            finally:
                server.shutdown()
                thread.join()

    def browse(self, name: str, *options: str) -> str:
        """Show a file of the folder to Chromium; return what it prints."""
        command = [
            "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
            "--no-first-run", "--disable-background-networking", "--hide-scrollbars",
            f"--user-data-dir={self.folder / 'profile'}", *options, f"{self.address}/{name}",
        ]  # fmt: skip
        done = subprocess.run(
            command, check=True, capture_output=True, text=True, timeout=LONGEST, cwd=self.folder
        )
        return done.stdout


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """The report of the sample, served."""
    found = Site(tmp_path)
    text = page.render(sample(), host="backup.example.com", now=NOW)
    (tmp_path / "report.html").write_text(text, "utf-8")
    with found.served():
        yield found
