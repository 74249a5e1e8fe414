"""What went wrong with a replica since its last commit, for the status. Best effort."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

import durable
from durable import records

from vm_replica.store.catalog import SCHEMA, Trouble

if TYPE_CHECKING:
    from vm_replica.store.catalog import ReplicaFolder

log = logging.getLogger(__name__)


def note(files: ReplicaFolder, text: str) -> None:
    """Remember what went wrong, if the replica is there."""
    _keep(files, Trouble(SCHEMA, int(time.time()), text))


def clear(files: ReplicaFolder) -> None:
    """Nothing is wrong any more."""
    _keep(files, None)


def read(files: ReplicaFolder) -> Trouble | None:
    """What went wrong since the last commit, if anything did."""
    try:
        return records.load(files.trouble.read_bytes(), Trouble, schema=SCHEMA)
    except (OSError, records.RecordError):
        return None


def _keep(files: ReplicaFolder, trouble: Trouble | None) -> None:
    if not files.path.is_dir():
        return
    try:
        if trouble:
            durable.replace(files.trouble, records.dump(trouble))
        elif files.trouble.exists():
            durable.remove(files.trouble)
    except OSError as error:
        log.warning("the trouble of %s cannot be noted: %s", files.name, error)
