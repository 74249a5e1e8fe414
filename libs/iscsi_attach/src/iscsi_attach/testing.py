"""A real iSCSI target for tests: tgtd on loopback, with its own control socket. No pytest here.

The only module of this package that starts processes. Needs the Debian package tgt, not root.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess  # noqa: TID251 - starts tgtd and tgtadm; the package runs no other process
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from iscsi_attach.model import Chap, Portal

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType
    from typing import Self

STEP_TIMEOUT = 10.0
SYSTEM_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


@attrs.frozen
class ServedTarget:
    """A target to serve: its disks are files, at LUN 1 and up (LUN 0 is tgt's controller)."""

    iqn: str
    disks: tuple[Path, ...]
    chap: Chap | None = None
    initiator: str | None = None
    redirect: Portal | None = None
    block_size: int = 512


def free_loopback() -> str:
    """Return a loopback address that nobody else is likely to use."""
    pick = random.SystemRandom().randint
    return f"127.{pick(2, 254)}.{pick(1, 254)}.{pick(1, 250)}"


class Tgtd:
    """A tgtd process that serves targets; it can be killed and started again."""

    def __init__(self, portals: Sequence[Portal], targets: Sequence[ServedTarget]) -> None:
        self.portals = tuple(portals)
        self.targets = tuple(targets)
        self._home = tempfile.TemporaryDirectory(prefix="tgtd-")  # a socket's path must be short
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start tgtd and configure it; it answers logins when this returns.

        The ACL comes last, so that nobody logs in to a target that is not complete. tgtd dies with
        the thread that calls this, so that a killed test run leaves nothing behind.
        """
        with ExitStack() as stack:
            stack.callback(self.kill)
            self._spawn()
            for tid, target in enumerate(self.targets, 1):
                self._serve(tid, target)
            stack.pop_all()

    def _spawn(self) -> None:
        portals = ",".join(f"portal={portal}" for portal in self.portals)
        with self._log_file.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    "setpriv",
                    "--pdeathsig",
                    "KILL",
                    _find("tgtd"),
                    "-f",
                    "-C",
                    "0",
                    "--iscsi",
                    portals,
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment,
            )
        deadline = time.monotonic() + STEP_TIMEOUT
        while self._run_admin("sys", "show").returncode:
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"tgtd did not start: {self._log_file.read_text()}")
            time.sleep(0.01)

    def _serve(self, tid: int, target: ServedTarget) -> None:
        self._admin(tid, "target", "new", "-T", target.iqn)
        for lun, disk in enumerate(target.disks, 1):
            self._admin(tid, "logicalunit", "new", f"--lun={lun}", "-b", str(disk),
                        f"--blocksize={target.block_size}")  # fmt: skip
            identity = f"vendor_id=NUTANIX,product_id=VDISK,scsi_sn={disk.stem},thin_provisioning=1"
            self._admin(tid, "logicalunit", "update", f"--lun={lun}", "--params", identity)
        if target.chap is not None:
            user = f"--user={target.chap.user}"
            self._check("account", "new", user, f"--password={target.chap.secret}")
            self._admin(tid, "account", "bind", user)
        if target.redirect is not None:
            self.redirect(tid, target.redirect)
        who = ("-Q", target.initiator) if target.initiator else ("-I", "ALL")
        self._admin(tid, "target", "bind", *who)

    def redirect(self, tid: int, portal: Portal) -> None:
        """Send logins of a target to another portal, as a data services address does."""
        values = {"Address": portal.host, "Port": str(portal.port), "Reason": "Temporary"}
        for name, value in values.items():
            self._admin(tid, "target", "update", "-n", f"Redirect{name}", "-v", value)

    def sessions(self) -> int:
        """Return how many initiators are logged in to the targets."""
        return self._check("target", "show").count("I_T nexus:")

    def kill(self) -> None:
        """End tgtd at once, as a crash would (SIGKILL); harmless when it does not run."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def close(self) -> None:
        """End tgtd and remove its control socket."""
        self.kill()
        self._home.cleanup()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def _environment(self) -> dict[str, str]:
        return {**os.environ, "TGT_IPC_SOCKET": f"{self._home.name}/ipc"}

    @property
    def _log_file(self) -> Path:
        return Path(self._home.name) / "log"

    def _admin(self, tid: int, mode: str, operation: str, *arguments: str) -> None:
        self._check(mode, operation, f"--tid={tid}", *arguments)

    def _check(self, mode: str, operation: str, *arguments: str) -> str:
        done = self._run_admin(mode, operation, *arguments)
        if done.returncode:
            raise RuntimeError(f"tgtadm {mode} {operation}: {done.stderr.strip()}")
        return done.stdout

    def _run_admin(
        self, mode: str, operation: str, *arguments: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [_find("tgtadm"), "--lld=iscsi", f"--mode={mode}", f"--op={operation}", *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=STEP_TIMEOUT,
            env=self._environment,
            check=False,
        )


def _find(program: str) -> str:
    path = shutil.which(program, path=SYSTEM_PATH)
    if path is None:
        raise FileNotFoundError(f"{program} is missing; install the Debian package tgt")
    return path
