"""Back to an older generation, which becomes the current one; the newer ones are dropped.

replica.json says which generation the images are being brought to before one of them changes, so
that a rollback that broke off is gone on with. Doing all of it again changes nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import durable

from vm_replica.store import spool, trouble, undo
from vm_replica.store.records import discard_points_from, save

if TYPE_CHECKING:
    from collections.abc import Callable

    from vm_replica.store.catalog import PointRecord, ReplicaFolder, ReplicaState


def roll_back(
    files: ReplicaFolder, state: ReplicaState, number: int, tick: Callable[[], None]
) -> None:
    """Make an older generation the current one; raise StoreError, PhcbtError, OSError.

    The caller holds the locks of the state and of the points.
    """
    files.chain(number, state)  # all of it is there
    marked = attrs.evolve(state, rolling=number)
    save(files, marked)
    finish_roll_back(files, marked, tick)


def finish_roll_back(files: ReplicaFolder, state: ReplicaState, tick: Callable[[], None]) -> None:
    """Bring the images to the generation that is marked, then the records."""
    chain = files.chain(state.rolling, state)
    target = chain[0].generation
    for disk in target.disks:
        _bring_back(files, chain, disk.disk_id, tick)
    wanted = {files.image(disk.disk_id) for disk in target.disks}
    for image in set(files.images.glob("*.raw")) - wanted:
        durable.remove(image)
    for number in (record.number for record in chain):
        for image in files.point_path(number).glob("*.raw"):  # of disks that came later, and went
            durable.remove(image)
    durable.sync_folder(files.images)
    save(files, attrs.evolve(state, current=target, applying=None, rolling=0))
    discard_points_from(files, target.number)
    spool.drop(files.incoming)
    trouble.clear(files)


def _bring_back(
    files: ReplicaFolder, chain: list[PointRecord], disk_id: str, tick: Callable[[], None]
) -> None:
    """Apply what leads back to the first record of a chain, from the last image of the disk on."""
    image, layers = files.image(disk_id), []
    for record in chain:
        if disk_id in record.retired:
            kept = files.kept_image(record.number, disk_id)
            if kept.exists():
                durable.rename(kept, image)
                durable.sync_folder(kept.parent)
            break
        layers += [files.undo(record.number, m) for m in record.undo if m.disk_id == disk_id]
    for layer in reversed(layers):
        undo.apply_back(layer, image, tick)
