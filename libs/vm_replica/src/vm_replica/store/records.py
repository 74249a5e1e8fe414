"""What changes the records of a replica: replica.json, and the folders of older generations.

Whoever calls holds the state's lock. Errors are OSErrors, and StoreError where one is named.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import durable
from durable import records

from vm_replica.errors import StoreError
from vm_replica.store.catalog import is_point

if TYPE_CHECKING:
    from pathlib import Path

    from vm_replica.store.catalog import PointRecord, ReplicaFolder, ReplicaState


def save(files: ReplicaFolder, state: ReplicaState) -> None:
    """Replace replica.json, durably."""
    durable.replace(files.state_path, records.dump(state))


def save_point(files: ReplicaFolder, record: PointRecord) -> None:
    """Replace the record of an older generation, durably: from now on it can be had."""
    durable.replace(files.point_path(record.number) / "point.json", records.dump(record))


def discard_points_from(files: ReplicaFolder, number: int) -> None:
    """Drop what was prepared for a cycle that was not committed, or not dropped completely.

    Raises StoreError for an image that no record accounts for.
    """
    for path in files.points.glob("*"):
        is_older = path.name.isdecimal() and int(path.name) < number
        if is_older and is_point(path):
            continue
        if not is_older and any(path.glob("*.raw")):  # an image only gets there after the mark
            raise StoreError(f"{path} holds an image that belongs to no generation: look at it")
        drop_point(path)


def drop_point(folder: Path) -> None:
    """Drop the folder of a point. Its record goes first: without it the rest means nothing."""
    if is_point(folder):
        durable.remove(folder / "point.json")
    shutil.rmtree(folder)
