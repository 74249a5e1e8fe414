"""A Director with its catalog, a Storage Daemon and a File Daemon, all on one loopback address.

Only the daemons live here: configuration, start and end. What is asked of them is in console.
They are Debian's own binaries, unpacked by shim/fetch-bacula; nothing is installed.

The File Daemon runs in a PID namespace of its own: bacula-fd can send a signal to every process
that it sees, and whatever it started ends with the namespace.
"""

from __future__ import annotations

import os
import random
import secrets
import shutil
import socket
import sqlite3
import string
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from collections.abc import Iterator

PATIENCE = 60.0
"""Seconds after which a daemon that does not answer hangs."""
PORTS = {"bacula-dir": 9101, "bacula-fd": 9102, "bacula-sd": 9103}
TEMPLATES = Path(__file__).with_name("etc")
USER = 65_534
"""Whom the state of the backend belongs to (Debian: nobody), in the place of the package's user."""
AS_USER = ("setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups")
WITH_US = ("setpriv", "--pdeathsig", "KILL")  # no daemon outlives who started it
IN_NAMESPACE = (
    *("unshare", "--pid", "--fork", "--mount-proc", "--kill-child", "sh", "-c"),
    '"$0" "$@" & while sleep 0.2; do :; done',  # outlives the daemon, so that orphans can be seen
)
WITH_SMALL_DISK = (
    *("unshare", "--mount", "--propagation", "private", "sh", "-c"),
    'mount -t tmpfs -o size=24m tmpfs "$SMALL_DISK" && exec "$0" "$@"',
)


@attrs.frozen
class Installation:
    """What is tested, where it was unpacked: Bacula's packages in `prefix`, ours in `product`."""

    prefix: Path
    product: Path

    @property
    def environment(self) -> dict[str, str]:
        """What lets the binaries find their libraries."""
        folders = ("usr/lib/bacula", "usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu")
        path = ":".join(str(self.prefix / folder) for folder in folders)
        return {"PATH": os.environ["PATH"], "LD_LIBRARY_PATH": path, "LC_ALL": "C.UTF-8"}

    @property
    def backend(self) -> Path:
        """Our program."""
        return self.product / "usr/sbin/podheitor-nutanix-backend"

    @property
    def plugins(self) -> list[Path]:
        """What goes into the plugin folder of the file daemon: Bacula's own, ours, our adapters."""
        found = [*self.prefix.glob("usr/lib/bacula/*-fd.so"), *self.adapters]
        return found + list(self.product.glob("usr/lib/bacula/*.so"))

    @property
    def adapters(self) -> list[Path]:
        """The plugins with the names of our siblings, and their libraries."""
        return list(self.product.glob("usr/lib/podheitor-nutanix-adapters/*.so"))


def unpack(prefix: Path, package: Path, folder: Path) -> Installation:
    """Unpack our Debian package below `folder`, as dpkg would below /."""
    subprocess.run(["dpkg-deb", "-x", package, folder], check=True)
    let_pass(folder)
    return Installation(prefix, folder)


def let_pass(folder: Path) -> None:
    """Let other users reach what is below a temporary folder, which is closed to them."""
    for path in (folder, *folder.parents):
        if path.is_relative_to(tempfile.gettempdir()) and path.stat().st_uid == os.geteuid():
            path.chmod(path.stat().st_mode | 0o011)


@attrs.define
class Daemons:
    """The three daemons, each started and stopped by name: bacula-dir, bacula-sd, bacula-fd."""

    installation: Installation
    work: Path
    address: str
    processes: dict[str, subprocess.Popen[bytes]] = attrs.field(factory=dict)

    @property
    def jobs_file(self) -> Path:
        """The part of the Director's configuration that tests write."""
        return self.work / "jobs.conf"

    @property
    def adapter_conf(self) -> Path:
        """What tells our backend where restores of siblings' backups go."""
        return self.work / "adapter.conf"

    @property
    def allowed_folders(self) -> Path:
        """The file with the folders that a plugin line may name; its folder is ours alone."""
        return self.work / "allowed-folders"

    @property
    def catalog_file(self) -> Path:
        """The Director's database."""
        return self.work / "dir" / "bacula.db"

    def start(self, name: str) -> None:
        """Start a daemon in the foreground of nobody, and wait until it listens."""
        command = [str(self.work / "sbin" / name), "-f", "-c", str(self.work / f"{name}.conf")]
        around = {"bacula-fd": IN_NAMESPACE, "bacula-sd": WITH_SMALL_DISK}.get(name, ())
        environment = {
            **self.installation.environment,
            "SMALL_DISK": str(self.work / "small"),
            "PODHEITOR_ADAPTER_CONF": str(self.adapter_conf),
            "PODHEITOR_ALLOWED_FOLDERS": str(self.allowed_folders),
        }
        with (self.work / f"{name}.out").open("ab") as output:
            self.processes[name] = subprocess.Popen(
                [*WITH_US, *around, *command],
                stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment,
            )  # fmt: skip
        self._wait_for(name)

    def stop(self, name: str) -> None:
        """End a daemon at once, with everything it started."""
        process = self.processes.pop(name, None)
        if process is not None:
            process.kill()
            process.wait(PATIENCE)

    def pid(self, name: str) -> int:
        """The process of a daemon."""
        pid = self.processes[name].pid
        return next(p for p in (pid, *descendants(pid)) if _program(p) == name)

    def backends(self) -> list[int]:
        """The processes of our backend."""
        found = descendants(self.processes["bacula-fd"].pid)
        return [pid for pid in found if "nutanix" in _command(pid)]

    def _wait_for(self, name: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            if self.processes[name].poll() is not None:
                break
            if is_listening(self.address, PORTS[name]):
                return
            time.sleep(0.05)
        raise RuntimeError(f"{name} did not start: {(self.work / f'{name}.out').read_text()}")


@contextmanager
def running(installation: Installation, work: Path, *, tls: bool = True) -> Iterator[Daemons]:
    """The daemons on an address of their own, with all their files below `work`."""
    daemons = Daemons(installation, work, free_address())
    _lay_out(daemons, tls=tls)
    with ExitStack() as stack:
        for name in ("bacula-sd", "bacula-fd", "bacula-dir"):
            stack.callback(daemons.stop, name)
            daemons.start(name)
        time.sleep(2)  # the Director answers before its job queue is ready
        yield daemons


def free_address() -> str:
    """A loopback address on which Bacula's ports are free."""
    for _ in range(50):
        address = f"127.{random.randint(2, 60)}.{random.randint(0, 254)}.1"
        try:
            for port in PORTS.values():
                with socket.socket() as probe:
                    probe.bind((address, port))
        except OSError:
            continue
        return address
    raise RuntimeError("no loopback address has Bacula's ports free")


def is_listening(address: str, port: int) -> bool:
    """Whether somebody listens there; told by the kernel, for a daemon logs whoever only knocks."""
    number = int.from_bytes(socket.inet_aton(address), sys.byteorder)
    wanted = [f"{number:08X}:{port:04X}", "0A"]
    lines = Path("/proc/net/tcp").read_text().splitlines()
    return any([line.split()[1], line.split()[3]] == wanted for line in lines)


def _lay_out(daemons: Daemons, *, tls: bool) -> None:
    work, installation = daemons.work, daemons.installation
    for folder in ("dir", "sd", "fd", "volumes", "small", "sbin", "plugins"):
        (work / folder).mkdir(parents=True)
    (work / "dir" / "nothing").touch()
    for name in PORTS:  # the file daemon looks for the backend beside itself
        shutil.copy(installation.prefix / "usr/sbin" / name, work / "sbin" / name)
    (work / "sbin" / "podheitor-nutanix-backend").symlink_to(installation.backend)
    for plugin in installation.plugins:
        shutil.copy(plugin, work / "plugins")
    values = {
        "address": daemons.address,
        "work": str(work),
        "plugins": str(work / "plugins"),
        "scripts": str(installation.prefix / "etc/bacula/scripts"),
        "password": secrets.token_hex(16),
        "tls": "" if tls else "TLS PSK Enable = no",
    }
    for template in TEMPLATES.iterdir():
        text = string.Template(template.read_text()).substitute(values)
        (work / template.name).write_text(text)
    daemons.jobs_file.touch()
    daemons.allowed_folders.write_text(f"{tempfile.gettempdir()}\n")
    schema = installation.prefix / "usr/share/dbconfig-common/data/bacula-director-sqlite3/install"
    with sqlite3.connect(daemons.catalog_file) as database:
        database.executescript((schema / "sqlite3").read_text())
    database.close()


def descendants(pid: int) -> list[int]:
    """The processes below a process, nearest first; those that have ended are not counted."""
    found: list[int] = []
    for thread in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):  # it has just ended
            found += [int(child) for child in thread.read_text().split()]
    return [
        *(child for child in found if _command(child)),
        *(below for child in found for below in descendants(child)),
    ]


def _command(pid: int) -> str:
    """The command line of a process; empty when it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").replace("\0", " ")
    except OSError:
        return ""


def _program(pid: int) -> str:
    """The program that a process runs; shells that start a daemon are not that daemon."""
    return Path(_command(pid).partition(" ")[0]).name
