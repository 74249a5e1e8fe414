"""What a broken, hanging or lying target does to data: nothing. Either right bytes or an error."""

from __future__ import annotations

import hashlib
import signal
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from iscsi_attach import (
    AttachError,
    Extent,
    IoFailed,
    LoginFailed,
    Portal,
    SessionLost,
    ShortRead,
    Target,
    attach,
    read_extents,
)
from iscsi_attach.testing import FaultyWire, ServedTarget, Tgtd, free_loopback

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

INITIATOR = "iqn.2026-01.local.test:initiator"
UNIT = 256 * 1024
STEPS_OF_ATTACH = 9  # answers of tgt until attach() is done: login, LUNs, what each of them is
RESPONSE, LOGIN_ANSWER, DATA_IN = 0x21, 0x23, 0x25
Pdu = tuple[bytes, bytes]


def digest(device: Any, look: Callable[[int, memoryview], object] = lambda *_: None) -> str:
    """Hash the whole disk; `look` sees every piece."""
    sha = hashlib.sha256()
    for offset, view in read_extents(device, [Extent(0, device.size)], unit=UNIT):
        look(offset, view)
        sha.update(view)
    return sha.hexdigest()


def right(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# -- the target goes away -----------------------------------------------------------------------


def test_a_target_killed_and_restarted_in_mid_read(own_tgtd: Any) -> None:
    tgtd, target, disk = own_tgtd

    def crash(offset: int, _: memoryview) -> None:
        if offset in (20 * UNIT, 50 * UNIT):
            tgtd.kill()
            tgtd.start()

    with attach(target, initiator=INITIATOR) as attachment:
        assert digest(attachment.open(1), crash) == right(disk)


def test_a_target_killed_while_nobody_reads(own_tgtd: Any) -> None:
    tgtd, target, disk = own_tgtd
    with attach(target, initiator=INITIATOR) as attachment:
        device = attachment.open(1)
        tgtd.kill()
        time.sleep(0.3)
        tgtd.start()
        assert digest(device) == right(disk)


def test_a_target_killed_for_good_in_mid_read(own_tgtd: Any) -> None:
    tgtd, target, disk = own_tgtd
    content, seen = disk.read_bytes(), 0

    def check(offset: int, view: memoryview) -> None:
        nonlocal seen
        if offset == 20 * UNIT:
            tgtd.kill()
        assert bytes(view) == content[offset : offset + UNIT]
        seen = offset + len(view)

    with attach(target, initiator=INITIATOR, recovery_timeout=1.0) as attachment:
        device = attachment.open(1)
        started = time.monotonic()
        with pytest.raises(SessionLost, match=r"not restored in 1 s: .*Connection refused"):
            digest(device, check)
        assert 1.0 <= time.monotonic() - started < 4.0
        assert seen < device.size
        with pytest.raises(SessionLost):  # and it stays so, without another wait
            device.read_into(0, memoryview(bytearray(512)))


def test_a_target_that_hangs_for_a_while(own_tgtd: Any) -> None:
    tgtd, target, disk = own_tgtd

    def hang(offset: int, _: memoryview) -> None:
        if offset == 20 * UNIT:
            tgtd.signal(signal.SIGSTOP)
            threading.Timer(2.5, tgtd.signal, [signal.SIGCONT]).start()

    with attach(target, initiator=INITIATOR, timeout=1.0) as attachment:
        assert digest(attachment.open(1), hang) == right(disk)


def test_a_target_that_hangs_for_good(own_tgtd: Any) -> None:
    tgtd, target, _ = own_tgtd
    with attach(target, initiator=INITIATOR, timeout=0.5, recovery_timeout=1.0) as attachment:
        device = attachment.open(1)
        tgtd.signal(signal.SIGSTOP)
        started = time.monotonic()
        with pytest.raises(SessionLost, match="no answer in time"):
            device.read_into(0, memoryview(bytearray(4096)))
        assert time.monotonic() - started < 6.0


def test_detaching_does_not_wait_for_a_dead_target(own_tgtd: Any) -> None:
    tgtd, target, _ = own_tgtd
    attachment = attach(target, initiator=INITIATOR)
    read = attachment.open(1)
    tgtd.kill()
    future = read.submit_read(0, memoryview(bytearray(4096)))
    time.sleep(0.3)
    started = time.monotonic()
    attachment.close()
    assert time.monotonic() - started < 1.0
    assert isinstance(future.exception(timeout=1), Exception)


@pytest.mark.parametrize("change", ["size", "serial", "gone"])
def test_another_disk_behind_the_restored_session(
    own_tgtd: Any, tmp_path: Path, change: str
) -> None:
    tgtd, target, disk = own_tgtd
    with attach(target, initiator=INITIATOR, recovery_timeout=1.5) as attachment:
        device = attachment.open(1)
        tgtd.kill()
        if change == "size":
            with disk.open("ab") as file:
                file.write(bytes(4096))
        other = tmp_path / ("own.raw" if change == "size" else "other.raw")
        other.write_bytes(disk.read_bytes())
        disks = () if change == "gone" else (other,)
        tgtd.targets = (ServedTarget(target.iqn, disks),)
        tgtd.start()
        expected = "is missing" if change == "gone" else "another disk now"
        with pytest.raises(SessionLost, match=expected):
            digest(device)


def test_writes_before_a_crash_must_be_written_again(own_tgtd: Any) -> None:
    tgtd, target, _ = own_tgtd
    with attach(target, initiator=INITIATOR) as attachment:
        device = attachment.open(1, writable=True)
        device.write(0, b"x" * 4096)
        device.flush()
        device.write(4096, b"y" * 4096)
        tgtd.kill()
        tgtd.start()
        device.write(8192, b"z" * 4096)
        for _ in range(2):
            with pytest.raises(IoFailed, match="earlier writes may be lost"):
                device.flush()


def test_a_crash_after_the_flush_is_no_matter(own_tgtd: Any) -> None:
    tgtd, target, disk = own_tgtd
    with attach(target, initiator=INITIATOR) as attachment:
        device = attachment.open(1, writable=True)
        device.write(0, b"x" * 4096)
        device.flush()
        tgtd.kill()
        tgtd.start()
        device.read_into(0, memoryview(bytearray(512)))  # over the restored session
        device.write(4096, b"y" * 4096)
        device.flush()
    assert disk.read_bytes()[:8192] == b"x" * 4096 + b"y" * 4096


# -- the wire is cut, or the target lies ---------------------------------------------------------


@pytest.fixture
def wire(own_tgtd: Any) -> Iterator[tuple[FaultyWire, Target, Path]]:
    _, target, disk = own_tgtd
    with FaultyWire(Portal(free_loopback()), target.portal) as wire:
        yield wire, Target(wire.portal, target.iqn), disk


class CutAfter:
    """Break the connection once, in place of the N-th PDU."""

    def __init__(self, count: int) -> None:
        self.left = count

    def __call__(self, header: bytes, data: bytes) -> Pdu | None:
        self.left -= 1
        return None if self.left == 0 else (header, data)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 7, 9, 10, 12, 40])
def test_a_connection_cut_after_any_answer(wire: Any, count: int) -> None:
    wire, target, disk = wire
    wire.tamper = CutAfter(count)
    if count <= STEPS_OF_ATTACH:
        with pytest.raises(AttachError, match="the connection broke"):
            attach(target, initiator=INITIATOR)
        return
    with attach(target, initiator=INITIATOR) as attachment:
        assert digest(attachment.open(1)) == right(disk)
    assert wire.tamper.left < 0


def test_a_target_that_breaks_on_one_command_again_and_again(wire: Any) -> None:
    wire, target, _ = wire

    def cut(header: bytes, data: bytes) -> Pdu | None:
        return None if len(data) == 7 * 512 else (header, data)

    wire.tamper = cut
    with attach(target, initiator=INITIATOR, recovery_timeout=1.0) as attachment:
        device = attachment.open(1)
        started = time.monotonic()
        with pytest.raises(SessionLost, match="not restored in 1 s"):
            device.read_into(0, memoryview(bytearray(7 * 512)))
        assert time.monotonic() - started < 4.0


def _with_residual(header: bytes, flag: int, count: int) -> bytes:
    return bytes([header[0], header[1] | flag]) + header[2:44] + count.to_bytes(4, "big")


@pytest.mark.parametrize(
    ("flag", "error"), [(0x02, ShortRead), (0x04, IoFailed)], ids=["underflow", "overflow"]
)
def test_a_read_that_moves_another_count_of_bytes(
    wire: Any, flag: int, error: type[Exception]
) -> None:
    wire, target, _ = wire

    def lie(header: bytes, data: bytes) -> Pdu:
        if header[0] == DATA_IN and len(data) >= 4096:
            header = _with_residual(header, flag, 512)
        return header, data

    with attach(target, initiator=INITIATOR) as attachment:
        device = attachment.open(1)
        wire.tamper = lie
        with pytest.raises(error):
            device.read_into(8192, memoryview(bytearray(4096)))
        with pytest.raises(error):
            digest(device)


def _status_answer(header: bytes, status: int, sense: bytes = b"") -> Pdu:
    """Turn the answer to a command into one without data, with a SCSI status."""
    body = (len(sense).to_bytes(2, "big") + sense) if sense else b""
    start = bytes([RESPONSE, 0x80, 0, status, 0]) + len(body).to_bytes(3, "big")
    return start + bytes(8) + header[16:20] + bytes(4) + header[24:36] + bytes(12), body + bytes(
        -len(body) % 4
    )


def _sense(key: int, ascq: int) -> bytes:
    return bytes([0x70, 0, key, 0, 0, 0, 0, 10]) + bytes(4) + ascq.to_bytes(2, "big") + bytes(4)


class Refuse:
    """Answer reads of data with a status instead, so many times."""

    def __init__(self, times: int, status: int, sense: bytes = b"") -> None:
        self.times, self.status, self.sense = times, status, sense

    def __call__(self, header: bytes, data: bytes) -> Pdu:
        if header[0] == DATA_IN and len(data) >= 4096 and self.times:
            self.times -= 1
            return _status_answer(header, self.status, self.sense)
        return header, data


@pytest.mark.parametrize(
    ("status", "sense"),
    [(0x08, b""), (0x28, b""), (0x02, _sense(6, 0x2900)), (0x02, _sense(0xB, 0))],
    ids=["busy", "queue-full", "unit-attention", "aborted"],
)
def test_a_passing_condition_passes(wire: Any, status: int, sense: bytes) -> None:
    wire, target, disk = wire
    with attach(target, initiator=INITIATOR) as attachment:
        device = attachment.open(1)
        wire.tamper = Refuse(3, status, sense)
        assert digest(device) == right(disk)
        assert wire.tamper.times == 0


@pytest.mark.parametrize(
    ("status", "sense", "words"),
    [
        (0x02, _sense(3, 0x1100), "medium error"),
        (0x02, _sense(6, 0x2A09), "unit attention .*2a/09"),
        (0x02, _sense(5, 0x2100), "illegal request"),
        (0x18, b"", "SCSI status 0x18"),
    ],
    ids=["medium", "capacity-changed", "range", "reserved"],
)
def test_a_lasting_condition_is_an_error_at_its_offset(
    wire: Any, status: int, sense: bytes, words: str
) -> None:
    wire, target, _ = wire
    with attach(target, initiator=INITIATOR) as attachment:
        device = attachment.open(1)
        wire.tamper = Refuse(1, status, sense)
        with pytest.raises(IoFailed, match=words) as caught:
            device.read_into(8192, memoryview(bytearray(4096)))
        assert caught.value.offset == 8192


def test_a_condition_that_does_not_pass_in_time(wire: Any) -> None:
    wire, target, _ = wire
    with attach(target, initiator=INITIATOR, recovery_timeout=0.6) as attachment:
        device = attachment.open(1)
        wire.tamper = Refuse(10**6, 0x08)
        with pytest.raises(IoFailed, match="SCSI status 0x8"):
            device.read_into(0, memoryview(bytearray(4096)))
        assert wire.tamper.times > 10**6 - 20  # it paused between the attempts


def _login_answer(status: int, text: bytes) -> Callable[[bytes, bytes], Pdu]:
    """Refuse every login with a status class and detail, and a key to go with it."""
    text += bytes(-len(text) % 4)

    def refuse(header: bytes, data: bytes) -> Pdu:
        if header[0] & 0x3F != LOGIN_ANSWER:
            return header, data
        length = len(text).to_bytes(3, "big")
        return header[:4] + b"\0" + length + header[8:36] + status.to_bytes(2, "big") + bytes(
            10
        ), text

    return refuse


@pytest.mark.parametrize(
    ("status", "text", "words"),
    [
        (0x0202, b"", f"does not admit the initiator {INITIATOR}"),
        (0x0301, b"", "login: .*[(]769[)]"),
        (0x0101, b"TargetAddress=10.0.0.1:http,1\0", "unusable address '10.0.0.1:http,1'"),
    ],
    ids=["authorization", "out-of-service", "bad-redirect"],
)
def test_other_refusals_of_a_login(wire: Any, status: int, text: bytes, words: str) -> None:
    wire, target, _ = wire
    wire.tamper = _login_answer(status, text)
    with pytest.raises(LoginFailed, match=words):
        attach(target, initiator=INITIATOR)


@pytest.mark.parametrize("times", [3, 1000])
def test_attaching_drains_unit_attentions_but_not_for_ever(wire: Any, times: int) -> None:
    wire, target, _ = wire
    left = times

    def attention(header: bytes, data: bytes) -> Pdu:
        nonlocal left
        if header[0] != RESPONSE or not left:
            return header, data
        left -= 1
        return _status_answer(header, 0x02, _sense(6, 0x2900))

    wire.tamper = attention
    if times > 100:
        with pytest.raises(AttachError, match=r"LUN 1: .*unit attention"):
            attach(target, initiator=INITIATOR)
        return
    with attach(target, initiator=INITIATOR) as attachment:
        assert len(attachment.luns) == 1
    assert left == 0


def test_a_list_of_disks_longer_than_expected_is_asked_for_again(wire: Any) -> None:
    wire, target, _ = wire
    lists = []

    def claim_more(header: bytes, data: bytes) -> Pdu:
        if header[0] == DATA_IN and len(data) == 8 + 2 * 8:  # the controller and one disk
            lists.append(data)
            if len(lists) == 1:
                data = (600 * 8).to_bytes(4, "big") + data[4:]
        return header, data

    wire.tamper = claim_more
    with attach(target, initiator=INITIATOR) as attachment:
        assert [info.lun for info in attachment.luns] == [1]
    assert len(lists) == 2


@pytest.mark.parametrize("reply", [b"", b"\0\0\0\x08\0\0\0\0\xc0\1\0\0\0\0\0\0"])
def test_nonsense_instead_of_the_list_of_disks(wire: Any, reply: bytes) -> None:
    wire, target, _ = wire

    def lie(header: bytes, data: bytes) -> Pdu:
        if header[0] != DATA_IN:
            return header, data
        header = _with_residual(header, 0x02, 4104 - len(reply))
        return header[:5] + len(reply).to_bytes(3, "big") + header[8:], reply

    wire.tamper = lie
    with pytest.raises(AttachError, match=r"list disks: .*(REPORT LUNS|address method)"):
        attach(target, initiator=INITIATOR)


def test_a_session_is_restored_through_the_portal_that_redirects(own_tgtd: Any) -> None:
    tgtd, target, disk = own_tgtd
    front = Portal(free_loopback())

    def crash(offset: int, _: memoryview) -> None:
        if offset == 20 * UNIT:
            tgtd.kill()
            tgtd.start()

    redirecting = ServedTarget(target.iqn, (disk,), redirect=target.portal)
    with (
        Tgtd([front], [redirecting]),
        attach(Target(front, target.iqn), initiator=INITIATOR) as attachment,
    ):
        assert digest(attachment.open(1), crash) == right(disk)


def test_a_backing_file_that_shrinks(own_tgtd: Any) -> None:
    _, target, disk = own_tgtd
    with attach(target, initiator=INITIATOR) as attachment:
        device = attachment.open(1)
        with disk.open("r+b") as file:
            file.truncate(8 * 2**20)
        with pytest.raises((IoFailed, ShortRead)):
            digest(device)
