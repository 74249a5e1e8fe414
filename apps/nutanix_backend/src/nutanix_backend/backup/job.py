"""Full, incremental and differential backup."""

from __future__ import annotations

import logging
import time
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import attrs
import iscsi_attach
import prism_client
from command_line.progress import Progress
from command_line.text import size, with_notes
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
from nutanix_backend.backup.chain import Chain
from nutanix_backend.backup.proof import DiskProof
from nutanix_backend.cluster import inventory, sweep, transport
from nutanix_backend.cluster.guards import SnapshotGuard
from nutanix_backend.disks.attach import Route, open_disks, reference
from nutanix_backend.disks.plan import CHANGES_UNAVAILABLE, DiskPlan, plan_disks
from nutanix_backend.disks.streams import (
    StreamSender,
    delta_length,
    delta_pieces,
    image_pieces,
)
from nutanix_backend.errors import BackendError, SelectionError, SourceError, StateError
from nutanix_backend.manifest import SCHEMA, DiskEntry, Manifest
from nutanix_backend.names import OURS
from nutanix_backend.references import state
from nutanix_backend.references.point_fields import point_fields

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    from ptcomm.events import Buffer
    from vm_config import ahv_record

    from nutanix_backend.backup.proof import Difference
    from nutanix_backend.cluster.journal import Journal
    from nutanix_backend.job import JobContext

log = logging.getLogger(__name__)

VM_ERRORS = (BackendError, prism_client.PrismError, iscsi_attach.IscsiAttachError)
"""What may fail for one VM without ending the job, as long as no file of it is half sent."""


def run(job: JobContext) -> None:
    """Back up every VM asked for; one that fails is reported, and fails the job if all do."""
    chosen = transport.choose(job.settings.transport)
    job.say(str(chosen))
    with inventory.connect(job.settings, job.warn) as client, job.journal() as journal:
        sweep.before_job(job, client, job.settings)
        selected = inventory.select(client, job.settings)
        for missing in selected.missing:
            _report_missing(job, missing)
        sources = list(selected.sources)
        failures = [
            error
            for source in sources
            if (error := _attempt(job, VmBackup(job, client, journal, source, chosen)))
        ]
        if len(failures) == len(sources):
            raise failures[-1]
        job.endpoint.send(NoMoreFiles())
        if job.settings.is_lean:
            _keep_only_newest(job, client, sources)


def _keep_only_newest(
    job: JobContext, client: prism_client.PrismClient, sources: list[inventory.Source]
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
    return state.StateFile(folder / f"{source.vm.ext_id}.json", source.vm.ext_id)


def _report_missing(job: JobContext, missing: inventory.Missing) -> None:
    """Report a value that selects no VM; raise SelectionError where one error ends the job."""
    if job.settings.abort_on_error:
        raise SelectionError(missing.reason)
    job.report(f"{missing.wanted} is not backed up: {missing.reason}")


def _attempt(job: JobContext, backup: VmBackup) -> Exception | None:
    name = backup.source.vm.name
    try:
        backup.run()
    except VM_ERRORS as error:
        if backup.spoils_the_job or job.settings.abort_on_error:
            raise
        log.warning("VM %s failed", name, exc_info=error)
        job.report(f"VM {name} is not backed up: {with_notes(error)}")
        return error
    return None


class VmBackup:
    """The backup of one VM: what to stand on, what to read, and the files sent."""

    def __init__(
        self,
        job: JobContext,
        client: prism_client.PrismClient,
        journal: Journal,
        source: inventory.Source,
        reach: transport.Transport,
    ) -> None:
        """Prepare the backup of `source` within `job`, whose journal learns what it makes."""
        self._job = job
        self._client = client
        self._journal = journal
        self.source = source
        self._transport = reach
        self._started = datetime.now(UTC)
        self._in_file = False
        self._hides_older = False
        self._complete = False
        self._read_for_lists = self._compared = 0

    @property
    def spoils_the_job(self) -> bool:
        """Whether a failure now must fail the job, because of what was sent already.

        That is half a file; or a whole disk which the catalog takes for the newest of its name, in
        place of the one that the chain stands on.
        """
        return self._in_file or self._hides_older

    def run(self) -> None:
        """Back the VM up under its lock; record what it left, or that it failed."""
        vm = self.source.vm
        file = state_file(self._job, self.source)
        with file.locked():
            self._started = file.new_second()
            chain = Chain(self._job, self._client, file)
            try:
                self._warn_of_a_policy()
                base = chain.base(vm.name)
                chain.drop_obsolete(base)
                self._back_up(chain, base)
            except VM_ERRORS as error:
                if not self._complete:
                    chain.record_failure(error)
                    raise
                self._job.report(
                    f"VM {vm.name} is backed up, but temporary objects could not be removed: "
                    f"{with_notes(error)}"
                )

    def _warn_of_a_policy(self) -> None:
        policy = self._client.protection_policies.of_vm(self.source.vm)
        if policy is not None:
            self._job.warn(
                f"VM {self.source.vm.name} is also under a protection policy of Prism ({policy}): "
                "its recovery points and those of this job share the space and the limits "
                "of the cluster"
            )

    def _back_up(self, chain: Chain, base: state.Reference | None) -> None:
        began = time.monotonic()
        with ExitStack() as stack:
            snapshot = stack.enter_context(self._snapshot())
            vm = self._client.vms.get(self.source.vm.ext_id)
            plans = self._plan(chain, vm, snapshot.recovery_point, base)
            to_read = [plan for plan in plans if plan.base or plan.regions.data_bytes]
            devices = open_disks(stack, snapshot, to_read, self._route())
            proofs = self._proofs(plans)
            if differences := self._compare(proofs, devices):
                chain.fall_back(vm.name, "; ".join(map(str, differences)))
                plans = self._plan(chain, vm, snapshot.recovery_point, None)
                proofs = self._proofs(plans)
            config = vm_record.from_vm(vm, self._names())
            self._send_file(self.source.folder.metadata(), config.encode())
            entries = tuple(
                self._send_disk(plan, proof, devices.get(plan.index))
                for plan, proof in zip(plans, proofs, strict=True)
            )
            manifest = self._manifest(snapshot.recovery_point, entries, config)
            snapshot.prolong()
            roots = {entry.disk_id: entry.image_root for entry in entries}
            chain.record(reference(snapshot.recovery_point, plans, manifest.digest(), roots))
            snapshot.keep()
            self._send_manifest(manifest)
            self._complete = True
        self._summarise(manifest, time.monotonic() - began)

    def _names(self) -> dict[str, str]:
        """What a restore to another cluster goes by; without them it needs more to be told."""
        try:
            return inventory.names_by_id(self._client)
        except prism_client.PrismError as error:
            self._job.warn(
                f"VM {self.source.vm.name}: the names of its networks and categories are not saved,"
                f" only their ids: {error}"
            )
            return {}

    def _snapshot(self) -> SnapshotGuard:
        vm = self.source.vm
        name = f"{OURS}{self._job.info.name} {vm.ext_id}"
        consistency = self._job.settings.consistency
        return SnapshotGuard(self._client, self._journal, vm, name, consistency)

    def _route(self) -> Route:
        job = self._job
        return Route(job.settings, self.source.cluster, self._transport, job.warn)

    def _plan(
        self,
        chain: Chain,
        vm: prism_client.Vm,
        point: prism_client.RecoveryPoint,
        base: state.Reference | None,
    ) -> list[DiskPlan]:
        if base:
            try:
                return plan_disks(self._client, vm.disks, point, base, self._job.warn)
            except CHANGES_UNAVAILABLE as error:
                chain.fall_back(vm.name, f"Prism cannot list its changes: {error}")
        return plan_disks(self._client, vm.disks, point, None, self._job.warn)

    # --- the proof

    def _proofs(self, plans: list[DiskPlan]) -> list[DiskProof]:
        lists = state_file(self._job, self.source).lists
        proofs = [DiskProof(plan, lists, self._started, self._watch) for plan in plans]
        for proof in proofs:
            if proof.is_unknown:
                self._job.say(
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
        progress = Progress(self._job.say, what, total)

        def advance(length: int) -> None:
            self._job.check_cancelled()
            progress.advance(length)

        return advance

    # --- the files

    def _send_disk(
        self, plan: DiskPlan, proof: DiskProof, device: iscsi_attach.BlockDevice | None
    ) -> DiskEntry:
        folder, disk = self.source.folder, plan.disk
        length, spans = delta_length(plan.regions)
        image = proof.image
        if plan.base:
            name = folder.delta(plan.index, disk.disk_ext_id, self._started)
            pieces: Generator[Buffer] = delta_pieces(device, plan.regions, image)
        else:
            name = folder.raw(plan.index, disk.disk_ext_id)
            length = disk.size
            pieces = image_pieces(device, plan.regions, image)
        digest = self._send_stream(name, length, pieces)
        self._hides_older |= not plan.base and self._job.info.level is not Level.FULL
        self._read_for_lists += proof.complete(device)
        self._send_file(folder.digests(plan.index, disk.disk_ext_id, self._started), image.encode())
        proof.save()
        return DiskEntry(
            index=plan.index,
            disk_id=disk.disk_ext_id,
            size=disk.size,
            file=name,
            kind="phcbt01" if plan.base else "raw",
            stream_bytes=length,
            regions=spans,
            data_bytes=plan.regions.data_bytes,
            digest=digest,
            base=plan.base,
            image_root=image.root(),
        )

    def _send_file(self, name: str, content: bytes) -> None:
        self._send_stream(name, len(content), (part for part in (content,)))

    def _send_stream(self, name: str, length: int, pieces: Generator[Buffer]) -> str:
        """Send one file of exactly `length` bytes; return the digest of its content."""
        send = self._job.endpoint.send
        now = int(self._started.timestamp())
        sender = StreamSender(send)
        progress = Progress(self._job.say, name.rpartition("/")[2], length)
        self._in_file = True
        send(File(name, Stat(FileType.REGULAR, length), Times(now, now, now)), DataStart())
        with closing(pieces):
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
        config: ahv_record.VmConfig,
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
            configuration=attrs.evolve(config, prism={}).encode().decode(),
        )

    def _send_manifest(self, manifest: Manifest) -> None:
        content = manifest.encode()
        self._job.endpoint.send(
            RestoreObject(manifest.object_name, len(content)), Data(content), DataEnd()
        )

    def _summarise(self, manifest: Manifest, seconds: float) -> None:
        changed = sum(1 for disk in manifest.disks if disk.base)
        read = sum(disk.data_bytes for disk in manifest.disks)
        sent = sum(disk.stream_bytes for disk in manifest.disks)
        self._job.say(
            f"VM {manifest.vm_name}: {len(manifest.disks)} disks ({changed} as changes only), "
            f"{size(read)} read, {size(sent)} sent, {seconds:.1f} s"
        )
        if changed:
            self._job.say(
                f"VM {manifest.vm_name}: {size(self._compared)} without changes read and compared, "
                f"{size(self._read_for_lists)} with changes in part read for the digest lists"
            )
