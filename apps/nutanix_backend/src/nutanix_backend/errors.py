"""What can go wrong, as one line for the administrator: what, where, what to do.

BackendError
├── ParameterError      a plugin parameter is missing, unknown or unusable
├── SelectionError      the VMs asked for are not there, or not unambiguous
├── ChainError          no provable base for an incremental, and a full is not allowed
├── StateError          the state file of a VM cannot be read, written or locked
├── ManifestError       a manifest is not one of ours, or is damaged
├── SourceError         the cluster cannot give us the disks of a VM
├── RestoreRefused      the restore plan cannot work; nothing was written
├── RestoreFailed       data arrived damaged, incomplete or could not be stored
│   └── DrillFailed     a restored VM did not show that it lives
└── ToolFailed          a program we start (qemu-img) failed
"""

from __future__ import annotations

from command_line.text import with_notes

LIBRARIES = (
    "chain_disk",
    "disk_images",
    "guest_files",
    "iscsi_attach",
    "phcbt01",
    "prism_client",
    "qemu_img",
    "vm_config",
    "vm_replica",
)
"""Libraries whose errors are made for the administrator, as ours are."""


class BackendError(Exception):
    """Base of every error this program raises on purpose; its text is one line."""


class ParameterError(BackendError):
    """A plugin parameter is missing, unknown or unusable."""


class SelectionError(BackendError):
    """The VMs asked for do not exist, or a name stands for several."""


class ChainError(BackendError):
    """An incremental has no provable base and `fallback_to_full=no` forbids a full."""


class StateError(BackendError):
    """The state of a VM cannot be read, written or locked."""


class ManifestError(BackendError):
    """A manifest is not one of ours, or is damaged."""


class SourceError(BackendError):
    """The cluster cannot give us the disks of a VM."""


class RestoreRefused(BackendError):
    """The restore cannot work as asked; nothing was written."""


class RestoreFailed(BackendError):
    """Data arrived damaged or incomplete, or could not be stored."""


class DrillFailed(RestoreFailed):
    """A VM that was restored for a drill did not show that it lives."""


def as_line(error: Exception) -> str:
    """An error as one line for the administrator; what is not an error of ours says so."""
    if isinstance(error, BackendError) or type(error).__module__.partition(".")[0] in LIBRARIES:
        text = str(error)
    elif isinstance(error, OSError) and error.filename:
        text = f"{error.filename}: {error.strerror}"
    else:
        text = f"internal error, please report with the log: {type(error).__name__}: {error}"
    return with_notes(error, text)
