"""What tests of this library and of its users need: a real target, a wire with faults, a fake disk.

No pytest here. The only module of this package that starts processes (tgtd, of the Debian package
tgt; root is not needed).
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import socket
import subprocess  # noqa: TID251 - starts tgtd and tgtadm; the package runs no other process
import tempfile
import threading
import time
from concurrent.futures import Future
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from iscsi_attach._blocks import as_bytes, check_blocks, check_range, round_up
from iscsi_attach.errors import DeviceClosed, IoFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType
    from typing import Self

    from typing_extensions import Buffer

    from iscsi_attach.model import Chap, Portal

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

    def signal(self, number: int) -> None:
        """Send a signal to tgtd: SIGSTOP makes a target that hangs, SIGCONT heals it."""
        if self._process is not None:
            self._process.send_signal(number)

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


class FaultyWire:
    """A portal on loopback that passes everything on to another one and tampers with the answers.

    ``tamper`` gets each PDU of the target, header (48 bytes) and rest, and returns what the
    initiator gets instead: a PDU, or None to break the connection there.
    """

    def __init__(self, portal: Portal, behind: Portal) -> None:
        self.portal = portal
        self.tamper: Callable[[bytes, bytes], tuple[bytes, bytes] | None] = lambda *pdu: pdu
        self._behind = behind
        self._listener = socket.create_server((portal.host, portal.port))
        self._open: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.create_connection((self._behind.host, self._behind.port), STEP_TIMEOUT)
            far.settimeout(None)
            self._open += [near, far]
            for carry in (self._carry_requests, self._carry_answers):
                self._threads.append(threading.Thread(target=carry, args=(near, far)))
                self._threads[-1].start()

    @staticmethod
    def _carry_requests(near: socket.socket, far: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := near.recv(1 << 18):
                far.sendall(data)
        _break(near, far)

    def _carry_answers(self, near: socket.socket, far: socket.socket) -> None:
        with contextlib.suppress(OSError), far.makefile("rb") as stream:
            while (header := stream.read(48)) and len(header) == 48:
                length = header[4] * 4 + round_up(int.from_bytes(header[5:8], "big"), 4)
                pdu = self.tamper(header, stream.read(length))
                if pdu is None:
                    break
                near.sendall(b"".join(pdu))
        _break(near, far)

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _break(self._listener)
        self._threads[0].join(STEP_TIMEOUT)
        _break(*self._open)
        for thread in self._threads[1:]:
            thread.join(STEP_TIMEOUT)
        for end in (self._listener, *self._open):
            end.close()


def _break(*ends: socket.socket) -> None:
    for end in ends:
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


class MemoryDevice:
    """A BlockDevice over bytes in memory that finishes reads when, and as, a test says.

    Reads wait in ``pending`` until ``release()``; with ``automatic`` they are done at once. A read
    that covers byte ``bad_offset`` fails with IoFailed.
    """

    def __init__(
        self,
        content: bytes,
        *,
        block_size: int = 512,
        automatic: bool = True,
        bad_offset: int | None = None,
    ) -> None:
        self.name = "memory"
        self.size = len(content)
        self.block_size = block_size
        self.content = bytearray(content)
        self.pending: list[tuple[int, memoryview, Future[None]]] = []
        self.most_in_flight = 0
        self._automatic = automatic
        self._bad_offset = bad_offset
        self._closed = False

    def submit_read(self, offset: int, buffer: memoryview) -> Future[None]:
        """Queue a read."""
        if self._closed:
            raise DeviceClosed(self.name)
        check_range(self.name, offset, len(buffer), self.size)
        future: Future[None] = Future()
        future.set_running_or_notify_cancel()
        self.pending.append((offset, buffer, future))
        self.most_in_flight = max(self.most_in_flight, len(self.pending))
        if self._automatic:
            self.release()
        return future

    def release(self, at: int = 0) -> None:
        """Finish a waiting read, by default the oldest."""
        offset, buffer, future = self.pending.pop(at)
        if self._bad_offset is not None and 0 <= self._bad_offset - offset < len(buffer):
            future.set_exception(IoFailed("bad", device=self.name, offset=self._bad_offset))
            return
        buffer[:] = self.content[offset : offset + len(buffer)]
        future.set_result(None)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill the buffer."""
        self.submit_read(offset, buffer).result()

    def write(self, offset: int, data: Buffer) -> None:
        """Change the content."""
        view = as_bytes(data)
        check_range(self.name, offset, len(view), self.size)
        self.content[offset : offset + len(view)] = view

    def submit_write(self, offset: int, buffer: memoryview) -> Future[None]:
        """Change the content at once."""
        check_blocks(self.name, offset, len(buffer), self.size, self.block_size)
        future: Future[None] = Future()
        future.set_running_or_notify_cancel()
        self.write(offset, buffer)
        future.set_result(None)
        return future

    def flush(self) -> None:
        """Do nothing: memory is as durable as it gets."""

    def close(self) -> None:
        """Refuse further use."""
        self._closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _find(program: str) -> str:
    path = shutil.which(program, path=SYSTEM_PATH)
    if path is None:
        raise FileNotFoundError(f"{program} is missing; install the Debian package tgt")
    return path
