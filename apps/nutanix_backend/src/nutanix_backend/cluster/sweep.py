"""What jobs that were killed left behind: found through their journals and removed; and a list of
everything on a cluster that is ours.

A recovery point that the state of its VM records as a reference is left to the chain, whatever the
journal says: the state is written before a job counts.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import attrs
from prism_client import NotFound, PrismError

from nutanix_backend.cluster import journal, transport
from nutanix_backend.cluster.journal import Kind
from nutanix_backend.errors import BackendError
from nutanix_backend.names import OURS, STAGING
from nutanix_backend.references import state
from nutanix_backend.settings.parameters import prism_address

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from prism_client import PrismClient

    from nutanix_backend.cluster.journal import Found, Intent, Pending
    from nutanix_backend.settings.parameters import Settings

SETTLING = 3600
"""Seconds for which a create without an answer may still come true on the server."""


@attrs.frozen
class Removed:
    """A thing that a killed job left, and what was done about it."""

    job: str
    kind: Kind
    name: str
    done: str

    def __str__(self) -> str:
        return f"{self.done}: {self.kind.value} {self.name} of job {self.job}, which was killed"


@attrs.frozen
class Leftover:
    """A thing of ours on a cluster, and whose it is."""

    kind: Kind
    name: str
    ext_id: str
    owner: str

    def __str__(self) -> str:
        return f"{self.kind.value} {self.ext_id} {self.name}: {self.owner}"


class Asker(Protocol):
    """A job, or whoever else sweeps before it works."""

    @property
    def settings(self) -> Settings:
        """Its parameters."""
        ...

    def say(self, text: str) -> None:
        """An information line."""
        ...

    def warn(self, text: str) -> None:
        """A warning."""
        ...


def before_job(job: Asker, client: PrismClient) -> None:
    """Sweep, and say so in the job log; what cannot be removed now is left to the next job."""
    try:
        for removed in sweep(client, job.settings):
            job.say(str(removed))
    except (PrismError, BackendError, OSError) as error:
        job.warn(f"what killed jobs left cannot be removed now: {error}")


def sweep(client: PrismClient, settings: Settings, *, dry_run: bool = False) -> Iterator[Removed]:
    """Remove what killed jobs left on this Prism; raises PrismError, StateError and OSError.

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


def _of_this_prism(all_found: Iterator[Found], settings: Settings) -> Iterator[Found]:
    address = prism_address(settings)
    return (found for found in all_found if found.header.prism in {address, ""})


def _may_still_come(pending: Pending) -> bool:
    intent = pending.intent
    unanswered = not pending.ext_id and intent.kind not in {Kind.SESSION, Kind.FOLDER}
    return unanswered and time.time() - intent.since < SETTLING


@attrs.frozen
class Sweeper:
    """Removes single things."""

    _client: PrismClient
    _references: Mapping[str, str]
    _dry_run: bool = attrs.field(kw_only=True)

    def remove(self, job: str, pending: Pending) -> Iterator[Removed]:
        """Remove what there is of an intent: found by its id, or by its name if none is known.

        A session in user space ended with its process, one of the kernel did not. A restored VM is
        whole once it is there, and may be in use by now: it is only reported.
        """
        intent = pending.intent
        for ext_id in self._find(pending):
            if ext_id in self._references:
                continue
            is_a_restored_vm = intent.kind is Kind.VM and not intent.name.startswith(OURS)
            if self._dry_run or is_a_restored_vm:
                yield Removed(job, intent.kind, intent.name, "found")
            else:
                self._delete(intent, ext_id)
                yield Removed(job, intent.kind, intent.name, "removed")

    def _find(self, pending: Pending) -> list[str]:
        client, intent = self._client, pending.intent
        match intent.kind:
            case Kind.VOLUME_GROUP:
                return _ids(client.volume_groups, pending, name=intent.name)
            case Kind.RECOVERY_POINT:
                return _ids(
                    client.recovery_points, pending, vm_ext_id=intent.vm_id, name=intent.name
                )
            case Kind.IMAGE:
                return _ids(client.images, pending, name=intent.name)
            case Kind.VM:
                return [
                    vm.ext_id for vm in client.vms.find(intent.name) if intent.key in vm.description
                ]
            case Kind.SESSION:
                return transport.abandoned(intent.initiator, intent.name)
            case Kind.FOLDER:
                path = Path(intent.name)
                return [intent.name] if path.name.startswith(STAGING) and path.is_dir() else []

    def _delete(self, intent: Intent, ext_id: str) -> None:
        client = self._client
        match intent.kind:
            case Kind.VOLUME_GROUP:
                client.volume_groups.detach_client(ext_id, intent.initiator)
                client.volume_groups.delete(ext_id)
            case Kind.RECOVERY_POINT:
                client.recovery_points.delete(ext_id)
            case Kind.IMAGE:
                client.images.delete(ext_id)
            case Kind.SESSION:
                transport.end(intent.initiator, ext_id)
            case Kind.VM:
                client.vms.delete(ext_id)
            case _:
                shutil.rmtree(ext_id)


def _ids(service: Any, pending: Pending, **wanted: str) -> list[str]:  # noqa: ANN401 - each names what it lists by differently
    """The thing with the id that is known, if it exists; else those with our name."""
    if not pending.ext_id:
        return [entity.ext_id for entity in service.list(**wanted)]
    try:
        return [service.get(pending.ext_id).ext_id]
    except NotFound:
        return []


def leftovers(client: PrismClient, settings: Settings) -> Iterator[Leftover]:
    """Everything on the clusters of this Prism that is ours by its name, and whose it is."""
    owners = _Owners.of(settings)
    for group in client.volume_groups.list():
        if group.name.startswith(OURS):
            yield owners.leftover(Kind.VOLUME_GROUP, group.name, group.ext_id)
    for point in client.recovery_points.list():
        if point.name.startswith(OURS):
            expires = f", expires {point.expires:%Y-%m-%d}" if point.expires else ""
            yield owners.leftover(Kind.RECOVERY_POINT, point.name, point.ext_id, expires)
    for image in client.images.list():
        if image.name.startswith(OURS):
            yield owners.leftover(Kind.IMAGE, image.name, image.ext_id)


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

    def leftover(self, kind: Kind, name: str, ext_id: str, more: str = "") -> Leftover:
        if ext_id in self.references:
            owner = f"reference of job {self.references[ext_id]}"
        elif name in self.running:
            owner = "of a job that runs now"
        elif name in self.killed:
            owner = "of a job that was killed: sweep removes it"
        else:
            owner = "no job of this host knows it"
        return Leftover(kind, name, ext_id, owner + more)


def _names(all_found: Iterator[Found]) -> set[str]:
    return {pending.intent.name for found in all_found for pending in found.pending}
