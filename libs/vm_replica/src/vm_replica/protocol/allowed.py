"""Which source may write which replicas: one file, read anew for each request."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import attrs
import durable
from durable import records

from vm_replica.errors import IdentityError
from vm_replica.protocol import tls

if TYPE_CHECKING:
    from pathlib import Path

    from vm_replica.protocol.tls import Peer

SCHEMA = 1
BY_NAME = "cn:"
"""With this begins a source that is known by the name in its certificate, signed by our CA."""


@attrs.frozen
class Grant:
    """A source (fingerprint, or cn:NAME) may write the replicas that both patterns fit."""

    source: str
    cluster: str
    vm: str


@attrs.frozen
class _Grants:
    schema: int
    grants: tuple[Grant, ...]


def load(folder: Path) -> tuple[Grant, ...]:
    """The list; raise IdentityError when it cannot be read."""
    path = folder / "allowed.json"
    try:
        return records.load(path.read_bytes(), _Grants, schema=SCHEMA).grants
    except FileNotFoundError:
        return ()
    except (OSError, records.RecordError) as error:
        raise IdentityError(f"{path} cannot be used: {error}") from error


def save(folder: Path, grants: tuple[Grant, ...]) -> None:
    """Replace the list; raise IdentityError."""
    try:
        durable.make_folder(folder)
        durable.replace(folder / "allowed.json", records.dump(_Grants(SCHEMA, grants)))
    except OSError as error:
        raise IdentityError(f"{folder} cannot be written: {error.strerror}") from error


def source_of(peer: Peer, folder: Path) -> str:
    """How a peer stands in the list, and in the replicas that belong to it."""
    if tls.uses_ca(folder):
        return f"{BY_NAME}{peer.name}"
    return tls.original(folder, peer.fingerprint)


def sources(folder: Path) -> frozenset[str]:
    """All that are allowed something; raise IdentityError."""
    return frozenset(grant.source for grant in load(folder))


def withdrawn(folder: Path, peer: Peer) -> str:
    """Why a peer that got in would not get in any more; empty if it would. Raises IdentityError."""
    if reason := tls.distrusted(folder, peer.fingerprint):
        return reason
    source = source_of(peer, folder)
    if source not in sources(folder):
        return f"{source} is not allowed to write any replica: see podheitor-receiver allow"
    return ""


def is_allowed(folder: Path, source: str, cluster: str, vm_id: str) -> bool:
    """Whether a source may write the replica of a VM; raise IdentityError."""
    return any(
        grant.source == source
        and fnmatchcase(cluster, grant.cluster)
        and fnmatchcase(vm_id, grant.vm)
        for grant in load(folder)
    )
