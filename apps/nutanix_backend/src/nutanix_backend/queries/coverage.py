"""Coverage: every VM of the clusters against what this host knows of its jobs and replicas.

This host knows its own jobs: a VM that another host saves looks unprotected here. Whether Bacula
still has a job is known to the Director alone.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import attrs

from nutanix_backend.cluster import inventory, sweep
from nutanix_backend.references import state
from nutanix_backend.references.known import known
from nutanix_backend.references.points import ReferencePoints

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prism_client import PrismClient, Vm

    from nutanix_backend.references.known import Known
    from nutanix_backend.settings.parameters import Settings

DAY = 86_400


@attrs.frozen
class CoverageRow:
    """A VM, or a thing of ours on a cluster, and what is wrong with it; "" when all is well.

    `saved` and `replicated` are in seconds of the epoch, 0 for never.
    """

    kind: str
    name: str
    uuid: str
    cluster: str
    saved: int
    replicated: int
    problem: str


def report(client: PrismClient, settings: Settings) -> Iterator[CoverageRow]:
    """Yield every VM of the clusters, and what is on them that no job of this host needs.

    Raises PrismError and SelectionError.
    """
    saved, replicated = (known(settings.state_dir / k) for k in (state.BACKUP, state.REPLICATION))
    points = ReferencePoints(client, str)
    there = {point.ext_id for point in client.recovery_points.list()}
    for source in inventory.every_vm(client, settings.cluster):
        vm = source.vm
        jobs, copies = saved.get(vm.ext_id), replicated.get(vm.ext_id)
        problems = problems_of(jobs, copies, settings.coverage_days)
        if jobs and not _has_base(jobs, points, there):
            problems.append("chain broken: its reference is gone, the next job is a full")
        problems += [
            f"its volume group {group}: {problem}"
            for group in vm.volume_group_ext_ids
            for problem in problems_of(saved.get(group), None, settings.coverage_days)
        ]
        yield _of_vm(vm, source.cluster.name, jobs, copies, "; ".join(problems))
    for left in sweep.leftovers(client, settings):
        if not left.is_in_use:
            yield CoverageRow(left.kind.value, left.name, left.ext_id, "", 0, 0, left.owner)


def _of_vm(
    vm: Vm, cluster: str, jobs: Known | None, copies: Known | None, problem: str
) -> CoverageRow:
    return CoverageRow(
        kind="VM",
        name=vm.name,
        uuid=vm.ext_id,
        cluster=cluster,
        saved=jobs.saved if jobs else 0,
        replicated=copies.changed if copies else 0,
        problem=problem,
    )


def problems_of(jobs: Known | None, copies: Known | None, days: int) -> list[str]:
    """What is wrong with the jobs of a VM; one that is only replicated is protected too."""
    if jobs is None or not jobs.saved:
        if copies is None:
            return ["never saved by this host"]
        return [] if time.time() - copies.changed < days * DAY else [_too_old("replicated", copies)]
    problems = []
    if time.time() - jobs.saved >= days * DAY:
        problems.append(f"not saved for {int(time.time() - jobs.saved) // DAY} days")
    if jobs.jobs[-1].outcome == state.FAILED:
        problems.append(f"failed in its last job, {jobs.jobs[-1].job}")
    return problems


def _too_old(what: str, one: Known) -> str:
    return f"not {what} for {int(time.time() - one.changed) // DAY} days"


def _has_base(jobs: Known, points: ReferencePoints, there: set[str]) -> bool:
    """Whether the next incremental has something to stand on; a VM never saved needs nothing."""
    references = [record.reference for record in jobs.jobs if record.reference]
    if not references:
        return not jobs.saved
    return points.understands(references[-1]) and references[-1].point in there
