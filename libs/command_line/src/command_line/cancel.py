"""The end of a command or job that was told to stop."""

from __future__ import annotations


class Cancelled(BaseException):
    """The work was cancelled.

    It may be raised by a signal at any place, and it is no Exception: what continues after an error
    (a logger, a loop over VMs) does not continue after it.
    """
