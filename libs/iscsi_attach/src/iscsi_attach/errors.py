"""What can go wrong, as types. Nothing else lives here.

    IscsiAttachError
    ├── AttachError(step, target)      reaching, logging in to or keeping a target
    │   ├── LibraryMissing             libiscsi is not installed on this host
    │   ├── PortalUnreachable          no TCP connection to the portal
    │   ├── LoginFailed                the target refused us: wrong CHAP, initiator not admitted
    │   ├── TargetNotFound             the portal does not know the target, or hides it from us
    │   ├── LunNotFound                the target has no such disk
    │   ├── SessionLost                the session broke and did not come back in time
    │   ├── KernelUnavailable          this host cannot use the kernel's initiator
    │   ├── TargetInUse                somebody else of this host is logged in, or will be
    │   ├── DeviceNotFound             the kernel shows no block device for a disk
    │   └── CommandFailed(status)      iscsiadm failed in a way that has no type of its own
    └── DeviceError(device)            reading, writing or opening one block device
        ├── DeviceClosed               used after close()
        ├── DeviceBusy                 mounted, or held by another user of the device
        ├── NotABlockDevice            neither a block device nor a regular file
        ├── OutOfRange                 beyond the known size
        ├── ReadOnlyDevice             opened without writable=True
        ├── ShortRead(offset, expected, got)
        └── IoFailed(offset)           the device answered with an error

Every message is one line for the administrator: what, where, what to do. A CHAP secret is in none.
"""

from __future__ import annotations


class IscsiAttachError(Exception):
    """Any error of this library."""


class AttachError(IscsiAttachError):
    """A step of attaching failed.

    ``step`` is what was being done (``"connect"``, ``"login"``, ...), ``target`` names the portal
    or target.
    """

    def __init__(self, message: str, *, step: str, target: str) -> None:
        super().__init__(f"{target}: {step}: {message}")
        self.step = step
        self.target = target


class LibraryMissing(AttachError):
    """The user-space transport needs libiscsi, which this host lacks."""


class PortalUnreachable(AttachError):
    """No TCP connection to the portal, or it does not answer."""


class LoginFailed(AttachError):
    """The target answered and refused the login."""


class TargetNotFound(AttachError):
    """The portal does not offer this target to this initiator."""


class LunNotFound(AttachError):
    """The target has no disk at this LUN."""


class SessionLost(AttachError):
    """The session broke and could not be restored within its deadline."""


class KernelUnavailable(AttachError):
    """The kernel transport cannot work here: not root, no open-iscsi, no module, no iscsid."""


class TargetInUse(AttachError):
    """The target has a session or node record on this host which is not ours to touch."""


class DeviceNotFound(AttachError):
    """The session is there, and the kernel makes no block device of a disk in time."""


class CommandFailed(AttachError):
    """iscsiadm ended with ``status``, for a reason that has no type here."""

    def __init__(self, *, status: int, said: str, step: str, target: str) -> None:
        super().__init__(f"iscsiadm failed with {status}: {said}", step=step, target=target)
        self.status = status


class DeviceError(IscsiAttachError):
    """An operation on one device failed; ``device`` names it."""

    def __init__(self, message: str, *, device: str) -> None:
        super().__init__(f"{device}: {message}")
        self.device = device


class DeviceClosed(DeviceError):
    """The device was used after close()."""

    def __init__(self, device: str) -> None:
        super().__init__("the device is closed", device=device)


class DeviceBusy(DeviceError):
    """Someone else uses the device: it is not opened for writing."""


class NotABlockDevice(DeviceError):
    """The path is neither a block device nor a regular file."""


class OutOfRange(DeviceError):
    """The range asked for is not inside the device."""

    def __init__(self, device: str, offset: int, length: int, size: int) -> None:
        super().__init__(
            f"bytes {offset}..{offset + length} are not inside its {size} bytes", device=device
        )
        self.offset = offset
        self.length = length
        self.size = size


class ReadOnlyDevice(DeviceError):
    """A write to a device that was opened for reading."""

    def __init__(self, device: str) -> None:
        super().__init__("opened read-only; open it with writable=True", device=device)


class ShortRead(DeviceError):
    """The device delivered fewer bytes than it has: never an end of file."""

    def __init__(self, device: str, *, offset: int, expected: int, got: int) -> None:
        super().__init__(
            f"read {got} of {expected} bytes at offset {offset}; the data is incomplete",
            device=device,
        )
        self.offset = offset
        self.expected = expected
        self.got = got


class IoFailed(DeviceError):
    """The device reported an error for the range that starts at ``offset`` (bytes)."""

    def __init__(self, message: str, *, device: str, offset: int) -> None:
        super().__init__(f"{message} at offset {offset}", device=device)
        self.offset = offset
