"""The service of the receiver: what it starts, and as whom."""

from __future__ import annotations

from pathlib import Path

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
