"""The built package by itself: what is in it, and that it needs nothing of this checkout."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from suites.bacula.harness.daemons import USER
from suites.bacula.harness.site import MIB, SLOW

if TYPE_CHECKING:
    from suites.bacula.harness.daemons import Installation
    from suites.bacula.harness.site import Site

CHECKOUT = Path(__file__).parents[2]
BARE = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"}


@pytest.fixture(scope="module")
def files(installation: Installation) -> list[Path]:
    """Every file of the package."""
    return [path for path in installation.product.rglob("*") if path.is_file()]


def test_no_file_knows_where_it_was_built(files: list[Path]) -> None:
    here = str(CHECKOUT).encode()
    assert [path for path in files if here in path.read_bytes()] == []


def test_everything_is_compiled(installation: Installation, files: list[Path]) -> None:
    """A start that compiles takes seconds, and root's compiled files would outlive the package."""
    private = installation.product / "usr/lib/podheitor-nutanix"
    sources = [path for path in files if path.suffix == ".py" and private in path.parents]
    assert len(sources) > 300
    missing = [
        path
        for path in sources
        if not list((path.parent / "__pycache__").glob(f"{path.stem}.cpython-*.pyc"))
    ]
    assert missing == []


def test_folders_for_secrets_are_closed_to_others(installation: Installation) -> None:
    listed = subprocess.run(
        ["dpkg-deb", "--contents", os.environ["PODHEITOR_PACKAGE"]],
        check=True, capture_output=True, text=True,
    ).stdout.splitlines()  # fmt: skip
    modes = {line.split()[-1]: line.split()[:2] for line in listed}
    for folder in ("./etc/podheitor-nutanix/", "./var/lib/podheitor-nutanix/"):
        assert modes[folder] == ["drwx------", "root/root"]
    assert {owner for _, owner in modes.values()} == {"root/root"}
    assert not [mode for mode, _ in modes.values() if mode[8] == "w"]


def test_a_backup_runs_as_the_owner_of_the_state(site: Site) -> None:
    """bacula-fd is root; what it starts is not, from its parameters on."""
    guest = site.guest(16 * MIB)
    site.define(f"vm={guest.name}", options=SLOW)
    job_id = site.start_and_wait_for_data("Full")
    (backend,) = site.daemons.backends()
    status = Path(f"/proc/{backend}/status").read_text()
    assert site.wait(job_id).status == "T"
    assert f"Uid:\t{USER}\t{USER}\t{USER}\t{USER}\n" in status
    assert "CapPrm:\t0000000000000000\n" in status
    assert site.config_file.stat().st_uid == 0
    assert site.config_file.stat().st_mode & 0o077 == 0


def test_the_program_starts_itself_as_its_own_backend(
    installation: Installation, site: Site
) -> None:
    guest = site.guest(2 * MIB)
    store = ("--store", str(site.folder / "store"), "--name", "alone", "--json")
    parameters = (f"config_file={site.config_file}", f"vm={guest.name}")

    def job(*words: str) -> str:
        command = (str(installation.backend), "job", *words, *store, *parameters)
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=BARE)
        assert done.returncode == 0, done.stdout + done.stderr
        return str(json.loads(done.stdout)["status"])

    assert job("backup") == "T"
    assert job("restore", "--where", str(site.folder / "back")) == "T"
    (image,) = (site.folder / "back").rglob("*.raw")
    assert image.read_bytes() == guest.disks[0].read_bytes()


def test_the_environment_cannot_change_what_is_run(
    installation: Installation, tmp_path: Path
) -> None:
    (tmp_path / "attrs.py").write_text("raise SystemExit('taken over')")
    environment = {**BARE, "PYTHONPATH": str(tmp_path), "PYTHONSTARTUP": "/nowhere"}
    done = subprocess.run(
        [installation.backend, "job", "list", "--store", tmp_path],
        capture_output=True, text=True, check=False, env=environment, cwd=tmp_path,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
