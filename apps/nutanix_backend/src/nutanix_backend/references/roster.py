"""The VMs that the last job of a name has selected: what is new since then, and what is gone.

It only serves the job log, so that one which is lost costs nothing.
"""

from __future__ import annotations

import hashlib
import logging
from typing import TYPE_CHECKING

import attrs
import durable
from durable import records
from durable.names import component

from nutanix_backend.references.state import series_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    import prism_client

    from nutanix_backend.settings.table import Selection

log = logging.getLogger(__name__)

SCHEMA = 1
FOLDER = "selected"
MOST_NAMES = 20
"""Names that one line of the job log has."""


@attrs.frozen
class ListedVm:
    """A VM that was selected."""

    ext_id: str
    name: str


@attrs.frozen
class Roster:
    """The VMs of a job, by the name of the job."""

    schema: int
    job: str
    vms: tuple[ListedVm, ...]

    @classmethod
    def of(cls, job: str, vms: Iterable[prism_client.Vm]) -> Roster:
        """Return that of a job."""
        return cls(SCHEMA, job, tuple(ListedVm(vm.ext_id, vm.name) for vm in vms))

    def without(self, other: Roster) -> list[str]:
        """Return the names of the VMs that another does not have."""
        theirs = {vm.ext_id for vm in other.vms}
        return [vm.name for vm in self.vms if vm.ext_id not in theirs]


@attrs.frozen
class RosterFile:
    """Where the roster of a job is kept; each plugin line of a FileSet has its own."""

    _path: Path

    @classmethod
    def of(cls, state_dir: Path, job: str, selection: Selection) -> RosterFile:
        """Return the file for a job of this name that selects so."""
        chosen = (
            selection.vm, selection.exclude_vm, selection.category, selection.exclude_category,
            selection.project, selection.cluster, selection.volume_groups,
        )  # fmt: skip
        digest = hashlib.sha256(repr(chosen).encode()).hexdigest()[:16]
        return cls(state_dir / FOLDER / f"{component(series_of(job))}-{digest}.json")

    @property
    def name(self) -> str:
        """The name of the job resource, and after a hyphen what stands for the selection."""
        return self._path.stem

    def load(self) -> Roster | None:
        """Return that of the last job; None where there is none."""
        try:
            return records.load(self._path.read_bytes(), Roster, schema=SCHEMA)
        except FileNotFoundError:
            return None
        except (OSError, records.RecordError) as error:
            log.warning("%s cannot be used: %s", self._path, error)
            return None

    def save(self, roster: Roster) -> None:
        """Replace it; it is missed by nobody when that fails."""
        try:
            durable.make_folder(self._path.parent)
            durable.replace(self._path, records.dump(roster))
        except OSError as error:
            log.warning("%s cannot be written: %s", self._path, error)


def rosters(state_dir: Path) -> Iterator[Roster]:
    """Those of the last job of every name, the oldest first."""
    paths = (state_dir / FOLDER).glob("*.json")
    for path in sorted(paths, key=lambda path: path.stat().st_mtime):
        if found := RosterFile(path).load():
            yield found


def listed(names: Sequence[str]) -> str:
    """Some names in one line."""
    more = len(names) - MOST_NAMES
    return ", ".join(names[:MOST_NAMES]) + (f" and {more} more" if more > 0 else "")
