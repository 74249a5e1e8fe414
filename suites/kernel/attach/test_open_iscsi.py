"""The kernel transport with open-iscsi, a kernel and a target, all real."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import pytest
from iscsi_attach import (
    UNIT,
    Chap,
    DeviceBusy,
    DeviceError,
    Extent,
    LoginFailed,
    LunNotFound,
    Portal,
    PortalUnreachable,
    SessionLost,
    ShortRead,
    Target,
    TargetInUse,
    TargetNotFound,
    kernel,
    read_extents,
)
from iscsi_attach._run import run
from iscsi_attach.kernel import DATABASES
from iscsi_attach.testing import ServedTarget, Tgtd, free_loopback

from suites.kernel.conftest import records

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from iscsi_attach._run import Done

INITIATOR = "iqn.2026-01.local.test:kernel"
CHAP = Chap("bk", "secretsecret12")
PREFIX = "iqn.2010-06.com.nutanix:"
MIB = 2**20
SIZES = (5 * MIB, MIB, 3 * MIB + 512 * 3)


@attrs.frozen
class Served:
    """A tgtd, a second one that redirects to it, and the files behind its targets."""

    tgtd: Tgtd
    portal: Portal
    front: Portal
    disks: tuple[Path, ...]

    def target(self, name: str, chap: Chap | None = None, portal: Portal | None = None) -> Target:
        return Target(portal or self.portal, PREFIX + name, chap)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    tmp_path = tmp_path_factory.mktemp("disks")
    disks = tuple(tmp_path / f"disk{number}.raw" for number in range(len(SIZES)))
    for disk, size in zip(disks, SIZES, strict=True):
        disk.write_bytes(os.urandom(size))
    portal, front = Portal(free_loopback()), Portal(free_loopback())
    targets = (
        ServedTarget(PREFIX + "plain", disks, initiator=INITIATOR),
        ServedTarget(PREFIX + "chap", disks[1:2], chap=CHAP, initiator=INITIATOR),
        ServedTarget(PREFIX + "private", disks[1:2], initiator="iqn.2026-01.local.test:other"),
    )
    moved = ServedTarget(PREFIX + "chap", disks[:1], chap=CHAP, redirect=portal)
    with Tgtd([portal], targets) as tgtd, Tgtd([front], [moved]):
        yield Served(tgtd, portal, front, disks)


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    before = traces()
    yield
    assert traces() == before == set()


def traces() -> set[str]:
    """All that an attachment could leave on this host."""
    found = [
        *Path("/sys/class/iscsi_session").iterdir(),
        *Path("/dev").glob("sd*"),
        *records("nodes"),
        *records("ifaces"),
        *Path("/run/lock/iscsi_attach").glob("*"),
        *(path for folder in DATABASES for path in Path("/", folder).glob(".*")),
    ]
    return {str(path) for path in found} | children()


def children() -> set[str]:
    task = Path(f"/proc/self/task/{threading.main_thread().native_id}/children")
    programs = {Path(f"/proc/{pid}/comm").read_text().strip() for pid in task.read_text().split()}
    return programs - {"tgtd"}


def attach(
    target: Target, *, timeout: float = 10.0, replacement_timeout: float = 15.0
) -> kernel.KernelAttachment:
    return kernel.attach(
        target, initiator=INITIATOR, timeout=timeout, replacement_timeout=replacement_timeout
    )


def digest(attachment: kernel.KernelAttachment, lun: int) -> str:
    with attachment.open(lun) as device:
        total = hashlib.sha256()
        for _, view in read_extents(device, [Extent(0, device.size)]):
            total.update(view)
    return total.hexdigest()


def digest_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_kernel_can() -> None:
    assert kernel.unavailable() == ""


def test_discovery_shows_what_is_ours_and_records_nothing(served: Served) -> None:
    found = kernel.discover(served.portal, initiator=INITIATOR)
    assert {target.iqn for target in found} == {PREFIX + "plain", PREFIX + "chap"}
    assert found[0].portals == (served.portal,)


def test_every_disk_is_read_exactly(served: Served) -> None:
    with attach(served.target("plain")) as attachment:
        assert [(lun.lun, lun.size) for lun in attachment.luns] == list(enumerate(SIZES, 1))
        assert [lun.serial for lun in attachment.luns] == ["disk0", "disk1", "disk2"]
        assert all(lun.designator and lun.block_size == 512 for lun in attachment.luns)
        for lun, disk in enumerate(served.disks, 1):
            assert digest(attachment, lun) == digest_of(disk)
        with pytest.raises(LunNotFound, match="disks at: 1, 2, 3"):
            attachment.open(4)


def test_writes_arrive(served: Served) -> None:
    content = os.urandom(100_000)
    with attach(served.target("plain")) as attachment:
        with attachment.open(2, writable=True) as device:
            device.write(777, content)
            device.flush()
        with attachment.open(1, writable=True) as device:  # not flushed: closing must not lose it
            device.write(513, b"partial")
    assert served.disks[1].read_bytes()[777:][: len(content)] == content
    assert served.disks[0].read_bytes()[513:][:7] == b"partial"


def test_chap_through_a_redirect_with_the_secret_in_no_argument(
    served: Served,
) -> None:
    commands: list[str] = []

    def recorded(argv: Sequence[str], *, timeout: float) -> Done:
        commands.append(" ".join(argv))
        return run(argv, timeout=timeout)

    target = served.target("chap", CHAP, served.front)
    host = kernel.Host(run=recorded)
    with kernel.attach(target, initiator=INITIATOR, host=host) as attachment:
        assert digest(attachment, 1) == digest_of(served.disks[1])
        (record,) = (path for path in records("nodes") if path.is_file())
        assert record.stat().st_mode & 0o777 == 0o600
        assert CHAP.secret in record.read_text()
    assert len(commands) >= 4
    assert not [command for command in commands if CHAP.secret in command]


@pytest.mark.parametrize("chap", [None, Chap("bk", "wrongwrongwrong")])
def test_a_wrong_secret_is_called_that(served: Served, chap: Chap | None) -> None:
    with pytest.raises(LoginFailed, match="wrong or missing CHAP") as caught:
        attach(served.target("chap", chap))
    assert "wrongwrong" not in str(caught.value)


@pytest.mark.parametrize("name", ["private", "nowhere"])
def test_a_target_that_is_not_offered(served: Served, name: str) -> None:
    with pytest.raises(TargetNotFound):
        attach(served.target(name))


def test_nobody_at_the_portal() -> None:
    with pytest.raises(PortalUnreachable):
        attach(Target(Portal(free_loopback()), PREFIX + "plain"), timeout=2)


def test_thirty_attachments_leave_nothing(served: Served) -> None:
    descriptors, threads = len(list(Path("/proc/self/fd").iterdir())), threading.active_count()
    for _ in range(30):
        with attach(served.target("chap", CHAP)) as attachment, attachment.open(1) as device:
            device.read_into(0, memoryview(bytearray(4096)))
    assert traces() == set()
    assert len(list(Path("/proc/self/fd").iterdir())) == descriptors
    assert threading.active_count() == threads
    assert served.tgtd.sessions() == 0


def test_reads_after_a_logout_under_the_reader_are_errors(served: Served) -> None:
    attachment = attach(served.target("plain"))
    with attachment, attachment.open(1) as device:
        reader = read_extents(device, [Extent(0, device.size)], unit=64 * 1024, depth=2)
        next(reader)
        subprocess.run(["iscsiadm", "-m", "session", "--logout"], check=True, capture_output=True)
        with pytest.raises(DeviceError) as caught:
            for _ in reader:
                pass
        with pytest.raises(ShortRead):  # by now the kernel answers 0 bytes, the end of the file
            device.read_into(MIB, memoryview(bytearray(4096)))
        with pytest.raises(SessionLost, match="logged the session out"):
            attachment.open(2)
    assert "incomplete" in str(caught.value) or "failed" in str(caught.value)


def test_a_dead_target_is_an_error_within_the_replacement_time(served: Served) -> None:
    with (
        attach(served.target("plain"), replacement_timeout=2) as attachment,
        attachment.open(1) as device,
    ):
        reader = read_extents(device, [Extent(0, device.size)], unit=64 * 1024, depth=1)
        next(reader)
        served.tgtd.kill()
        began = time.monotonic()
        with pytest.raises(DeviceError, match=r"failed|incomplete"):
            for _ in reader:
                pass
        assert time.monotonic() - began < 20
    served.tgtd.start()


def test_a_target_that_returns_in_time_costs_nothing(served: Served) -> None:
    with attach(served.target("plain")) as attachment, attachment.open(1) as device:
        reader = read_extents(device, [Extent(0, device.size)], unit=64 * 1024, depth=1)
        total = hashlib.sha256(next(reader)[1])
        served.tgtd.kill()
        served.tgtd.start()
        for _, view in reader:
            total.update(view)
    assert total.hexdigest() == digest_of(served.disks[0])


def test_a_session_of_somebody_else_is_left_alone(served: Served) -> None:
    node = ["iscsiadm", "-m", "node", "-T", PREFIX + "plain", "-p", str(served.portal)]
    subprocess.run([*node, "--op", "new"], check=True, capture_output=True)
    before = traces()
    with pytest.raises(TargetInUse, match=r"the node record .* is not ours"):
        attach(served.target("plain"))
    assert traces() == before
    served.tgtd._admin(1, "target", "bind", "-Q", "iqn.2026-01.example:guest")
    subprocess.run([*node, "--login"], check=True, capture_output=True)
    try:
        while len(list(Path("/dev").glob("sd*"))) < len(SIZES):  # this login scans, at its leisure
            time.sleep(0.05)
        before = traces()
        with pytest.raises(TargetInUse, match=r"session .* is not ours"):
            attach(served.target("plain"))
        assert kernel.abandoned(initiator=INITIATOR) == []
        assert traces() == before
    finally:
        subprocess.run([*node, "--logout"], check=True, capture_output=True)
        subprocess.run([*node, "--op", "delete"], check=True, capture_output=True)


HOLDER = """
import sys, time
from iscsi_attach import Portal, Target, kernel
attachment = kernel.attach(Target(Portal(sys.argv[1]), sys.argv[2]), initiator=sys.argv[3])
device = attachment.open(1)
print("attached", flush=True)
time.sleep(100)
"""


@pytest.mark.parametrize("how", ["recover", "attach"])
def test_what_a_killed_process_left_is_ours_to_end(served: Served, how: str) -> None:
    arguments = [served.portal.host, PREFIX + "plain", INITIATOR]
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, *arguments], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout
        assert holder.stdout.readline() == "attached\n"
        assert kernel.abandoned(initiator=INITIATOR) == [], "its process lives"
        with pytest.raises(TargetInUse, match="another process"):
            attach(served.target("plain"), timeout=0.5)
        holder.send_signal(signal.SIGKILL)
    assert len(traces()) > 3
    assert kernel.abandoned(initiator=INITIATOR) == [PREFIX + "plain"]
    if how == "recover":
        kernel.recover(PREFIX + "plain", initiator=INITIATOR)
        assert traces() == set()
        return
    with attach(served.target("plain")) as attachment:
        assert digest(attachment, 1) == digest_of(served.disks[0])


def test_a_disk_that_multipath_holds_is_refused(served: Served) -> None:
    with attach(served.target("plain")) as attachment:
        name = next(iter(attachment._disks.values())).name
        table = f"0 {SIZES[0] // 512} linear /dev/{name} 0"
        made = ["dmsetup", "create", "mpatha", "--noudevsync", "--table", table]
        subprocess.run(made, check=True, capture_output=True)
        try:
            with pytest.raises(DeviceBusy, match=r"held by dm-0 mpatha.*multipath\.conf"):
                attachment.open(1)
        finally:
            gone = ["dmsetup", "remove", "--retry", "mpatha"]  # udev may be looking at it
            subprocess.run(gone, check=True, capture_output=True)
        with attachment.open(1):  # and while we have it, nobody else gets it
            done = subprocess.run(made, check=False, capture_output=True, text=True)
            assert done.returncode
            assert "busy" in done.stderr.lower()


def test_a_speed_that_is_worth_it(served: Served) -> None:
    with attach(served.target("plain")) as attachment, attachment.open(1) as device:
        began = time.monotonic()
        moved = sum(
            len(view) for _, view in read_extents(device, [Extent(0, device.size)], unit=UNIT)
        )
        assert moved == SIZES[0]
        assert moved / (time.monotonic() - began) > MIB
