"""For tests: a machine with open-iscsi in a folder, whose every call can be made to fail.

It keeps state as the real one does: node and interface records as files, sessions and devices as a
tree like sysfs. So a test asks what is left, not which commands were run.
"""

from __future__ import annotations

import errno
import shutil
from typing import TYPE_CHECKING

import attrs

from iscsi_attach import kernel
from iscsi_attach._run import Done
from iscsi_attach._sysfs import Sysfs

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from iscsi_attach.model import Target

BROKEN = 99
"""An exit code of iscsiadm that means nothing to us."""


@attrs.define
class FakeHost:
    """A machine below ``root``, and one target whose disks are files; it admits one initiator."""

    root: Path
    target: Target
    initiator: str
    disks: Sequence[Path]
    calls: list[str] = attrs.field(factory=list)
    """What was run and written, as text; every one can fail."""
    fail_at: int = -1
    after_effect: bool = False
    _sessions: int = 0

    @property
    def host(self) -> kernel.Host:
        """What the kernel transport needs of it."""
        return kernel.Host(self.root, self._run, Sysfs(self.root, self._write), user=0)

    def left(self) -> list[str]:
        """All that attaching could leave; empty on a clean host."""
        found = [
            *self._class("iscsi_session").glob("*"),
            *(self.root / "dev").glob("sd*"),
            *(self.root / "run/lock").rglob("iqn*"),
            *(self.root / "etc/iscsi/nodes").rglob("*"),
            *(self.root / "etc/iscsi/ifaces").rglob("*"),
            *(self.root / "etc/iscsi").glob(".*"),
        ]
        return [str(path.relative_to(self.root)) for path in found]

    def hold(self, disk: str, holder: str, name: str) -> None:
        """Build something on a disk, as multipath does."""
        folder = self._class("block") / disk / "holders" / holder / "dm"
        folder.mkdir(parents=True)
        (folder / "name").write_text(f"{name}\n")

    def log_out_all(self) -> None:
        """Somebody ends all sessions."""
        for session in list(self._class("iscsi_session").glob("*")):
            self._log_out(session.name.removeprefix("session"))

    # --- calls

    def _run(self, argv: Sequence[str], *, timeout: float) -> Done:  # noqa: ARG002 - Runner has it
        words = list(argv)
        return self._call(" ".join(words), lambda: self._command(words), lambda: Done(BROKEN))

    def _write(self, path: Path, text: str) -> None:
        def fail() -> Done:
            raise OSError(errno.EIO, "Input/output error")

        self._call(f"{path.name}: {text}", lambda: self._attribute(path), fail)

    def _call(self, what: str, effect: Callable[[], Done], fail: Callable[[], Done]) -> Done:
        fails = len(self.calls) == self.fail_at
        self.calls.append(what)
        if fails and not self.after_effect:
            return fail()
        done = effect()
        return fail() if fails else done

    def _command(self, words: list[str]) -> Done:
        match words:
            case ["iscsiadm", "--version"]:
                return Done(0)
            case ["iscsiadm", "-m", "iface", "-I", name, "--op", *what]:
                return self._interface(self.root / "etc/iscsi/ifaces" / name, what)
            case ["iscsiadm", "-m", "discovery", *_, "-I", name, "--op", "nonpersistent"]:
                interface = (self.root / "etc/iscsi/ifaces" / name).read_text()
                portal = self.target.portal
                offer = f"{portal},1 {self.target.iqn}\n" if self.initiator in interface else ""
                return Done(0 if offer else 21, offer)
            case ["iscsiadm", "-m", "node", "-T", iqn, "-p", portal, *what]:
                folder = self.root / "etc/iscsi/nodes" / iqn
                return self._node(folder / portal.replace(":", ","), what)
            case ["iscsiadm", "-m", "session", "-r", number, "--logout"]:
                return self._log_out(number)
            case _:
                return Done(127)

    def _interface(self, file: Path, what: list[str]) -> Done:
        if what == ["delete"] and not file.exists():
            return Done(7)
        if what == ["delete"]:
            file.unlink()
        else:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(what[-1])
        return Done(0)

    def _node(self, file: Path, what: list[str]) -> Done:
        if what == ["--op", "new"]:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"# BEGIN RECORD\nnode.name = {file.parent.name}\n# END RECORD\n")
        elif not file.exists():
            return Done(21)
        elif what == ["--op", "delete"]:
            shutil.rmtree(file.parent)
        else:
            return self._log_in(file.read_text())
        return Done(0)

    # --- sessions

    def _log_in(self, record: str) -> Done:
        fields = dict(line.split(" = ", 1) for line in record.splitlines() if " = " in line)
        if fields.get("iface.initiatorname") != self.initiator:
            return Done(19)
        chap = self.target.chap
        if chap and fields.get("node.session.auth.password") != chap.secret:
            return Done(24)
        if any(self._class("iscsi_session").glob("*")):
            return Done(15)
        self._sessions += 1
        number = self._sessions
        folder = self._host_folder(number) / f"session{number}/iscsi_session/session{number}"
        folder.mkdir(parents=True)
        (folder / "targetname").write_text(f"{self.target.iqn}\n")
        (folder / "initiatorname").write_text(f"{self.initiator}\n")
        self._class("iscsi_session").mkdir(parents=True, exist_ok=True)
        (self._class("iscsi_session") / folder.name).symlink_to(folder)
        (self._class("scsi_host") / f"host{number}").mkdir(parents=True)
        return Done(0)

    def _log_out(self, number: str) -> Done:
        link = self._class("iscsi_session") / f"session{number}"
        if not link.is_symlink():
            return Done(21)
        for device in link.resolve().parents[1].glob("target*/*"):
            self._remove(device)
        link.unlink()
        shutil.rmtree(self._host_folder(int(number)))
        shutil.rmtree(self._class("scsi_host") / f"host{number}")
        return Done(0)

    def _attribute(self, path: Path) -> Done:
        if path.name == "scan":
            self._scan(int(path.parent.name.removeprefix("host")))
        else:
            self._remove(path.parent)
        return Done(0)

    def _scan(self, number: int) -> None:
        session = self._host_folder(number) / f"session{number}"
        for lun, content in enumerate([None, *self.disks]):
            device = session / f"target{number}:0:0/{number}:0:0:{lun}"
            device.mkdir(parents=True)
            (device / "delete").touch()
            (device / "type").write_text("0\n" if content else "12\n")
            if content:
                name = f"sd{'abcdefgh'[lun - 1]}"
                queue = device / "block" / name / "queue"
                queue.mkdir(parents=True)
                (queue / "logical_block_size").write_text("512\n")
                (queue.parent / "size").write_text(f"{content.stat().st_size // 512}\n")
                (self._class("block") / name).mkdir(parents=True)
                (self.root / "dev").mkdir(exist_ok=True)
                (self.root / "dev" / name).symlink_to(content)

    def _remove(self, device: Path) -> None:
        for block in (device / "block").glob("*"):
            shutil.rmtree(self._class("block") / block.name)
            (self.root / "dev" / block.name).unlink()
        shutil.rmtree(device)

    def _host_folder(self, number: int) -> Path:
        return self.root / f"sys/devices/platform/host{number}"

    def _class(self, name: str) -> Path:
        return self.root / "sys/class" / name
