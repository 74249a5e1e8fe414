"""Where the trials of backups are recorded: in the state, by cluster and VM."""

from __future__ import annotations

from typing import TYPE_CHECKING

from durable.names import component
from vm_replica import evidence

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from vm_replica.evidence import Evidence, Trial

FOLDER = "evidence"


def record(state_dir: Path, whose: Evidence, added: Trial) -> str:
    """Record a trial; return why it cannot be, or an empty text."""
    path = state_dir / FOLDER / component(whose.cluster) / f"{component(whose.vm_id)}.json"
    return evidence.add(path, whose, added)


def recorded(state_dir: Path) -> Iterator[Evidence]:
    """What is recorded of every VM."""
    for path in sorted((state_dir / FOLDER).glob("*/*.json")):
        yield evidence.read(path)
