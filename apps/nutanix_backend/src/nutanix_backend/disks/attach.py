"""The disks of a snapshot: offered by a volume group, opened over iSCSI, and kept as a reference.

The one way to the bytes of a VM; backup and replication both take it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from nutanix_backend.cluster import transport
from nutanix_backend.cluster.guards import IscsiSessionGuard, VolumeGroupGuard
from nutanix_backend.errors import SourceError
from nutanix_backend.references import state
from nutanix_backend.references.point_fields import point_fields

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from contextlib import ExitStack

    import iscsi_attach
    import prism_client

    from nutanix_backend.cluster.guards import SnapshotGuard
    from nutanix_backend.cluster.range_offer import RangeOffer
    from nutanix_backend.disks.plan import DiskPlan
    from nutanix_backend.settings.parameters import Settings


@attrs.frozen
class Route:
    """How the disks of a cluster are reached from here; `warn` hears of a doubtful address.

    `secret` is the CHAP secret of the sessions, None for none. Prism keeps the one of an initiator
    for all volume groups that it may use: those of one process share it. `offer` says whether the
    cluster gives bytes by HTTP ranges; None where that is not to be used.
    """

    settings: Settings
    cluster: prism_client.Cluster
    transport: transport.Transport
    secret: str | None
    warn: Callable[[str], object]
    offer: RangeOffer | None = None

    def portal(self) -> iscsi_attach.Portal:
        """The data services address; raise SourceError or ParameterError when there is none."""
        return transport.portal(self.settings, self.cluster, self.warn)


def open_disks(
    stack: ExitStack, snapshot: SnapshotGuard, plans: list[DiskPlan], route: Route
) -> Mapping[int, iscsi_attach.BlockDevice]:
    """Offer the disks of `plans`, log in, and open each; by disk index."""
    if not plans:
        return {}
    portal = route.portal()
    disks = [plan.snapshot.disk_recovery_point_ext_id for plan in plans]
    group = stack.enter_context(
        VolumeGroupGuard(snapshot, disks, transport.initiator_name(), route.secret)
    )
    session = stack.enter_context(IscsiSessionGuard(group, portal, route.transport))
    return dict(open_luns(session.attachment, plans))


def open_luns(
    attachment: iscsi_attach.Attachment, plans: list[DiskPlan], *, writable: bool = False
) -> Iterator[tuple[int, iscsi_attach.BlockDevice]]:
    """Open the LUNs, which come in the order of the disks; the size of each must agree."""
    if len(attachment.luns) != len(plans):
        raise SourceError(
            f"the target offers {len(attachment.luns)} disks where {len(plans)} were asked for"
        )
    for plan, lun in zip(plans, attachment.luns, strict=True):
        if lun.size != plan.disk.size:
            raise SourceError(
                f"disk {plan.disk.bus}.{plan.disk.index} has {plan.disk.size} bytes, its snapshot "
                f"{lun.size}: it was probably resized just now: run the job again"
            )
        yield plan.index, attachment.open(lun.lun, writable=writable)


def open_group(
    attachment: iscsi_attach.Attachment, name: str, sizes: Sequence[int]
) -> list[iscsi_attach.BlockDevice]:
    """Open the disks of a volume group for writing, in their order; their sizes must be `sizes`."""
    if [lun.size for lun in attachment.luns] != list(sizes):
        raise SourceError(f"volume group {name} does not offer the disks that it was given")
    return [attachment.open(lun.lun, writable=True) for lun in attachment.luns]


def reference(
    point: prism_client.RecoveryPoint,
    plans: Iterable[DiskPlan],
    manifest: str,
    image_roots: Mapping[str, str] | None = None,
    shared_with: tuple[str, ...] = (),
) -> state.Reference:
    """A recovery point as what later changes are compared with; `manifest` is a digest.

    `image_roots` has the roots of the digest lists of the disks, by their ids; `shared_with` are
    the ids of the others in the recovery point.
    """
    roots = image_roots or {}
    return state.Reference(
        **point_fields(point.id),
        vm_recovery_point=point.vm_recovery_point_ext_id,
        manifest=manifest,
        disks=tuple(
            state.DiskReference(
                plan.disk.disk_ext_id,
                plan.disk.size,
                plan.snapshot.disk_recovery_point_ext_id,
                roots.get(plan.disk.disk_ext_id, ""),
                _other_part(point, plan),
            )
            for plan in plans
        ),
        shared_with=shared_with,
    )


def _other_part(point: prism_client.RecoveryPoint, plan: DiskPlan) -> str:
    part = plan.snapshot.vm_recovery_point_ext_id
    return "" if part == point.vm_recovery_point_ext_id else part
