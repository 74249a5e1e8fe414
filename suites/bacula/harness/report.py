"""The report of a run: a line for every backup job, and whether its restore was identical."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from suites.bacula.harness.console import BaculaJob

TITLES = ("job", "name", "level", "status", "base", "files", "bytes", "restore")


@attrs.define
class Entry:
    """A job, and what is known of it by now."""

    job: BaculaJob
    base: str
    verdict: str = "-"

    def cells(self) -> tuple[str, ...]:
        """The line of the job."""
        job = self.job
        name = job.unique_name.partition(".")[0]
        return (
            *(str(job.job_id), name, job.level, job.status, self.base),
            *(str(job.files), f"{job.size:,}", self.verdict),
        )


@attrs.define
class Report:
    """The jobs of a run."""

    entries: dict[int, Entry] = attrs.field(factory=dict)
    _known: dict[str, int] = attrs.field(factory=dict)

    def add(self, job: BaculaJob) -> None:
        """Take note of a job that has ended."""
        self._known.update({manifest.digest: job.job_id for manifest in job.manifests})
        self.entries[job.job_id] = Entry(job, ", ".join(self.bases(job)) or "-")

    def bases(self, job: BaculaJob) -> list[str]:
        """What a job stands on: numbers of jobs, and "none" where it saved a disk whole."""
        found = {base for manifest in job.manifests for base in manifest.bases}
        return sorted({str(self._known.get(base, "unknown")) if base else "none" for base in found})

    def lines(self) -> Iterator[str]:
        """The report as a table."""
        rows = [TITLES, *(entry.cells() for _, entry in sorted(self.entries.items()))]
        widths = [max(len(row[column]) for row in rows) for column in range(len(TITLES))]
        for row in rows:
            yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
