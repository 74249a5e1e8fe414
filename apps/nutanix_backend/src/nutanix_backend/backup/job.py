"""Full, incremental and differential backup."""

from __future__ import annotations

import logging
import time
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

import attrs
import iscsi_attach
import prism_client
from command_line.progress import Progress
from command_line.text import with_notes
from ptcomm import (
    Ack,
    Data,
    DataEnd,
    DataStart,
    End,
    File,
    FileType,
    Level,
    NoMoreFiles,
    RestoreObject,
    Stat,
    Times,
)

from nutanix_backend import vm_record
from nutanix_backend.backup import metrics, summary
from nutanix_backend.backup.chain import Chain
from nutanix_backend.backup.pipeline import Pipeline
from nutanix_backend.backup.proof import DiskProof
from nutanix_backend.backup.summary import SavedVm, Stopwatch
from nutanix_backend.cluster import inventory, selection, sweep, transport
from nutanix_backend.cluster.guards import TEMPORARY, SnapshotGuard, new_secret
from nutanix_backend.cluster.range_offer import RangeOffers
from nutanix_backend.disks import exclusion
from nutanix_backend.disks.attach import Route, reference
from nutanix_backend.disks.exclusion import DiskExclusion
from nutanix_backend.disks.plan import CHANGES_UNAVAILABLE, DiskPlan, plan_disks, sparse
from nutanix_backend.disks.ranged import open_planned
from nutanix_backend.disks.read_ahead import in_turn
from nutanix_backend.disks.streams import StreamSender, delta_length, delta_pieces, image_pieces
from nutanix_backend.errors import BackendError, SelectionError, SourceError, StateError
from nutanix_backend.manifest import SCHEMA, DiskEntry, Manifest
from nutanix_backend.names import OURS
from nutanix_backend.references import state
from nutanix_backend.references.point_fields import point_fields
from nutanix_backend.references.roster import Roster, RosterFile, listed

if TYPE_CHECKING:
    from collections.abc import (
        Callable,
        Container,
        Generator,
        Iterable,
        Iterator,
        Mapping,
        Sequence,
    )

    from prism_client.services import KnownPolicies
    from ptcomm.events import Buffer

    from nutanix_backend.backup.outcome import Outcome
    from nutanix_backend.backup.pipeline import Turn
    from nutanix_backend.backup.proof import Difference
    from nutanix_backend.cluster.journal import Journal
    from nutanix_backend.disks.ranged import OpenedDisks
    from nutanix_backend.group_record import Configuration
    from nutanix_backend.job import HeldJob, JobContext
    from nutanix_backend.manifest import ExcludedDisk

    Plan = Callable[[JobContext, "Shared", Sequence[inventory.Source]], list["VmBackup"]]

log = logging.getLogger(__name__)

VM_ERRORS = (BackendError, prism_client.PrismError, iscsi_attach.IscsiAttachError)
"""What may fail for one VM without ending the job, as long as no file of it is half sent."""


def run(job: JobContext, plan: Plan | None = None) -> None:
    """Back up every VM asked for; one that fails is reported, and fails the job if all do.

    `plan` makes the backups of the VMs that are selected.
    """
    with ExitStack() as stack:
        with metrics.written(job) as outcome:
            chosen = transport.choose(job.settings.transport)
            job.say(str(chosen))
            held = job.held()
            client = stack.enter_context(inventory.connect(job.settings, held.warn))
            reach = Reach(client, chosen, held)
            sources = _back_up(job, reach, plan or plain, outcome)
        job.endpoint.send(NoMoreFiles())
        if job.settings.is_lean:
            _keep_only_newest(job, client, sources)


def plain(job: JobContext, shared: Shared, sources: Sequence[inventory.Source]) -> list[VmBackup]:
    """A backup for each VM, of nothing else."""
    return [VmBackup(job, shared, source) for source in sources]


@attrs.frozen
class Reach:
    """How a job reaches the cluster and its disks; `held` takes what any thread has to say."""

    client: prism_client.PrismClient
    transport: transport.Transport
    held: HeldJob


def _back_up(
    job: JobContext, reach: Reach, plan: Plan, outcome: Outcome
) -> Sequence[inventory.Source]:
    """Select the VMs and back them up; return all of them. Raises when none is backed up."""
    client, held = reach.client, reach.held
    sweep.before_job(job, client, job.settings)
    selected = selection.select(client, job.settings, job.say)
    held.release()
    for missing in selected.missing:
        line = f"{missing.wanted} is not backed up: {missing.reason}"
        outcome.failed[missing.wanted] = _report_unmatched(job, line, missing.reason)
    roster = outcome.roster = Roster.of(job.info.name, (source.vm for source in selected.sources))
    last = RosterFile.of(job.settings.state_dir, job.info.name, job.settings)
    _say_what_is_new(job, roster, last.load())
    shared = Shared.of(job, reach)
    for line in shared.exclusion.vain([source.vm for source in selected.sources]):
        outcome.failed[line] = _report_unmatched(job, line, line)
    backups = plan(job, shared, selected.sources)
    failures = _back_up_all(held, backups, outcome)
    if len(failures) == len(backups):
        raise failures[-1]
    last.save(roster)
    return [source for backup in backups for source in backup.sources]


def _back_up_all(held: HeldJob, backups: list[VmBackup], outcome: Outcome) -> list[Exception]:
    """Back the VMs up side by side, and sum up; the errors of those that failed."""
    failures: dict[int, Exception] = {}
    began = time.monotonic()

    def ended(number: int, error: BaseException | None) -> None:
        held.release()
        if failed := backups[number].ended(error):
            failures[number] = outcome.failed[backups[number].source.vm.ext_id] = failed

    def check() -> None:
        held.check_cancelled()
        held.release()

    pipeline = Pipeline(held.settings.parallel_vms, check, ended)
    pipeline.run(backup.run for backup in backups)
    for backup in backups:
        outcome.failed |= backup.failed_groups
    outcome.saved = {b.source.vm.ext_id: b.saved for b in backups if b.saved}
    saved = [saved for backup in backups for saved in backup.all_saved]
    failed = [backups[number].source.vm.name for number in sorted(failures)]
    for line in summary.lines(saved, failed, time.monotonic() - began):
        held.say(line)
    held.release()
    return list(failures.values())


def _keep_only_newest(
    job: JobContext, client: prism_client.PrismClient, sources: Iterable[inventory.Source]
) -> None:
    """Once the daemon has taken everything: of each VM only the newest reference stays."""
    if not isinstance(job.endpoint.receive(), End):
        return
    for source in sources:
        file = state_file(job, source)
        try:
            with file.locked():
                Chain(job, client, file).keep_only_newest()
        except StateError as error:
            job.warn(f"VM {source.vm.name}: older recovery points stay for now: {error}")
    job.endpoint.send(Ack())


def state_file(job: JobContext, source: inventory.Source) -> state.StateFile:
    """Where the chain of a VM is recorded."""
    folder = job.settings.state_dir / state.BACKUP / source.folder.cluster
    vm = source.vm
    return state.StateFile(folder / f"{vm.ext_id}.json", vm.ext_id, vm.name)


def _say_what_is_new(job: JobContext, now: Roster, before: Roster | None) -> None:
    """Name the VMs that are selected for the first time, and those that no longer are."""
    if before is None:
        return
    if new := now.without(before):
        job.say(f"VMs that job {before.job} did not have: {listed(new)}")
    if gone := before.without(now):
        job.warn(
            f"VMs of job {before.job} that are not selected any more: {listed(gone)}: were they "
            "deleted, renamed, or given another category?"
        )


def _report_unmatched(job: JobContext, line: str, reason: str) -> SelectionError:
    """Report a value that matches nothing; raise its error where it ends the job, or return it."""
    error = SelectionError(reason)
    if job.settings.abort_on_error:
        raise error
    job.report(line)
    return error


@attrs.frozen
class Shared:
    """What the VMs of a job have in common.

    `held` takes what the job log shall have at once, from any thread. `names` says by id what
    networks and categories are called; `reach` and `secret` are those of a Route.
    """

    held: HeldJob
    client: prism_client.PrismClient
    reach: transport.Transport
    secret: str | None
    names: Mapping[str, str]
    policies: KnownPolicies
    exclusion: DiskExclusion
    ranges: RangeOffers

    @classmethod
    def of(cls, job: JobContext, reach: Reach) -> Shared:
        """Ask Prism for what is asked once in a job."""
        client = reach.client
        names = _names(job, client)
        return cls(
            held=reach.held,
            client=client,
            reach=reach.transport,
            secret=new_secret(chap=job.settings.chap),
            names=names,
            policies=client.protection_policies.read(),
            exclusion=DiskExclusion(job.settings.exclude_disk, names),
            ranges=RangeOffers(job.settings, reach.held.warn),
        )


def _names(job: JobContext, client: prism_client.PrismClient) -> Mapping[str, str]:
    """What a restore to another cluster goes by; without them it needs more to be told."""
    try:
        return inventory.names_by_id(client)
    except prism_client.PrismError as error:
        job.warn(
            "the names of networks and categories are not saved, only their ids, and no category "
            f"can leave out a disk: {error}"
        )
        return {}


@attrs.frozen
class Prepared:
    """A VM whose disks are open, and all that is known before they are read."""

    snapshot: SnapshotGuard
    proofs: list[DiskProof]
    disks: OpenedDisks
    config: Configuration
    excluded: tuple[ExcludedDisk, ...] = ()


def doubts(vm: prism_client.Vm, consistency: str, saved: Container[str] = ()) -> Iterator[str]:
    """What may go wrong with a VM, as its record tells before the snapshot, one line each.

    `saved` are the volume groups that the job saves.
    """
    yield from vm_record.not_saved(vm, saved)
    tools = vm.guest_tools
    if consistency != "crash" and tools is not None and not tools.can_quiesce:
        state = "answer" if tools.is_reachable else "do not answer"
        yield (
            f"VM {vm.name}: an application-consistent snapshot is not to be expected: its guest "
            f"tools {state} and Prism does not call them capable of it"
        )
    for disk in vm.disks:
        if disk.external_volume:
            yield (
                f"VM {vm.name}: disk {disk.bus}.{disk.index} is on volume {disk.external_volume} "
                "of a storage array of another maker: it is not known whether Prism tracks its "
                "changes"
            )


class VmBackup:
    """The backup of one VM: what to stand on, what to read, and the files sent.

    It runs in a thread of its own, but what it sends is sent by that of the job; see Pipeline.
    """

    def __init__(self, job: JobContext, shared: Shared, source: inventory.Source) -> None:
        """Prepare the backup of `source` within `job`."""
        self._job = job
        self._aside = job.held()
        self._shared = shared
        self._client = shared.client
        self.source = source
        self._started = datetime.now(UTC)
        self._in_file = False
        self._hides_older = False
        self._check: Callable[[], None] = job.check_cancelled
        self._read_for_lists = self._compared = 0
        self._excluded_ids: frozenset[str] = frozenset()
        self.saved: SavedVm | None = None
        """What was saved, once all of it was sent."""

    @property
    def sources(self) -> list[inventory.Source]:
        """Whose chains this backup continues."""
        return [self.source]

    @property
    def all_saved(self) -> list[SavedVm]:
        """What was saved, for the summary."""
        return [self.saved] if self.saved else []

    @property
    def failed_groups(self) -> Mapping[str, Exception]:
        """The volume groups that were to be saved and are not, by id."""
        return {}

    def _groups(self) -> tuple[str, ...]:
        """The volume groups that are in the recovery point, and saved with the VM."""
        return ()

    def _saved_groups(self) -> Container[str]:
        """The volume groups that this job saves, with this VM or with another."""
        return ()

    @property
    def spoils_the_job(self) -> bool:
        """Whether a failure now must fail the job, because of what was sent already.

        That is half a file; or a raw image which the catalog takes for the newest of its name, in
        place of the one that the chain stands on.
        """
        return self._in_file or self._hides_older

    def ended(self, error: BaseException | None) -> Exception | None:
        """Say what there is to say; return the error of a VM that is not backed up.

        It is raised where it ends the job.
        """
        self._aside.release()
        if error is None:
            return None
        if not isinstance(error, VM_ERRORS) or self._ends_the_job:
            raise error
        name = self.source.vm.name
        log.warning("VM %s failed", name, exc_info=error)
        self._job.report(f"VM {name} is not backed up: {with_notes(error)}")
        return error

    @property
    def _ends_the_job(self) -> bool:
        return self.spoils_the_job or self._job.settings.abort_on_error

    def run(self, turn: Turn) -> None:
        """Back the VM up under its lock; record what it left, or that it failed."""
        watch = Stopwatch()
        file = state_file(self._job, self.source)
        with (
            file.locked(self._patience(turn)),
            self._aside.journal(self.source.vm.ext_id) as journal,
        ):
            watch.lap()
            self._started = file.new_second()
            chain = Chain(self._aside, self._client, file)
            try:
                self._back_up(chain, journal, turn, watch)
            except VM_ERRORS as error:
                if not self.saved:
                    chain.record_failure(error)
                    raise
                self._aside.report(
                    f"VM {self.source.vm.name} is backed up, but temporary objects could not be "
                    f"removed: {with_notes(error)}"
                )
        watch.clean_up = watch.lap()

    def _patience(self, turn: Turn) -> state.Patience:
        """How long another job on the same VM or group is waited for."""
        return state.Patience(self._job.settings.lock_wait, self._shared.held.say, turn.check)

    def _warn_of_a_policy(self, vm: prism_client.Vm) -> None:
        policy = self._shared.policies.of_vm(vm)
        if policy is not None:
            self._aside.warn(
                f"VM {vm.name} is also under a protection policy of Prism ({policy}): "
                "its recovery points and those of this job share the space and the limits "
                "of the cluster"
            )

    def _back_up(self, chain: Chain, journal: Journal, turn: Turn, watch: Stopwatch) -> None:
        base = chain.base(self.source.vm.name)
        chain.drop_obsolete(base)
        with ExitStack() as stack:
            ready = self._prepare(stack, chain, base, journal, turn)
            self._prepare_groups(stack, ready.snapshot, turn)
            watch.prepare = watch.lap()
            turn.stream(lambda: self._send_all(chain, ready, watch))
            self._prolong(ready.snapshot)

    def _prepare_groups(self, stack: ExitStack, snapshot: SnapshotGuard, turn: Turn) -> None:
        """Prepare what else is in the snapshot."""

    def _send_all(self, chain: Chain, ready: Prepared, watch: Stopwatch) -> None:
        """Send the VM, and what else is in the snapshot."""
        self._send(chain, ready, watch)

    def _prepare(
        self,
        stack: ExitStack,
        chain: Chain,
        base: state.Reference | None,
        journal: Journal,
        turn: Turn,
    ) -> Prepared:
        """Take a snapshot, plan what to read of it, and open its disks; `stack` undoes it."""
        self._check = turn.check
        turn.check()
        snapshot = self._take(stack, journal)
        turn.check()
        vm = self._client.vms.get(self.source.vm.ext_id)
        self._warn_of_a_policy(vm)
        for line in doubts(vm, self._job.settings.consistency, self._saved_groups()):
            self._aside.warn(line)
        excluded = self._excluded(vm)
        config = vm_record.from_vm(vm, self._shared.names)
        ready = self._open(stack, chain, base, snapshot, vm, config)
        return attrs.evolve(ready, excluded=excluded)

    def _open(
        self,
        stack: ExitStack,
        chain: Chain,
        base: state.Reference | None,
        snapshot: SnapshotGuard,
        vm: prism_client.Vm,
        config: Configuration,
    ) -> Prepared:
        """Plan what to read of the disks of a VM in a snapshot, and open them."""
        plans = self._plan(chain, vm, snapshot.recovery_point, base)
        self._check()
        proofs = self._proofs(plans)
        disks = self._open_disks(stack, snapshot, proofs)
        differences = self._compare(proofs, disks.devices)
        if differences and (ranged := disks.ranged):  # it may be the ranges that are wrong
            disks = attrs.evolve(disks, devices=ranged.over_iscsi())
            proofs = self._proofs(plans)
            differences = self._compare(proofs, disks.devices)
            if not differences:
                ranged.distrust()
        if differences:
            chain.fall_back(vm.name, "; ".join(map(str, differences)))
            proofs = self._proofs(self._plan(chain, vm, snapshot.recovery_point, None))
        return Prepared(snapshot, proofs, disks, config)

    def _open_disks(
        self, stack: ExitStack, snapshot: SnapshotGuard, proofs: list[DiskProof]
    ) -> OpenedDisks:
        share = self._job.settings.scrub
        needs = [
            (proof.plan, proof.to_read(share))
            for proof in proofs
            if proof.plan.base or proof.plan.regions.data_bytes
        ]
        return open_planned(stack, snapshot, needs, self._route())

    def _excluded(self, vm: prism_client.Vm) -> tuple[ExcludedDisk, ...]:
        """The disks that are not read, which the job log names; raise SelectionError for all."""
        excluded = self._shared.exclusion.of(vm, self._aside.report)
        for disk in excluded:
            self._aside.say(
                f"VM {vm.name} {exclusion.described(disk)} is NOT in this backup: {disk.reason}"
            )
        self._excluded_ids = frozenset(disk.disk_id for disk in excluded)
        return excluded

    def _send(self, chain: Chain, ready: Prepared, watch: Stopwatch) -> None:
        """Send the files of the VM, and record what it leaves; in the thread of the stream."""
        watch.lap()
        self._check = self._check_in_stream
        self._aside.release()
        point, proofs = ready.snapshot.recovery_point, ready.proofs
        self._send_file(self.source.folder.metadata(), ready.config.encode())
        with closing(in_turn(self._streams(ready))) as streams:
            entries = tuple(
                self._send_disk(proof, ready.disks.devices.get(proof.plan.index), pieces)
                for proof, pieces in streams
            )
        manifest = self._manifest(point, entries, ready)
        roots = {entry.disk_id: entry.image_root for entry in entries}
        plans = [proof.plan for proof in proofs]
        others = tuple(
            ext_id
            for ext_id in (point.vm_ext_id, *self._groups())
            if ext_id != self.source.vm.ext_id
        )
        chain.record(reference(point, plans, manifest.digest(), roots, others))
        ready.snapshot.keep()
        self._send_manifest(manifest)
        self.saved = SavedVm.of(
            manifest, chain.why_full, watch, self._compared, self._read_for_lists
        )
        watch.stream = watch.lap()

    def _prolong(self, snapshot: SnapshotGuard) -> None:
        """Let the new reference live on; without that it does until its first date."""
        try:
            snapshot.prolong()
        except prism_client.PrismError as error:
            self._aside.warn(
                f"VM {self.source.vm.name} is backed up, but its recovery point still expires in "
                f"{TEMPORARY.days} days: {error}: an incremental after that is a full"
            )

    def _take(self, stack: ExitStack, journal: Journal) -> SnapshotGuard:
        """Take the snapshot; `stack` deletes it unless it is kept."""
        return stack.enter_context(self._snapshot(journal))

    def _snapshot(self, journal: Journal) -> SnapshotGuard:
        vm = self.source.vm
        name = f"{OURS}{self._job.info.name} {vm.ext_id}"
        settings = self._job.settings
        return SnapshotGuard(
            self._client,
            journal,
            vm,
            name,
            settings.consistency,
            settings.backup_type,
            self._groups(),
        )

    def _route(self) -> Route:
        shared, aside, cluster = self._shared, self._aside, self.source.cluster
        offer = shared.ranges.of(cluster)
        return Route(aside.settings, cluster, shared.reach, shared.secret, aside.warn, offer)

    def _plan(
        self,
        chain: Chain,
        vm: prism_client.Vm,
        point: prism_client.RecoveryPoint,
        base: state.Reference | None,
    ) -> list[DiskPlan]:
        plan = partial(plan_disks, self._client, vm.disks, point)
        if base:
            try:
                return plan(base, self._warn, self._excluded_ids)
            except CHANGES_UNAVAILABLE as error:
                chain.fall_back(vm.name, f"Prism cannot list its changes: {error}")
        return plan(None, self._warn, self._excluded_ids)

    def _warn(self, text: str) -> None:
        self._aside.warn(f"VM {self.source.vm.name}: {text}")

    # --- the proof

    def _proofs(self, plans: list[DiskPlan]) -> list[DiskProof]:
        if self._job.settings.is_sparse:
            plans = [sparse(plan) for plan in plans]
        lists = state_file(self._job, self.source).lists
        proofs = [DiskProof(plan, lists, self._started, self._watch) for plan in plans]
        for proof in proofs:
            if proof.is_unknown:
                self._aside.say(
                    f"VM {self.source.vm.name} disk {proof.plan.index} is read as a whole once: "
                    "the digest list of its last backup is not on this host"
                )
        return proofs

    def _compare(
        self, proofs: list[DiskProof], devices: Mapping[int, iscsi_attach.BlockDevice]
    ) -> list[Difference]:
        """Compare some of what Prism says did not change with what the base held."""
        found = []
        for proof in proofs:
            if proof.plan.base and not proof.is_unknown:
                found += proof.compare(devices[proof.plan.index], self._job.settings.scrub)
                self._compared += proof.compared_bytes
        return found

    def _watch(self, what: str, total: int) -> Callable[[int], None]:
        """To be told of bytes that were read: says how far it is, and ends when cancelled."""
        progress = Progress(self._aside.say, what, total)

        def advance(length: int) -> None:
            self._check()
            progress.advance(length)

        return advance

    def _check_in_stream(self) -> None:
        self._job.check_cancelled()
        self._aside.release()

    # --- the files

    def _streams(
        self, ready: Prepared
    ) -> Iterator[tuple[DiskProof, Callable[[], Generator[Buffer]]]]:
        """What is sent of each disk, to be begun when it is wanted."""
        for proof in ready.proofs:
            plan = proof.plan
            gap = ready.disks.gaps.get(plan.index, 0)
            delta = partial(delta_pieces, on_zeros=plan.is_sparse, gap=gap)
            pieces = image_pieces if plan.is_raw else delta
            yield (
                proof,
                partial(pieces, ready.disks.devices.get(plan.index), plan.regions, proof.image),
            )

    def _send_disk(
        self,
        proof: DiskProof,
        device: iscsi_attach.BlockDevice | None,
        pieces: Iterable[Buffer],
    ) -> DiskEntry:
        folder, plan, image = self.source.folder, proof.plan, proof.image
        disk = plan.disk
        length, spans = delta_length(plan.regions)
        if plan.is_raw:
            name = folder.raw(plan.index, disk.disk_ext_id)
            length = disk.size
        else:
            name = folder.delta(plan.index, disk.disk_ext_id, self._started)
        digest = self._send_stream(name, length, pieces)
        self._hides_older |= plan.is_raw and self._job.info.level is not Level.FULL
        self._read_for_lists += proof.complete(device)
        self._send_file(folder.digests(plan.index, disk.disk_ext_id, self._started), image.encode())
        proof.save()
        return DiskEntry(
            index=plan.index,
            disk_id=disk.disk_ext_id,
            size=disk.size,
            file=name,
            kind="raw" if plan.is_raw else "phcbt01",
            stream_bytes=length,
            regions=spans,
            data_bytes=plan.regions.data_bytes,
            digest=digest,
            base=plan.base,
            image_root=image.root(),
        )

    def _send_file(self, name: str, content: bytes) -> None:
        self._send_stream(name, len(content), (content,))

    def _send_stream(self, name: str, length: int, pieces: Iterable[Buffer]) -> str:
        """Send one file of exactly `length` bytes; return the digest of its content."""
        send = self._job.endpoint.send
        now = int(self._started.timestamp())
        sender = StreamSender(send)
        progress = Progress(self._job.say, name.rpartition("/")[2], length)
        self._in_file = True
        send(File(name, Stat(FileType.REGULAR, length), Times(now, now, now)), DataStart())
        for piece in pieces:
            self._job.check_cancelled()
            sender.put(piece)
            progress.advance(memoryview(piece).nbytes)
        digest = sender.finish()
        if sender.sent != length:
            raise SourceError(
                f"{name}: {sender.sent} bytes were read where {length} were announced"
            )
        send(DataEnd())
        self._in_file = False
        return digest

    # --- what it was

    def _manifest(
        self,
        point: prism_client.RecoveryPoint,
        disks: tuple[DiskEntry, ...],
        ready: Prepared,
    ) -> Manifest:
        info, fields = self._job.info, point_fields(point.id)
        return Manifest(
            schema=SCHEMA,
            job=info.name,
            job_id=info.job_id,
            level=info.level.value if info.level else "F",
            cluster=self.source.folder.cluster,
            cluster_id=self.source.cluster.ext_id,
            vm_id=self.source.vm.ext_id,
            vm_name=self.source.vm.name,
            consistency_asked=self._job.settings.consistency,
            consistency_got=point.consistency.value,
            recovery_point=fields["reference_recovery_point_ext_id"],
            disks=disks,
            snapshot_uuid=fields["snapshot_uuid"],
            configuration=attrs.evolve(ready.config, prism={}).encode().decode(),
            excluded=ready.excluded,
        )

    def _send_manifest(self, manifest: Manifest) -> None:
        content = manifest.encode()
        self._job.endpoint.send(
            RestoreObject(manifest.object_name, len(content)), Data(content), DataEnd()
        )
