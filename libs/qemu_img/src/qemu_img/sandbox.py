"""What an untrusted image is read in: another user, no rights, no network, only the files named.

This file is also the program that does it: it is run in a process of its own between ours and
qemu-img, because Python code between fork and exec is not safe beside threads. It needs nothing but
the standard library:

    python -IS sandbox.py JSON PROGRAM ARGUMENT...

Numbers of system calls and bits are those of linux/landlock.h, linux/prctl.h and linux/sched.h.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import struct
import sys
from pathlib import Path

FIRST = 64
"""The descriptor of the first file that is handed over; the others follow."""
NOBODY = 65_534
"""User and group that root gives the program (Debian: nobody and nogroup)."""

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION, _PATH_BENEATH = 1, 1
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR, _TRUNCATE = 1 << 0, 1 << 1, 1 << 2, 1 << 3, 1 << 14
_FS_BITS = {1: 13, 2: 14, 3: 15, 4: 15}
"""Kinds of access to files that a version of Landlock knows; 16 from version 5 on."""
_CLONE_NEWIPC, _CLONE_NEWUSER, _CLONE_NEWNET = 0x08000000, 0x10000000, 0x40000000
_PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 24, 38
_LAST_CAPABILITY = 63
_EPERM = 1


def path_of(number: int) -> str:
    """The name by which the program finds a file that is handed over, from 0 on."""
    return f"/proc/self/fd/{FIRST + number}"


def landlock_version() -> int:
    """The version of Landlock in this kernel; 0 without."""
    return max(0, int(_libc().syscall(_CREATE_RULESET, None, 0, _VERSION)))


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), what)
    return result


class _Landlock:
    """The files that the program may use; nothing else, once it is in force."""

    def __init__(self, version: int) -> None:
        """Begin with nothing."""
        self._libc = _libc()
        self._all = (1 << _FS_BITS.get(version, 16)) - 1
        # files, from version 4 on TCP, from version 6 on signals and abstract sockets
        attributes = struct.pack("=QQQ", self._all, 3, 3)
        size = 24 if version >= 6 else 16 if version >= 4 else 8
        self._rules = _check(
            self._libc.syscall(_CREATE_RULESET, attributes, size, 0), "landlock_create_ruleset"
        )

    def allow(self, descriptor: int, access: int) -> None:
        """Let a file, or what is below a folder, be used."""
        if not Path(path_at(descriptor)).is_dir():
            access &= ~_READ_DIR
        rule = struct.pack("=Qi", access & self._all, descriptor)
        _check(
            self._libc.syscall(_ADD_RULE, self._rules, _PATH_BENEATH, rule, 0), "landlock_add_rule"
        )

    def allow_path(self, path: str, access: int) -> None:
        """Let a file of the system be used, where there is one."""
        if not Path(path).exists():
            return
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
        self.allow(descriptor, access)
        os.close(descriptor)

    def enforce(self) -> None:
        """From here on, for this process and what it starts."""
        _check(self._libc.syscall(_RESTRICT_SELF, self._rules, 0), "landlock_restrict_self")
        os.close(self._rules)


def path_at(descriptor: int) -> str:
    """A path that leads to an open file."""
    return f"/proc/self/fd/{descriptor}"


def _confine(order: dict[str, list[int]], program: str) -> None:
    """Give up everything that the program does not need."""
    version = landlock_version()
    rules = _rules(version, order, program) if version else None
    if os.geteuid() == 0:
        _become_nobody()
    else:
        _leave_the_network()
    _check(_libc().prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    if rules:
        rules.enforce()


def seal(limits: dict[str, int]) -> None:
    """Give up, in this process itself, every right and all that is not open; raise OSError.

    `limits` are those of `resource`, by name. No file can be opened any more.
    """
    version = landlock_version()
    if os.geteuid() == 0:
        _become_nobody()
    else:
        _leave_the_network()
    _check(_libc().prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    if version:
        _Landlock(version).enforce()
    for name, most in {"RLIMIT_CORE": 0, **limits}.items():
        resource.setrlimit(getattr(resource, name), (most, most))


def _rules(version: int, order: dict[str, list[int]], program: str) -> _Landlock:
    """What the program needs of the system, and the files that are handed over."""
    rules = _Landlock(version)
    for folder in ("/usr", "/lib", "/lib64"):
        rules.allow_path(folder, _READ_FILE | _READ_DIR | _EXECUTE)
    rules.allow_path("/etc/ld.so.cache", _READ_FILE)
    rules.allow_path(program, _READ_FILE | _EXECUTE)
    count = len(order["read"])
    for number in range(count):
        rules.allow(FIRST + number, _READ_FILE | _READ_DIR)
    for number in range(count, count + len(order["write"])):
        rules.allow(FIRST + number, _READ_FILE | _WRITE_FILE | _TRUNCATE)
    return rules


def _become_nobody() -> None:
    """Leave root's rights, user, groups and network. A container may not allow a new network."""
    libc = _libc()
    if libc.unshare(_CLONE_NEWNET | _CLONE_NEWIPC) and ctypes.get_errno() != _EPERM:
        raise OSError(ctypes.get_errno(), "unshare")
    for capability in range(_LAST_CAPABILITY + 1):
        libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)  # fails for those the kernel lacks
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)


def _leave_the_network() -> None:
    """Leave it where any user may make a namespace; else Landlock has to do.

    The rights that this gives in the namespace end when the program starts.
    """
    _libc().unshare(_CLONE_NEWUSER | _CLONE_NEWNET | _CLONE_NEWIPC)


def _place(descriptors: list[int]) -> None:
    """Give the files that are handed over their numbers."""
    high = [os.dup(descriptor) for descriptor in descriptors]
    taken = range(FIRST, FIRST + len(high))
    spare = []
    while set(high) & set(taken):  # a copy must not lie where another one goes
        spare.append(os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC))
        for at, descriptor in enumerate(high):
            if descriptor in taken:
                high[at] = os.dup(descriptor)
                spare.append(descriptor)
    for descriptor in (*spare, *descriptors):
        os.close(descriptor)
    for number, descriptor in zip(taken, high, strict=True):
        os.dup2(descriptor, number, inheritable=True)
        os.close(descriptor)


def main() -> None:
    """Become the program, confined."""
    order = json.loads(sys.argv[1])
    program, *arguments = sys.argv[2:]
    _place([*order["read"], *order["write"]])
    for name, (soft, hard) in order["limits"].items():
        if name != "RLIMIT_AS":
            resource.setrlimit(getattr(resource, name), (soft, hard))
    _confine(order, program)
    if "RLIMIT_AS" in order["limits"]:
        resource.setrlimit(resource.RLIMIT_AS, tuple(order["limits"]["RLIMIT_AS"]))
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them
        signal.signal(number, signal.SIG_DFL)
    environment = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}
    os.execve(program, [program, *arguments], environment)  # noqa: S606 - that is what it is for


if __name__ == "__main__":
    try:
        main()
    except OSError as error:
        sys.stderr.write(f"the sandbox of qemu-img cannot be made: {error}\n")
        sys.exit(125)
