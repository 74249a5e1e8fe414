"""How fast the extent reader is, against what else reads the same bytes.

    python benchmarks/iscsi_read.py [--size GIB] [--rounds N] [--directory DIR]

iSCSI: `read_extents` over a LUN against `qemu-img bench` (Debian: qemu-utils, qemu-block-extra) on
the same page-cached LUN. Direct IO: `read_extents` over a file against `dd iflag=direct bs=1M`.
Contestants take turns in every round; the table gives medians, and the ratio to the rival.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
from iscsi_attach import Extent, Portal, Target, attach, open_direct, read_extents
from iscsi_attach.testing import ServedTarget, Tgtd, free_loopback

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from iscsi_attach import BlockDevice

IQN = "iqn.2010-06.com.nutanix:bench"
INITIATOR = "iqn.2026-01.local.bench:initiator"


@attrs.define
class Contestant:
    """One way to read all the bytes, and what its rounds took (wall and CPU seconds)."""

    name: str
    read: Callable[[], object]
    rounds: list[tuple[float, float]] = attrs.field(factory=list)

    def run(self) -> None:
        """Read everything once."""
        cpu, started = _cpu_seconds(), time.perf_counter()
        self.read()
        self.rounds.append((time.perf_counter() - started, _cpu_seconds() - cpu))

    @property
    def seconds(self) -> float:
        """Median wall time."""
        return statistics.median(wall for wall, _ in self.rounds)

    @property
    def cpu(self) -> float:
        """Median CPU time."""
        return statistics.median(cpu for _, cpu in self.rounds)


def _cpu_seconds() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def _consume(device: BlockDevice) -> None:
    read = sum(len(view) for _, view in read_extents(device, [Extent(0, device.size)]))
    if read != device.size:
        raise RuntimeError(f"read {read} of {device.size} bytes")


def _qemu(url: str, size: int, block: int) -> Contestant:
    command = ["qemu-img", "bench", "-f", "raw", "-t", "none", "-c", str(size // block)]
    command += ["-d", "16", "-s", str(block), url]
    return Contestant(
        f"qemu-img bench {block >> 10} KiB x 16",
        lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL),
    )


def _dd(path: Path) -> Contestant:
    command = ["dd", f"if={path}", "of=/dev/null", "bs=1M", "iflag=direct", "status=none"]
    return Contestant("dd iflag=direct bs=1M", lambda: subprocess.run(command, check=True))


def _race(title: str, size: int, contestants: list[Contestant], rounds: int) -> None:
    """Let the contestants take turns; the first is ours, the ratio is to the fastest rival."""
    for contestant in contestants:  # a warm-up that does not count
        contestant.run()
        contestant.rounds.clear()
    for _ in range(rounds):
        for contestant in contestants:
            contestant.run()
    best = min(contestant.seconds for contestant in contestants[1:])
    print(f"\n{title}, {size >> 20} MiB, {rounds} rounds, medians")
    for contestant in contestants:
        print(
            f"  {contestant.name:32} {size / contestant.seconds / 1e6:7.0f} MB/s"
            f"  {contestant.cpu / (size / (1 << 30)):5.2f} CPU s/GiB"
            f"  {best / contestant.seconds:5.2f} x rival"
        )


@contextmanager
def _data_file(directory: Path, size: int) -> Iterator[Path]:
    with tempfile.NamedTemporaryFile(dir=directory, suffix=".raw") as file:
        for _ in range(size >> 20):
            file.write(os.urandom(1 << 20))
        file.flush()
        os.fsync(file.fileno())
        yield Path(file.name)


def _bench_iscsi(path: Path, rounds: int) -> None:
    portal = Portal(free_loopback())
    with (
        Tgtd([portal], [ServedTarget(IQN, (path,))]),
        attach(Target(portal, IQN), initiator=INITIATOR) as attachment,
    ):
        device = attachment.open(attachment.luns[0].lun)
        url = f"iscsi://{portal}/{IQN}/{attachment.luns[0].lun}"
        ours = Contestant("read_extents", lambda: _consume(device))
        rivals = [_qemu(url, device.size, block) for block in (1 << 20, 1 << 18)]
        _race("iSCSI, user space", device.size, [ours, *rivals], rounds)


def _bench_direct(path: Path, rounds: int) -> None:
    with open_direct(path) as device:
        ours = Contestant("read_extents", lambda: _consume(device))
        _race("direct IO, file", device.size, [ours, _dd(path)], rounds)


def main() -> None:
    """Run both races."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", type=float, default=2, metavar="GIB")
    parser.add_argument("--rounds", type=int, default=5, metavar="N")
    parser.add_argument("--directory", type=Path, default=Path(tempfile.gettempdir()))
    options = parser.parse_args()
    with _data_file(options.directory, int(options.size * (1 << 30))) as path:
        _bench_iscsi(path, options.rounds)
        _bench_direct(path, options.rounds)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    print(f"\npeak resident memory of this process: {peak} MiB")


if __name__ == "__main__":
    main()
