"""What can go wrong in a disaster, as one line for the administrator.

BackendError
└── ReplicationError
    ├── FailoverRefused    it is not possible now; nothing was done
    └── FailoverFailed     a step failed; it was taken back, or `failover recover` goes on with it
        └── DrillFailed    the copy of a drill did not show that it lives
"""

from __future__ import annotations

from vm_replica.errors import ReplicationError


class FailoverRefused(ReplicationError):
    """What was asked for is not possible in this state, or cannot work; nothing was done."""


class FailoverFailed(ReplicationError):
    """A step of a failover failed."""


class DrillFailed(FailoverFailed):
    """A copy that was made for a drill did not show that it lives."""


class LedgerError(ReplicationError):
    """The record of a failover cannot be read, written or locked."""
