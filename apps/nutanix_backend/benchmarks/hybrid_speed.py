"""Where HTTP ranges cross iSCSI with its volume group, on a lab that takes the time of a cluster.

    python benchmarks/hybrid_speed.py

Extents of 64 KiB lie evenly in a disk of 1 GiB. Each density is read both ways, from a snapshot
that is there to bytes in memory, with all that is made on the cluster for it and removed. The costs
that `disks/data_path.py` reckons with are measured first: they are to be those printed here. Then
the way that it chooses races the other, below the crossover and above it.

The lab waits as a cluster that is not busy does (`latency="prism"`), and no public release of Prism
is known to offer ranges: both are assumptions, and the crossover is worth no more than they are.
(.ci/race.py has to be on PYTHONPATH, as ./run bench puts it.)
"""

from __future__ import annotations

import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
from iscsi_attach import UNIT
from nutanix_backend.cluster import inventory, journal
from nutanix_backend.cluster.guards import SnapshotGuard, new_secret
from nutanix_backend.cluster.range_offer import RangeOffer
from nutanix_backend.cluster.transport import choose as choose_transport
from nutanix_backend.disks.attach import Route, open_disks
from nutanix_backend.disks.data_path import GAP, GROUP, ISCSI, REST, Reads, Way, choose, reads_of
from nutanix_backend.disks.plan import DiskPlan, plan_disks
from nutanix_backend.disks.ranged import RangedDisks
from nutanix_backend.disks.regions import Region, RegionList
from nutanix_backend.disks.streams import delta_pieces
from nutanix_backend.settings.parameters import parse
from prism_lab import Lab
from race import race
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from iscsi_attach import BlockDevice
    from nutanix_backend.disks.data_path import Cost

MIB = 1 << 20
SIZE = 1 << 30
PIECE = 64 << 10
DENSITIES = (64, 256, 640, 1024, 1536)
"""Extents in the disk: 0.4 % of it to 9 %."""
ROUNDS = 2
RACE_ROUNDS = 5


@attrs.frozen
class Bench:
    """The snapshot of one disk, and the two ways to it."""

    snapshot: SnapshotGuard
    plan: DiskPlan
    route: Route
    offer: RangeOffer

    @contextmanager
    def ranged(self) -> Iterator[BlockDevice]:
        """Open it for ranges: nothing is made."""
        with ExitStack() as stack:
            disks = RangedDisks(stack, self.snapshot, [self.plan], self.route, self.offer)
            yield disks.devices[0]
            if not disks.is_ranged:
                sys.exit("the lab answered wrongly, and the rest was read over iSCSI")

    @contextmanager
    def iscsi(self) -> Iterator[BlockDevice]:
        """Open it over iSCSI: a volume group is made, and removed at the end."""
        with ExitStack() as stack:
            yield open_disks(stack, self.snapshot, [self.plan], self.route)[0]

    def by(self, way: Way, regions: RegionList) -> Callable[[], None]:
        """Read the regions in one way, from the opening to what is removed."""

        def work() -> None:
            with (self.ranged if way is Way.RANGED else self.iscsi)() as device:
                read(device, regions, GAP if way is Way.SEQUENTIAL else 0)

        return work


def read(device: BlockDevice, regions: RegionList, gap: int = 0) -> None:
    """Read as a backup does, and drop it."""
    for _ in delta_pieces(device, regions, gap=gap):
        pass


def spread(count: int, length: int = PIECE) -> RegionList:
    """So many extents, evenly over the disk."""
    step = SIZE // count
    return RegionList(SIZE, (Region(number * step, length) for number in range(count)))


def seconds(work: Callable[[], object]) -> float:
    """The fastest of some rounds: what else the machine does only adds to it."""
    found = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        work()
        found.append(time.perf_counter() - began)
    return min(found)


@contextmanager
def opened(folder: Path) -> Iterator[Bench]:
    """A lab that offers ranges, and a snapshot of a disk full of data."""
    with ExitStack() as stack:
        started = Lab.start(folder / "lab", ranged_reads="yes", latency="prism")
        lab = stack.enter_context(started)
        vm_id = lab.create_vm("hybrid", [SIZE])
        with lab.disk_file("hybrid", 0).open("r+b") as disk:
            for _ in range(SIZE // MIB):
                disk.write(b"\xa5" * MIB)
        connection = {"prism": lab.pc_host, "user": lab.user, "password": lab.password}
        where = (("ca", str(lab.ca_file)), ("proxy_mode", "in_cluster"))
        settings = parse([*connection.items(), *where])
        client = stack.enter_context(inventory.connect(settings))
        vm = client.vms.get(vm_id)
        intents = stack.enter_context(journal.opened(folder / "state", "bench", lab.pc_host))
        snapshot = stack.enter_context(SnapshotGuard(client, intents, vm, "bench", "crash"))
        (plan,) = plan_disks(client, vm.disks, snapshot.recovery_point, None, sys.exit)
        cluster = client.clusters.get(vm.cluster_ext_id)
        offer = RangeOffer(folder / "offer.json", cluster, sys.exit)
        offer.prove()
        transport = choose_transport("userspace")
        route = Route(settings, cluster, transport, new_secret(chap=True), sys.exit, offer)
        yield Bench(snapshot, plan, route, offer)


def cost(device: BlockDevice, small: RegionList, large: RegionList) -> tuple[float, float]:
    """Seconds of a request and of a byte, from many small reads and from few large ones."""
    seconds_small, seconds_large = (
        seconds(partial(read, device, regions)) for regions in (small, large)
    )
    few, much = reads_of(small, 0), reads_of(large, 0)
    share = few.size / much.size
    request = (seconds_small - share * seconds_large) / (few.requests - share * much.requests)
    return request, (seconds_large - much.requests * request) / much.size


def costs(bench: Bench) -> None:
    """What the choice reckons with, measured and as it is in the product."""
    with bench.iscsi() as device:
        iscsi = cost(device, spread(4096), spread(SIZE // UNIT, UNIT))
    with bench.ranged() as device:
        rest = cost(device, spread(256), spread(256, UNIT))
    group = seconds(bench.by(Way.PIPELINED, RegionList(SIZE)))
    table = Table("", "measured", "data_path.py", title="what reading costs")
    rows: Mapping[str, tuple[Cost, tuple[float, float]]] = {
        "iSCSI": (ISCSI, iscsi),
        "HTTP ranges": (REST, rest),
    }
    for name, (known, (request, byte)) in rows.items():
        table.add_row(
            f"{name}, request", f"{request * 1e6:,.0f} us", f"{known.request * 1e6:,.0f} us"
        )
        table.add_row(
            f"{name}, bytes", f"{1e-6 / byte:,.0f} MB/s", f"{1e-6 / known.byte:,.0f} MB/s"
        )
    table.add_row("volume group, login and removal", f"{group:.1f} s", f"{GROUP:.1f} s")
    Console(width=110).print(table)


def crossover(bench: Bench) -> None:
    """Each density both ways, and which one the product takes."""
    table = Table("extents", "of the disk", "ranges", "iSCSI", "chosen", title="extents of 64 KiB")
    for count in DENSITIES:
        regions = spread(count)
        both = [seconds(bench.by(way, regions)) for way in (Way.RANGED, Way.PIPELINED)]
        chosen = "ranges" if chosen_way(regions) is Way.RANGED else "iSCSI"
        cells = (f"{value:.1f} s" for value in both)
        table.add_row(f"{count}", f"{count * PIECE / SIZE:.2%}", *cells, chosen)
    each = [known.of(Reads(1, PIECE)) for known in (REST, ISCSI)]
    table.caption = f"reckoned to cross at {GROUP / (each[0] - each[1]):.0f} extents"
    Console(width=110).print(table)


def chosen_way(regions: RegionList, *, ranges: bool = True) -> Way:
    """What the product chooses for a VM with this disk only."""
    return choose(regions, Reads(), is_raw=False, offers_ranges=ranges, group=GROUP)


def races(bench: Bench) -> None:
    """The way chosen against the other one, at half of the crossover and at twice of it."""
    crossing = GROUP / (REST.of(Reads(1, PIECE)) - ISCSI.of(Reads(1, PIECE)))
    for share, where in ((0.5, "half"), (2, "twice")):
        count = int(crossing * share)
        regions = spread(count)
        ours = chosen_way(regions)
        peer = Way.RANGED
        if ours is Way.RANGED:
            peer = chosen_way(regions, ranges=False)
        names = {Way.RANGED: "HTTP ranges"}
        race(
            f"hybrid path, {where} the crossover of {crossing:.0f} extents",
            (names.get(ours, "iSCSI"), bench.by(ours, regions)),
            (names.get(peer, "iSCSI"), bench.by(peer, regions)),
            count * PIECE,
            1.0,
            rounds=RACE_ROUNDS,
        )


def main() -> None:
    """Measure the costs, the crossover, and race the choice against the other way."""
    with tempfile.TemporaryDirectory(prefix="podheitor-bench-") as name, opened(Path(name)) as it:
        costs(it)
        crossover(it)
        races(it)


if __name__ == "__main__":
    main()
