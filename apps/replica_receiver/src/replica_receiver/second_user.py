"""`podheitor-failover`: the command `failover`, with credentials that the receiver cannot read.

Root starts it. From then on the process has two users and no rights. It works in the store as the
owner of the store; what the parameters of a target or a source name it reads as podheitor-failover.
That one stays its real user: so the user of the receiver, to whom the network leads, can neither
read these files nor look into this process (ptrace(2), proc(5)).
"""

from __future__ import annotations

import argparse
import os
import pwd
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import attrs
from command_line import program
from vm_replica.errors import WrongUser
from vm_replica.owner import owner_of

from replica_receiver import failover

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PROGRAM = USER = "podheitor-failover"
_SAME = -1


@attrs.frozen
class TwoUsers:
    """The user and group of the credentials, and those of the store."""

    own: tuple[int, int]
    store: tuple[int, int]

    def become(self) -> None:
        """Give up root's rights, and work as the owner of the store."""
        (own, own_group), (store, store_group) = self.own, self.store
        os.setgroups([])
        os.setresgid(own_group, store_group, own_group)
        os.setresuid(own, store, own)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Read files as the user of the credentials."""
        (own, own_group), (store, store_group) = self.own, self.store
        os.setresgid(_SAME, own_group, store_group)
        os.setresuid(_SAME, own, store)
        try:
            yield
        finally:
            os.setresgid(_SAME, store_group, own_group)
            os.setresuid(_SAME, store, own)


def users_of(store: Path) -> TwoUsers:
    """The two users for a store. Raises WrongUser."""
    if os.geteuid() != 0:
        raise WrongUser(f"{PROGRAM} is started by root, who becomes user {USER}: use sudo")
    owner = owner_of(store)
    if owner.st_uid == 0:
        raise WrongUser(f"{store} is missing or belongs to root: give --store of a receiver")
    try:
        own = pwd.getpwnam(USER)
    except KeyError as error:
        raise WrongUser(f"this host has no user {USER}: run systemd-sysusers") from error
    return TwoUsers((own.pw_uid, own.pw_gid), (owner.st_uid, owner.st_gid))


def command_line() -> argparse.ArgumentParser:
    """The parser of the events, without the word `failover` before them."""
    parser = argparse.ArgumentParser(prog=PROGRAM, description="Fails over to replicas, and back.")
    failover.add_actions(parser)
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Become the two users, and do what was asked. Raises WrongUser, and what failover raises."""
    users = users_of(args.store)
    users.become()
    return failover.run_action(args, users.reading)


def main() -> int:
    """Run the event that was given; return its exit code."""
    return program.main(command_line)


if __name__ == "__main__":
    sys.exit(main())
