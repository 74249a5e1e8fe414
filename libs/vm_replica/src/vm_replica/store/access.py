"""Opening a store on this host, and finding a replica in it by what an administrator types."""

from __future__ import annotations

from typing import TYPE_CHECKING

import durable
from command_line.text import printable

from vm_replica.errors import NoSuchReplica, StoreError
from vm_replica.owner import refuse_foreign
from vm_replica.store.replica import Store

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from vm_replica.store.admission import Limits
    from vm_replica.store.replica import Replica


def open_store(root: Path) -> Store:
    """The store in `root`. Raises StoreError if there is none; WrongUser if it is foreign."""
    refuse_foreign(root / "replicas")
    if not (root / "replicas").is_dir():
        raise StoreError(
            f"{root} is not the store of a receiver: it has no folder replicas; "
            "give the right folder with --store"
        )
    return Store(root)


def make_store(root: Path, limits: Limits) -> Store:
    """The store in `root`, made if need be. Raises StoreError, WrongUser."""
    refuse_foreign(root / "replicas")
    try:
        durable.make_folder(root / "replicas")
    except OSError as error:
        raise StoreError(f"the store {root} cannot be made: {error.strerror}") from error
    return Store(root, limits)


def find(store: Store, wanted: str) -> Replica:
    """The replica of a VM, by its name, its UUID or CLUSTER/UUID; raise NoSuchReplica."""
    replicas = store.replicas()
    found = [replica for replica in replicas if wanted in _names(replica)]
    if len(found) == 1:
        return found[0]
    if found:
        raise NoSuchReplica(
            f"{len(found)} replicas are of a VM {wanted}: give one of {_list(found)}"
        )
    raise NoSuchReplica(
        f"{store.root} has no replica of a VM {wanted}: it has {_list(replicas) or 'none at all'}"
    )


def vm_name(replica: Replica) -> str:
    """The name of its VM, as it can be shown; empty if it has no generation. Raises StoreError."""
    state = replica.state()
    return printable(state.current.manifest.vm_name).strip() if state and state.current else ""


def _names(replica: Replica) -> set[str]:
    """What it can be called. A replica whose record is damaged is still found by its UUID."""
    return {replica.name, replica.files.vm_id, _name(replica)} - {""}


def _name(replica: Replica) -> str:
    try:
        return vm_name(replica)
    except StoreError:
        return ""


def _list(replicas: Sequence[Replica]) -> str:
    return ", ".join(f"{_name(replica)} ({replica.name})".strip() for replica in replicas)
