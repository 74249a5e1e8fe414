"""The walk-through of the administrator's guide, typed as the guide shows it.

With PODHEITOR_TRANSCRIPTS=docs/transcripts what the console prints becomes the guide's text; only
the temporary folders of the test are replaced by the places that the guide speaks of.
"""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import termios
import time
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import pytest
from prism_lab import Lab

from suites.bacula.harness import daemons as bacula
from suites.bacula.harness.console import Console
from suites.bacula.harness.report import Report
from suites.bacula.harness.site import MIB, Site, same

if TYPE_CHECKING:
    from collections.abc import Iterator

    from suites.bacula.harness.console import BaculaJob

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
PROMPTS = ("\n*", ": ", "$ ")
CONFIG = "/etc/podheitor-nutanix/prism.conf"
PATIENCE = 30.0
"""Seconds after which a console that asks for nothing hangs."""


class Terminal:
    """A bconsole on a terminal: what is typed stands between what is printed."""

    def __init__(self, daemons: bacula.Daemons) -> None:
        """Start it and wait for its first prompt."""
        ours, its = pty.openpty()
        termios.tcsetwinsize(its, (50, 250))
        program = daemons.installation.prefix / "usr/sbin/bconsole"
        self._fd = ours
        self._process = subprocess.Popen(
            [program, "-n", "-c", daemons.work / "bconsole.conf"],
            stdin=its, stdout=its, stderr=its, env=daemons.installation.environment,
        )  # fmt: skip
        os.close(its)
        self._read()

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        os.close(self._fd)

    def type(self, *lines: str) -> str:
        """Type lines, each at its prompt; return all that the terminal showed."""
        shown = "*"
        for line in lines:
            os.write(self._fd, f"{line}\n".encode())
            shown += self._read()
        return shown.rpartition("\n")[0]

    def _read(self) -> str:
        """What appears until the console waits for input."""
        shown = ""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            if select.select([self._fd], [], [], 0.3)[0]:
                shown += os.read(self._fd, 65536).decode().replace("\r", "")
            elif shown.endswith(PROMPTS):
                return shown
        raise TimeoutError(f"the console does not ask for anything:\n{shown}")


@attrs.frozen
class LogFile:
    """The Director's log file."""

    path: Path

    def text(self, job: BaculaJob) -> str:
        """What it says of a job that has ended: a moment later the Director writes the rest."""
        deadline = time.monotonic() + PATIENCE
        while "End auto prune" not in (text := self._of(job.job_id)):
            if time.monotonic() > deadline:
                raise TimeoutError(f"the log of job {job.job_id} has no end:\n{text}")
            time.sleep(0.1)
        return text

    def _of(self, job_id: int) -> str:
        blocks = re.split(r"^(?=\d\d-\w{3} \d\d:\d\d )", self.path.read_text(), flags=re.MULTILINE)
        return "".join(block for block in blocks if f" JobId {job_id}: " in block)


@attrs.define
class Transcripts:
    """What was shown, kept under a name when asked for."""

    places: dict[str, str]

    def keep(self, name: str, text: str) -> str:
        """Keep a text; return it."""
        folder = os.environ.get("PODHEITOR_TRANSCRIPTS")
        if folder:
            for real, shown in self.places.items():
                text = text.replace(real, shown)
            lines = (line.rstrip() for line in text.splitlines())
            Path(folder, f"{name}.txt").write_text("\n".join(lines).strip("\n") + "\n")
        return text


def places(site: Site) -> Transcripts:
    """Transcripts in which the folders of a test are those of the guide."""
    work = site.daemons.work
    return Transcripts(
        {
            str(site.folder / "restore"): "/restore",
            str(site.config_file): CONFIG,
            str(site.state_dir): "/var/lib/podheitor-nutanix",
            str(site.lab.ca_file): "/etc/podheitor-nutanix/prism-ca.pem",
            str(work / "sbin"): "/usr/sbin",
            str(work / "plugins"): "/usr/lib/bacula",
            str(work / "dir"): "/var/lib/bacula",
            str(work / "volumes"): "/var/lib/bacula/volumes",
            str(work): "/etc/bacula",
            "user nobody": "user podheitor-nutanix",
        }
    )


@pytest.fixture
def own(installation: bacula.Installation, tmp_path: Path) -> Iterator[Site]:
    """A cluster and daemons that no other test has used: the guide begins at the beginning."""
    with (
        Lab.start(tmp_path / "lab") as lab,
        bacula.running(installation, tmp_path / "bacula") as daemons,
    ):
        site = Site("nutanix-one-vm", tmp_path, lab, daemons, Console(daemons), Report())
        site.connect()
        site.config_file.chmod(0o600)
        yield site


def test_walk_through(own: Site) -> None:
    site, name = own, own.name
    guest = site.guest(32 * MIB, 8 * MIB, name="web01")
    site.guest(8 * MIB, name="web02")
    site.console.define((EXAMPLES / "job.conf").read_text())
    fileset = (EXAMPLES / "fileset-one-vm.conf").read_text()
    site.console.define(fileset.replace(CONFIG, str(site.config_file)))
    where = site.folder / "restore"
    transcripts = places(site)
    log = LogFile(site.daemons.work / "dir" / "messages")
    with closing(Terminal(site.daemons)) as terminal:

        def show(transcript: str, *lines: str) -> str:
            return transcripts.keep(transcript, terminal.type(*lines))

        assert "podheitor-nutanix" in show("status", "status client=client")
        restore = f"restore client=client fileset={name} restorejob=restore"
        plugin = f'plugin="{site.plugin}"'
        assert "web01" in show("ls", f".ls client=client {plugin} path=/lab-cluster")
        assert "name=web02" in show("query", f".query client=client {plugin} parameter=vms")
        assert ".raw" in show("estimate", f"estimate job={name} level=Full listing")

        full = site.backup("Full")
        assert "Backup OK" in transcripts.keep("full", log.text(full))
        before = datetime.now().astimezone()
        was = guest.disks[0].read_bytes()
        guest.write(0, 3 * MIB + 123, 400_000)
        time.sleep(1)
        incremental = site.backup("Incremental")
        assert "2 as changes only" in transcripts.keep("incremental", log.text(incremental))
        show("jobs", "list jobs")

        shown = show(
            "restore-to-folder",
            f"{restore} where={where} select current all done yes",
        )
        assert "queued" in shown
        done = site.console.wait(incremental.job_id + 1)
        assert done.status == "T", done.words
        transcripts.keep("restore-to-folder-log", log.text(done))
        (image,) = where.rglob("disk-0-*.raw")
        assert same(image, guest.disks[0])

        shown = show(
            "restore-older",
            f"{restore} where={where}/older "
            f'before="{before:%Y-%m-%d %H:%M:%S}" select all done yes',
        )
        assert "queued" in shown
        older = site.console.wait(done.job_id + 1)
        assert older.status == "T", older.words
        (image,) = (where / "older").rglob("disk-0-*.raw")
        assert image.read_bytes() == was

        offered = site.console.plugin_options(f"{full.job_id},{incremental.job_id}")
        shown = show(
            "restore-to-ahv",
            f"{restore} where=/ select current all done",
            *("mod", "13", "mod", str(offered.index("restore_vm_name") + 1), "web01-rescued"),
            *("yes", "yes"),
        )
        assert "queued" in shown
        made = site.console.wait(older.job_id + 1)
        assert made.status == "T", made.words
        transcripts.keep("restore-to-ahv-log", log.text(made))
        for index, disk in enumerate(guest.disks):
            assert same(site.lab.disk_file("web01-rescued", index), disk)

        site.assert_clean()
        for state in site.state_dir.glob("bitmap/*/*.json"):
            state.unlink()
        lost = site.backup("Incremental")
        assert "is backed up in full" in transcripts.keep("fallback", log.text(lost))


def test_doctor(own: Site) -> None:
    """The doctor of the installed package on a host that is well, after an incremental."""
    guest = own.guest(8 * MIB, name="web01")
    own.name = "doctor"
    own.define(f"vm={guest.name}")
    own.good("Full")
    guest.write(0, 0, 100_000)
    own.backup("Incremental")
    work = own.daemons.work
    command = [
        str(work / "sbin/podheitor-nutanix-backend"),
        "doctor",
        *("--fd", str(work / "sbin/bacula-fd"), "--fd-config", str(work / "bacula-fd.conf")),
        f"config_file={own.config_file}",
        f"vm={guest.name}",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    shown = f"# podheitor-nutanix-backend doctor config_file={CONFIG} vm=web01\n{done.stdout}"
    places(own).keep("doctor", shown)
    assert done.returncode == 0, done.stdout
    assert "ok   chain          job doctor." in done.stdout
    assert "note" not in done.stdout
    own.assert_clean()
