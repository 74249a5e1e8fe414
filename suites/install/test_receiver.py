"""The receiver's package on a host without the plugin, without Bacula and without Prism."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from suites.install.conftest import running, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from suites.install.conftest import Host

MOST_EXPOSED = 1.2
"""What systemd calls the exposure of a service may be so much at most, of 10."""
HOME = "/var/lib/podheitor-receiver"
AS_RECEIVER = (
    "setpriv",
    "--reuid=podheitor-receiver",
    "--regid=podheitor-receiver",
    "--init-groups",
)
PORT = 9848


@pytest.fixture(scope="module")
def receiver() -> Iterator[Host]:
    with running("receiver") as host:
        yield host


def test_nothing_of_the_plugin_is_there(receiver: Host) -> None:
    assert receiver.run("dpkg", "--verify", "podheitor-replica-receiver") == ""
    installed = receiver.run("dpkg-query", "-W", "-f", "${Package} ${Version}\n").splitlines()
    names = {line.split()[0].partition(":")[0] for line in installed}
    assert not names & {"podheitor-nutanix", "libiscsi7", "bacula-common", "bacula-fd"}
    (ours,) = (line for line in installed if line.startswith("podheitor-replica-receiver "))
    assert ours.endswith(f"+{os.environ['INSTALL_RELEASE']}")
    private = receiver.path("/usr/lib/podheitor-replica-receiver")
    packages = {path.name for path in private.iterdir()}
    assert "vm_replica" in packages
    assert not packages & {"nutanix_backend", "prism_client", "iscsi_attach"}


def test_systemd_accepts_the_unit(receiver: Host) -> None:
    unit = "/usr/lib/systemd/system/podheitor-receiver.service"
    receiver.run("systemd-analyze", "verify", "--man=no", unit)
    settings = receiver.path(unit).read_text()
    assert "ExecStart=/usr/sbin/podheitor-receiver serve\n" in settings
    assert "User=podheitor-receiver\n" in settings
    for user in ("podheitor-receiver", "podheitor-failover"):
        assert receiver.run("id", "-un", user).strip() == user


def test_the_service_is_confined(receiver: Host) -> None:
    unit = "/usr/lib/systemd/system/podheitor-receiver.service"
    said = receiver.run("systemd-analyze", "security", "--offline=true", "--no-pager", unit)
    (exposure,) = re.findall(r"Overall exposure level for podheitor-receiver\S*: ([\d.]+)", said)
    assert float(exposure) <= MOST_EXPOSED, said


def test_credentials_of_failovers_are_for_their_user_alone(receiver: Host) -> None:
    folder = "/etc/podheitor-failover"
    assert receiver.run("stat", "-c", "%U %a", folder).split() == ["podheitor-failover", "700"]
    assert "Permission denied" in receiver.run(*AS_RECEIVER, "ls", folder, check=False)
    assert "--target" in receiver.run("podheitor-failover", "test", "--help")


def test_the_service_is_paired_started_and_asked(receiver: Host) -> None:
    """What the unit starts, as the user that it starts it as."""
    receiver.shell(f"install -d -o podheitor-receiver -m 700 {HOME}")
    program = (*AS_RECEIVER, "podheitor-receiver")
    shown = receiver.run(*program, "pair", "--identity", f"{HOME}/identity")
    assert "sha256" in shown.lower() or "fingerprint" in shown.lower(), shown
    process = receiver.start(*program, "serve")
    wait_until(lambda: listening(PORT) or process.poll() is not None, "the receiver to listen")
    assert process.poll() is None, receiver.path("/root/setpriv.log").read_text()
    assert receiver.run(*program, "status")
    process.terminate()


def listening(port: int) -> bool:
    """Tell whether a socket listens at a port."""
    lines = [
        line.split()
        for table in ("tcp", "tcp6")
        for line in Path("/proc/net", table).read_text().splitlines()[1:]
    ]
    return any(words[3] == "0A" and int(words[1].rpartition(":")[2], 16) == port for words in lines)
