"""One cycle of one VM: from a snapshot to a generation that the receiver has committed.

The hand-over of the reference is what must survive a crash at any moment. The new reference is
recorded, durably, before a byte of the cycle is sent, and the old one is given up only when the
receiver has said that it committed. In between there are two, and the receiver alone knows which
of them is the base: it names it, by the digest of the manifest, whenever a replica is opened. So
after a crash the next cycle stands on what the receiver names, or is a seed, and says so.
"""

from __future__ import annotations

import logging
import time
import uuid
from contextlib import ExitStack, closing, contextmanager
from typing import TYPE_CHECKING

import attrs
import durable
import iscsi_attach
import prism_client
from command_line.progress import Progress
from command_line.text import size, with_notes
from durable import records
from vm_replica.errors import Code, CycleRefused, PeerFailed, ReplicationError
from vm_replica.protocol import manifest as manifests
from vm_replica.protocol import messages
from vm_replica.protocol.manifest import (
    GROUPS_SCHEMA,
    SCHEMA,
    Configuration,
    CycleDisk,
    CycleManifest,
    ReplicaGroup,
)

from nutanix_backend import group_record, vm_record
from nutanix_backend.cluster import journal
from nutanix_backend.cluster.guards import GroupSnapshot, SnapshotGuard
from nutanix_backend.disks.attach import Route, open_disks, reference
from nutanix_backend.disks.plan import CHANGES_UNAVAILABLE, DiskPlan, plan_disks, with_data
from nutanix_backend.disks.streams import StreamSender, delta_length
from nutanix_backend.errors import BackendError, ChainError, SourceError, StateError
from nutanix_backend.names import NAMESPACE, OURS
from nutanix_backend.references import state
from nutanix_backend.references.replicated import JOB, References
from nutanix_backend.replicate import stream
from nutanix_backend.replicate.groups import refuse_protected
from nutanix_backend.settings.parameters import prism_address

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Iterator, Mapping

    from ptcomm.events import Buffer
    from vm_replica.protocol.channel import Channel
    from vm_replica.throttle import Throttle

    from nutanix_backend.cluster import inventory, transport
    from nutanix_backend.replicate.groups import Replicated
    from nutanix_backend.report import Report
    from nutanix_backend.settings.parameters import Settings

log = logging.getLogger(__name__)

VM_ERRORS = (
    BackendError,
    ReplicationError,
    prism_client.PrismError,
    iscsi_attach.IscsiAttachError,
    OSError,
)
"""What may fail for one VM while the others go on."""
BUSY = 10.0
"""Seconds for which a receiver may say that another session sends a cycle of the same replica."""
ANOTHER_BASE = {Code.WRONG_BASE, Code.NEEDS_SEED}


@attrs.frozen
class Link:
    """How the VMs of this host get to their receiver; `rpo` is the lag promised, in seconds.

    `reach` and `secret` are those of a Route.
    """

    connect: Callable[[], Channel]
    reach: transport.Transport
    secret: str | None
    throttle: Throttle
    rpo: int


@attrs.frozen
class InFlight:
    """A cycle that was begun: its manifest, as JSON, and the digest of each disk's regions."""

    schema: int
    manifest: str
    regions: tuple[str, ...]


@attrs.frozen
class Part:
    """The disks of the VM, or of a volume `group` that comes with it, and what to read of them."""

    plans: list[DiskPlan]
    group: prism_client.VolumeGroup | None = None


@attrs.frozen
class Cycle:
    """A cycle ready to be sent: its snapshot is open, and recorded as a reference."""

    snapshot: SnapshotGuard
    manifest: CycleManifest
    parts: list[Part]

    @property
    def plans(self) -> list[DiskPlan]:
        """Those of all disks."""
        return _all_plans(self.parts)

    def open(self, stack: ExitStack, route: Route) -> dict[int, iscsi_attach.BlockDevice]:
        """Offer what is to be read, and open it; by the number of the disk."""
        devices: dict[int, iscsi_attach.BlockDevice] = {}
        for part in self.parts:
            snapshot = self.snapshot
            if part.group:
                name = f"{snapshot.name} {part.group.ext_id}"
                snapshot = GroupSnapshot(snapshot, part.group.ext_id, name)
            devices |= open_disks(stack, snapshot, with_data(part.plans), route)
        return devices


@attrs.frozen
class Result:
    """What a cycle came to. Amounts in bytes, times in seconds."""

    vm_name: str
    vm_id: str
    cluster: str
    generation: int
    manifest: str
    seed: bool
    changed: int
    sent: int
    resumed: int
    seconds: float

    def __str__(self) -> str:
        kind = "seed" if self.seed else "changes"
        spared = f", {size(self.resumed)} were there already" if self.resumed else ""
        return (
            f"VM {self.vm_name} is replicated as generation {self.generation} ({kind}): "
            f"{size(self.changed)} to read, {size(self.sent)} sent{spared}, {self.seconds:.1f} s"
        )


class HeldSnapshot(SnapshotGuard):
    """A recovery point that an interrupted cycle left, and that is recorded: nothing to undo."""

    def __init__(
        self,
        client: prism_client.PrismClient,
        journal: journal.Journal,
        vm: prism_client.Vm,
        point: prism_client.RecoveryPoint,
    ) -> None:
        """Go on with `point`."""
        super().__init__(client, journal, vm, point.name, "crash")
        self._point = point
        self.keep()

    def _acquire(self) -> None:
        self.recovery_point = self._point
        self.entry.made(self._point.ext_id)


class Replication:
    """The replication of one VM to its receiver."""

    def __init__(
        self, settings: Settings, source: Replicated, link: Link, listener: Report
    ) -> None:
        """Prepare to replicate `source`; `listener` hears how it goes."""
        self._settings = settings
        self._source = source
        self._link = link
        self._listener = listener
        folder = settings.state_dir / state.REPLICATION / source.folder.cluster
        vm_id = source.vm.ext_id
        self._file = state.StateFile(folder / f"{vm_id}.json", vm_id, source.vm.name)
        self._in_flight = folder / f"{vm_id}.cycle"

    def run(self, client: prism_client.PrismClient) -> Result:
        """Bring the replica up to date, under the VM's lock; raise one of VM_ERRORS."""
        refuse_protected(self._settings, client, self._source.vm)
        with self._file.locked():
            references = References(client, self._file, self._listener.warn)
            ready = self._ask()
            try:
                return self._cycle(client, references, ready)
            except CycleRefused as refused:
                if refused.code not in ANOTHER_BASE or refused.needs == ready.digest:
                    raise
            return self._cycle(client, references, self._ask())

    def _ask(self) -> messages.Ready:
        """What the receiver holds: asked before there is a snapshot, and again when it is sent."""
        with self._link.connect() as channel:
            return self._open(channel)

    def _open(self, channel: Channel) -> messages.Ready:
        return open_replica(channel, self._source)

    def _cycle(
        self, client: prism_client.PrismClient, references: References, ready: messages.Ready
    ) -> Result:
        """One cycle on what the receiver holds. What fails once it is committed is only said."""
        name = f"{JOB} {self._source.vm.ext_id}"
        result: Result | None = None
        began = time.monotonic()
        try:
            with (
                journal.opened(
                    self._settings.state_dir, name, prism_address(self._settings)
                ) as intents,
                ExitStack() as stack,
            ):
                cycle = self._prepare(stack, client, references, intents, ready)
                route = Route(
                    self._settings,
                    self._source.cluster,
                    self._link.reach,
                    self._link.secret,
                    self._listener.warn,
                )
                result = self._transfer(cycle, cycle.open(stack, route), ready)
                references.keep(result.manifest)
        except VM_ERRORS as error:
            if result is None:
                raise
            self._listener.report(
                f"VM {self._source.vm.name} is replicated, but temporary objects could not "
                f"be removed: "
                f"{with_notes(error)}"
            )
        return attrs.evolve(result, seconds=time.monotonic() - began)

    # --- what is sent

    def _prepare(
        self,
        stack: ExitStack,
        client: prism_client.PrismClient,
        references: References,
        intents: journal.Journal,
        ready: messages.Ready,
    ) -> Cycle:
        """Go on with the cycle that was interrupted, or begin one on a snapshot of now."""
        base = self._base(references, ready)
        if ready.resume:
            resumed = self._resume(client, references, intents, base, ready.resume.digest)
            if resumed:
                stack.enter_context(resumed.snapshot)
                return resumed
        references.keep(*([base.manifest] if base else []))
        vm = self._source.vm
        name = f"{OURS}{JOB} {uuid.uuid4().hex[:12]} {vm.ext_id}"
        snapshot = SnapshotGuard(
            client,
            intents,
            vm,
            name,
            self._settings.consistency,
            self._settings.backup_type,
            self._source.own_groups,
        )
        with self._hint():
            stack.enter_context(snapshot)
        vm = client.vms.get(vm.ext_id)
        for line in vm_record.not_replicated(vm, self._source.owners):
            self._listener.warn(line)
        parts = self._plan(client, vm, snapshot.recovery_point, base)
        manifest = self._manifest(client, vm, snapshot.recovery_point, parts)
        cycle = Cycle(snapshot, manifest, parts)
        new = reference(snapshot.recovery_point, cycle.plans, manifest.digest())
        self._record(references, cycle, new)
        snapshot.keep()
        return cycle

    @contextmanager
    def _hint(self) -> Iterator[None]:
        """Tell with a refusal how the VM can be replicated without its volume groups."""
        try:
            yield
        except (prism_client.ApiError, prism_client.TaskFailed, CycleRefused) as error:
            if self._source.own_groups:
                error.add_note(
                    "volume_groups=no replicates the VM without its volume groups, as long as the "
                    "cluster, or a receiver that is not updated, does not take them"
                )
            raise

    def _base(self, references: References, ready: messages.Ready) -> state.Reference | None:
        """The reference whose state the replica has; None for a seed."""
        if not ready.digest:
            return None
        found = references.find(ready.digest)
        if found.reference is None:
            self._seed_again(found.reason)
        return found.reference

    def _seed_again(self, reason: str) -> None:
        name = self._source.vm.name
        if not self._settings.fallback_to_full:
            raise ChainError(
                f"VM {name} has no base for a cycle: {reason}; "
                "set fallback_to_full=yes to have it sent in full"
            )
        self._listener.warn(f"VM {name} is sent to the receiver in full: {reason}")

    def _plan(
        self,
        client: prism_client.PrismClient,
        vm: prism_client.Vm,
        point: prism_client.RecoveryPoint,
        base: state.Reference | None,
    ) -> list[Part]:
        attached = vm.volume_group_ext_ids
        wanted = [group for group in self._source.own_groups if group in attached]
        groups = [client.volume_groups.get(group) for group in wanted]
        warn = self._listener.warn
        if base:
            try:
                return _parts(client, vm, groups, point, base, warn)
            except CHANGES_UNAVAILABLE as error:
                self._seed_again(f"Prism cannot list its changes: {error}")
        return _parts(client, vm, groups, point, None, warn)

    def _manifest(
        self,
        client: prism_client.PrismClient,
        vm: prism_client.Vm,
        point: prism_client.RecoveryPoint,
        parts: list[Part],
    ) -> CycleManifest:
        plans = _all_plans(parts)
        own = tuple(_own_groups(parts))
        groups = (*own, *self._other_groups(client, vm, {group.group_id for group in own}))
        return CycleManifest(
            schema=GROUPS_SCHEMA if groups else SCHEMA,
            cluster=self._source.cluster.name,
            vm_id=vm.ext_id,
            vm_name=vm.name,
            base=next((plan.base for plan in plans if plan.base), ""),
            taken=int(point.created.timestamp()),
            rpo=self._link.rpo,
            consistency=point.consistency.value,
            recovery_point=point.ext_id,
            configuration=Configuration(NAMESPACE, vm_record.from_vm(vm).encode().decode()),
            disks=_disks(plans),
            groups=groups,
        )

    def _other_groups(
        self, client: prism_client.PrismClient, vm: prism_client.Vm, own: Container[str]
    ) -> Iterator[ReplicaGroup]:
        """The groups that another VM brings, and those without disks, which need nobody for that.

        Of one that nobody brings nothing is said: it is attached and left out.
        """
        for group in vm.volume_group_ext_ids:
            owner = self._source.owners.get(group)
            if owner is None or group in own:
                continue
            if not client.volume_groups.get(group).disks:
                yield ReplicaGroup(group, "", (), vm.ext_id)
            elif owner != vm.ext_id:
                yield ReplicaGroup(group, "", (), owner)

    # --- going on with what was interrupted

    def _record(self, references: References, cycle: Cycle, new: state.Reference) -> None:
        """Make it durable what is sent, and that its snapshot is to stay; raise StateError."""
        in_flight = InFlight(
            schema=SCHEMA,
            manifest=cycle.manifest.encode().decode(),
            regions=_regions(cycle.plans),
        )
        try:
            durable.replace(self._in_flight, records.dump(in_flight))
        except OSError as error:
            raise StateError(
                f"the cycle of the VM cannot be recorded: {error}: check free space"
            ) from error
        references.record(new, cycle.manifest.base)

    def _load_in_flight(self) -> InFlight | None:
        try:
            return records.load(self._in_flight.read_bytes(), InFlight, schema=SCHEMA)
        except FileNotFoundError:
            return None
        except (OSError, records.RecordError) as error:
            log.warning(
                "%s cannot be used, so its cycle starts from the beginning: %s",
                self._in_flight,
                error,
            )
            return None

    def _resume(
        self,
        client: prism_client.PrismClient,
        references: References,
        intents: journal.Journal,
        base: state.Reference | None,
        digest: str,
    ) -> Cycle | None:
        """The cycle of this manifest once more, if it can be proven to be the same; else None."""
        in_flight = self._load_in_flight()
        found = references.find(digest).reference
        if in_flight is None or found is None:
            return None
        manifest = manifests.decode(in_flight.manifest.encode())
        if manifest.digest() != digest or manifest.base != (base.manifest if base else ""):
            return None
        vm = client.vms.get(self._source.vm.ext_id)
        point = client.recovery_points.get(found.point)
        try:
            groups = [client.volume_groups.get(g.group_id) for g in manifest.groups if g.disks]
            parts = _parts(client, vm, groups, point, base, self._listener.warn)
        except (SourceError, *CHANGES_UNAVAILABLE) as error:
            log.warning("the cycle of VM %s starts from the beginning: %s", vm.name, error)
            return None
        plans = _all_plans(parts)
        if _disks(plans) != manifest.disks or _regions(plans) != in_flight.regions:
            log.warning("the cycle of VM %s starts from the beginning: its regions differ", vm.name)
            return None
        return Cycle(HeldSnapshot(client, intents, vm, point), manifest, parts)

    # --- sending

    def _transfer(
        self,
        cycle: Cycle,
        devices: Mapping[int, iscsi_attach.BlockDevice],
        ready: messages.Ready,
    ) -> Result:
        manifest = cycle.manifest
        digest = manifest.digest()
        kind = messages.Kind.SEED if manifest.is_seed else messages.Kind.DELTA
        with self._link.connect() as channel:
            now = self._open(channel)
            if now.digest != ready.digest:
                raise CycleRefused(
                    Code.WRONG_BASE,
                    f"the replica of VM {manifest.vm_name} has changed meanwhile: does another "
                    "host replicate it too?",
                    needs=now.digest,
                )
            held = dict(now.resume.disks) if now.resume and now.resume.digest == digest else {}
            self._begin(channel, messages.Cycle(kind, manifest.base, manifest.encode()))
            for plan in cycle.plans:
                start = held.get(plan.disk.disk_ext_id, 0)
                self._send_disk(channel, plan, devices.get(plan.index), start)
            cycle.snapshot.prolong()
            channel.send(messages.Commit(digest))
            generation = channel.expect(messages.Committed).generation
        return Result(
            vm_name=manifest.vm_name,
            vm_id=manifest.vm_id,
            cluster=manifest.cluster,
            generation=generation,
            manifest=digest,
            seed=manifest.is_seed,
            changed=sum(plan.regions.data_bytes for plan in cycle.plans),
            sent=manifest.stream_bytes - sum(held.values()),
            resumed=sum(held.values()),
            seconds=0.0,
        )

    def _begin(self, channel: Channel, cycle: messages.Cycle) -> None:
        """Have the cycle accepted; a receiver may not have noticed yet that our last line broke."""
        deadline = time.monotonic() + BUSY
        while True:
            channel.send(cycle)
            try:
                channel.expect(messages.Accepted)
            except CycleRefused as refused:
                if refused.code is Code.BAD_MANIFEST:
                    with self._hint():
                        raise
                if refused.code is not Code.BUSY or time.monotonic() > deadline:
                    raise
                self._link.throttle.check_cancelled(0.5)
            else:
                return

    def _send_disk(
        self,
        channel: Channel,
        plan: DiskPlan,
        device: iscsi_attach.BlockDevice | None,
        start: int,
    ) -> None:
        """Send the stream of a disk from this byte on; what arrived must be what was read."""
        total, _ = delta_length(plan.regions)
        name = f"VM {self._source.vm.name} disk {plan.index}"
        progress = Progress(self._listener.say, name, total - start)

        def tick(count: int) -> None:
            self._link.throttle.check_cancelled()
            progress.advance(count)

        channel.send(messages.Disk(plan.disk.disk_ext_id, start))
        with closing(stream.pieces(device, plan.regions, start)) as pieces:
            sent, digest = send_stream(channel, pieces, tick)
        if sent != total - start:
            raise SourceError(f"{name}: {sent} bytes were read, not {total - start}")
        channel.send(messages.EndOfDisk())
        stored = channel.expect(messages.Stored).digest
        if stored != digest:
            raise PeerFailed(f"{name} arrived damaged: it was {digest}, the receiver has {stored}")


def open_replica(channel: Channel, source: inventory.Source) -> messages.Ready:
    """Where the replica of a VM stands; raise CycleRefused when no cycles of it are taken."""
    channel.send(messages.Open(source.cluster.name, source.vm.ext_id))
    return channel.expect(messages.Ready)


def send_stream(
    channel: Channel, pieces: Iterable[Buffer], tick: Callable[[int], None]
) -> tuple[int, str]:
    """Send the pieces as data; how many bytes it were, and their digest."""
    sender = StreamSender(lambda data: channel.send(messages.Data(data.parts[0])))
    for piece in pieces:
        tick(memoryview(piece).nbytes)
        sender.put(piece)
    digest = sender.finish()
    return sender.sent, digest


def _parts(
    client: prism_client.PrismClient,
    vm: prism_client.Vm,
    groups: Iterable[prism_client.VolumeGroup],
    point: prism_client.RecoveryPoint,
    base: state.Reference | None,
    warn: Callable[[str], None],
) -> list[Part]:
    """Plan the disks of the VM, and behind them those of each group; raise as plan_disks does."""
    parts = [Part(plan_disks(client, vm.disks, point, base, warn))]
    for group in groups:
        if not group.disks:
            continue
        part = point.of_the_group(group.ext_id)
        if part is None:
            raise SourceError(f"{point.id} names no disks of volume group {group.ext_id}")
        first = sum(len(known.plans) for known in parts)
        plans = plan_disks(client, group_record.disks_of(group), part, base, warn)
        numbered = [attrs.evolve(plan, index=first + plan.index) for plan in plans]
        parts.append(Part(numbered, group))
    return parts


def _all_plans(parts: Iterable[Part]) -> list[DiskPlan]:
    return [plan for part in parts for plan in part.plans]


def _own_groups(parts: Iterable[Part]) -> Iterator[ReplicaGroup]:
    for part in parts:
        if part.group:
            disks = tuple(plan.disk.disk_ext_id for plan in part.plans)
            yield ReplicaGroup(part.group.ext_id, part.group.name, disks)


def _regions(plans: list[DiskPlan]) -> tuple[str, ...]:
    return tuple(plan.regions.digest() for plan in plans)


def _disks(plans: list[DiskPlan]) -> tuple[CycleDisk, ...]:
    return tuple(_disk(plan) for plan in plans)


def _disk(plan: DiskPlan) -> CycleDisk:
    total, regions = delta_length(plan.regions)
    return CycleDisk(
        disk_id=plan.disk.disk_ext_id,
        index=plan.index,
        size=plan.disk.size,
        whole=not plan.base,
        stream_bytes=total,
        regions=regions,
    )
