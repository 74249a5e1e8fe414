"""Changed regions of v4: found through Prism Central, asked of the cluster, checked here.

Two hops: Prism Central names the cluster and hands out a token (discover-cluster); the cluster
takes the token as its session cookie, at the API revision that the token's scope names.
"""

from __future__ import annotations

import base64
import json
import logging
import re
from typing import TYPE_CHECKING, Any

import attrs

from prism_client._fields import natural
from prism_client._http import Call
from prism_client._v4 import wire
from prism_client._v4.api import envelope, has_flag, segment
from prism_client.errors import (
    ApiError,
    AuthFailed,
    BadAnswer,
    BadRequest,
    ChangeTrackingUnavailable,
    IncompleteChangeList,
    NotFound,
    ServerError,
)
from prism_client.model import ChangedRegion

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from prism_client._clock import Clock
    from prism_client._fields import Fields
    from prism_client._http import Http
    from prism_client._v4.api import Api
    from prism_client.model import DiskSnapshotRef

log = logging.getLogger(__name__)

_SCOPE = re.compile(r"/api/dataprotection/(v4\.[0-9a-z.]+)/content")
_USUAL_LIFE = 15 * 60.0  # seconds, for a token that does not say when it expires
_RENEW_AFTER = 0.75  # of a token's life
_LARGEST_BLOCK = 256 << 10  # the largest block size that the API documents


@attrs.frozen
class ChangedRegions:
    """services.ChangedRegions over v4. `element(host)` gives the connection to a cluster."""

    api: Api
    element: Callable[[str], Http]
    clock: Clock

    def open(
        self, disk: DiskSnapshotRef, reference: DiskSnapshotRef | None, *, disk_size: int
    ) -> RegionListing:
        source = PageSource(self, disk, reference)
        try:
            first = source.page(0)
        except (NotFound, ServerError, BadRequest) as exc:
            if not _is_not_here(exc, reference):
                raise
            raise ChangeTrackingUnavailable(
                f"there is no list of changes for disk recovery point"
                f" {disk.disk_recovery_point_ext_id}: {exc}"
            ) from exc
        return RegionListing(source.page, first, disk_size)

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


@attrs.define
class PageSource:
    """The pages of one disk's changed regions, under a token that is renewed in time."""

    regions: ChangedRegions
    disk: DiskSnapshotRef
    reference: DiskSnapshotRef | None
    _granted: Pass | None = None

    def page(self, offset: int) -> Page:
        """Return the page that begins at a byte offset of the disk."""
        granted = self._granted
        if granted is None or self.regions.clock.monotonic() >= granted.renew_at:
            return self._ask(offset, self._renew())
        try:
            return self._ask(offset, granted)
        except AuthFailed:
            log.debug("the cluster no longer takes the token, getting a new one")
            return self._ask(offset, self._renew())

    def _renew(self) -> Pass:
        self._granted = self.regions.pass_for(self.disk, self.reference)
        return self._granted

    def _ask(self, offset: int, granted: Pass) -> Page:
        call = Call(
            "POST",
            f"/api/dataprotection/{granted.revision}/content/{_disk_path(self.disk)}"
            "/$actions/compute-changed-regions",
            json={"offset": offset, **_reference_body(self.reference)},
            headers={"Cookie": f"NTNX_IGW_SESSION={granted.token}"},
            repeatable=True,  # it changes nothing
        )
        return Page.read(envelope(self.regions.element(granted.host).send(call)))


@attrs.frozen
class Page:
    """One answer: regions as received, and where the next page begins (None or 0: nowhere)."""

    regions: list[Any]
    next_offset: int | None
    file_size: int | None
    is_truncated: bool
    where: str

    @classmethod
    def read(cls, body: Fields) -> Page:
        extra = {
            item.opt_text("name"): item.opt_integer("value")
            for item in body.child("metadata").items("extraInfo")
            if item.opt_text("name") in {"nextOffset", "fileSize"}
        }
        return cls(
            regions=body.array("data"),
            next_offset=extra.get("nextOffset"),
            file_size=extra.get("fileSize"),
            is_truncated=has_flag(body, "isTruncated"),
            where=body.where,
        )


class RegionListing:
    """services.RegionListing over v4: one page in memory at a time, each checked on arrival."""

    def __init__(self, fetch: Callable[[int], Page], first: Page, disk_size: int) -> None:
        self._fetch = fetch
        self._first = first
        self._size = disk_size
        self._check_size(first)

    @property
    def file_size(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[ChangedRegion]:
        page, start = self._first, 0
        while True:
            listed = start
            for item in page.regions:
                region = self._region(item, listed, page.where)
                listed = region.offset + region.length
                yield region
            following = self._next_start(page, start, listed)
            if following is None:
                return
            start = following
            page = self._next_page(start)
            self._check_size(page)

    def _next_page(self, start: int) -> Page:
        try:
            return self._fetch(start)
        except (NotFound, BadRequest) as exc:
            raise IncompleteChangeList(f"the list of changes broke off at {start}: {exc}") from exc

    def _check_size(self, page: Page) -> None:
        if page.file_size not in (None, self._size):
            raise IncompleteChangeList(
                f"{page.where}: the disk has {self._size} bytes, but its list of changes is for"
                f" {page.file_size}"
            )

    def _region(self, item: dict[str, Any], listed: int, where: str) -> ChangedRegion:
        """Return a region that begins where the list has got to, or later, and ends on the disk."""
        try:
            offset, length = natural(item["offset"]), natural(item["length"])
            zeroed = item.get("regionType") == "ZEROED"  # anything else is data to be read
        except (TypeError, KeyError, AttributeError) as exc:
            raise BadAnswer(f"{where}: {str(item)[:100]!r} is no changed region") from exc
        if offset is None or length is None:
            raise BadAnswer(f"{where}: {str(item)[:100]!r} is no changed region")
        if not (listed <= offset < self._size and 0 < length <= self._limit() - offset):
            raise IncompleteChangeList(
                f"{where}: region {offset}+{length} after {listed} on a disk of {self._size} bytes:"
                " out of order, overlapping, empty or out of bounds"
            )
        # The server counts in blocks: the last may reach beyond a disk that is not a multiple.
        return ChangedRegion(offset, min(length, self._size - offset), zeroed)

    def _limit(self) -> int:
        return -(-self._size // _LARGEST_BLOCK) * _LARGEST_BLOCK

    def _next_start(self, page: Page, start: int, listed: int) -> int | None:
        """Return where the next page begins, or None when this one provably was the last."""
        following = page.next_offset
        if not following:
            if page.is_truncated or (following is None and page.file_size is None):
                raise IncompleteChangeList(
                    f"{page.where}: the answer does not say that the list ends here"
                )
            return None
        if following <= start or following < listed or following > self._limit():
            raise IncompleteChangeList(
                f"{page.where}: the page from {start} reaches {listed}, and the next is said to"
                f" begin at {following} on a disk of {self._size} bytes"
            )
        return following if following < self._size else None


def token_claims(token: str) -> dict[str, Any]:
    """Return the claims of a JWT without checking it, which is the server's business; or {}."""
    try:
        payload = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except (IndexError, ValueError, RecursionError):
        log.debug("the token is no readable JWT; assuming the usual revision and life")
        return {}
    return claims if isinstance(claims, dict) else {}


def _is_not_here(exc: ApiError, reference: DiskSnapshotRef | None) -> bool:
    """Say whether a refusal means that there is nothing to be had, rather than that we failed.

    A cluster without the API answers 404, Prism Central asked in its place an empty 501. A
    reference that has expired, or is of another cluster, may be answered by any other refusal.
    """
    if isinstance(exc, BadRequest):
        return reference is not None
    return exc.status in (404, 501)


def _disk_path(disk: DiskSnapshotRef) -> str:
    return (
        f"recovery-points/{segment(disk.recovery_point_ext_id)}"
        f"/vm-recovery-points/{segment(disk.vm_recovery_point_ext_id)}"
        f"/disk-recovery-points/{segment(disk.disk_recovery_point_ext_id)}"
    )


def _reference_body(reference: DiskSnapshotRef | None) -> dict[str, str]:
    if reference is None:
        return {}
    return {
        "referenceRecoveryPointExtId": reference.recovery_point_ext_id,
        "referenceVmRecoveryPointExtId": reference.vm_recovery_point_ext_id,
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
        "$objectType": "dataprotection.v4.config.ClusterDiscoverSpec",
        "operation": "COMPUTE_CHANGED_REGIONS",
        "spec": spec,
    }


def _disk_body(disk: DiskSnapshotRef) -> dict[str, str]:
    return {
        "$objectType": "dataprotection.v4.content.VmDiskRecoveryPointReference",
        "recoveryPointExtId": disk.recovery_point_ext_id,
        "vmRecoveryPointExtId": disk.vm_recovery_point_ext_id,
        "diskRecoveryPointExtId": disk.disk_recovery_point_ext_id,
    }
