"""`files export`: disks of a backup as NBD exports on Unix sockets, and a machine that boots them.

nbdkit speaks with the clients. It asks this process for the bytes, through a socket in a folder
that only our user can enter, because it brings a Python of its own (see nbd_plugin).
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import shutil
import signal
import socket
import socketserver
import subprocess  # noqa: TID251 - this module starts nbdkit and qemu
import tempfile
import threading
import time
from bisect import bisect_right
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

import attrs
from chain_disk import ChainError
from command_line import program, terminal
from command_line.text import size
from vm_replica.errors import ReplicationError

from nutanix_backend.errors import RestoreFailed, RestoreRefused
from nutanix_backend.files import choice, nbd_plugin
from nutanix_backend.files.boot import qemu_command

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Mapping, Sequence

    from chain_disk import Disk
    from command_line.arguments import Subparsers

log = logging.getLogger(__name__)
PATIENCE: Final = 60
"""Seconds within which nbdkit must be ready."""
_LARGEST_REQUEST: Final = 64 << 20
_LONGEST_SOCKET: Final = 107
"""Bytes of the path of a Unix socket, from unix(7)."""
_MOST_EXTENTS: Final = 4096
"""Extents in one answer."""


def add_parser(words: Subparsers) -> None:
    """Add `export` to the commands of `files`."""
    parser = words.add_parser("export", help="offer disks as NBD exports, or boot them")
    choice.add_choice(parser)
    parser.add_argument(
        "--sockets", type=Path, metavar="FOLDER", help="where the sockets are; default: a new one"
    )
    parser.add_argument(
        "--overlay", action="store_true", help="let clients write: into a temporary file that goes"
    )
    parser.add_argument(
        "--boot", action="store_true", help="start the VM under qemu; its changes go when it ends"
    )
    parser.add_argument(
        "command",
        nargs="*",
        metavar="-- WORD",
        help="with --boot more options of qemu; else a command to run, in which {0} is the URI of "
        "disk 0; the export ends with it",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Export until the command, the machine or the user ends it. Raises what `choice` raises.

    Raises RestoreRefused when a program is missing or there is no configuration to boot from.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with choice.opened(args) as vm, contextlib.ExitStack() as stack:
        if args.boot:
            qemu_command(vm, {}, [])  # raises RestoreRefused before anything is started
        exports = stack.enter_context(exported(vm.disks, args.sockets, overlay=args.overlay))
        for number, uri in exports.items():
            terminal.say(terminal.plain(f"disk {number} ({size(vm.disks[number].size)}): {uri}"))
        if args.boot:
            return _run(qemu_command(vm, exports, args.command), stack)
        if args.command:
            places = {str(number): uri for number, uri in exports.items()}
            return _run([_filled(word, places) for word in args.command], stack)
        terminal.say("the export ends with this command: Ctrl-C")
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()
    return program.DONE


def _filled(word: str, places: Mapping[str, str]) -> str:
    for number, uri in places.items():
        word = word.replace(f"{{{number}}}", uri)
    return word


def _run(command: Sequence[str], stack: contextlib.ExitStack) -> int:
    """Run a program to its end; its exit code."""
    try:
        child = subprocess.Popen(command)
    except OSError as error:
        raise RestoreRefused(f"{command[0]} cannot be started: {error.strerror}") from error
    stack.callback(_end, child)
    return child.wait()


def _end(child: subprocess.Popen[bytes]) -> None:
    child.terminate()
    try:
        child.wait(timeout=10)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


@contextlib.contextmanager
def exported(
    disks: Mapping[int, Disk], folder: Path | None, *, overlay: bool = False
) -> Iterator[dict[int, str]]:
    """Export disks while the block lasts: their URIs, by number. Raises RestoreRefused, OSError."""
    nbdkit = shutil.which("nbdkit")
    if nbdkit is None:
        raise RestoreRefused("nbdkit is not installed: install nbdkit and nbdkit-plugin-python")
    with contextlib.ExitStack() as stack:
        private = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="podheitor-nbd-")))
        stack.enter_context(_served(disks, private / "backend"))
        place = folder or private
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        uris = {}
        for number in disks:
            path = (place / f"disk-{number}.sock").absolute()
            if path.exists():
                raise RestoreRefused(f"{path} exists: end the export that uses it, or remove it")
            if len(os.fsencode(path)) > _LONGEST_SOCKET:
                raise RestoreRefused(f"{path} is too long for a socket: give a shorter --sockets")
            words = [nbdkit, "-f", "--exit-with-parent", "-U", str(path)]
            words += ["--filter=cow"] if overlay else ["-r"]
            words += ["python", nbd_plugin.__file__, f"backend={private / 'backend'}"]
            child = subprocess.Popen([*words, f"disk={number}"], stdin=subprocess.DEVNULL)
            stack.callback(path.unlink, missing_ok=True)
            stack.callback(_end, child)
            _wait_for(path, child)
            uris[number] = f"nbd+unix:///?socket={path}"
        yield uris


def _wait_for(path: Path, child: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + PATIENCE
    while not path.exists():
        if child.poll() is not None:
            raise RestoreFailed(
                f"nbdkit ended with status {child.returncode}: see its message above; it needs "
                "nbdkit-plugin-python"
            )
        if time.monotonic() > until:
            raise RestoreFailed(f"nbdkit was not ready within {PATIENCE} s")
        time.sleep(0.02)


# --- the side that has the bytes


@attrs.define
class Served:
    """A disk that is asked by several clients, one after the other."""

    disk: Disk
    lock: threading.Lock = attrs.field(factory=threading.Lock)
    _begins: list[int] | None = None
    _ends: list[int] = attrs.field(factory=list)

    def read(self, offset: int, length: int) -> bytes | bytearray:
        """Bytes of the disk. Raises ChainError, ReplicationError."""
        with self.lock:
            return self.disk.read(offset, length)

    def extents(self, offset: int, length: int) -> list[tuple[int, bool]]:
        """Lengths from an offset on, and whether there are zeros."""
        with self.lock:
            if self._begins is None:
                pairs = list(self.disk.extents())
                self._begins, self._ends = [b for b, _ in pairs], [e for _, e in pairs]
        found: list[tuple[int, bool]] = []
        at, end = offset, offset + length
        number = max(0, bisect_right(self._begins, offset) - 1)
        while at < end and len(found) < _MOST_EXTENTS:
            begin, stop = (
                (self._begins[number], self._ends[number])
                if number < len(self._begins)
                else (end, end)
            )
            if stop <= at and number < len(self._begins):
                number += 1
                continue
            is_zero = at < begin
            until = min(begin if is_zero else stop, end)
            found.append((until - at, is_zero))
            at = until
        return found


class _Client(socketserver.BaseRequestHandler):
    """One connection of nbdkit."""

    def handle(self) -> None:
        channel: socket.socket = self.request
        disks = cast("_DiskServer", self.server).disks
        while header := channel.recv(nbd_plugin.REQUEST.size, socket.MSG_WAITALL):
            letter, number, offset, length = nbd_plugin.REQUEST.unpack(header)
            status, content = self._answer(letter, disks[number], offset, length)
            channel.sendall(nbd_plugin.ANSWER.pack(status, len(content)))
            channel.sendall(content)

    @staticmethod
    def _answer(
        letter: bytes, served: Served, offset: int, length: int
    ) -> tuple[int, bytes | bytearray]:
        if letter == b"S":
            return 0, served.disk.size.to_bytes(8, "little")
        try:
            if letter == b"E":
                pairs = served.extents(offset, length)
                return 0, b"".join(nbd_plugin.EXTENT.pack(*pair) for pair in pairs)
            if length > _LARGEST_REQUEST:
                return errno.EINVAL, b"the request is too long"
            return 0, served.read(offset, length)
        except (ChainError, ReplicationError, OSError) as error:
            log.exception("a disk that is exported cannot be read")
            terminal.complain(str(error))
            return errno.EIO, str(error).encode()


class _DiskServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """Gives bytes of disks to nbdkit."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, path: Path, disks: Mapping[int, Disk]) -> None:
        self.disks = {number: Served(disk) for number, disk in disks.items()}
        super().__init__(str(path), _Client)


@contextlib.contextmanager
def _served(disks: Mapping[int, Disk], path: Path) -> Iterator[None]:
    with _DiskServer(path, disks) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()
