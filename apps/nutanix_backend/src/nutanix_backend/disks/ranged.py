"""Disks that are read by HTTP ranges, and over iSCSI from the first wrong answer on.

Each read is one range: its buffer is filled by range or over iSCSI, so that no byte is lost or
comes twice. What was read by range before the first wrong answer is then compared with iSCSI.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TYPE_CHECKING, Never, Self

import attrs
import iscsi_attach
import prism_client
import xxhash
from iscsi_attach.extents import DEPTH

from nutanix_backend.disks import data_path
from nutanix_backend.disks.attach import open_disks
from nutanix_backend.disks.data_path import Way
from nutanix_backend.errors import SourceError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from contextlib import ExitStack

    from nutanix_backend.cluster.guards import SnapshotGuard
    from nutanix_backend.cluster.range_offer import RangeOffer
    from nutanix_backend.disks.attach import Route
    from nutanix_backend.disks.data_path import Reads
    from nutanix_backend.disks.plan import DiskPlan

PROBE = 64 << 10
"""Bytes of a block that is read both ways."""
PROBED, LOOKED_AT = 4, 32
"""Blocks that are compared, and extents in which they are looked for: one of zeros tells little."""


class RangedDisks:
    """The disks of one VM in a snapshot, for reading by range; nothing is made on the cluster."""

    def __init__(
        self,
        stack: ExitStack,
        snapshot: SnapshotGuard,
        plans: list[DiskPlan],
        route: Route,
        offer: RangeOffer,
    ) -> None:
        """Open the disks of `plans`; `stack` closes them, and undoes a volume group if one is made.

        Raises prism_client.Unsupported.
        """
        self._over_iscsi = (stack, snapshot, plans, route)
        self._offer = offer
        self._lock = threading.Lock()
        self._instead: Mapping[int, iscsi_attach.BlockDevice] | None = None
        self._error: Exception | None = None
        self._seen: list[tuple[int, int, int, bytes]] = []
        pool = stack.enter_context(ThreadPoolExecutor(DEPTH, thread_name_prefix="range"))
        open_data = snapshot.client.snapshot_data.open
        self.devices: Mapping[int, iscsi_attach.BlockDevice] = {
            plan.index: RangedDisk(
                plan, open_data(plan.snapshot, disk_size=plan.disk.size), self, pool
            )
            for plan in plans
        }

    @property
    def is_ranged(self) -> bool:
        """Whether ranges are still believed, here and in the other VMs of the job."""
        return self._instead is None and self._offer.is_proven

    def has_read(self, index: int, offset: int, view: memoryview) -> bool:
        """Take note of bytes that were read by range; False when they are to be read otherwise."""
        with self._lock:
            if self.is_ranged:
                self._seen.append((index, offset, len(view), xxhash.xxh3_128_digest(view)))
                return True
        return False

    def instead(self, reason: str, *, is_lasting: bool) -> Mapping[int, iscsi_attach.BlockDevice]:
        """Open the disks over iSCSI, once, and compare what was read by range: SourceError."""
        with self._lock:
            if self._error is not None:
                raise SourceError(f"the disks could not be opened: {self._error}") from self._error
            if self._instead is None:
                if self._offer.is_proven:
                    self._offer.refuse(reason, is_lasting=is_lasting)
                try:
                    self._instead = open_disks(*self._over_iscsi)
                    self._compare(self._instead)
                except Exception as error:
                    self._error = error
                    raise
            return self._instead

    def over_iscsi(self) -> Mapping[int, iscsi_attach.BlockDevice]:
        """Open the disks over iSCSI, because of what they hold: nothing was sent of it yet."""
        with self._lock:
            self._seen.clear()
            if self._instead is None:
                self._instead = open_disks(*self._over_iscsi)
            return self._instead

    def distrust(self) -> None:
        """What was read by range is not what is over iSCSI."""
        self._offer.refuse("blocks of a disk were not those that iSCSI gives", is_lasting=True)

    def _compare(self, devices: Mapping[int, iscsi_attach.BlockDevice]) -> None:
        """Read over iSCSI what was read by range; what differs may have been sent: SourceError."""
        for index, offset, length, digest in self._seen:
            view = memoryview(bytearray(length))
            devices[index].read_into(offset, view)
            if xxhash.xxh3_128_digest(view) != digest:
                reason = f"bytes {offset}+{length} of disk {index} were wrong"
                self._offer.refuse(reason, is_lasting=True)
                raise SourceError(
                    f"{length} bytes at {offset} of disk {index} came wrong by HTTP range, and may "
                    "be in this backup: run the job again, it reads over iSCSI"
                )


class RangedDisk:
    """One disk, as a BlockDevice that cannot be written to."""

    block_size = 512

    def __init__(
        self,
        plan: DiskPlan,
        data: prism_client.services.DiskData,
        disks: RangedDisks,
        pool: ThreadPoolExecutor,
    ) -> None:
        """Read `data`; `disks` has the others of the VM."""
        self.name = f"disk {plan.index} by HTTP range"
        self.size = plan.disk.size
        self._index = plan.index
        self._data = data
        self._disks = disks
        self._pool = pool

    def submit_read(self, offset: int, buffer: memoryview) -> Future[None]:
        """Start to fill the buffer."""
        if offset < 0 or offset + len(buffer) > self.size:
            raise iscsi_attach.OutOfRange(self.name, offset, len(buffer), self.size)
        return self._pool.submit(self._read, offset, buffer)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill the buffer."""
        self.submit_read(offset, buffer).result()

    def _read(self, offset: int, buffer: memoryview) -> None:
        reason, is_lasting = "another VM of this job got one", False
        try:
            if self._disks.is_ranged:
                self._data.fill(offset, buffer)
        except prism_client.PrismError as error:
            reason, is_lasting = str(error), isinstance(error, prism_client.BadAnswer)
        else:
            if self._disks.has_read(self._index, offset, buffer):
                return
        self._disks.instead(reason, is_lasting=is_lasting)[self._index].read_into(offset, buffer)

    def write(self, *_: object) -> Never:
        """Refuse."""
        raise iscsi_attach.ReadOnlyDevice(self.name)

    submit_write = write

    def flush(self) -> None:
        """Nothing was written."""

    def close(self) -> None:
        """Nothing is held."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@attrs.frozen
class OpenedDisks:
    """The disks of a VM, by index, and the gaps that reading each of them takes along, in bytes."""

    devices: Mapping[int, iscsi_attach.BlockDevice]
    gaps: Mapping[int, int]
    ranged: RangedDisks | None = None


def open_planned(
    stack: ExitStack,
    snapshot: SnapshotGuard,
    needs: list[tuple[DiskPlan, Reads]],
    route: Route,
) -> OpenedDisks:
    """Open disks in the way that suits what is read of them, for their data and for the proof."""
    plans = [plan for plan, _ in needs]
    offer = route.offer
    ways = data_path.ways(needs, offers_ranges=offer is not None and offer.is_proven)
    if offer is not None and Way.RANGED in ways.values():
        try:
            ranged = RangedDisks(stack, snapshot, plans, route, offer)
        except prism_client.Unsupported as error:
            offer.refuse(str(error), is_lasting=False, is_wrong=False)
        else:
            return OpenedDisks(ranged.devices, {}, ranged)
    devices = open_disks(stack, snapshot, plans, route)
    probe(offer, snapshot, plans, devices)
    gaps = {index: data_path.GAP for index, way in ways.items() if way is Way.SEQUENTIAL}
    return OpenedDisks(devices, gaps)


def probe(
    offer: RangeOffer | None,
    snapshot: SnapshotGuard,
    plans: list[DiskPlan],
    devices: Mapping[int, iscsi_attach.BlockDevice],
) -> None:
    """Ask for some blocks of open disks by range too, unless it was done in this job."""
    if offer is None or not offer.claim():
        return
    blocks = list(islice(_telling(plans, devices), PROBED))
    if not blocks:
        offer.unclaim()
        return
    try:
        for plan, offset, content in blocks:
            data = snapshot.client.snapshot_data.open(plan.snapshot, disk_size=plan.disk.size)
            _compare(data, offset, content)
    except prism_client.Unsupported as error:
        offer.refuse(str(error), is_lasting=False, is_wrong=False)
    except prism_client.ApiError as error:
        is_absent = error.status < 500 or error.status == 501
        offer.refuse(str(error), is_lasting=is_absent, is_wrong=not is_absent)
    except prism_client.PrismError as error:
        offer.refuse(str(error), is_lasting=isinstance(error, prism_client.BadAnswer))
    else:
        offer.prove()


def _telling(
    plans: list[DiskPlan], devices: Mapping[int, iscsi_attach.BlockDevice]
) -> Iterator[tuple[DiskPlan, int, bytes]]:
    """Blocks of the disks that are not one byte all through, as they are over iSCSI."""
    extents = ((plan, extent) for plan in plans for extent in plan.regions.data_extents())
    for plan, extent in islice(extents, LOOKED_AT):
        content = bytearray(min(PROBE, extent.length))
        devices[plan.index].read_into(extent.offset, memoryview(content))
        if content.count(content[0]) < len(content):
            yield plan, extent.offset, bytes(content)


def _compare(data: prism_client.services.DiskData, offset: int, content: bytes) -> None:
    found = bytearray(len(content))
    data.fill(offset, memoryview(found))
    if found != content:
        raise prism_client.BadAnswer(
            f"{len(content)} bytes at {offset} of a disk are not those that iSCSI gives"
        )
