"""What the kernel shows of iSCSI: sessions, their disks, who holds one. Everything below a root.

sysfs is the truth: links below /dev/disk lag behind, and records of ours may outlive a session.
What vanishes while one looks is taken as gone.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from iscsi_attach import _scsi
from iscsi_attach.model import LunInfo

if TYPE_CHECKING:
    from collections.abc import Callable

SECTOR = 512  # the unit of /sys/block/*/size, whatever the disk's own


@attrs.frozen
class KernelSession:
    """A session of the kernel: its number, who logged in to what, and its SCSI host's number."""

    number: int
    iqn: str
    initiator: str
    scsi_host: int
    folder: Path


@attrs.frozen
class KernelDisk:
    """A disk of a session: its name in /dev, and what it is."""

    name: str
    info: LunInfo
    folder: Path


def write(path: Path, text: str) -> None:
    """Write to an attribute."""
    path.write_text(text)


@attrs.frozen
class Sysfs:
    """sysfs below ``root``; ``write`` is how attributes are written."""

    root: Path = Path("/")
    write: Callable[[Path, str], None] = write

    def has_transport(self) -> bool:
        """Whether the kernel can do iSCSI over TCP (module iscsi_tcp)."""
        return (self.root / "sys/class/iscsi_transport/tcp").exists()

    def sessions(self) -> list[KernelSession]:
        """All sessions of this host."""
        links = (self.root / "sys/class/iscsi_session").glob("session*")
        return [found for link in sorted(links) if (found := _session(link))]

    def scan(self, session: KernelSession) -> None:
        """Let the kernel find all LUNs of a session."""
        host = self.root / f"sys/class/scsi_host/host{session.scsi_host}/scan"
        self.write(host, "0 0 -")

    def disks(self, session: KernelSession) -> list[KernelDisk] | None:
        """The disks of a session by LUN; None while the kernel is still making one of them."""
        found = []
        for folder in session.folder.glob("target*/*:*:*:*"):
            if _text(folder / "type") != str(_scsi.DISK):
                continue
            block = next((folder / "block").glob("*"), None)
            disk = block and _disk(folder, block)
            if not disk or not (self.root / "dev" / disk.name).exists():
                return None
            found.append(disk)
        return sorted(found, key=lambda disk: disk.info.lun)

    def devices(self, session: KernelSession) -> list[Path]:
        """The SCSI devices of a session, disks and others."""
        return sorted(session.folder.glob("target*/*:*:*:*"))

    def remove(self, device: Path) -> None:
        """Let the kernel forget a SCSI device; its cache is written out first."""
        if (device / "delete").exists():
            self.write(device / "delete", "1")

    def holders(self, disk: KernelDisk) -> list[str]:
        """What is built on a disk: names of device mapper devices with their role, RAIDs."""
        held = (self.root / "sys/class/block" / disk.name / "holders").glob("*")
        return [" ".join(filter(None, (h.name, _text(h / "dm/name")))) for h in sorted(held)]


def _session(link: Path) -> KernelSession | None:
    folder = link.resolve().parents[1]  # .../host0/session1/iscsi_session/session1
    iqn, initiator = _text(link / "targetname"), _text(link / "initiatorname")
    host = folder.parent.name.removeprefix("host")
    if not iqn or not host.isdecimal():
        return None
    return KernelSession(int(link.name.removeprefix("session")), iqn, initiator, int(host), folder)


def _disk(folder: Path, block: Path) -> KernelDisk | None:
    sectors, block_size = _text(block / "size"), _text(block / "queue/logical_block_size")
    if not sectors.isdecimal() or not block_size.isdecimal() or not int(sectors):
        return None
    info = LunInfo(
        lun=int(folder.name.rpartition(":")[2]),
        size=int(sectors) * SECTOR,
        block_size=int(block_size),
        serial=_page(folder / "vpd_pg80", _scsi.parse_serial),
        designator=_page(folder / "vpd_pg83", _scsi.parse_designator),
    )
    return KernelDisk(block.name, info, folder)


def _page(path: Path, parse: Callable[[bytes], str]) -> str:
    try:
        return parse(path.read_bytes())
    except (OSError, _scsi.BadReplyError, IndexError):  # a disk may lack the page
        return ""


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
