"""Who may use a folder: files of another user would lock the receiver's own user out of it."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

from vm_replica.errors import WrongUser

_UNSET = 2**32 - 1
"""The login user of a process that nobody has logged in for."""


def refuse_foreign(folder: Path) -> None:
    """Raise WrongUser unless the folder belongs to the user of this process.

    A folder that does not exist is judged by the nearest one above it: root may not make it where
    another user is at home.
    """
    nearest = _nearest(folder)
    owner, user = nearest.stat().st_uid, os.geteuid()
    if owner == user or (nearest != folder.absolute() and user != 0):
        return
    name = user_name(owner)
    raise WrongUser(f"{nearest} belongs to user {name}: run this command with sudo -u {name}")


def owner_of(folder: Path) -> os.stat_result:
    """Whose a folder is (st_uid, st_gid): where it does not exist, of the nearest one above it."""
    return _nearest(folder).stat()


def _nearest(folder: Path) -> Path:
    nearest = folder.absolute()
    while not nearest.exists():
        nearest = nearest.parent
    return nearest


def user_name(uid: int) -> str:
    """How a user is called; one without a name by the number."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"#{uid}"


def who() -> str:
    """The user of this process, and who has logged in: the kernel knows, sudo or not."""
    user = user_name(os.getuid())
    try:
        login = int(Path("/proc/self/loginuid").read_text("ascii"))
    except (OSError, ValueError):
        login = _UNSET
    return user if login in {_UNSET, os.getuid()} else f"{user}, logged in as {user_name(login)}"
