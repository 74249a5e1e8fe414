"""The C library libiscsi through ctypes: structures, prototypes, loading. No behaviour.

Written against libiscsi 1.19 (`libiscsi.so.7`). Of a task only the head is declared, whose layout
newer releases share; data always goes through our own buffers, so the tail is not needed.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from ctypes import POINTER, c_char_p, c_int, c_size_t, c_ubyte, c_void_p

from iscsi_attach.errors import LibraryMissing

SONAME = "libiscsi.so.7"
SESSION_DISCOVERY, SESSION_NORMAL = 1, 2
XFER_NONE, XFER_READ, XFER_WRITE = 0, 1, 2
STATUS_REDIRECT = 0x101
STATUS_CANCELLED, STATUS_ERROR, STATUS_TIMEOUT = 0x0F000000, 0x0F000001, 0x0F000002
RESIDUAL_NONE, RESIDUAL_UNDERFLOW, RESIDUAL_OVERFLOW = 0, 1, 2
STATUS_AUTHENTICATION, STATUS_AUTHORIZATION, STATUS_TARGET_NOT_FOUND = 0x201, 0x202, 0x203

CommandCallback = Callable[[int | None, int, int | None, int | None], None]
COMMAND_CB = ctypes.CFUNCTYPE(None, c_void_p, c_int, c_void_p, c_void_p)


class IoVec(ctypes.Structure):
    """struct scsi_iovec."""


class Task(ctypes.Structure):
    """Head of struct scsi_task."""


class TargetPortal(ctypes.Structure):
    """struct iscsi_target_portal."""


class DiscoveryAddress(ctypes.Structure):
    """struct iscsi_discovery_address."""


IoVec._fields_ = (("base", c_void_p), ("length", c_size_t))
Task._fields_ = (
    ("status", c_int),
    ("cdb_size", c_int),
    ("direction", c_int),
    ("expected", c_int),
    ("cdb", c_ubyte * 16),
    ("residual_status", c_int),
    ("residual", c_size_t),
    ("sense_type", c_ubyte),
    ("sense_key", c_int),
    ("sense_ascq", c_int),
)
TargetPortal._fields_ = (("next", POINTER(TargetPortal)), ("portal", c_char_p))
DiscoveryAddress._fields_ = (
    ("next", POINTER(DiscoveryAddress)),
    ("name", c_char_p),
    ("portals", POINTER(TargetPortal)),
)

_PROTOTYPES: dict[str, tuple[object, tuple[object, ...]]] = {
    "iscsi_create_context": (c_void_p, (c_char_p,)),
    "iscsi_destroy_context": (c_int, (c_void_p,)),
    "iscsi_set_targetname": (c_int, (c_void_p, c_char_p)),
    "iscsi_set_session_type": (c_int, (c_void_p, c_int)),
    "iscsi_set_initiator_username_pwd": (c_int, (c_void_p, c_char_p, c_char_p)),
    "iscsi_set_noautoreconnect": (None, (c_void_p, c_int)),
    "iscsi_connect_async": (c_int, (c_void_p, c_char_p, COMMAND_CB, c_void_p)),
    "iscsi_login_async": (c_int, (c_void_p, COMMAND_CB, c_void_p)),
    "iscsi_logout_async": (c_int, (c_void_p, COMMAND_CB, c_void_p)),
    "iscsi_discovery_async": (c_int, (c_void_p, COMMAND_CB, c_void_p)),
    "iscsi_get_target_address": (c_char_p, (c_void_p,)),
    "iscsi_get_error": (c_char_p, (c_void_p,)),
    "iscsi_get_fd": (c_int, (c_void_p,)),
    "iscsi_which_events": (c_int, (c_void_p,)),
    "iscsi_service": (c_int, (c_void_p, c_int)),
    "iscsi_scsi_command_async": (
        c_int,
        (c_void_p, c_int, c_void_p, COMMAND_CB, c_void_p, c_void_p),
    ),
    "scsi_create_task": (c_void_p, (c_int, c_char_p, c_int, c_int)),
    "scsi_task_set_iov_in": (None, (c_void_p, POINTER(IoVec), c_int)),
    "scsi_task_set_iov_out": (None, (c_void_p, POINTER(IoVec), c_int)),
    "scsi_free_scsi_task": (None, (c_void_p,)),
}


class Library:
    """The functions of libiscsi as attributes.

    All but iscsi_service keep the interpreter lock: they only change memory or make one
    non-blocking system call, and giving the lock away four times a command costs more than that.
    """

    def __init__(self, soname: str) -> None:
        short, long = ctypes.PyDLL(soname), ctypes.CDLL(soname)
        for name, (result, arguments) in _PROTOTYPES.items():
            function = getattr(long if name == "iscsi_service" else short, name)
            function.restype, function.argtypes = result, arguments
            setattr(self, name, function)

    def __getattr__(self, name: str) -> Callable[..., int]:
        """Tell the type checker what __init__ has bound."""
        raise AttributeError(name)


@functools.cache
def load(soname: str = SONAME) -> Library:
    """Load the library once; raises LibraryMissing naming the package to install."""
    try:
        return Library(soname)
    except (OSError, AttributeError) as exc:
        raise LibraryMissing(
            f"{soname} cannot be used ({exc}); install the Debian package libiscsi7",
            step="load libiscsi",
            target="this host",
        ) from exc
