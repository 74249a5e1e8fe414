"""The rights of root: kept for what needs them, given up for all else.

Root becomes the user that owns the state folder: the one that the package made, or whom the
administrator gave the folder to. In a folder of root's nothing is given up.
"""

from __future__ import annotations

import ctypes
import logging
import os
from typing import TYPE_CHECKING

from ptcomm import JobType
from vm_replica.owner import owner_of

from nutanix_backend.errors import ParameterError
from nutanix_backend.settings import secrecy

if TYPE_CHECKING:
    from ptcomm import Job

    from nutanix_backend.settings.parameters import Settings

log = logging.getLogger(__name__)

PR_SET_NO_NEW_PRIVS = 38
"""From linux/prctl.h."""


def give_up(settings: Settings, job: Job | None = None) -> None:
    """Become the owner of the state folder, for good, unless root's rights are needed.

    All files that the settings name have been read by then. Raises ParameterError when the kernel
    does not let us.
    """
    if os.geteuid() != 0 or reason_for_root(settings, job):
        return
    owner = owner_of(settings.state_dir)
    if owner.st_uid == 0:
        return
    try:
        _become(owner.st_uid, owner.st_gid)
    except OSError as error:
        raise ParameterError(
            f"root cannot become user {owner.st_uid}, who owns state_dir {settings.state_dir}: "
            f"{error.strerror}: chown root {settings.state_dir}, or start bacula-fd with all rights"
        ) from error


def reason_for_root(settings: Settings, job: Job | None = None) -> str:
    """Why root's rights are needed; empty when they are not."""
    if settings.transport == "kernel":
        return "transport=kernel"
    if job and job.type is JobType.RESTORE and _restores_to_this_host(settings, job):
        return "disks are restored to this host"
    return ""


def _restores_to_this_host(settings: Settings, job: Job) -> bool:
    if settings.restore_drill:
        return False
    if settings.restore_to:
        return settings.restore_to == "disk"
    return bool(settings.disk_path or job.regex_where or (job.where or "").strip("/"))


def _become(uid: int, gid: int) -> None:
    """Leave user, groups and capabilities of root; nothing that we start gets them back."""
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    secrecy.keep_memory_private()  # a change of the user takes that back
