"""Bytes of a disk's snapshot from the cluster, by HTTP ranges.

No public release of Prism is known to offer this, and no official SDK has it. The path is an
assumption, and so far only the lab answers there: beside compute-changed-regions, under the same
token. So whoever uses it asks first, and believes only an answer that is right in every part.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import attrs

from prism_client._http import Call
from prism_client._v4.changed_regions import content_path
from prism_client.errors import AuthFailed

if TYPE_CHECKING:
    from prism_client._v4.changed_regions import ChangedRegions, Pass
    from prism_client.model import DiskSnapshotRef


@attrs.frozen
class SnapshotData:
    """services.SnapshotData over v4; the tokens are those of the changed regions."""

    regions: ChangedRegions

    def open(self, disk: DiskSnapshotRef, *, disk_size: int) -> DiskData:
        return DiskData(self.regions, disk, disk_size, self.regions.passes.take(disk))


@attrs.define
class DiskData:
    """services.DiskData: one disk, under a token that is renewed in time."""

    _regions: ChangedRegions
    _disk: DiskSnapshotRef
    _size: int
    _granted: Pass | None
    _renewing: threading.Lock = attrs.field(factory=threading.Lock, init=False, repr=False)

    def fill(self, offset: int, buffer: memoryview) -> None:
        granted = self._pass()
        try:
            self._ask(offset, buffer, granted)
        except AuthFailed:
            self._ask(offset, buffer, self._pass(instead_of=granted))

    def _pass(self, instead_of: Pass | None = None) -> Pass:
        with self._renewing:
            granted = self._granted
            is_old = granted is instead_of or (
                granted is not None and self._regions.clock.monotonic() >= granted.renew_at
            )
            if granted is None or is_old:
                granted = self._granted = self._regions.pass_for(self._disk, None)
            return granted

    def _ask(self, offset: int, buffer: memoryview, granted: Pass) -> None:
        path = f"{content_path(granted, self._disk)}/data"
        call = Call("GET", path, headers=granted.login, repeatable=True)
        self._regions.element(granted.host).fill(call, buffer, offset, self._size)
