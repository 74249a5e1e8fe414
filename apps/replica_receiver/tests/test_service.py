"""The service of the receiver: what it starts, and as whom."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from replica_receiver.__main__ import PROGRAM, command_line
from replica_receiver.places import HOME, IDENTITY, STORE

PACKAGING = Path(__file__).parents[3] / "packaging"


def test_the_receiver_is_a_service_of_its_own_user() -> None:
    unit = (next(PACKAGING.rglob("podheitor-receiver.service"))).read_text()
    settings = dict(line.split("=", 1) for line in unit.splitlines() if "=" in line)
    program, *words = settings["ExecStart"].split()
    assert Path(program).name == PROGRAM
    args = command_line().parse_args(words)
    assert (args.store, args.identity) == (STORE, IDENTITY)
    assert Path("/var/lib", settings["StateDirectory"]) == HOME
    users = next(PACKAGING.rglob("podheitor-receiver.sysusers"))
    assert users.read_text().split()[1] == settings["User"]
    assert (settings["ProtectSystem"], settings["NoNewPrivileges"]) == ("strict", "yes")


@pytest.mark.parametrize("plugin", [True, False])
def test_the_launcher_finds_the_targets_of_the_plugin(tmp_path: Path, *, plugin: bool) -> None:
    """Each package has a private tree; a failover to AHV needs what is in that of the plugin."""
    launcher = tmp_path / "usr/sbin/podheitor-receiver"
    launcher.parent.mkdir(parents=True)
    shutil.copy(next(PACKAGING.rglob("receiver/podheitor-receiver")), launcher)
    own = tmp_path / "usr/lib/podheitor-replica-receiver/replica_receiver"
    own.mkdir(parents=True)
    (own / "__init__.py").touch()
    (own / "__main__.py").write_text(
        "from importlib.metadata import entry_points\n"
        "def main():\n"
        "    print([p.name for p in entry_points(group='podheitor.failover_targets')])\n"
    )
    if plugin:
        about = tmp_path / "usr/lib/podheitor-nutanix/nutanix_backend-0.1.0.dist-info"
        about.mkdir(parents=True)
        (about / "METADATA").write_text("Name: nutanix_backend\nVersion: 1\n")
        (about / "entry_points.txt").write_text("[podheitor.failover_targets]\nahv = a:b\n")
    done = subprocess.run(
        [sys.executable, "-IS", launcher], check=True, capture_output=True, text=True
    )
    assert done.stdout.strip() == ("['ahv']" if plugin else "[]")
