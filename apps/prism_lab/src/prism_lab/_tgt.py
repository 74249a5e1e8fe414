"""iSCSI: a data services portal that redirects, and behind it one tgtd per volume group.

tgtd knows one password per CHAP user for all its targets, while a cluster keeps a secret per
volume group; and tgtd redirects to an address of another tgtd only. A daemon for each volume
group, on a loopback address of its own, settles both, and a dead target is a killed process.
"""

from __future__ import annotations

import re
import socket
import time
from typing import TYPE_CHECKING

import attrs

from prism_lab._process import Daemon, run
from prism_lab.errors import CommandFailed, LabError, StartFailed

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

IQN_PREFIX = "iqn.2010-06.com.nutanix:"
PORT = 3260
_START_SECONDS = 5.0
_CONNECTION = re.compile(r"Session: (\d+)|Connection: (\d+)|Initiator: (\S+)")


@attrs.frozen
class Session:
    """A live iSCSI session as tgtd reports it."""

    target: str
    initiator: str
    address: str
    session_id: int
    connection_id: int


class Tgtd:
    """One tgtd process with one portal."""

    def __init__(self, address: str, number: int, run_dir: Path) -> None:
        """Start it on `address`:3260; `number` is its control port; StartFailed if it dies."""
        self.address = address
        self._number = number
        self._env = {"TGT_IPC_SOCKET": str(run_dir / "ipc")}
        self._log = run_dir / f"tgtd.{number}.log"
        argv = ["tgtd", "-f", "-C", str(number), "--iscsi", f"portal={address}:{PORT}"]
        self._daemon = Daemon(argv, env=self._env, log=self._log)
        self._wait_until_ready()

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline and self._daemon.running:
            try:
                socket.create_connection((self.address, PORT), timeout=1).close()
                self.admin("show", "sys")
            except (OSError, CommandFailed):
                time.sleep(0.01)
            else:
                return
        self.kill()
        words = self._log.read_text(errors="replace").strip()
        raise StartFailed(f"tgtd on {self.address}:{PORT} did not come up: {words[-300:]}")

    @property
    def running(self) -> bool:
        """Is the process still there?"""
        return self._daemon.running

    def admin(self, operation: str, mode: str, *arguments: str) -> str:
        """Run one tgtadm command; CommandFailed when tgtd refuses it."""
        head = ["tgtadm", "-C", str(self._number), "--lld", "iscsi"]
        return run(
            [*head, "--op", operation, "--mode", mode, *arguments], env=self._env, timeout=20
        )

    def kill(self) -> None:
        """End the process at once: tgtd ignores SIGTERM while it has targets."""
        self._daemon.kill()


@attrs.define
class Target:
    """The iSCSI side of one volume group. LUN 0 is tgt's controller, disks start at 1."""

    iqn: str
    daemon: Tgtd
    _front: Tgtd | None
    _front_tid: int
    _accounts: set[str] = attrs.field(factory=set)

    def add_disk(self, lun: int, disk: Path, serial: str) -> None:
        """Serve a file as one more LUN."""
        at = ("--tid", "1", "--lun", str(lun))
        self.daemon.admin("new", "logicalunit", *at, "--backing-store", str(disk))
        params = f"vendor_id=NUTANIX,product_id=VDISK,scsi_sn={serial},thin_provisioning=1"
        self.daemon.admin("update", "logicalunit", *at, "--params", params)

    def remove_disk(self, lun: int) -> None:
        """Take a LUN away."""
        self.daemon.admin("delete", "logicalunit", "--tid", "1", "--lun", str(lun))

    def allow(self, initiator: str, secret: str | None) -> None:
        """Let one initiator log in; with a secret, CHAP, whose user is the initiator's name."""
        if secret is not None:
            user = ("--user", initiator)
            self.daemon.admin("new", "account", *user, "--password", secret)
            self.daemon.admin("bind", "account", "--tid", "1", *user)
            self._accounts.add(initiator)
        self.daemon.admin("bind", "target", "--tid", "1", "--initiator-name", initiator)
        if self._front:
            at = ("--tid", str(self._front_tid), "--initiator-name", initiator)
            self._front.admin("bind", "target", *at)

    def forbid(self, initiator: str) -> None:
        """Take the permission back and end the initiator's sessions."""
        if self._front:
            at = ("--tid", str(self._front_tid), "--initiator-name", initiator)
            self._front.admin("unbind", "target", *at)
        if not self.daemon.running:
            return
        self.daemon.admin("unbind", "target", "--tid", "1", "--initiator-name", initiator)
        if initiator in self._accounts:
            self._accounts.remove(initiator)
            self.daemon.admin("delete", "account", "--user", initiator)
        for session in self.sessions():
            if session.initiator == initiator:
                self._disconnect(session)

    def sessions(self) -> list[Session]:
        """List who is logged in now."""
        if not self.daemon.running:
            return []
        return _parse_sessions(
            self.daemon.admin("show", "conn", "--tid", "1"), self.iqn, self.daemon.address
        )

    def _disconnect(self, session: Session) -> None:
        ids = ("--sid", str(session.session_id), "--cid", str(session.connection_id))
        self.daemon.admin("delete", "conn", "--tid", "1", *ids)

    def remove(self) -> None:
        """End the target and everything that uses it."""
        self.daemon.kill()
        if self._front:
            self._front.admin("delete", "target", "--tid", str(self._front_tid), "--force")


def _parse_sessions(shown: str, iqn: str, address: str) -> list[Session]:
    found = []
    session = connection = 0
    for match in _CONNECTION.finditer(shown):
        if match[1]:
            session = int(match[1])
        elif match[2]:
            connection = int(match[2])
        else:
            found.append(Session(iqn, match[3], address, session, connection))
    return found


class TargetServer:
    """All targets of a cluster: the data services portal and the addresses of the CVMs."""

    def __init__(self, portal: str | None, addresses: Sequence[str], run_dir: Path) -> None:
        """Without a `portal` (no data services IP) targets are reachable on their CVM only."""
        self._run_dir = run_dir
        self._addresses = addresses
        self._targets: dict[int, Target] = {}
        self._front = Tgtd(portal, 0, run_dir) if portal else None

    def create(self, name: str) -> Target:
        """Start a target without disks that nobody may log in to; `name` lacks the IQN prefix."""
        free = [n for n in range(1, len(self._addresses) + 1) if n not in self._targets]
        if not free:
            raise LabError(f"all {len(self._addresses)} target addresses are in use")
        number = free[0]
        daemon = Tgtd(self._addresses[number - 1], number, self._run_dir)
        iqn = IQN_PREFIX + name
        try:
            daemon.admin("new", "target", "--tid", "1", "--targetname", iqn)
            if self._front:
                self._redirect(self._front, number, iqn, daemon.address)
        except CommandFailed:
            daemon.kill()
            raise
        target = self._targets[number] = Target(iqn, daemon, self._front, number)
        return target

    @staticmethod
    def _redirect(front: Tgtd, tid: int, iqn: str, address: str) -> None:
        at = ("--tid", str(tid))
        front.admin("new", "target", *at, "--targetname", iqn)
        for key, value in (("Address", address), ("Port", str(PORT)), ("Reason", "Temporary")):
            front.admin("update", "target", *at, "--name", f"Redirect{key}", "--value", value)

    def remove(self, target: Target) -> None:
        """End one target and free its address."""
        target.remove()
        self._targets = {n: kept for n, kept in self._targets.items() if kept is not target}

    def sessions(self) -> list[Session]:
        """List the live sessions of all targets."""
        return [session for target in self._targets.values() for session in target.sessions()]

    def stop(self) -> None:
        """End every daemon."""
        for target in self._targets.values():
            target.daemon.kill()
        if self._front:
            self._front.kill()
