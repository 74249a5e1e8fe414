"""Questions that single calls answer, with recovery points and a volume group of the scratch VM."""

from __future__ import annotations

import time
import uuid
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import attrs
import prism_client
from iscsi_attach import IscsiAttachError

from nutanix_backend.cluster import inventory, journal, transport
from nutanix_backend.cluster.guards import SnapshotGuard, new_secret
from nutanix_backend.disks.attach import Route, open_disks
from nutanix_backend.disks.plan import DiskPlan, plan_disks
from nutanix_backend.errors import BackendError, as_line
from nutanix_backend.qualify.rows import Answer, Row
from nutanix_backend.settings.parameters import prism_address

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from prism_client import PrismClient, RecoveryPoint, Vm

    from nutanix_backend.settings.parameters import Settings

LOOKED_AT = 1 << 20
"""Bytes of the disk that are read before and after its recovery point is deleted."""
REPEATED = "Is a request done once that is sent twice?"
ORDER = "Can a recovery point be deleted while a volume group uses its disks?"


@attrs.frozen
class Calls:
    """The calls of one run, on the VM of this id."""

    client: PrismClient
    settings: Settings
    run: str
    vm_id: str

    def rows(self) -> Iterator[Row]:
        """Ask everything; an error leaves the questions behind it open."""
        try:
            yield self._repeated()
            yield from self._of_a_snapshot()
        except (BackendError, prism_client.PrismError, IscsiAttachError) as error:
            yield Row("Were all single calls made?", Answer.OPEN, as_line(error), "nothing")

    def _repeated(self) -> Row:
        """Make a recovery point twice under one request id, as after an answer that was lost."""
        key = uuid.uuid4()
        made = {self._point(key).ext_id for _ in range(2)}
        for ext_id in made:
            self.client.recovery_points.delete(ext_id)
        if len(made) == 1:
            seen = "the second request got the recovery point of the first"
            return Row(REPEATED, Answer.YES, seen, "nothing")
        seen = "two recovery points were made"
        return Row(REPEATED, Answer.OTHERWISE, seen, "the sweep of the next job removes the second")

    def _point(self, key: uuid.UUID) -> RecoveryPoint:
        return self.client.recovery_points.create(
            self.vm_id,
            name=f"podheitor {self.run} repeated",
            expires=datetime.now(UTC) + timedelta(days=1),
            consistency=prism_client.Consistency.CRASH,
            request_id=key,
        )

    def _of_a_snapshot(self) -> Iterator[Row]:
        vm = self.client.vms.get(self.vm_id)
        prism = prism_address(self.settings)
        with (
            journal.opened(self.settings.state_dir, f"{self.run}.calls", prism) as intents,
            ExitStack() as stack,
        ):
            began = time.monotonic()
            name = f"podheitor {self.run} calls"
            snapshot = stack.enter_context(SnapshotGuard(self.client, intents, vm, name, "crash"))
            taken = time.monotonic()
            point = snapshot.recovery_point
            yield _ids(vm, point)
            plans = plan_disks(self.client, vm.disks, point, None, _ignore)
            yield _allocated(plans)
            planned = time.monotonic()
            device = open_disks(stack, snapshot, plans, self._route(vm))[0]
            opened = time.monotonic()
            yield Row(
                "How long do the steps before the first byte take?",
                Answer.YES,
                f"snapshot {taken - began:.1f} s, list of regions {planned - taken:.1f} s, volume "
                f"group and login {opened - planned:.1f} s",
                "parallel_vms prepares other VMs meanwhile",
            )
            before, after = bytearray(LOOKED_AT), bytearray(LOOKED_AT)
            device.read_into(0, memoryview(before))
            try:
                self.client.recovery_points.delete(point.ext_id)
            except prism_client.PrismError as error:
                yield Row(ORDER, Answer.OTHERWISE, str(error), "jobs delete the volume group first")
                return
            device.read_into(0, memoryview(after))
            yield _order(same=before == after)

    def _route(self, vm: Vm) -> Route:
        clusters = inventory.data_clusters(self.client)
        cluster = clusters[vm.cluster_ext_id or next(iter(clusters))]
        secret = new_secret(chap=self.settings.chap)
        return Route(self.settings, cluster, transport.choose("userspace"), secret, _ignore)


def _ids(vm: Vm, point: RecoveryPoint) -> Row:
    question = "Do recovery points name the disks of the VM?"
    named = {disk.disk_ext_id for disk in point.disks if disk.disk_ext_id}
    missing = [disk.disk_ext_id for disk in vm.disks if disk.disk_ext_id not in named]
    if missing:
        seen = f"{', '.join(missing)} not among {', '.join(sorted(named))}"
        return Row(question, Answer.NO, seen, "backups of this cluster fail")
    seen = f"all {len(vm.disks)} disks, among {len(point.disks)} entries"
    return Row(question, Answer.YES, seen, "nothing")


def _allocated(plans: Sequence[DiskPlan]) -> Row:
    question = "Does Prism list which parts of a disk hold data?"
    data = sum(plan.regions.data_bytes for plan in plans)
    total = sum(plan.disk.size for plan in plans)
    seen = f"{data} of {total} bytes"
    if data < total:
        return Row(question, Answer.YES, seen, "nothing")
    return Row(question, Answer.OTHERWISE, seen, "fulls read whole disks")


def _order(*, same: bool) -> Row:
    if same:
        seen = "it was deleted, and the disk was still read with the same bytes"
        return Row(ORDER, Answer.YES, seen, "nothing: jobs delete the volume group first")
    seen = "it was deleted, and the disk then had other bytes"
    return Row(ORDER, Answer.OTHERWISE, seen, "jobs delete the volume group first")


def _ignore(_text: str) -> None:
    """A warning of a step whose rows say the same."""
