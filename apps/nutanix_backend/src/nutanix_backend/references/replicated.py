"""What replication of a VM left on the cluster, for its next cycle to be compared with.

It is kept in the form of the state of a backup, one record for each cycle, but in a folder of its
own: neither side ever looks at the references of the other. Between two cycles there is one; while
a cycle is under way, and until the receiver has said how it ended, there are two.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from nutanix_backend.references import state
from nutanix_backend.references.points import ReferencePoints
from nutanix_backend.references.state import JobRecord, Reference

if TYPE_CHECKING:
    from collections.abc import Callable

    from prism_client import PrismClient

JOB = "replicate"


class References:
    """The recorded references of one VM. Use under the lock of its state file."""

    def __init__(
        self, client: PrismClient, file: state.StateFile, warn: Callable[[str], object]
    ) -> None:
        """Load what is recorded in `file`; `warn` hears of what stays behind."""
        self._points = ReferencePoints(client, warn)
        self._file = file
        self._state, self._problem = file.load()

    def find(self, manifest: str) -> state.Base:
        """The reference that the cycle with this manifest left, if it is still on the cluster."""
        found = next((r for r in self._state.references() if r.manifest == manifest), None)
        if found is None:
            reason = self._problem or "no reference of this host has its state"
            return state.Base(None, reason)
        return self._points.usable(found)

    def record(self, reference: Reference, base: str) -> None:
        """Add the reference of a cycle on `base`, durably; raise StateError."""
        record = JobRecord(JOB, 0, "I" if base else "F", base, state.SENT, reference)
        self._save((*self._state.jobs, record))

    def keep(self, *manifests: str) -> None:
        """Delete all references but these; what cannot be deleted now stays recorded.

        Raises StateError.
        """
        kept = tuple(r for r in self._state.jobs if self._stays(r.reference, manifests))
        if kept != self._state.jobs:
            self._save(kept)

    def _stays(self, reference: Reference | None, manifests: tuple[str, ...]) -> bool:
        return reference is not None and (
            reference.manifest in manifests or not self._points.drop(reference)
        )

    def _save(self, jobs: tuple[JobRecord, ...]) -> None:
        self._state = attrs.evolve(self._state, jobs=jobs)
        self._file.save(self._state)
