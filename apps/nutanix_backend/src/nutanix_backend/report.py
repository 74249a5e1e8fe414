"""Where the lines of a job go."""

from __future__ import annotations

from typing import Protocol


class Report(Protocol):
    """Whoever reads the lines of a job: the job log of Bacula, or a terminal."""

    def say(self, text: str) -> None:
        """Report progress or a fact."""
        ...

    def warn(self, text: str) -> None:
        """Report a warning: the job goes on and ends "with warnings"."""
        ...

    def report(self, text: str) -> None:
        """Report an error that ends the work on one VM and not the job."""
        ...
