"""Backends that start at once, and in which one call goes wrong as ordered.

    prepared_backend.py serve SOCKET                has imported everything; forks backends
    prepared_backend.py job SOCKET REPORT [ORDER]   asks it for one: what the runner starts

An order is JSON: the "place" of a call (prism, iscsi, state, pipe), which one ("call", from 1),
"when" (before or after its effect), and the "act": it fails, or the process is killed. "lasting"
lets all later calls fail too, "errno" is the number of an error of state. The report gets a line
when that has happened. "shadow" names a folder in which is kept what would still be there after a
power cut; "timer" kills so many seconds after the first read of a disk.
"""

# ruff: noqa: PTH105, PTH115, PTH116, PTH118, PTH123, PTH208 - a fault layer is near to os
# ruff: noqa: PLC0415 - the client imports nothing of the product: it must start at once
from __future__ import annotations

import contextlib
import errno
import gc
import importlib
import json
import os
import signal
import socket
import stat
import sys
import threading
import time
import types

TYPE_CHECKING = False  # a client must start at once
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

CHANGES = ("open", "write", "fsync", "replace", "unlink", "mkdir")
WITHOUT_EFFECT = {"GET", "OPTIONS", "open", "receive", "discover", "submit_read"}


def client(address: str, report: str, order: str = "{}") -> int:
    """Hand our three descriptors to the server; end as the backend does."""
    with socket.socket(socket.AF_UNIX) as wire:
        wire.connect(address)
        plan = json.dumps({"report": report, **json.loads(order)}).encode()
        socket.send_fds(wire, [plan], [0, 1, 2])
        for descriptor in (0, 1):  # the pipes end when the backend ends
            os.close(descriptor)
        return int(wire.recv(16) or b"1")


def server(address: str) -> None:
    """Fork a backend for each client, one after the other."""
    for module in ("backup.job", "queries.estimate", "restore.job", "serve"):
        importlib.import_module(f"nutanix_backend.{module}")
    gc.freeze()
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(address)
        door.listen()
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        while True:
            wire, _ = door.accept()
            with wire:
                text, descriptors, _, _ = socket.recv_fds(wire, 65536, 3)
                if not text:
                    continue
                child = os.fork()
                if not child:
                    door.close()
                    wire.close()
                    os._exit(backend(json.loads(text), descriptors))
                for descriptor in descriptors:
                    os.close(descriptor)
                status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
                with contextlib.suppress(BrokenPipeError):
                    wire.send(str(status if status >= 0 else 128 - status).encode())


def backend(order: dict[str, Any], descriptors: list[int]) -> int:
    """Be the backend that bacula-fd starts, with the fault ordered."""
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
        os.close(descriptor)
    Trap(order).install()
    sys.argv = ["nutanix_backend"]
    from nutanix_backend.__main__ import main

    return main()


class Trap:
    """Counts the calls to one place, and springs at the one ordered."""

    def __init__(self, order: dict[str, Any]) -> None:
        self.order = order
        self.place = order.get("place", "")
        self.left = order.get("call", 0)
        self.when = order.get("when", "before")
        self.after = self.when == "after"
        self.kills = order.get("act") == "kill"
        self.report = order["report"]
        self.shadow = order.get("shadow")
        self.lasting = order.get("lasting", False)
        self.errno = order.get("errno", errno.ENOSPC)
        self.counting = threading.Lock()

    def spring(self, what: str, error: Exception) -> None:
        """Let the call fail, or us die."""
        with open(self.report, "a") as file:
            file.write(f"{what}\n")
        if self.kills:
            os.kill(os.getpid(), signal.SIGKILL)
        raise error

    def around(self, place: str, name: str, call: Any, error: Callable[[], Exception]) -> Any:
        """The call, counted; "after" counts only what has an effect."""
        if place != self.place:
            return call

        def counted(*args: Any, **options: Any) -> Any:
            method = getattr(args[1], "method", "") if len(args) > 1 else ""
            if self.after and {name, method} & WITHOUT_EFFECT:
                return call(*args, **options)
            with self.counting:
                self.left -= 1
                ours = self.left == 0 or (self.lasting and self.left < 0)
            path = getattr(args[1], "path", "") if method else ""
            what = " ".join(filter(None, (self.when, place, name, method, path)))
            if ours and not self.after:
                self.spring(what, error())
            answer = call(*args, **options)
            if ours:
                self.spring(what, error())
            return answer

        return counted

    def starting_the_timer(self, call: Any) -> Any:
        """The call, with the first of which the time until we die begins."""
        self.kills = True
        doom = threading.Timer(self.order["timer"], self.spring, ("timer", TimeoutError()))
        doom.daemon = True

        def watched(*args: Any, **options: Any) -> Any:
            if not doom.is_alive() and not doom.finished.is_set():
                doom.start()
            return call(*args, **options)

        return watched

    def install(self) -> None:
        """Put ourselves below the product: on its HTTP, its iSCSI, its files, and its pipes."""
        import durable._files
        import iscsi_attach
        import prism_client
        from prism_client import _clock
        from prism_client._http import Http
        from ptcomm import Endpoint, PeerGone

        def no_answer() -> Exception:
            return prism_client.Unreachable("no answer: ordered by the test")

        def lost() -> Exception:
            return iscsi_attach.SessionLost("ordered by the test", step="read", target="disk")

        def full() -> Exception:
            return OSError(self.errno, "ordered by the test")

        def gone() -> Exception:
            return PeerGone("ordered by the test")

        iscsi: Any = iscsi_attach
        session, device = iscsi.userspace.UserspaceAttachment, iscsi.userspace.LunDevice
        disk: Any = types.SimpleNamespace(**vars(os))
        if self.shadow:
            disk.fsync = Shadow(self.shadow).fsync
        calls: list[tuple[str, Any, str, Callable[[], Exception]]] = [
            ("prism", Http, "send", no_answer),
            *(("iscsi", iscsi, name, lost) for name in ("discover", "attach")),
            *(("iscsi", session, name, lost) for name in ("open", "close")),
            ("iscsi", device, "submit_read", lost),
            *(("state", disk, name, full) for name in CHANGES),
            *(("pipe", Endpoint, name, gone) for name in ("send", "receive")),
        ]
        for place, owner, name, error in calls:
            setattr(owner, name, self.around(place, name, getattr(owner, name), error))
        if "timer" in self.order:
            device.submit_read = self.starting_the_timer(device.submit_read)
        vars(durable._files)["os"] = disk
        clock: Any = _clock.SystemClock
        clock.sleep = lambda _, seconds: time.sleep(min(seconds, 0.01))


class Shadow:
    """What a power cut would leave: the content of files and folders as of their last fsync.

    In the shadow folder there is a file `i<inode>` with the synced content of each file, and
    `d<inode>` with the synced names of each folder and the inodes behind them.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def fsync(self, descriptor: int) -> None:
        """Remember the file or folder as it is now."""
        status = os.fstat(descriptor)
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        if stat.S_ISDIR(status.st_mode):
            content = json.dumps(
                {n: os.stat(os.path.join(path, n)).st_ino for n in os.listdir(path)}
            )
            self._put(f"d{status.st_ino}", content.encode())
        else:
            with open(path, "rb") as file:
                self._put(f"i{status.st_ino}", file.read())

    def _put(self, name: str, content: bytes) -> None:
        path = os.path.join(self.folder, name)
        with open(f"{path}.new", "wb") as file:
            file.write(content)
        os.replace(f"{path}.new", path)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        server(sys.argv[2])
    else:
        sys.exit(client(*sys.argv[2:]))
