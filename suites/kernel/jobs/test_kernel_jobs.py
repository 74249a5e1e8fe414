"""Full, Incremental and restore to a device with open-iscsi between the lab and the product."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from ptcomm import Level, Severity
from ptcomm_runner import jobs
from ptcomm_runner.catalog import Status
from ptcomm_runner.errors import RunnerError

from suites.kernel.conftest import records

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from apps.nutanix_backend.tests.conftest import Guest, Product

KIB, MIB = 1 << 10, 1 << 20


@pytest.fixture(autouse=True)
def nothing_is_left_on_the_host() -> Iterator[None]:
    yield
    assert traces() == []


def traces() -> list[Path]:
    """Sessions, disks, node and interface records, and locks."""
    return [
        *Path("/sys/class/iscsi_session").iterdir(),
        *Path("/dev").glob("sd*"),
        *records("nodes"),
        *records("ifaces"),
        *Path("/run/lock/iscsi_attach").glob("*"),
    ]


@pytest.fixture
def kernel_guest(product: Product) -> Guest:
    """A VM with two disks, each in a size of its own."""
    return product.guest(8 * MIB, 3 * MIB)


def test_a_chain_over_the_kernel_is_restored_to_a_device(
    product: Product, kernel_guest: Guest, loop_device: Callable[[int], Path]
) -> None:
    full = product.good_backup(Level.FULL, kernel_guest, transport="kernel")
    kernel_guest.write(0, 3 * MIB + 123, 200 * KIB)
    kernel_guest.discard(0, 5 * MIB, MIB)
    kernel_guest.write(1, MIB, 70 * KIB)
    last = product.good_backup(Level.INCREMENTAL, kernel_guest, transport="auto")

    for result, says in ((full, "transport=kernel"), (last, "transport=auto")):
        texts = [m.text for m in result.log if m.severity is Severity.INFO]
        assert f"disks are read over iSCSI by the kernel (open-iscsi), {says}" in texts
    assert set(product.files(last, kernel_guest)) == {"0-phcbt01", "1-phcbt01"}
    for index, point in enumerate(product.points(last, kernel_guest)):
        device = loop_device(point.stat().st_size)
        product.good_restore("/", disk=index, disk_path=device, overwrite="yes")
        assert device.read_bytes() == point.read_bytes()
    product.assert_restores(full, kernel_guest)


def test_a_target_that_dies_under_the_kernel_fails_the_job(
    product: Product, kernel_guest: Guest
) -> None:
    def kill() -> None:
        for group in product.lab.state()["volume_groups"]:
            product.lab.kill_target(group["ext_id"])

    product.watcher.on_data = kill
    result = product.backup(Level.FULL, kernel_guest, transport="kernel")
    assert result.status is Status.FAILED
    fatal = [m.text for m in result.log if m.severity is Severity.FATAL]
    assert len(fatal) == 1
    assert "/dev/sd" in fatal[0]


def test_what_a_killed_backend_left_on_host_and_cluster_is_swept(
    product: Product, kernel_guest: Guest
) -> None:
    """kill -9 leaves session, disks and node record too; the next job ends them first."""
    product.watcher.on_data = kill_backend
    with suppress(RunnerError):
        jobs.backup(
            product.store,
            "job",
            Level.FULL,
            product.settings(vm=kernel_guest.name, transport="kernel"),
        )
    assert len(traces()) > 4
    assert product.lab.state()["sessions"]

    product.watcher.on_data = lambda: None
    result = product.good_backup(Level.FULL, kernel_guest, transport="kernel")
    swept = [m.text for m in result.log if m.text.startswith("removed: ")]
    kinds = ("iSCSI session", "volume group", "recovery point")
    assert [any(f"removed: {kind}" in text for text in swept) for kind in kinds] == [True] * 3
    product.assert_restores(result, kernel_guest)


def kill_backend() -> None:
    """SIGKILL the backend that this process runs."""
    for thread in Path("/proc/self/task").iterdir():
        for child in (thread / "children").read_text().split():
            if b"nutanix_backend" in Path(f"/proc/{child}/cmdline").read_bytes():
                os.kill(int(child), signal.SIGKILL)
