"""What came of a backup job, for its metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from nutanix_backend.backup.summary import SavedVm
    from nutanix_backend.references.roster import Roster


@attrs.define
class Outcome:
    """What came of a job: the VMs that it selected, and by UUID what was saved and what failed.

    A value that selects no VM has failed as well, under its own text.
    """

    roster: Roster | None = None
    saved: dict[str, SavedVm] = attrs.field(factory=dict)
    failed: dict[str, Exception] = attrs.field(factory=dict)


@attrs.frozen
class EndedJob:
    """A job; `error` is the class of what ended it, times are in seconds of the epoch."""

    outcome: Outcome
    began: float
    ended: float
    error: str
