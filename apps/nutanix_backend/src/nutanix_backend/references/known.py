"""What this host has recorded of all its VMs: which jobs saved them, and when."""

from __future__ import annotations

import re
from datetime import datetime
from typing import TYPE_CHECKING
from urllib.parse import unquote

import attrs

from nutanix_backend.references import state

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_RUN = re.compile(r"\.([0-9]{4}(?:-[0-9]{2}){2}_[0-9]{2}(?:\.[0-9]{2}){2})_[0-9]+$")
"""What the Director adds to the name of a job resource."""


@attrs.frozen
class Blocks:
    """The blocks of the disks of a VM: how many, how many never read, and the oldest proof.

    `oldest` is in seconds of the epoch, 0 where none was ever read.
    """

    total: int
    never: int
    oldest: int


@attrs.frozen
class Known:
    """What this host has recorded of a VM: its jobs, oldest first, and when it did so last."""

    file: state.StateFile
    cluster: str
    jobs: tuple[state.JobRecord, ...]
    changed: int

    @property
    def references(self) -> int:
        """How many recovery points they keep on the cluster."""
        return sum(record.reference is not None for record in self.jobs)

    @property
    def saved(self) -> int:
        """When the newest job that saved the VM was; 0 for never. In seconds of the epoch."""
        good = [record for record in self.jobs if record.outcome == state.SENT]
        if not good:
            return 0
        return self.changed if good[-1] is self.jobs[-1] else _started(good[-1].job)

    def blocks(self) -> Blocks | None:
        """Return when the blocks of the newest reference were proven; None without digest lists."""
        newest = next((r.reference for r in reversed(self.jobs) if r.reference), None)
        disks = [disk for disk in newest.disks if disk.image_root] if newest else []
        if not disks:
            return None
        times = [self.file.lists.proven_times(disk.image_root, disk.size) for disk in disks]
        read = [found.oldest() for found in times if found.oldest()]
        never = sum(found.never() for found in times)
        return Blocks(sum(map(len, times)), never, min(read, default=0))


def known(folder: Path) -> Mapping[str, Known]:
    """What is recorded of each VM; of one whose cluster was renamed, the newest."""
    found: dict[str, Known] = {}
    for path in folder.glob("*/*.json"):
        file = state.StateFile(path, path.stem)
        recorded, _ = file.load()
        changed = int(path.stat().st_mtime)
        one = Known(file, unquote(path.parent.name), recorded.jobs, changed)
        older = found.get(path.stem)
        if recorded.jobs and (older is None or older.changed < one.changed):
            found[path.stem] = one
    return found


def _started(job: str) -> int:
    """When a job of this name began, in the time zone of this host; 0 when its name has no date."""
    found = _RUN.search(job)
    try:
        moment = datetime.strptime(found[1], "%Y-%m-%d_%H.%M.%S") if found else None  # noqa: DTZ007 - local
    except ValueError:
        return 0
    return int(moment.timestamp()) if moment else 0
