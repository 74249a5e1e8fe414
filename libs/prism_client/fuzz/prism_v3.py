"""Any bodies as answers of v3: records, lists, changed regions and an image, or PrismError.

All of them in bounded time, and regions in bounds and in order.
"""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

import attrs
from prism_client import DiskSnapshotRef, PrismError
from prism_client._http import Answer
from prism_client._v3 import wire
from prism_client._v3.api import Api
from prism_client._v3.changed_regions import ChangedRegions
from prism_client._v3.elements import Elements
from prism_client._v3.images import Uploader

if TYPE_CHECKING:
    from collections.abc import Callable

    from prism_client._fields import Fields
    from prism_client._http import Call, Http

DISK_SIZE = (1 << 20) + 512  # no multiple of a block, as some disks are not
DISK = DiskSnapshotRef("snapshot", "snapshot", "/path")
READERS: list[Callable[[Fields], object]] = [
    wire.cluster,
    wire.subnet,
    partial(wire.storage_container, cluster_ext_id="fuzz"),
    wire.vm,
    wire.snapshot,
    wire.snapshot_files,
    wire.volume_group,
    wire.image,
    partial(wire.task, ext_id="fuzz"),
    partial(wire.state_as_task, kind="fuzz"),
]
_HANDLE, _NAME = tempfile.mkstemp(prefix="fuzz-image-")
os.write(_HANDLE, b"image")
os.close(_HANDLE)


@attrs.define
class Clock:
    """Time that passes only when somebody sleeps."""

    seconds: float = 0.0

    def now(self) -> float:
        """Seconds."""
        return self.seconds

    def monotonic(self) -> float:
        """Seconds."""
        return self.seconds

    def sleep(self, seconds: float) -> None:
        """Make time pass."""
        self.seconds += seconds


@attrs.define
class Server:
    """Gives the bodies one after the other, the last one for ever."""

    bodies: list[bytes]

    def send(self, call: Call) -> Answer:
        """The next body."""
        body = self.bodies.pop(0) if len(self.bodies) > 1 else self.bodies[0]
        return Answer(f"{call.method} {call.path}", 200, {}, body)


def check(data: bytes) -> None:
    """Read what a server tells whose answers are the lines of the input."""
    bodies = data.split(b"\n")
    for body in bodies:
        _read(body)
    for use in (_list_entities, _list_regions, _upload):
        with suppress(PrismError):
            use(Api(cast("Http", Server(list(bodies))), Clock(), deadline=5.0))


def _read(body: bytes) -> None:
    """Read a body and each entity in it with every reader."""
    with suppress(PrismError):
        whole = Answer("GET /fuzz", 200, {}, body).json()
        for item in [whole, *whole.items("entities")]:
            for reader in READERS:
                with suppress(PrismError):
                    reader(item)


def _list_entities(api: Api) -> None:
    listed = [entry.key for entry in api.list("fuzz")]
    if len(set(listed)) != len(listed):
        raise AssertionError(f"listed more than once: {listed}")


def _list_regions(api: Api) -> None:
    """Look for the snapshot's cluster, then list what changed: the listing must refuse or end."""
    elements = Elements(api, lambda _: api)
    end = 0
    for region in ChangedRegions(elements).open(DISK, None, disk_size=DISK_SIZE):
        if not end <= region.offset < region.offset + region.length <= DISK_SIZE:
            raise AssertionError(f"{region} after {end}")
        end = region.offset + region.length


def _upload(api: Api) -> None:
    Uploader(api)("fuzz", Path(_NAME), sha256="00")
