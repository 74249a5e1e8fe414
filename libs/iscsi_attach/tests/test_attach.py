"""Discovery, login and enumeration against a real tgtd."""

from __future__ import annotations

import socket
import threading
from pathlib import Path
from typing import Any

import pytest
from iscsi_attach import (
    AttachError,
    Chap,
    DeviceClosed,
    DiscoveredTarget,
    Extent,
    LibraryMissing,
    LoginFailed,
    LunNotFound,
    Portal,
    PortalUnreachable,
    ReadOnlyDevice,
    Target,
    TargetNotFound,
    _libiscsi,
    attach,
    discover,
    read_extents,
)
from iscsi_attach.testing import ServedTarget, Tgtd, free_loopback

INITIATOR = "iqn.2026-01.local.test:initiator"
CHAP = Chap("bk", "secretsecret12")


def read_all(device: Any) -> bytes:
    return b"".join(bytes(view) for _, view in read_extents(device, [Extent(0, device.size)]))


def test_discovery_lists_targets_and_portals(served: Any) -> None:
    found = discover(served.portal, initiator=INITIATOR)
    names = [target.iqn.rpartition(":")[2] for target in found]
    assert names == ["plain", "chap", "moved", "scratch", "large-blocks", "empty"]
    assert isinstance(found[0], DiscoveredTarget)
    assert found[0].portals == (served.portal,)  # tgt names the address that was asked


def test_discovery_where_nobody_listens() -> None:
    with pytest.raises(PortalUnreachable, match="Connection refused"):
        discover(Portal(free_loopback()), initiator=INITIATOR)


def test_disks_are_listed_with_their_own_size_and_without_the_controller(served: Any) -> None:
    with attach(served.target("plain"), initiator=INITIATOR) as attachment:
        assert [info.lun for info in attachment.luns] == [1, 2, 3]
        assert [info.size for info in attachment.luns] == [d.stat().st_size for d in served.disks]
        assert [info.serial for info in attachment.luns] == ["disk0", "disk1", "disk2"]
        assert {info.block_size for info in attachment.luns} == {512}
        assert all(info.designator.startswith("naa.") for info in attachment.luns)
        for info, file in zip(attachment.luns, served.disks, strict=True):
            assert read_all(attachment.open(info.lun)) == file.read_bytes()


def test_a_target_without_disks(served: Any) -> None:
    with attach(served.target("empty"), initiator=INITIATOR) as attachment:
        assert attachment.luns == ()
        with pytest.raises(LunNotFound, match="disks at: none"):
            attachment.open(1)


def test_the_controller_and_missing_luns_are_no_disks(served: Any) -> None:
    with attach(served.target("plain"), initiator=INITIATOR) as attachment:
        for lun in (0, 9):
            with pytest.raises(LunNotFound, match=rf"LUN {lun} \(disks at: 1, 2, 3\)"):
                attachment.open(lun)


def test_chap(served: Any) -> None:
    with attach(served.target("chap", CHAP), initiator=INITIATOR) as attachment:
        assert read_all(attachment.open(1)) == served.disks[1].read_bytes()


@pytest.mark.parametrize("chap", [Chap("bk", "wrongwrongwrong"), Chap("who", "secretsecret12")])
def test_wrong_chap_is_said_and_the_secret_is_not(served: Any, chap: Chap) -> None:
    with pytest.raises(LoginFailed, match="wrong CHAP user or secret") as caught:
        attach(served.target("chap", chap), initiator=INITIATOR)
    assert chap.secret not in f"{caught.value!r} {caught.value.__cause__!r}"
    assert caught.value.step == "login"


def test_missing_chap_is_said(served: Any) -> None:
    with pytest.raises(LoginFailed, match="asks for CHAP"):
        attach(served.target("chap"), initiator=INITIATOR)


def test_chap_that_the_target_does_not_ask_for_is_harmless(served: Any) -> None:
    with attach(served.target("plain", CHAP), initiator=INITIATOR) as attachment:
        assert len(attachment.luns) == 3


def test_a_redirect_is_followed(served: Any) -> None:
    target = Target(served.front, served.target("moved").iqn)
    with attach(target, initiator=INITIATOR) as attachment:
        assert read_all(attachment.open(1)) == served.disks[1].read_bytes()


def test_a_redirect_to_nowhere_names_the_place(served: Any, tmp_path: Any) -> None:
    portal, nowhere = Portal(free_loopback()), Portal(free_loopback(), 3999)
    lost = ServedTarget("iqn.2010-06.com.nutanix:lost", served.disks[:1], redirect=nowhere)
    with Tgtd([portal], [lost]), pytest.raises(PortalUnreachable, match=str(nowhere)):
        attach(Target(portal, lost.iqn), initiator=INITIATOR)


def test_redirects_in_a_circle_end(served: Any) -> None:
    one, two = Portal(free_loopback()), Portal(free_loopback())
    iqn = "iqn.2010-06.com.nutanix:circle"
    disks = served.disks[:1]
    with (
        Tgtd([one], [ServedTarget(iqn, disks, redirect=two)]),
        Tgtd([two], [ServedTarget(iqn, disks, redirect=one)]),
        pytest.raises(LoginFailed, match="more than 4 times"),
    ):
        attach(Target(one, iqn), initiator=INITIATOR)


@pytest.mark.parametrize("name", ["missing", "private"])
def test_a_target_that_is_not_there_or_not_for_us(served: Any, name: str) -> None:
    with pytest.raises(TargetNotFound, match=INITIATOR):
        attach(served.target(name), initiator=INITIATOR)


def test_an_unreachable_portal() -> None:
    target = Target(Portal(free_loopback()), "iqn.2010-06.com.nutanix:vg1")
    with pytest.raises(PortalUnreachable, match="Connection refused") as caught:
        attach(target, initiator=INITIATOR)
    assert caught.value.step == "connect"
    with pytest.raises(PortalUnreachable, match=r"cannot connect to nowhere\.invalid:3260"):
        attach(Target(Portal("nowhere.invalid"), "iqn.x:y"), initiator=INITIATOR)


def test_a_portal_that_does_not_answer() -> None:
    host = free_loopback()
    with socket.create_server((host, 3260)), pytest.raises(PortalUnreachable, match="in time"):
        attach(
            Target(Portal(host), "iqn.2010-06.com.nutanix:vg1"), initiator=INITIATOR, timeout=0.5
        )


def test_a_portal_that_is_no_iscsi_service() -> None:
    host = free_loopback()
    with socket.create_server((host, 3260)) as server:

        def chat() -> None:
            for _ in range(2):
                connection, _ = server.accept()
                with connection:
                    connection.settimeout(1)
                    if connection.recv(48):
                        connection.sendall(b"220 mail.example ESMTP\r\n" * 20)

        thread = threading.Thread(target=chat)
        thread.start()
        with pytest.raises(AttachError):
            attach(Target(Portal(host), "iqn.x:y"), initiator=INITIATOR, timeout=2)
        thread.join()


def test_an_unusable_initiator_name(served: Any) -> None:
    with pytest.raises(LoginFailed, match="initiator name"):
        attach(served.target("plain"), initiator="")


def test_a_missing_library_names_the_package() -> None:
    with pytest.raises(LibraryMissing, match="install the Debian package libiscsi7"):
        _libiscsi.load("libiscsi.so.none")


def test_detaching_closes_the_devices_and_logs_out(served: Any) -> None:
    before = served.tgtd.sessions()
    attachment = attach(served.target("plain"), initiator=INITIATOR)
    assert served.tgtd.sessions() == before + 1
    device = attachment.open(2)
    attachment.close()
    attachment.close()
    assert served.tgtd.sessions() == before
    with pytest.raises(DeviceClosed):
        device.submit_read(0, memoryview(bytearray(512)))
    with pytest.raises(AttachError, match="already detached"):
        attachment.open(2)


def test_detaching_ends_reads_in_flight(served: Any) -> None:
    attachment = attach(served.target("plain"), initiator=INITIATOR)
    device = attachment.open(1)
    reads = [device.submit_read(0, memoryview(bytearray(device.size))) for _ in range(20)]
    attachment.close()
    for read in reads:
        error = read.exception(timeout=5)
        assert error is None or isinstance(error, DeviceClosed)


def test_a_disk_opened_for_reading_is_not_written(served: Any) -> None:
    with attach(served.target("plain"), initiator=INITIATOR) as attachment:
        device = attachment.open(1)
        with pytest.raises(ReadOnlyDevice, match="writable=True"):
            device.write(0, bytes(512))
        device.flush()


def test_several_sessions_at_a_time(served: Any) -> None:
    def read(results: list[bool]) -> None:
        with attach(served.target("plain"), initiator=INITIATOR) as attachment:
            results.append(read_all(attachment.open(1)) == served.disks[0].read_bytes())

    results: list[bool] = []
    threads = [threading.Thread(target=read, args=(results,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 4


def test_thirty_sessions_leave_nothing(served: Any) -> None:
    def footprint() -> tuple[int, int]:
        return len(list(Path("/proc/self/fd").iterdir())), threading.active_count()

    with attach(served.target("plain"), initiator=INITIATOR):
        pass
    before, sessions = footprint(), served.tgtd.sessions()
    for _ in range(30):
        with attach(served.target("plain"), initiator=INITIATOR) as attachment:
            attachment.open(1).read_into(0, memoryview(bytearray(4096)))
    for _ in range(5):
        with pytest.raises(TargetNotFound):
            attach(served.target("missing"), initiator=INITIATOR)
        discover(served.portal, initiator=INITIATOR)
    assert footprint() == before
    assert served.tgtd.sessions() == sessions
