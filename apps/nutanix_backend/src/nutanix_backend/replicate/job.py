"""Replication as a backup job, for the Director to schedule: it sends a report, and no disk."""

from __future__ import annotations

import json
import logging
import time
from contextlib import closing
from typing import TYPE_CHECKING

import attrs
from command_line.text import with_notes
from durable.names import component
from ptcomm import Data, DataEnd, DataStart, File, FileType, NoMoreFiles, Stat, Times

from nutanix_backend.names import NAMESPACE
from nutanix_backend.replicate.cycles import Work
from nutanix_backend.replicate.source import VM_ERRORS

if TYPE_CHECKING:
    from nutanix_backend.job import JobContext
    from nutanix_backend.replicate.source import Result

log = logging.getLogger(__name__)


def run(job: JobContext) -> None:
    """Replicate every VM asked for; one that fails is reported, and fails the job if all do."""
    results: list[Result] = []
    failures: dict[str, Exception] = {}
    work = Work(job.settings, job, int(job.settings.replicate_rpo))
    with closing(work.once(job.check_cancelled)) as ended:
        for done in ended:
            if done.result:
                results.append(done.result)
                job.say(str(done.result))
            elif isinstance(done.error, VM_ERRORS) and not job.settings.abort_on_error:
                log.warning("VM %s failed", done.name, exc_info=done.error)
                job.report(f"VM {done.name} is not replicated: {with_notes(done.error)}")
                failures[done.name] = done.error
            elif done.error:
                raise done.error
    if not results:
        raise failures.popitem()[1]
    _send_report(job, results, failures)
    job.endpoint.send(NoMoreFiles())


def _send_report(job: JobContext, results: list[Result], failures: dict[str, Exception]) -> None:
    report = {
        "job": job.info.name,
        "receiver": job.settings.replicate_to,
        "replicated": [attrs.asdict(result) for result in results],
        "failed": {name: with_notes(error) for name, error in failures.items()},
    }
    content = json.dumps(report, indent=1, sort_keys=True).encode()
    name = f"{NAMESPACE}/replication/{component(job.info.name)}.json"
    now = int(time.time())
    job.endpoint.send(
        File(name, Stat(FileType.REGULAR, len(content)), Times(now, now, now)),
        DataStart(),
        Data(content),
        DataEnd(),
    )
