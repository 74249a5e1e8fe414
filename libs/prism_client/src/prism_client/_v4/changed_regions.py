"""Changed regions of v4: found through Prism Central, asked of the cluster.

Two hops: Prism Central names the cluster and hands out a token (discover-cluster); the cluster
takes the token as its session cookie, at the API revision that the token's scope names.
"""

from __future__ import annotations

import base64
import json
import logging
import re
import threading
from typing import TYPE_CHECKING, Any

import attrs

from prism_client._fields import natural
from prism_client._http import Call
from prism_client._regions import Page, open_listing
from prism_client._v4 import wire
from prism_client._v4.api import envelope, has_flag, segment
from prism_client.errors import AuthFailed

if TYPE_CHECKING:
    from collections.abc import Callable

    from prism_client._clock import Clock
    from prism_client._fields import Fields
    from prism_client._http import Http
    from prism_client._regions import CheckedListing
    from prism_client._v4.api import Api
    from prism_client.model import DiskSnapshotRef

log = logging.getLogger(__name__)

_SCOPE = re.compile(r"/api/dataprotection/(v4\.[0-9a-z.]+)/content")
_USUAL_LIFE = 15 * 60.0  # seconds, for a token that does not say when it expires
_RENEW_AFTER = 0.75  # of a token's life
_KEPT = 64  # passes that wait for somebody to read the disk that they are for


@attrs.define
class Passes:
    """The last passes that were granted: they are good for reading the same snapshot, too."""

    _granted: dict[DiskSnapshotRef, Pass] = attrs.field(factory=dict, init=False, repr=False)
    _lock: threading.Lock = attrs.field(factory=threading.Lock, init=False, repr=False)

    def keep(self, disk: DiskSnapshotRef, granted: Pass) -> None:
        """Keep the pass for a disk; the oldest ones go."""
        with self._lock:
            self._granted[disk] = granted
            while len(self._granted) > _KEPT:
                del self._granted[next(iter(self._granted))]

    def take(self, disk: DiskSnapshotRef) -> Pass | None:
        """Return the pass for a disk, if one is kept, and keep it no longer."""
        with self._lock:
            return self._granted.pop(disk, None)


@attrs.frozen
class ChangedRegions:
    """services.ChangedRegions over v4. `element(host)` gives the connection to a cluster."""

    api: Api
    element: Callable[[str], Http]
    clock: Clock
    passes: Passes = attrs.field(factory=Passes)

    def open(
        self, disk: DiskSnapshotRef, reference: DiskSnapshotRef | None, *, disk_size: int
    ) -> CheckedListing:
        return open_listing(PageSource(self, disk, reference).page, disk, reference, disk_size)

    def pass_for(self, disk: DiskSnapshotRef, reference: DiskSnapshotRef | None) -> Pass:
        """Ask Prism Central which cluster to ask, and for the token that it accepts."""
        received = self.clock.monotonic()
        call = Call(
            "POST",
            f"config/recovery-points/{segment(disk.recovery_point_ext_id)}"
            "/$actions/discover-cluster",
            json=_discover_body(disk, reference),
            repeatable=True,  # it changes nothing
        )
        _, body = self.api.send(call)
        data = body.need("data")
        host = wire.ip_address(data.child("clusterIp"))
        if host is None:
            raise data.fault("clusterIp", "holds no address")
        token = data.text("jwtToken")
        claims = token_claims(token)
        scope = _SCOPE.search(str(claims.get("scope", "")))
        return Pass(
            host=host,
            token=token,
            revision=scope[1] if scope else self.api.revision,
            renew_at=received + _RENEW_AFTER * self._life(claims),
        )

    def _life(self, claims: dict[str, Any]) -> float:
        """Return the token's life in seconds, if possible without trusting our own clock."""
        expires = natural(claims.get("exp"))
        if expires is None:
            return _USUAL_LIFE
        issued = natural(claims.get("iat"))
        return max(0.0, expires - (self.clock.now() if issued is None else issued))


@attrs.frozen
class Pass:
    """Leave to ask one cluster for changed regions, for a while."""

    host: str
    token: str = attrs.field(repr=False)
    revision: str
    renew_at: float

    @property
    def login(self) -> dict[str, str]:
        """The headers with which the cluster takes the token."""
        return {"Cookie": f"NTNX_IGW_SESSION={self.token}"}


@attrs.define
class PageSource:
    """The pages of one disk's changed regions, under a token that is renewed in time."""

    regions: ChangedRegions
    disk: DiskSnapshotRef
    reference: DiskSnapshotRef | None
    _granted: Pass | None = None

    def page(self, offset: int, length: int | None) -> Page:
        """Return the page that begins at a byte offset of the disk."""
        window = {"offset": offset} | ({} if length is None else {"length": length})
        granted = self._granted
        if granted is None or self.regions.clock.monotonic() >= granted.renew_at:
            return self._ask(window, self._renew())
        try:
            return self._ask(window, granted)
        except AuthFailed:
            log.debug("the cluster no longer takes the token, getting a new one")
            return self._ask(window, self._renew())

    def _renew(self) -> Pass:
        self._granted = self.regions.pass_for(self.disk, self.reference)
        self.regions.passes.keep(self.disk, self._granted)
        return self._granted

    def _ask(self, window: dict[str, int], granted: Pass) -> Page:
        call = Call(
            "POST",
            f"{content_path(granted, self.disk)}/$actions/compute-changed-regions",
            json={**window, **_reference_body(self.reference)},
            headers=granted.login,
            repeatable=True,  # it changes nothing
        )
        return read_page(envelope(self.regions.element(granted.host).send(call)))


def read_page(body: Fields) -> Page:
    """Read one answer; what is not a region is called by its name, at whatever position."""
    extra = {
        item.opt_text("name"): item.opt_integer("value")
        for item in body.child("metadata").items("extraInfo")
        if item.opt_text("name") in {"nextOffset", "fileSize"}
    }
    return Page(
        regions=body.array("data"),
        next_offset=extra.get("nextOffset"),
        file_size=extra.get("fileSize"),
        is_truncated=has_flag(body, "isTruncated"),
        where=body.where,
    )


def token_claims(token: str) -> dict[str, Any]:
    """Return the claims of a JWT without checking it, which is the server's business; or {}."""
    try:
        payload = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except (IndexError, ValueError, RecursionError):
        log.debug("the token is no readable JWT; assuming the usual revision and life")
        return {}
    return claims if isinstance(claims, dict) else {}


def _kind(disk: DiskSnapshotRef) -> str:
    return "volume-group" if disk.of_group else "vm"


def content_path(granted: Pass, disk: DiskSnapshotRef) -> str:
    """Return the path of a disk's snapshot among the content calls of a cluster."""
    return (
        f"/api/dataprotection/{granted.revision}/content"
        f"/recovery-points/{segment(disk.recovery_point_ext_id)}"
        f"/{_kind(disk)}-recovery-points/{segment(disk.vm_recovery_point_ext_id)}"
        f"/disk-recovery-points/{segment(disk.disk_recovery_point_ext_id)}"
    )


def _word(disk: DiskSnapshotRef) -> str:
    return "VolumeGroup" if disk.of_group else "Vm"


def _reference_body(reference: DiskSnapshotRef | None) -> dict[str, str]:
    if reference is None:
        return {}
    return {
        "referenceRecoveryPointExtId": reference.recovery_point_ext_id,
        f"reference{_word(reference)}RecoveryPointExtId": reference.vm_recovery_point_ext_id,
        "referenceDiskRecoveryPointExtId": reference.disk_recovery_point_ext_id,
    }


def _discover_body(disk: DiskSnapshotRef, reference: DiskSnapshotRef | None) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "$objectType": "dataprotection.v4.content.ComputeChangedRegionsClusterDiscoverSpec",
        "diskRecoveryPoint": _disk_body(disk),
    }
    if reference is not None:
        spec["referenceDiskRecoveryPoint"] = _disk_body(reference)
    return {
        "$objectType": "dataprotection.v4.content.ClusterDiscoverSpec",
        "operation": "COMPUTE_CHANGED_REGIONS",
        "spec": spec,
    }


def _disk_body(disk: DiskSnapshotRef) -> dict[str, str]:
    return {
        "$objectType": f"dataprotection.v4.content.{_word(disk)}DiskRecoveryPointReference",
        "recoveryPointExtId": disk.recovery_point_ext_id,
        f"{'volumeGroup' if disk.of_group else 'vm'}RecoveryPointExtId": (
            disk.vm_recovery_point_ext_id
        ),
        "diskRecoveryPointExtId": disk.disk_recovery_point_ext_id,
    }
