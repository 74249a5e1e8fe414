"""Lists of changed regions, whatever API they come from: paged, and checked while they are read."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import attrs

from prism_client._fields import natural
from prism_client.errors import (
    ApiError,
    BadAnswer,
    BadRequest,
    ChangeTrackingUnavailable,
    IncompleteChangeList,
    NotFound,
    ServerError,
)
from prism_client.model import ChangedRegion

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prism_client.model import DiskSnapshotRef

Fetch = Callable[[int, "int | None"], "Page"]
"""Asks for the page that begins at an offset; with a length, for no more than so many bytes."""

_LARGEST_BLOCK = 256 << 10  # the largest block size that the API documents


@attrs.frozen
class Page:
    """One answer: regions as received, and where the next page begins (None or 0: nowhere).

    kind_field: what the API calls the field that says "ZEROED".
    """

    regions: list[Any]
    next_offset: int | None
    file_size: int | None
    is_truncated: bool
    where: str
    kind_field: str = "regionType"


def open_listing(
    fetch: Fetch,
    disk: DiskSnapshotRef,
    reference: DiskSnapshotRef | None,
    disk_size: int,
) -> CheckedListing:
    """Fetch the first page, and tell "nothing to be had" from a failure."""
    try:
        first = fetch(0, None)
    except (NotFound, ServerError, BadRequest) as exc:
        if not _is_not_here(exc, reference):
            raise
        raise ChangeTrackingUnavailable(
            f"there is no list of changes for disk recovery point"
            f" {disk.disk_recovery_point_ext_id}: {exc}"
        ) from exc
    return CheckedListing(fetch, first, disk_size)


def _is_not_here(exc: ApiError, reference: DiskSnapshotRef | None) -> bool:
    """Say whether a refusal means that there is nothing to be had, rather than that we failed.

    A cluster without the API answers 404, Prism Central asked in its place an empty 501. A
    reference that has expired, or is of another cluster, may be answered by any other refusal.
    """
    if isinstance(exc, BadRequest):
        return reference is not None
    return exc.status in (404, 501)


class CheckedListing:
    """services.RegionListing: one page in memory at a time, each checked on arrival."""

    def __init__(self, fetch: Fetch, first: Page, disk_size: int) -> None:
        self._fetch = fetch
        self._first = first
        self._size = disk_size
        self._check_size(first)

    @property
    def file_size(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[ChangedRegion]:
        page, start, reached = self._first, 0, 0
        while True:
            listed = start
            for number, item in enumerate(page.regions):
                region = self._region(item, listed, page)
                if number == 0:
                    self._prove_unlisted(reached, region.offset)
                listed = reached = region.offset + region.length
                yield region
            following = self._next_start(page, start, listed)
            if following is None:
                self._prove_unlisted(reached, self._size)
                return
            start = following
            page = self._next_page(start)

    def _prove_unlisted(self, start: int, end: int) -> None:
        """Ask again for what lies between the regions of two pages: it must hold no region.

        A page that went missing on its way, or a list that ended early, shows nowhere else.
        """
        at = start
        while at < end:
            page = self._next_page(at, end - at)
            for item in page.regions:
                offset, length, _ = _parse(item, page)
                if offset < end and offset + length > start:
                    raise IncompleteChangeList(
                        f"{page.where}: region {offset}+{length} was not listed between {start} and"
                        f" {end}: a page of the list is missing"
                    )
            following = page.next_offset or end
            if following <= at:
                raise IncompleteChangeList(f"{page.where}: the list does not get beyond {at}")
            at = following

    def _next_page(self, start: int, length: int | None = None) -> Page:
        try:
            page = self._fetch(start, length)
        except (NotFound, BadRequest) as exc:
            raise IncompleteChangeList(f"the list of changes broke off at {start}: {exc}") from exc
        self._check_size(page)
        return page

    def _check_size(self, page: Page) -> None:
        if page.file_size not in (None, self._size):
            raise IncompleteChangeList(
                f"{page.where}: the disk has {self._size} bytes, but its list of changes is for"
                f" {page.file_size}"
            )

    def _region(self, item: object, listed: int, page: Page) -> ChangedRegion:
        """Return a region that begins where the list has got to, or later, and ends on the disk."""
        offset, length, zeroed = _parse(item, page)
        if not (listed <= offset < self._size and 0 < length <= self._limit() - offset):
            raise IncompleteChangeList(
                f"{page.where}: region {offset}+{length} after {listed} on a disk of {self._size}"
                " bytes: out of order, overlapping, empty or out of bounds"
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


def _parse(item: object, page: Page) -> tuple[int, int, bool]:
    """Read offset, length and whether it reads as zero; anything but "ZEROED" is data."""
    found = item if isinstance(item, dict) else {}
    offset, length = natural(found.get("offset")), natural(found.get("length"))
    if offset is None or length is None:
        raise BadAnswer(f"{page.where}: {str(item)[:100]!r} is no changed region")
    return offset, length, found.get(page.kind_field) == "ZEROED"
