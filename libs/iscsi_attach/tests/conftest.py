"""Real targets on loopback, real loop devices, and files behind both."""

from __future__ import annotations

import functools
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import pytest
from iscsi_attach import Chap, Portal, Target, attach, open_direct
from iscsi_attach.testing import ServedTarget, Tgtd, free_loopback

if TYPE_CHECKING:
    from collections.abc import Iterator

    from iscsi_attach import BlockDevice

INITIATOR = "iqn.2026-01.local.test:initiator"
CHAP = Chap("bk", "secretsecret12")
PREFIX = "iqn.2010-06.com.nutanix:"
SIZES = (5 * 2**20, 2**20, 3 * 2**20 + 512 * 3)


@attrs.frozen
class Served:
    """A running tgtd and the files behind its targets.

    Targets: plain (three disks), chap, private (another initiator's), scratch (writable),
    large-blocks (4096), empty; and moved, to which the portal `front` of another tgtd redirects.
    """

    tgtd: Tgtd
    portal: Portal
    front: Portal
    disks: tuple[Path, ...]
    scratch: Path
    large: Path

    def target(self, name: str, chap: Chap | None = None) -> Target:
        return Target(self.portal, PREFIX + name, chap)


@functools.cache
def random_bytes() -> bytes:
    return os.urandom(16 * 2**20)


def make_disk(path: Path, size: int) -> Path:
    path.write_bytes(random_bytes()[:size])
    return path


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    home = tmp_path_factory.mktemp("disks")
    disks = tuple(make_disk(home / f"disk{i}.raw", size) for i, size in enumerate(SIZES))
    scratch, large = (make_disk(home / f"{name}.raw", 2**20) for name in ("scratch", "large"))
    portal, front = Portal(free_loopback()), Portal(free_loopback())
    targets = (
        ServedTarget(PREFIX + "plain", disks),
        ServedTarget(PREFIX + "chap", disks[1:2], chap=CHAP),
        ServedTarget(PREFIX + "moved", disks[1:2]),
        ServedTarget(PREFIX + "private", disks[1:2], initiator="iqn.2026-01.local.test:other"),
        ServedTarget(PREFIX + "scratch", (scratch,)),
        ServedTarget(PREFIX + "large-blocks", (large,), block_size=4096),
        ServedTarget(PREFIX + "empty", ()),
    )
    # tgtd redirects every login that comes in, so who redirects cannot be who serves
    moved = ServedTarget(PREFIX + "moved", disks[:1], redirect=portal)
    with Tgtd([portal], targets) as tgtd, Tgtd([front], [moved]):
        yield Served(tgtd, portal, front, disks, scratch, large)


@pytest.fixture
def own_tgtd(tmp_path: Path) -> Iterator[tuple[Tgtd, Target, Path]]:
    """A tgtd that a test may kill, its one target, and the 16 MiB file behind it."""
    disk = make_disk(tmp_path / "own.raw", 16 * 2**20)
    portal = Portal(free_loopback())
    with Tgtd([portal], [ServedTarget(PREFIX + "own", (disk,))]) as tgtd:
        yield tgtd, Target(portal, PREFIX + "own"), disk


@attrs.frozen
class Disk:
    """A writable device and the file that holds its bytes."""

    device: BlockDevice
    file: Path


@pytest.fixture(params=["lun-512", "lun-4096", "file", "odd-file", "loop-512", "loop-4096"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    """A writable disk of every kind that the library offers, about 1 MiB long."""
    kind: str = request.param
    if kind.startswith("lun"):
        yield from _lun_disk(request.getfixturevalue("served"), kind)
        return
    size = 2**20 + 777 if kind == "odd-file" else 2**20
    file = make_disk(tmp_path / "disk.raw", size)
    path = file
    if kind.startswith("loop"):
        path = _loop_device(request, file, kind.partition("-")[2])
    with open_direct(path, writable=True) as device:
        yield Disk(device, file)


def _lun_disk(served: Served, kind: str) -> Iterator[Disk]:
    name, file = (
        ("scratch", served.scratch) if kind == "lun-512" else ("large-blocks", served.large)
    )
    with attach(served.target(name), initiator=INITIATOR) as attachment:
        yield Disk(attachment.open(1, writable=True), file)


@pytest.fixture
def loop_device(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return _loop_device(request, make_disk(tmp_path / "loop.raw", 2**20), "512")


def _loop_device(request: pytest.FixtureRequest, file: Path, sector_size: str) -> Path:
    if not Path("/dev/loop-control").exists() or os.geteuid() != 0:
        pytest.skip("needs root and /dev/loop-control (the loop module)")
    command = ["losetup", "-f", "--show", "--direct-io=on", "--sector-size", sector_size, str(file)]
    device = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    request.addfinalizer(lambda: subprocess.run(["losetup", "-d", device], check=True))
    return Path(device)
