"""A failover reads its credentials as a user who is not that of the receiver."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING

import pytest
from replica_receiver import second_user
from vm_replica.errors import WrongUser

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    pytest.mark.security,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, who starts a failover"),
]
RECEIVER, OWN = 65_533, 65_532
PROGRAM = """
    import os, sys
    from pathlib import Path
    from replica_receiver.second_user import TwoUsers

    store, credentials = Path(sys.argv[1]), Path(sys.argv[2])
    users = TwoUsers((65532, 65532), (65533, 65533))
    users.become()
    print(os.getresuid(), os.getresgid(), os.getgroups())
    (store / "made").touch()
    try:
        credentials.read_text()
    except PermissionError:
        print("not readable")
    with users.reading():
        print(credentials.read_text())
        try:
            (store / "other").touch()
        except PermissionError:
            print("not writable")
    try:
        credentials.read_text()
    except PermissionError:
        print("not readable again")
    print([line for line in Path("/proc/self/status").read_text().splitlines() if "CapPrm" in line])
"""


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path]:
    """A store of the receiver's, and a file of the user of failovers."""
    store, credentials = tmp_path / "store", tmp_path / "site-b.conf"
    store.mkdir(mode=0o700)
    os.chown(store, RECEIVER, RECEIVER)
    credentials.touch(mode=0o600)
    credentials.write_text("password = hush")
    os.chown(credentials, OWN, OWN)
    for above in (tmp_path, *tmp_path.parents):
        above.chmod(above.stat().st_mode | 0o011)
    return store, credentials


def test_two_users_without_rights(places: tuple[Path, Path]) -> None:
    store, _ = places
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PROGRAM), *places],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout.splitlines() == [
        "(65532, 65533, 65532) (65532, 65533, 65532) []",
        "not readable",
        "password = hush",
        "not writable",
        "not readable again",
        "['CapPrm:\\t0000000000000000']",
    ], done.stderr
    assert (store / "made").stat().st_uid == RECEIVER


def test_the_receivers_user_cannot_look_into_the_process(places: tuple[Path, Path]) -> None:
    """Not even while it works in the store, as that user."""
    script = (
        "import sys; from replica_receiver.second_user import TwoUsers;"
        "TwoUsers((65532, 65532), (65533, 65533)).become(); print('ready', flush=True);"
        "sys.stdin.read()"
    )
    as_receiver = ("setpriv", "--reuid=65533", "--regid=65533", "--clear-groups")
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        tries = [
            ["cat", f"/proc/{process.pid}/environ"],
            ["head", "-c1", f"/proc/{process.pid}/mem"],
            ["ls", f"/proc/{process.pid}/fd"],
            ["kill", str(process.pid)],
            ["cat", str(places[1])],
        ]
        for words in tries:
            done = subprocess.run([*as_receiver, *words], capture_output=True, check=False)
            assert done.returncode != 0, words
        process.communicate("")
    assert process.returncode == 0


def test_who_may_start_it(places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    store, _ = places
    monkeypatch.setattr(second_user, "USER", "no-such-user")
    with pytest.raises(WrongUser, match="has no user no-such-user: run systemd-sysusers"):
        second_user.users_of(store)
    with pytest.raises(WrongUser, match="belongs to root: give --store of a receiver"):
        second_user.users_of(store.parent)
    monkeypatch.setattr(os, "geteuid", lambda: RECEIVER)
    with pytest.raises(WrongUser, match=r"is started by root, .* use sudo"):
        second_user.users_of(store)


def test_it_has_the_events_of_failover(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        second_user.command_line().parse_args(["--help"])
    shown = capsys.readouterr().out
    for word in ("test", "planned", "unplanned", "undo", "permanent", "recover", "status"):
        assert word in shown
