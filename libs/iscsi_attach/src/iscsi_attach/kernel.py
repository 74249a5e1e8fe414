"""The kernel transport: open-iscsi logs in, the kernel makes block devices. It needs root.

What is ours is told by the initiator name that we log in with: sessions and node records under it
are ours, all others are never touched. So a process that was killed leaves nothing that the next
one cannot recognise, without any state of our own.
"""

from __future__ import annotations

import fcntl
import os
import stat
import time
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

import attrs

from iscsi_attach import _iscsiadm, _run
from iscsi_attach._sysfs import Sysfs
from iscsi_attach._undo import push_undo
from iscsi_attach.direct import open_device
from iscsi_attach.errors import (
    AttachError,
    CommandFailed,
    DeviceBusy,
    DeviceNotFound,
    IoFailed,
    KernelUnavailable,
    LunNotFound,
    SessionLost,
    TargetInUse,
)
from iscsi_attach.model import Portal, Target

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import TracebackType
    from typing import Self

    from iscsi_attach._run import Runner
    from iscsi_attach._sysfs import KernelDisk, KernelSession
    from iscsi_attach.direct import DirectDevice
    from iscsi_attach.model import DiscoveredTarget

DEFAULT_TIMEOUT = 10.0
DEFAULT_REPLACEMENT = 15.0
INTERFACE = "iscsi_attach"
"""The interface record through which we discover under our own name."""
DATABASES = ("etc/iscsi", "var/lib/iscsi")  # up to Debian 12, and since
LOCKS = "run/iscsi_attach"
_LOCK_FLAGS = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
COMMAND_TIMEOUT = 60.0  # of a command that waits for nobody but iscsid
PAUSE = 0.02


@attrs.frozen
class Host:
    """The machine: its files below ``root``, its programs, its sysfs. Tests have another one."""

    root: Path = Path("/")
    run: Runner = _run.run
    sysfs: Sysfs = attrs.field(factory=Sysfs)
    user: int | None = None

    @property
    def is_root(self) -> bool:
        """Whether we are root, who this process may not be any more when it has given that up."""
        return (os.geteuid() if self.user is None else self.user) == 0


THIS_HOST = Host()


def unavailable(host: Host = THIS_HOST) -> str:
    """Why the kernel transport cannot be used here; empty when it can."""
    if not host.is_root:
        return "it needs root"
    if host.run(_iscsiadm.version(), timeout=COMMAND_TIMEOUT).status:
        return "iscsiadm is not installed (Debian package open-iscsi)"
    if not host.sysfs.has_transport():
        host.run(["modprobe", "-q", "iscsi_tcp"], timeout=COMMAND_TIMEOUT)
        if not host.sysfs.has_transport():
            return "the kernel has no module iscsi_tcp"
    sockets = (host.root / "proc/net/unix").read_text()
    if "@ISCSIADM_ABSTRACT_NAMESPACE" not in sockets:
        return "iscsid does not run (systemctl start iscsid)"
    return ""


def discover(
    portal: Portal, *, initiator: str, timeout: float = DEFAULT_TIMEOUT, host: Host = THIS_HOST
) -> list[DiscoveredTarget]:
    """List the targets that a portal offers to this initiator, without recording them.

    CHAP of the discovery itself, which is rare, is what the host's iscsid.conf says. Raises
    PortalUnreachable or another AttachError.
    """
    step, where = "discover", str(portal)
    with ExitStack() as stack:
        stack.enter_context(_locked(host, INTERFACE, step, where, timeout))
        record = "interface record"
        delete, gone = _iscsiadm.delete_interface(INTERFACE), (_iscsiadm.NO_INTERFACE,)
        push_undo(stack, record, lambda: _command(host, delete, record, where, gone))
        _command(host, _iscsiadm.new_interface(INTERFACE), record, where)
        _command(host, _iscsiadm.name_interface(INTERFACE, initiator), record, where)
        query = _iscsiadm.discover(portal, INTERFACE)
        done = _command(host, query, step, where, (_iscsiadm.NOT_FOUND,), timeout=timeout)
        return _iscsiadm.parse_discovery(done.stdout)


def attach(
    target: Target,
    *,
    initiator: str,
    timeout: float = DEFAULT_TIMEOUT,
    replacement_timeout: float = DEFAULT_REPLACEMENT,
    host: Host = THIS_HOST,
) -> KernelAttachment:
    """Log in to a target and list its disks.

    ``initiator`` is the name we log in with, and by which we know what is ours. A session that a
    process of ours left when it died is ended first; one of anybody else is TargetInUse. A
    target that is gone for ``replacement_timeout`` seconds fails what is being read or written.

    Raises KernelUnavailable, PortalUnreachable, LoginFailed, TargetNotFound, DeviceNotFound or
    another AttachError; whatever was done until then is undone.
    """
    login = Login(host, target, initiator, timeout)
    with ExitStack() as stack:
        stack.enter_context(login.locked())
        login.clear()
        push_undo(stack, "node record", login.delete_records)
        login.make_record(replacement_timeout)
        push_undo(stack, "session", login.log_out)
        session = login.log_in()
        push_undo(stack, "devices", login.remove_devices)
        disks = login.find_disks(session)
        return KernelAttachment(target, host, disks, stack.pop_all())


def abandoned(*, initiator: str, host: Host = THIS_HOST) -> list[str]:
    """The targets, by IQN, of which processes of ours left something here when they died."""
    if not host.is_root:
        return []  # they would have needed root
    ours = {s.iqn for s in host.sysfs.sessions() if s.initiator == initiator}
    ours |= {record.iqn for record in _records(host) if record.initiator == initiator}
    ours |= {unquote(lock.name) for lock in (host.root / LOCKS).glob("iqn.*")}
    return [iqn for iqn in sorted(ours) if _is_free(host, iqn)]


def recover(
    iqn: str, *, initiator: str, timeout: float = DEFAULT_TIMEOUT, host: Host = THIS_HOST
) -> None:
    """End what a process of ours left of its attachment to a target; harmless if there is nothing.

    Raises TargetInUse when that process is alive, or another AttachError.
    """
    login = Login(host, Target(Portal(""), iqn), initiator, timeout)
    with login.locked(wait=0):
        login.clear()


@attrs.define
class Login:
    """The steps of attaching to one target, and their undos, which may run at any time."""

    host: Host
    target: Target
    initiator: str
    timeout: float
    _inherited: bool = False

    @contextmanager
    def locked(self, wait: float | None = None) -> Iterator[None]:
        """Keep other processes of ours off this target."""
        patience = self.timeout if wait is None else wait
        name = _lock_name(self.target.iqn)
        with _locked(self.host, name, "lock", str(self.target), patience) as inherited:
            self._inherited = inherited
            yield

    def clear(self) -> None:
        """End what a process of ours left; raise TargetInUse when others are there."""
        self.remove_devices()
        self.log_out()
        self.delete_records()
        others = [f"session {s.number}" for s in self.host.sysfs.sessions() if self._is_it(s)]
        others += [f"the node record {record.path}" for record in self._records()]
        if others:
            raise TargetInUse(
                f"{' and '.join(others)} of this host is not ours; log out and delete it"
                f" (iscsiadm -m node -T {self.target.iqn} --logout, then --op delete)",
                step="login",
                target=str(self.target),
            )

    def make_record(self, replacement_timeout: float) -> None:
        """Make a node record that nothing but us logs in with, the secret in it."""
        self._inherited = True  # nobody's record was here, so one without a name is ours
        self._command(_iscsiadm.new_record(self.target), "node record")
        settings = _iscsiadm.record_settings(
            self.initiator,
            self.target.chap,
            login_timeout=self.timeout,
            replacement_timeout=replacement_timeout,
        )
        made = self._records()
        if len(made) != 1:
            raise AttachError(
                f"iscsiadm made {len(made)} node records below {' or '.join(DATABASES)}, not one",
                step="node record",
                target=str(self.target),
            )
        _replace(made[0].path, _iscsiadm.edit_record(made[0].path.read_text(), settings))

    def delete_records(self) -> None:
        """Delete the node records that are ours."""
        for record in self._records():
            if record.initiator == self.initiator or (self._inherited and not record.initiator):
                delete = _iscsiadm.delete_record(Target(record.portal, record.iqn))
                self._command(delete, "node record", (_iscsiadm.NOT_FOUND,))
        self._inherited = False

    def log_in(self) -> KernelSession:
        """Log in; the session is the kernel's word, not iscsiadm's."""
        self._command(_iscsiadm.log_in(self.target), "login")
        for session in self._sessions():
            return session
        raise SessionLost("the session is gone right away", step="login", target=str(self.target))

    def log_out(self) -> None:
        """End the sessions that are ours, and see that they are gone."""
        deadline = time.monotonic() + self.timeout
        while sessions := self._sessions():
            for session in sessions:
                done = self.host.run(_iscsiadm.log_out(session.number), timeout=COMMAND_TIMEOUT)
                if done.status and time.monotonic() > deadline and self._sessions():
                    raise _iscsiadm.failure(done, step="logout", target=str(self.target))
            if self._sessions():
                self._wait(deadline, "logout", "iscsiadm says so, yet the session is still there")

    def find_disks(self, session: KernelSession) -> Sequence[KernelDisk]:
        """Scan for LUNs and wait for their block devices."""
        deadline = time.monotonic() + self.timeout
        try:
            self.host.sysfs.scan(session)
        except OSError as error:
            raise DeviceNotFound(
                f"the session cannot be scanned: {error.strerror}",
                step="scan",
                target=str(self.target),
            ) from error
        while (disks := self.host.sysfs.disks(session)) is None:
            if time.monotonic() > deadline:
                raise DeviceNotFound(
                    f"a disk got no block device within {self.timeout:g} seconds: see dmesg",
                    step="scan",
                    target=str(self.target),
                )
            time.sleep(PAUSE)
        return disks

    def remove_devices(self) -> None:
        """Let the kernel forget the SCSI devices of our sessions, and wait until it has."""
        deadline = time.monotonic() + self.timeout
        while left := [d for s in self._sessions() for d in self.host.sysfs.devices(s)]:
            for device in left:
                self._remove(device)
            if any(device.exists() for device in left):
                self._wait(deadline, "remove", f"{left[0].name} does not go away: see dmesg")

    def _remove(self, device: Path) -> None:
        try:
            self.host.sysfs.remove(device)
        except FileNotFoundError:
            pass  # gone by itself
        except OSError as error:
            raise AttachError(
                f"{device.name} cannot be removed: {error.strerror}",
                step="remove",
                target=str(self.target),
            ) from error

    def _sessions(self) -> list[KernelSession]:
        found = self.host.sysfs.sessions()
        return [s for s in found if self._is_it(s) and s.initiator == self.initiator]

    def _is_it(self, session: KernelSession) -> bool:
        return session.iqn == self.target.iqn

    def _records(self) -> list[Record]:
        return [record for record in _records(self.host) if record.iqn == self.target.iqn]

    def _command(self, argv: list[str], step: str, accepted: tuple[int, ...] = ()) -> None:
        _command(self.host, argv, step, str(self.target), accepted, timeout=self.timeout)

    def _wait(self, deadline: float, step: str, trouble: str) -> None:
        if time.monotonic() > deadline:
            raise CommandFailed(status=0, said=trouble, step=step, target=str(self.target))
        time.sleep(PAUSE)


class KernelAttachment:
    """One session of the kernel (see Attachment)."""

    def __init__(
        self, target: Target, host: Host, disks: Sequence[KernelDisk], undo: ExitStack
    ) -> None:
        self.target = target
        self.luns = tuple(disk.info for disk in disks)
        self._host = host
        self._disks = {disk.info.lun: disk for disk in disks}
        self._undo = undo
        self._devices: list[DirectDevice] = []
        self._written: set[Path] = set()
        self._closed = False

    def open(self, lun: int, *, writable: bool = False) -> DirectDevice:
        """Open a disk and claim it, so that nobody builds on it meanwhile.

        Raises LunNotFound, SessionLost, or DeviceBusy when multipath, LVM or a mount holds it.
        """
        disk = self._disk(lun)
        name = f"{self.target.iqn} LUN {lun} (/dev/{disk.name})"
        self._check_free(disk, name)
        path = self._host.root / "dev" / disk.name
        device = open_device(path, writable=writable, claim=True, name=name)
        self._devices.append(device)
        if writable:
            self._written.add(path)
        if device.size != disk.info.size:
            raise IoFailed(
                f"it has {device.size} bytes where the target said {disk.info.size}",
                device=name,
                offset=0,
            )
        return device

    def close(self) -> None:
        """Close the devices that are still open, remove them, log out, delete the record.

        A second close does nothing; one after a close that failed has nothing left to try.
        """
        self._closed = True
        with self._undo:
            for path in self._written:  # a removed device takes what is in the page cache along
                push_undo(self._undo, "written data", partial(_flush, path))
            for device in self._devices:
                push_undo(self._undo, "device", device.close)

    def _disk(self, lun: int) -> KernelDisk:
        where = str(self.target)
        if self._closed:
            raise AttachError("already detached", step="open", target=where)
        if lun not in self._disks:
            there = ", ".join(map(str, self._disks)) or "none"
            raise LunNotFound(
                f"no disk at LUN {lun} (disks at: {there})", step="open", target=where
            )
        if not self._disks[lun].folder.exists():
            raise SessionLost("somebody logged the session out", step="open", target=where)
        return self._disks[lun]

    def _check_free(self, disk: KernelDisk, name: str) -> None:
        held = ", ".join(self._host.sysfs.holders(disk))
        if held:
            raise DeviceBusy(
                f"held by {held}: if that is multipath, blacklist these disks in multipath.conf,"
                " or use the user-space transport",
                device=name,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        raise IoFailed(f"flush failed: {error.strerror}", device=str(path), offset=0) from error
    finally:
        os.close(descriptor)


# --- node records


@attrs.frozen
class Record:
    """A node record of the host: for which target, and with which initiator name of its own."""

    iqn: str
    portal: Portal
    initiator: str
    path: Path


def _records(host: Host) -> list[Record]:
    """All node records; a record is a file `nodes/IQN/HOST,PORT` or one in such a folder."""
    found = []
    for database in DATABASES:
        for entry in sorted((host.root / database / "nodes").glob("*/*,*")):
            address, _, port = entry.name.partition(",")
            portal = Portal(address, int(port.partition(",")[0]))
            for path in [entry] if entry.is_file() else sorted(entry.iterdir()):
                initiator = _iscsiadm.record_initiator(path.read_text(errors="replace"))
                found.append(Record(entry.parent.name, portal, initiator, path))
    return found


def _replace(path: Path, text: str) -> None:
    """Change a record at once or not at all; never readable by others, and never seen half."""
    nodes = next(folder for folder in path.parents if folder.name == "nodes")
    new = nodes.parent / f".{INTERFACE}.{os.getpid()}"
    try:
        new.touch(mode=0o600)
        new.write_text(text)
        new.replace(path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise


# --- commands and locks


def _command(
    host: Host,
    argv: list[str],
    step: str,
    where: str,
    accepted: tuple[int, ...] = (),
    *,
    timeout: float = DEFAULT_TIMEOUT,
) -> _run.Done:
    """Run iscsiadm, again while its database is busy; its exit code becomes a typed error."""
    deadline = time.monotonic() + timeout
    while True:
        done = host.run(argv, timeout=COMMAND_TIMEOUT + timeout)
        if done.status in (_iscsiadm.OK, *accepted):
            return done
        if done.status not in _iscsiadm.BUSY or time.monotonic() > deadline:
            raise _iscsiadm.failure(done, step=step, target=where)
        time.sleep(PAUSE * 5)


def _lock_folder(host: Host, step: str, where: str) -> Path:
    """Our folder of locks: whoever else could write there could hold or remove our locks."""
    folder = host.root / LOCKS
    folder.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise KernelUnavailable(
            f"{folder} is not a folder that only user {os.geteuid()} can use: remove it",
            step=step,
            target=where,
        )
    return folder


@contextmanager
def _locked(host: Host, name: str, step: str, where: str, wait: float) -> Iterator[bool]:
    """Hold a lock of this host; tells whether its last holder died while it held it.

    The file goes with the lock, so that one which is there and free was left by a dead process.
    """
    path = _lock_folder(host, step, where) / name
    deadline = time.monotonic() + wait
    while True:
        inherited = path.exists()
        descriptor = os.open(path, _LOCK_FLAGS | os.O_CREAT, 0o600)
        if _is_taken(descriptor, path):
            break
        os.close(descriptor)
        if time.monotonic() > deadline:
            raise TargetInUse("another process of ours is at it", step=step, target=where)
        time.sleep(PAUSE)
    try:
        yield inherited
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _is_free(host: Host, iqn: str) -> bool:
    """Whether no living process of ours is at a target; the mark of a dead one stays."""
    path = host.root / LOCKS / _lock_name(iqn)
    try:
        descriptor = os.open(path, _LOCK_FLAGS)
    except FileNotFoundError:
        return True
    try:
        return _is_taken(descriptor, path)
    finally:
        os.close(descriptor)


def _lock_name(iqn: str) -> str:
    return quote(iqn, safe="")


def _is_taken(descriptor: int, path: Path) -> bool:
    """Try to lock an open file, which must still be the one at its path."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except (BlockingIOError, FileNotFoundError):
        return False
