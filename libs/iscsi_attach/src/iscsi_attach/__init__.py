"""iSCSI and O_DIRECT block devices, and a pipelined extent reader.

``attach`` logs in to a target from user space, ``open_direct`` opens a device or file of this host;
both give a BlockDevice, which ``read_extents`` reads ahead of its consumer.
"""

from iscsi_attach import kernel
from iscsi_attach.device import Attachment, BlockDevice
from iscsi_attach.direct import open_direct
from iscsi_attach.errors import (
    AttachError,
    CommandFailed,
    DeviceBusy,
    DeviceClosed,
    DeviceError,
    DeviceNotFound,
    IoFailed,
    IscsiAttachError,
    KernelUnavailable,
    LibraryMissing,
    LoginFailed,
    LunNotFound,
    NotABlockDevice,
    OutOfRange,
    PortalUnreachable,
    ReadOnlyDevice,
    SessionLost,
    ShortRead,
    TargetInUse,
    TargetNotFound,
)
from iscsi_attach.extents import UNIT, read_extents
from iscsi_attach.model import Chap, DiscoveredTarget, Extent, LunInfo, Portal, Target
from iscsi_attach.userspace import attach, discover, require_library

__all__ = [
    "UNIT",
    "AttachError",
    "Attachment",
    "BlockDevice",
    "Chap",
    "CommandFailed",
    "DeviceBusy",
    "DeviceClosed",
    "DeviceError",
    "DeviceNotFound",
    "DiscoveredTarget",
    "Extent",
    "IoFailed",
    "IscsiAttachError",
    "KernelUnavailable",
    "LibraryMissing",
    "LoginFailed",
    "LunInfo",
    "LunNotFound",
    "NotABlockDevice",
    "OutOfRange",
    "Portal",
    "PortalUnreachable",
    "ReadOnlyDevice",
    "SessionLost",
    "ShortRead",
    "Target",
    "TargetInUse",
    "TargetNotFound",
    "attach",
    "discover",
    "kernel",
    "open_direct",
    "read_extents",
    "require_library",
]

__version__ = "0.1.0"
