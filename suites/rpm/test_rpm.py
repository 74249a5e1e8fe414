"""What is in the RPM. Nobody has installed it on a system that it is made for."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from suites.rpm.conftest import ROOT, run

if TYPE_CHECKING:
    from pathlib import Path

PRIVATE = "/usr/lib/podheitor-nutanix/"


@pytest.fixture(scope="module")
def files(package: Path) -> list[str]:
    """The paths in the package."""
    return run("rpm", "-qpl", package).splitlines()


@pytest.fixture(scope="module")
def tree(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package, unpacked."""
    folder = tmp_path_factory.mktemp("tree")
    run("bash", "-c", f"rpm2cpio {package} | cpio --quiet -idm", folder=folder)
    return folder


def test_the_files_are_where_the_system_expects_them(files: list[str]) -> None:
    wanted = {
        "/usr/lib64/bacula/podheitor-nutanix-fd.so",
        "/usr/lib64/bacula/libpodheitor-nutanix-metaplugin.so",
        "/usr/sbin/podheitor-nutanix-backend",
        "/usr/lib/sysusers.d/podheitor-nutanix.conf",
        "/usr/share/man/man8/podheitor-nutanix-backend.8",
        "/usr/share/bash-completion/completions/podheitor-nutanix-backend",
        "/etc/podheitor-nutanix",
        "/var/lib/podheitor-nutanix",
        f"{PRIVATE}nutanix_backend/__main__.py",
        f"{PRIVATE}requests/__init__.py",
    }
    assert wanted - set(files) == set()


def test_the_backend_starts_from_its_private_tree(tree: Path) -> None:
    launcher = tree / "usr/sbin/podheitor-nutanix-backend"
    assert "usage: podheitor-nutanix-backend" in run(launcher, "--help")


def test_no_file_knows_where_it_was_built(tree: Path) -> None:
    here = str(ROOT).encode()
    found = [path for path in tree.rglob("*") if path.is_file() and here in path.read_bytes()]
    assert found == []


def test_the_folders_of_secrets_are_for_their_owner(package: Path) -> None:
    shown = run("rpm", "-qp", "--queryformat", "[%{FILENAMES} %{FILEMODES:perms}\n]", package)
    modes = dict(line.split() for line in shown.splitlines())
    for folder in ("/etc/podheitor-nutanix", "/var/lib/podheitor-nutanix"):
        assert modes[folder] == "drwx------"


def test_the_spec_says_that_it_was_never_run(archive: Path) -> None:
    listed = subprocess.check_output(["tar", "tzf", archive], text=True)
    (spec,) = [name for name in listed.splitlines() if name.endswith(".spec")]
    text = subprocess.check_output(["tar", "xzOf", archive, spec], text=True)
    assert text.startswith("# NEVER RUN ON A RHEL")
