"""The restore drill: a VM that is made to see that it starts, and removed."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

import attrs
from vm_replica.evidence import TrialKind

from nutanix_backend.ahv import make_vm, watch
from nutanix_backend.disks.targets import DiskTarget, NoTarget
from nutanix_backend.errors import DrillFailed
from nutanix_backend.names import DRILL
from nutanix_backend.restore.destination import NewVm, empty_disks, record_trial, written_disks

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import ExitStack

    from nutanix_backend.job import JobContext
    from nutanix_backend.restore.plan import DiskChain, VmPlan
    from nutanix_backend.restore.writer import DiskWriter


class Drill(NewVm):
    """A new VM that reaches nobody, is started and watched, and goes again."""

    is_slow = False
    """One VM at a time is watched, in the thread of the job: a drill can be cancelled."""

    def __init__(self, job: JobContext, stack: ExitStack) -> None:
        """Refuse what cannot be seen, then connect."""
        watch.check_options(job.settings)
        super().__init__(job, stack)

    def prepare(self, plan: VmPlan) -> None:
        """Ask the cluster for a VM; a volume group is only proven, the VM is tried without it."""
        if not plan.is_group:
            super().prepare(plan)

    def begin(self, plan: VmPlan) -> None:
        """Say where the VM goes."""
        if not plan.is_group:
            super().begin(plan)

    def target(self, plan: VmPlan, chain: DiskChain) -> DiskTarget:
        """A place on the way to the cluster; nowhere for a disk of a volume group."""
        return NoTarget() if plan.is_group else super().target(plan, chain)

    def finish(self, plan: VmPlan, writers: Mapping[str, DiskWriter]) -> None:
        """Create the VM, watch it, remove it; raise DrillFailed when it does not live."""
        if plan.is_group:
            self.job.say(f"volume group {plan.origin.vm_name} is no part of the drill")
            return
        origin, order = plan.origin, self._specified(plan)
        subnet = watch.subnet_for(self.job.settings, order.site.networks.subnets)
        order = attrs.evolve(order, isolation=make_vm.Isolation(subnet))
        vm, disks = self._vms[origin.folder], (written_disks(writers), empty_disks(plan))
        with vm.stack, make_vm.temporary_vm(vm.creation, order, *disks) as made:
            self.job.say(f"{origin} is made as {order.name} ({made.ext_id}) and switched on")
            try:
                verdict = self._watch(made.ext_id)
            except DrillFailed as error:
                record_trial(self.job, origin, TrialKind.DRILL, fault=str(error))
                raise DrillFailed(f"the drill of {origin} failed: {error}") from error
            record_trial(self.job, origin, TrialKind.DRILL, seen=str(verdict))
        self.job.say(f"{origin} lives: {verdict}; the VM of the drill is removed")

    def _watch(self, vm_id: str) -> watch.DrillVerdict:
        job = self.job
        return watch.Watch(self.client, vm_id, job.settings, job.check_cancelled).run()

    def _wanted_identity(self) -> str:
        return "new"

    def _name(self, old_name: str) -> str:
        """A name that nobody else has, and by which a sweep knows whose it is."""
        return f"{DRILL}{secrets.token_hex(4)} {old_name}"[: make_vm.LONGEST_NAME]
