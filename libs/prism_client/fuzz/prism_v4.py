"""Any body as an answer of v4: a record or PrismError; regions are in bounds and in order."""

from __future__ import annotations

import itertools
from contextlib import suppress
from typing import TYPE_CHECKING

from prism_client import PrismError
from prism_client._http import Answer
from prism_client._refusal import refusal
from prism_client._regions import CheckedListing, Page
from prism_client._v4 import wire
from prism_client._v4.api import envelope
from prism_client._v4.changed_regions import read_page, token_claims

if TYPE_CHECKING:
    from collections.abc import Callable

    from prism_client._fields import Fields

DISK_SIZE = (1 << 20) + 512  # no multiple of a block, as some disks are not
READERS: list[Callable[[Fields], object]] = [
    wire.cluster,
    wire.subnet,
    wire.storage_container,
    wire.vm,
    wire.recovery_point,
    wire.disk_recovery_points,
    wire.volume_group,
    wire.image,
    wire.task,
]


def check(data: bytes) -> None:
    """Read the body with every reader, as a refusal, as a token and as pages of changed regions."""
    answer = Answer("GET /fuzz", 200, {}, data)
    refusal("GET /fuzz", 400, data, "")
    token_claims(data.decode("latin-1"))
    for reader in READERS:
        with suppress(PrismError):
            body = envelope(answer)
            for item in [body, body.child("data"), *body.items("data")]:
                with suppress(PrismError):
                    reader(item)
    with suppress(PrismError):
        _list_regions(read_page(envelope(answer)))


def _list_regions(page: Page) -> None:
    """The same page again and again: the listing must refuse or end."""
    end = 0
    listing = CheckedListing(lambda *_: page, page, DISK_SIZE)
    for region in itertools.islice(listing, 10_000):
        if not end <= region.offset < region.offset + region.length <= DISK_SIZE:
            raise AssertionError(f"{region} after {end}")
        end = region.offset + region.length
