"""Changed regions of v3, asked of the cluster that has the snapshot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from prism_client._regions import Page, open_listing
from prism_client._v3.api import segment

if TYPE_CHECKING:
    from prism_client._regions import CheckedListing
    from prism_client._v3.elements import Elements
    from prism_client.model import DiskSnapshotRef


@attrs.frozen
class ChangedRegions:
    """services.ChangedRegions over v3.

    Without a reference, v3's description says in one place that the sparse parts of a disk are left
    out, and in another that they are listed, as zeroed. Both mean the same here.
    """

    elements: Elements

    def open(
        self, disk: DiskSnapshotRef, reference: DiskSnapshotRef | None, *, disk_size: int
    ) -> CheckedListing:
        kind = "volume_group_snapshots" if disk.of_group else "vm_snapshots"
        element = self.elements.holder(f"{kind}/{segment(disk.recovery_point_ext_id)}")
        paths = _paths(disk, reference)

        def page(offset: int, length: int | None) -> Page:
            window = {"start_offset": offset}
            if length is not None:
                window["end_offset"] = offset + length
            body = element.ask("data/changed_regions", {**paths, **window})
            return Page(
                regions=body.array("region_list"),
                next_offset=body.opt_integer("next_offset"),
                file_size=body.opt_integer("file_size"),
                is_truncated=False,
                where=body.where,
                kind_field="type",
            )

        return open_listing(page, disk, reference, disk_size)


def _paths(disk: DiskSnapshotRef, reference: DiskSnapshotRef | None) -> dict[str, Any]:
    """Name the files; an explicit null for no reference is refused."""
    paths = {"snapshot_file_path": disk.disk_recovery_point_ext_id}
    if reference is not None:
        paths["reference_snapshot_file_path"] = reference.disk_recovery_point_ext_id
    return paths
