"""The archive for other systems, and the RPM that rpmbuild makes of it on this machine."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).parents[2]


def run(*words: object, folder: Path = ROOT) -> str:
    """Run a command to its end, which must be good, and return what it prints."""
    done = subprocess.run(
        [str(word) for word in words], cwd=folder, text=True, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="session")
def archive() -> Path:
    """The archive, made anew for the Python of this machine."""
    return ROOT / run("./run", "build", "wheels").splitlines()[-1]


@pytest.fixture(scope="session")
def package(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The RPM; what its spec wants to be installed is of another system, so it is not looked at."""
    assert shutil.which("rpmbuild"), "rpmbuild is missing: run ./run test rpm"
    top = tmp_path_factory.mktemp("rpm")
    run("shim/fetch-bacula", ".cache/bacula", "source")
    defined: Sequence[str] = (
        f"_topdir {top}", f"_sourcedir {archive.parent}", "python /usr/bin/python3",
        f"bacula_source {ROOT / '.cache/bacula/source'}",
    )  # fmt: skip
    definitions = [word for text in defined for word in ("--define", text)]
    spec = ROOT / "packaging/rpm/podheitor-nutanix.spec"
    run("rpmbuild", "-bb", "--nodeps", *definitions, spec)
    (found,) = top.glob("RPMS/*/*.rpm")
    return found
