"""What disks a target has: enumeration and identification over one connection."""

from __future__ import annotations

from typing import TYPE_CHECKING

from iscsi_attach import _scsi
from iscsi_attach.model import LunInfo

if TYPE_CHECKING:
    from iscsi_attach._connection import Connection

FIRST_REPORT = 8 + 8 * 512
MAX_REPORT = 8 + 8 * 65536
VPD_LENGTH = 4096


def list_disks(connection: Connection) -> tuple[LunInfo, ...]:
    """Describe every disk of the target, ascending by LUN; other devices are left out."""
    found = (identify(connection, lun) for lun in sorted(set(_report_luns(connection))))
    return tuple(info for info in found if info is not None)


def identify(connection: Connection, lun: int) -> LunInfo | None:
    """Describe a LUN and drain its unit attentions; None when it is no disk.

    Raises ConnectionLostError (also for a disk that is not ready) or BadReplyError.
    """
    standard = connection.execute(lun, _scsi.inquiry(None, 96), 96)
    if _scsi.parse_device_type(standard or b"") != _scsi.DISK:
        return None
    connection.execute(lun, _scsi.test_unit_ready())
    capacity = connection.execute(lun, _scsi.read_capacity(32), 32)
    size, block_size = _scsi.parse_capacity(capacity or b"")
    serial = _vpd(connection, lun, 0x80)
    identity = _vpd(connection, lun, 0x83)
    return LunInfo(
        lun,
        size,
        block_size,
        _scsi.parse_serial(serial) if serial else "",
        _scsi.parse_designator(identity) if identity else "",
    )


def _report_luns(connection: Connection) -> list[int]:
    length = FIRST_REPORT
    luns, needed = _scsi.parse_luns(connection.execute(0, _scsi.report_luns(length), length) or b"")
    if needed > length:
        length = min(needed, MAX_REPORT)
        reply = connection.execute(0, _scsi.report_luns(length), length)
        luns, _ = _scsi.parse_luns(reply or b"")
    return luns


def _vpd(connection: Connection, lun: int, page: int) -> bytes | None:
    """Read an inquiry page that a target may lack."""
    return connection.execute(lun, _scsi.inquiry(page, VPD_LENGTH), VPD_LENGTH, optional=True)
