"""What jobs that were killed left behind: found through their journals and removed; and a list of
everything on a cluster that is ours.

A recovery point that the state of its VM records as a reference is left to the chain, whatever the
journal says: the state is written before a job counts.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

import attrs
from prism_client import PrismError

from nutanix_backend.cluster import journal
from nutanix_backend.cluster.journal import ObjectKind
from nutanix_backend.cluster.objects import OBJECTS
from nutanix_backend.errors import BackendError
from nutanix_backend.references import state
from nutanix_backend.references.points import ReferencePoints
from nutanix_backend.settings.parameters import prism_address

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from prism_client import PrismClient

    from nutanix_backend.cluster.journal import Found, Pending
    from nutanix_backend.report import Report
    from nutanix_backend.settings.parameters import Settings

log = logging.getLogger(__name__)

SETTLING = 3600
"""Seconds for which a create without an answer may still come true on the server."""


KILLED = ", which was killed"


@attrs.frozen
class Removed:
    """A thing that a killed job left, and what was done about it."""

    job: str
    kind: ObjectKind
    name: str
    done: str
    why: str = KILLED

    def __str__(self) -> str:
        return f"{self.done}: {self.kind.value} {self.name} of job {self.job}{self.why}"


@attrs.frozen
class Leftover:
    """A thing of ours on a cluster, and whose it is: of a reference or a running job, or lost."""

    kind: ObjectKind
    name: str
    ext_id: str
    owner: str
    is_in_use: bool

    def __str__(self) -> str:
        return f"{self.kind.value} {self.ext_id} {self.name}: {self.owner}"


def before_job(report: Report, client: PrismClient, settings: Settings) -> None:
    """Sweep, and report it; what cannot be removed now is left to the next job."""
    try:
        for removed in sweep(client, settings):
            report.say(str(removed))
    except (PrismError, BackendError, OSError) as error:
        report.warn(f"leftovers of killed jobs cannot be removed now: {error}")


def sweep(client: PrismClient, settings: Settings, *, dry_run: bool = False) -> Iterator[Removed]:
    """Remove what killed jobs left on this Prism, and references that nobody needs any more.

    Raises PrismError, StateError and OSError.

    A dry run only says what it would do.
    """
    for found in _of_this_prism(journal.abandoned(settings.state_dir), settings):
        sweeper = Sweeper(client, state.recorded_points(settings.state_dir), dry_run=dry_run)
        waiting = False
        for pending in found.pending:
            removed = list(sweeper.remove(found.header.job, pending))
            waiting |= not removed and _may_still_come(pending)
            yield from removed
        if not dry_run and not waiting:
            journal.forget(found)
    yield from _sweep_stale(client, settings, dry_run=dry_run)


_STALE = f": no job has saved its VM for {state.STALE // 86_400} days"


def _sweep_stale(client: PrismClient, settings: Settings, *, dry_run: bool) -> Iterator[Removed]:
    """Give up the references of VMs for which no job has run for a long time."""
    points = ReferencePoints(client, log.warning)
    for file in state.stale_files(settings.state_dir):
        known, _ = file.load()
        dropped = 0
        for record in known.jobs:
            reference = record.reference
            if reference is None or not points.usable(reference).reference:
                continue  # it may be on another Prism
            if any(file.is_kept_by(other, reference.point) for other in reference.shared_with):
                dropped += 1  # it is the base of another, and stays
                continue
            if not dry_run:
                dropped += points.drop(reference)
            done = "found" if dry_run else "removed"
            yield Removed(record.job, ObjectKind.RECOVERY_POINT, reference.point, done, _STALE)
        if dropped and dropped == len(known.references()):
            file.remove()


def _of_this_prism(all_found: Iterator[Found], settings: Settings) -> Iterator[Found]:
    address = prism_address(settings)
    return (found for found in all_found if found.header.prism in {address, ""})


def _may_still_come(pending: Pending) -> bool:
    intent = pending.intent
    unanswered = not pending.ext_id and OBJECTS[intent.kind].answers_late
    return unanswered and time.time() - intent.since < SETTLING


@attrs.frozen
class Sweeper:
    """Removes single things."""

    _client: PrismClient
    _references: Mapping[str, str]
    _dry_run: bool = attrs.field(kw_only=True)

    def remove(self, job: str, pending: Pending) -> Iterator[Removed]:
        """Remove what there is of an intent: found by its id, or by its name if none is known.

        A session in user space ended with its process, one of the kernel did not. What stays for
        the user is only reported.
        """
        intent, kind = pending.intent, OBJECTS[pending.intent.kind]
        for ext_id in kind.existing(self._client, pending):
            if ext_id in self._references:
                continue
            if user := kind.user(self._client, ext_id):
                yield Removed(job, intent.kind, intent.name, "left", f"{KILLED}: {user} uses it")
            elif self._dry_run or kind.stays(intent):
                why = f"{KILLED}{kind.advice(intent, ext_id)}"
                yield Removed(job, intent.kind, intent.name, "found", why)
            else:
                kind.remove(self._client, intent, ext_id)
                yield Removed(job, intent.kind, intent.name, "removed")


def leftovers(client: PrismClient, settings: Settings) -> Iterator[Leftover]:
    """Everything on the clusters of this Prism that is ours by its name, and whose it is."""
    owners = _Owners.of(settings)
    for kind, objects in OBJECTS.items():
        for found in objects.ours(client):
            yield owners.leftover(kind, found.name, found.ext_id, found.more)


@attrs.frozen
class _Owners:
    """Who on this host knows of a thing: by id a reference, by name a job."""

    references: Mapping[str, str]
    running: set[str]
    killed: set[str]

    @classmethod
    def of(cls, settings: Settings) -> _Owners:
        folder = settings.state_dir
        running = _names(_of_this_prism(journal.running(folder), settings))
        killed = _names(_of_this_prism(journal.abandoned(folder), settings))
        return cls(state.recorded_points(folder), running, killed)

    def leftover(self, kind: ObjectKind, name: str, ext_id: str, more: str = "") -> Leftover:
        is_in_use = True
        if ext_id in self.references:
            owner = f"reference of job {self.references[ext_id]}"
        elif name in self.running:
            owner = "of a job that runs now"
        else:
            is_in_use = False
            owner = "no job of this host knows it"
            if name in self.killed:
                owner = "of a job that was killed: sweep removes it"
        return Leftover(kind, name, ext_id, owner + more, is_in_use)


def _names(all_found: Iterator[Found]) -> set[str]:
    return {pending.intent.name for found in all_found for pending in found.pending}
