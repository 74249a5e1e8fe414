"""The VM that is replicated, on its own cluster: shut down, proven to be replicated, switched on.

The last cycle is one whose recovery point is younger than a mark: a recovery point that we take
when the VM is off. Both times are the cluster's own, so no clock of ours is believed.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from uuid import uuid4

import attrs
import prism_client
from vm_replica.failover.errors import FailoverFailed, FailoverRefused

from nutanix_backend.names import OURS

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from prism_client import PrismClient, Vm

_LOOK = 1.0
"""Seconds between two looks at the cluster or the store."""
_MARK_LIFE = timedelta(days=1)


@attrs.frozen
class PrismSource:
    """A VM, by id. `taken` tells when the newest generation was taken, in seconds of the epoch.

    `grace` is how long a guest may take to shut down, `patience` how long the last cycle may take,
    both in seconds; a guest that does not go down is switched off if `force`. `groups` tells which
    volume groups come with its cycles.
    """

    client: PrismClient
    vm_id: str
    taken: Callable[[], int]
    say: Callable[[str], object]
    grace: float = 300.0
    patience: float = 3600.0
    force: bool = False
    groups: Callable[[], Collection[str]] = frozenset

    def refuse_unfit(self) -> None:
        """Raise FailoverRefused when this Prism does not know the VM, or data would stay behind.

        That is what is written to a volume group that no cycle brings, or by others than the VM.
        """
        if reason := self._left_behind(self._known()):
            raise FailoverRefused(reason)

    def refuse_unknown(self) -> None:
        """Raise FailoverRefused when this Prism does not know the VM."""
        self._known()

    def _known(self) -> Vm:
        try:
            return self.client.vms.get(self.vm_id)
        except prism_client.NotFound as error:
            raise FailoverRefused(f"Prism does not know VM {self.vm_id}: {error}") from error

    def _left_behind(self, vm: Vm) -> str:
        """What a move would leave behind, and what to do; empty for nothing."""
        brought, attached = self.groups(), vm.volume_group_ext_ids
        if alone := [
            group for group in attached if group not in brought and self._has_disks(group)
        ]:
            return (
                f"volume group {alone[0]} of VM {vm.name} is in no replica that takes cycles, so "
                "what is written to it would be left behind: replicate it with the VM, or detach it"
            )
        for other in self.client.vms.list() if attached else ():
            shared = [group for group in attached if group in other.volume_group_ext_ids]
            if shared and other.ext_id != vm.ext_id and other.power_state != "OFF":
                return (
                    f"VM {other.name} is on, and uses volume group {shared[0]} too: what it goes "
                    "on to write would be left behind: shut it down first"
                )
        for group in attached:
            if self.client.volume_groups.clients(group):
                return (
                    f"volume group {group} is attached to hosts over iSCSI too: what they go on to "
                    "write would be left behind: detach them first"
                )
        return ""

    def _has_disks(self, group: str) -> bool:
        return bool(self.client.volume_groups.get(group).disks)

    def is_on(self) -> bool:
        """Whether the VM is not off."""
        return self.client.vms.get(self.vm_id).power_state != "OFF"

    def shut_down(self) -> None:
        """Shut the guest down; raise FailoverFailed when it does not check_cancelled that."""
        self.client.vms.shut_down(self.vm_id)
        if self._is_off_within(self.grace):
            return
        if not self.force:
            raise FailoverFailed(
                f"the guest has not shut down within {self.grace:.0f} s: shut it down from inside, "
                "or use --force to switch it off"
            )
        self.say("the guest did not shut down: it is switched off now")
        self.client.vms.power_off(self.vm_id)

    def last_cycle(self) -> None:
        """Wait for a generation that was taken after now; raise FailoverFailed if none comes."""
        mark = self._mark()
        self.say(f"waiting up to {self.patience:.0f} s for a cycle of the source")
        deadline = time.monotonic() + self.patience
        while self.taken() <= mark:
            if time.monotonic() >= deadline:
                raise FailoverFailed(
                    f"no cycle came within {self.patience:.0f} s: does `replicate` run at the "
                    "source? If the source is lost, fail over unplanned"
                )
            time.sleep(_LOOK)
        if self.is_on():
            raise FailoverFailed("the source was switched on meanwhile: it has newer data again")
        if reason := self._left_behind(self.client.vms.get(self.vm_id)):
            raise FailoverFailed(reason)

    def power_on(self) -> None:
        """Switch the VM on. A guest that is going down is waited for, or it would stay off."""
        if not self.is_on() or self._is_off_within(min(self.grace, 30.0)):
            self.client.vms.power_on(self.vm_id)

    def _is_off_within(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while self.is_on():
            if time.monotonic() >= deadline:
                return False
            time.sleep(_LOOK)
        return True

    def _mark(self) -> int:
        """The cluster's time now, as the second in which a recovery point of the VM was taken."""
        points = self.client.recovery_points
        point = points.create(
            self.vm_id,
            name=f"{OURS}failover mark {uuid4()}",
            expires=datetime.now(UTC) + _MARK_LIFE,
            consistency=prism_client.Consistency.CRASH,
        )
        points.delete(point.ext_id)
        return int(point.created.timestamp())
