"""How fast the extent reader is, against what else reads the same bytes.

    python benchmarks/iscsi_read.py [--size GIB] [--rounds N] [--directory DIR]

iSCSI: `read_extents` over a LUN against `qemu-img bench` (Debian: qemu-utils, qemu-block-extra) on
the same page-cached LUN. Direct IO: `read_extents` over a file against `dd iflag=direct bs=1M`.
Contestants take turns (.ci/race.py has to be on PYTHONPATH, as ./run bench puts it).
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import tempfile
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from iscsi_attach import Extent, Portal, Target, attach, open_direct, read_extents
from iscsi_attach.testing import ServedTarget, Tgtd, free_loopback
from race import ROUNDS, race

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from iscsi_attach import BlockDevice

IQN = "iqn.2010-06.com.nutanix:bench"
INITIATOR = "iqn.2026-01.local.bench:initiator"


def _consume(device: BlockDevice) -> None:
    read = sum(len(view) for _, view in read_extents(device, [Extent(0, device.size)]))
    if read != device.size:
        raise RuntimeError(f"read {read} of {device.size} bytes")


def _qemu(url: str, size: int, block: int) -> tuple[str, Callable[[], object]]:
    command = ["qemu-img", "bench", "-f", "raw", "-t", "none", "-c", str(size // block)]
    command += ["-d", "16", "-s", str(block), url]
    run = partial(subprocess.run, command, check=True, stdout=subprocess.DEVNULL)
    return f"qemu-img bench {block >> 10} KiB x 16", run


def _dd(path: Path) -> tuple[str, Callable[[], object]]:
    command = ["dd", f"if={path}", "of=/dev/null", "bs=1M", "iflag=direct", "status=none"]
    return "dd iflag=direct bs=1M", partial(subprocess.run, command, check=True)


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
        ours = ("read_extents", lambda: _consume(device))
        for block in (1 << 20, 1 << 18):
            rival = _qemu(url, device.size, block)
            race("iSCSI, user space", ours, rival, device.size, 0.95, rounds=rounds, most_cpu=1.3)


def _bench_direct(path: Path, rounds: int) -> None:
    with open_direct(path) as device:
        ours = ("read_extents", lambda: _consume(device))
        race("direct IO, file", ours, _dd(path), device.size, 0.95, rounds=rounds)


def main() -> None:
    """Run the races."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", type=float, default=2, metavar="GIB")
    parser.add_argument("--rounds", type=int, default=ROUNDS, metavar="N")
    parser.add_argument("--directory", type=Path, default=Path(tempfile.gettempdir()))
    options = parser.parse_args()
    with _data_file(options.directory, int(options.size * (1 << 30))) as path:
        _bench_iscsi(path, options.rounds)
        _bench_direct(path, options.rounds)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    print(f"\npeak resident memory of this process: {peak} MiB")


if __name__ == "__main__":
    main()
