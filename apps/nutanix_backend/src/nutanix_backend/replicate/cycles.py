"""VMs side by side, once or for ever: what the job and the command line have in common."""

from __future__ import annotations

import threading
import time
import weakref
from functools import partial
from typing import TYPE_CHECKING

import attrs
from command_line.text import with_notes
from vm_replica.errors import Code, CycleRefused, ReplicationError
from vm_replica.protocol import channel
from vm_replica.throttle import Throttle

from nutanix_backend.cluster import inventory, selection, sweep, transport
from nutanix_backend.cluster.guards import new_secret
from nutanix_backend.errors import ParameterError
from nutanix_backend.replicate.groups import Replicated, refuse_groups_alone, with_groups
from nutanix_backend.replicate.source import (
    VM_ERRORS,
    Link,
    Replication,
    Result,
    open_replica,
)
from nutanix_backend.replicate.workers import Done, Workers

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence
    from pathlib import Path

    from nutanix_backend.report import Report
    from nutanix_backend.settings.parameters import Settings

NAME = "podheitor-nutanix-backend"
PATIENCE = channel.Patience()
RETRY = 60.0
"""Seconds after which a cycle that failed is tried again, if its turn does not come before."""


@attrs.frozen
class Work:
    """The VMs that the settings name, on their way to the receiver.

    `listener` hears what there is to say, in the thread of the caller; `stop` ends everything.
    """

    settings: Settings
    listener: Report
    rpo: int
    stop: threading.Event = attrs.field(factory=threading.Event)
    _open: weakref.WeakSet[channel.Channel] = attrs.field(factory=weakref.WeakSet, init=False)

    def once(self, check_cancelled: Callable[[], None]) -> Generator[Done]:
        """Replicate every VM once; yields what ends, as it does. Close what is returned.

        `check_cancelled` is called several times a second, and may raise to end it all.
        """
        link = self._link()
        sources = self._sources(link)
        with self._crew() as crew:
            for source in sources:
                crew.start(source.vm.name, self._task(source, link, crew))
            while crew.names():
                yield from crew.wait(RETRY, check_cancelled)

    def every(self, seconds: float, check_cancelled: Callable[[], None]) -> Generator[Done]:
        """Begin a cycle of each VM every so many seconds, or as soon as its last one has ended.

        VMs that come or go are noticed at the same pace. Close what is returned.
        """
        link, rota = self._link(), Schedule(seconds)
        with self._crew() as crew:
            while True:
                if rota.look <= time.monotonic():
                    rota.take(self._sources_or(link, rota.sources))
                for source in rota.begin(crew.names()):
                    crew.start(source.vm.ext_id, self._task(source, link, crew))
                pause = rota.next(crew.names()) - time.monotonic()
                for done in crew.wait(pause, check_cancelled):
                    yield attrs.evolve(done, name=rota.end(done.name, failed=bool(done.error)))

    def _crew(self) -> Workers:
        return Workers(self.settings.replicate_parallel, self._end, self.listener)

    def _end(self) -> None:
        """Let nobody begin anything, nor wait for the receiver."""
        self.stop.set()
        for connected in list(self._open):
            connected.interrupt()

    def _link(self) -> Link:
        if self.settings.exclude_disk:
            raise ParameterError(
                "exclude_disk is for backups only: a replica has all disks of its VM; remove it "
                "from the parameters of this replication"
            )
        refuse_groups_alone(self.settings)
        chosen = transport.choose(self.settings.transport)
        self.listener.say(str(chosen))
        throttle = Throttle(self.settings.replicate_limit, self.stop)
        secret = new_secret(chap=self.settings.chap)
        return Link(partial(self._connect, throttle), chosen, secret, throttle, self.rpo)

    def _connect(self, throttle: Throttle) -> channel.Channel:
        throttle.check_cancelled()
        connected = connect(self.settings, throttle)
        self._open.add(connected)
        return connected

    def _sources(self, link: Link) -> list[Replicated]:
        with inventory.connect(self.settings, self.listener.warn) as client:
            sweep.before_job(self.listener, client, self.settings)
            selected = selection.select(client, self.settings, whole=True)
            refused = partial(self._refused, link)
            sources = with_groups(client, self.settings, selected.sources, refused)
        for missing in selected.missing:
            self.listener.report(f"{missing.wanted} is not replicated: {missing.reason}")
        return sources

    def _refused(self, link: Link, sources: Sequence[inventory.Source]) -> set[str]:
        """The ids of the VMs of which the receiver takes no cycles; none if it does not answer."""
        try:
            with link.connect() as connected:
                found = [source for source in sources if not _takes_cycles(connected, source)]
        except (ReplicationError, OSError) as error:
            self.listener.warn(f"the receiver does not say which VMs it takes cycles of: {error}")
            return set()
        return {source.vm.ext_id for source in found}

    def _sources_or(self, link: Link, known: list[Replicated]) -> list[Replicated]:
        """The VMs there are now, or those we know if Prism does not say."""
        try:
            return self._sources(link)
        except VM_ERRORS as error:
            self.listener.report(f"the VMs to replicate cannot be listed now: {with_notes(error)}")
            return known

    def _task(self, source: Replicated, link: Link, crew: Workers) -> Callable[[], Result]:
        return partial(replicate, self.settings, source, link, crew.voice)


@attrs.define
class Schedule:
    """Whose turn it is: a turn of each VM every `pace` seconds. Times are of time.monotonic."""

    pace: float
    sources: list[Replicated] = attrs.field(factory=list)
    look: float = 0.0
    """When to look again which VMs there are."""
    _due: dict[str, float] = attrs.field(factory=dict)
    _names: dict[str, str] = attrs.field(factory=dict)

    def take(self, sources: list[Replicated]) -> None:
        """These are the VMs from now on."""
        self.sources = sources
        self.look = time.monotonic() + self.pace
        self._names |= {source.vm.ext_id: source.vm.name for source in sources}

    def begin(self, busy: set[str]) -> list[Replicated]:
        """The VMs whose turn begins now, of those that are not `busy`."""
        now = time.monotonic()
        begun = [s for s in self._idle(busy) if self._due.get(s.vm.ext_id, now) <= now]
        self._due |= {source.vm.ext_id: now + self.pace for source in begun}
        return begun

    def end(self, vm_id: str, *, failed: bool) -> str:
        """A turn has ended, and one that failed is repeated before its time; the name of the VM."""
        if failed:
            self._due[vm_id] = min(self._due[vm_id], time.monotonic() + RETRY)
        return self._names[vm_id]

    def next(self, busy: set[str]) -> float:
        """When there is something to do next, unless one of the busy comes back before."""
        return min([self.look, *(self._due[s.vm.ext_id] for s in self._idle(busy))])

    def _idle(self, busy: set[str]) -> list[Replicated]:
        return [source for source in self.sources if source.vm.ext_id not in busy]


def _takes_cycles(connected: channel.Channel, source: inventory.Source) -> bool:
    try:
        open_replica(connected, source)
    except CycleRefused as refused:
        return refused.code not in {Code.FENCED, Code.NOT_ALLOWED}
    return True


def replicate(settings: Settings, source: Replicated, link: Link, listener: Report) -> Result:
    """One cycle of one VM, with a connection to Prism of its own; raise one of VM_ERRORS."""
    with inventory.connect(settings) as client:
        return Replication(settings, source, link, listener).run(client)


def identity_folder(settings: Settings) -> Path:
    """Where our key is, our certificate, and whom we were paired with."""
    return settings.state_dir / "identity"


def connect(settings: Settings, throttle: Throttle) -> channel.Channel:
    """Connect to the receiver, and greet it."""
    if not settings.replicate_to:
        raise ParameterError("parameter replicate_to is missing: give the address of the receiver")
    limiter = throttle.slices if settings.replicate_limit else None
    connected = channel.connect(
        settings.replicate_to, identity_folder(settings), patience=PATIENCE, limiter=limiter
    )
    try:
        channel.greet(connected, NAME)
    except BaseException:
        connected.close()
        raise
    return connected
