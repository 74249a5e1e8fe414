"""Metrics of a backup job: a file that node_exporter reads, in the text format of Prometheus.

Each job writes one, named after the job and what it selects, so that jobs that end at the same time
do not disturb each other. Metrics never fail a job: a file that cannot be written is a warning.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from nutanix_backend.backup.outcome import EndedJob, Outcome
from nutanix_backend.cluster import journal
from nutanix_backend.errors import StateError
from nutanix_backend.references import state
from nutanix_backend.references.known import known
from nutanix_backend.references.roster import RosterFile

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from nutanix_backend.job import JobContext


@contextmanager
def written(job: JobContext) -> Iterator[Outcome]:
    """Write the metrics of a job when it ends, whichever way; give what to tell its outcome."""
    outcome, error, began = Outcome(), "", time.time()
    try:
        yield outcome
    except BaseException as raised:
        error = type(raised).__name__
        raise
    finally:
        if job.settings.metrics_dir:
            _write(job, job.settings.metrics_dir, EndedJob(outcome, began, time.time(), error))


def _write(job: JobContext, folder: Path, ended: EndedJob) -> None:
    from nutanix_backend.backup import metrics_page  # noqa: PLC0415 - few jobs write metrics

    settings = job.settings
    file = RosterFile.of(settings.state_dir, job.info.name, settings)
    roster = ended.outcome.roster or file.load()
    page = metrics_page.Page(state.series_of(job.info.name), file.name.rpartition("-")[2])
    try:
        page.job(ended, pending=_pending(settings.state_dir))
        page.vms(roster, known(settings.state_dir / state.BACKUP), ended.outcome)
        page.write(folder / f"{metrics_page.PREFIX}{file.name}.prom")
    except (StateError, OSError) as error:
        job.warn(f"the metrics of this job are not in metrics_dir: {error}: check that folder")


def _pending(state_dir: Path) -> int:
    """How many objects of ended jobs are on the cluster until the next job removes them."""
    return sum(len(found.pending) for found in journal.abandoned(state_dir))
