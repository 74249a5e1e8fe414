"""Clusters whose VMs really run, and `qualify` against them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import attrs
import pytest
from prism_lab import Lab

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

MIB = 1 << 20


@attrs.define
class Cluster:
    """A lab with one VM of somebody else, and a host on which `qualify` runs."""

    lab: Lab
    root: Path
    before: dict[str, Any] = attrs.field(factory=dict)

    def prepare(self) -> None:
        """Write the configuration file, and remember what is on the cluster."""
        self.lab.create_vm("web01", (MIB,))
        config = self.root / "prism.conf"
        config.touch(mode=0o600)
        config.write_text(
            f"prism={self.lab.pc_host}\nuser={self.lab.user}\npassword={self.lab.password}\n"
            f"ca={self.lab.ca_file}\nproxy_mode=in_cluster\n"
        )
        self.before = self.lab.state()

    def command(self, *more: str) -> list[str]:
        """The command line."""
        given = (f"config_file={self.root / 'prism.conf'}", f"state_dir={self.root / 'state'}")
        return [sys.executable, "-m", "nutanix_backend", "qualify", *more, *given]

    def qualify(self, *more: str) -> tuple[int, dict[str, dict[str, str]]]:
        """Run it to its end; return its exit code and its rows by question."""
        done = subprocess.run(
            self.command("--yes", "--json", *more),
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )
        assert done.stdout, done.stderr
        rows = {row.pop("question"): row for row in json.loads(done.stdout)["rows"]}
        return done.returncode, rows

    def assert_untouched(self) -> None:
        """The cluster holds what it held before, and this host nothing of the run."""
        assert self.lab.state() == self.before
        assert not list((self.root / "state" / "qualify").glob("*"))


@pytest.fixture
def cluster(tmp_path: Path) -> Callable[..., Any]:
    """Start a cluster of some kind."""

    @contextmanager
    def start(**settings: Any) -> Iterator[Cluster]:
        with Lab.start(tmp_path / "lab", run_guests=True, **settings) as lab:
            made = Cluster(lab, tmp_path)
            made.prepare()
            yield made

    assert os.environ["PODHEITOR_ALLOWED_FOLDERS"], "suites/conftest.py allows the folder"
    return start
