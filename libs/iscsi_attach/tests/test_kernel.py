"""The order and undoing of the kernel transport, on a host in a folder; kernel/ has a real one."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from iscsi_attach import (
    AttachError,
    Chap,
    CommandFailed,
    DeviceBusy,
    DeviceNotFound,
    KernelUnavailable,
    LoginFailed,
    LunNotFound,
    Portal,
    PortalUnreachable,
    SessionLost,
    ShortRead,
    Target,
    TargetInUse,
    TargetNotFound,
    _iscsiadm,
    kernel,
)
from iscsi_attach._run import Done, run
from iscsi_attach.fakehost import BROKEN, FakeHost

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

US = "iqn.2026-01.local.test:us"
SECRET = "secretsecret12"
TARGET = Target(Portal("192.0.2.1"), "iqn.2010-06.com.nutanix:vg-1", Chap("bk", SECRET))
CONTENT = os.urandom(8192)


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., FakeHost]:
    """Make hosts, each in a folder of its own."""
    disk = tmp_path / "disk.raw"
    disk.write_bytes(CONTENT)
    numbers = iter(range(1000))

    def host(fail_at: int = -1, after_effect: bool = False) -> FakeHost:
        root = tmp_path / f"host{next(numbers)}"
        root.mkdir()
        disks = [disk, disk]
        return FakeHost(root, TARGET, US, disks, fail_at=fail_at, after_effect=after_effect)

    return host


def use(fake: FakeHost) -> None:
    """What a job does: find the target, log in, read a disk, log out."""
    (found,) = kernel.discover(TARGET.portal, initiator=US, timeout=1, host=fake.host)
    assert found.iqn == TARGET.iqn
    with kernel.attach(TARGET, initiator=US, timeout=1, host=fake.host) as attachment:
        with attachment.open(2) as device:
            buffer = memoryview(bytearray(len(CONTENT)))
            device.read_into(0, buffer)
        assert buffer == CONTENT


def test_an_attachment_leaves_nothing(make: Callable[..., FakeHost]) -> None:
    fake = make()
    for _ in range(30):
        use(fake)
        assert fake.left() == []
    assert not [call for call in fake.calls if SECRET in call]


@pytest.mark.parametrize("after_effect", [False, True])
def test_whatever_call_fails_nothing_is_left(
    make: Callable[..., FakeHost], after_effect: bool
) -> None:
    """The n-th call fails, for every n: its error is seen, or it was an undo and tried again."""
    outcomes = []
    for number in range(100):
        fake = make(fail_at=number, after_effect=after_effect)
        try:
            use(fake)
            outcomes.append(False)
        except DeviceNotFound:  # what a scan that fails becomes
            outcomes.append(True)
        except CommandFailed as error:
            outcomes.append(error.status == BROKEN)
        assert fake.left() == [], fake.calls[number]
        if len(fake.calls) <= number:
            break
    assert outcomes[:3] == [True, True, True], "interface, its name, discovery"
    assert outcomes[4:7] == [True, True, True], "record, login, scan"
    assert not any(outcomes[7:]), "what comes then only undoes"
    assert 10 < len(outcomes) < 100


def test_the_undo_runs_backwards(make: Callable[..., FakeHost]) -> None:
    fake = make()
    use(fake)
    verbs = [call.split()[-1] if "iscsiadm" in call else call[:6] for call in fake.calls[4:]]
    assert verbs == ["new", "--login", "scan: "] + ["delete"] * 3 + ["--logout", "delete"]


def test_what_died_is_recovered(make: Callable[..., FakeHost]) -> None:
    fake = make()
    attachment = kernel.attach(TARGET, initiator=US, host=fake.host)
    assert kernel.abandoned(initiator=US, host=fake.host) == [], "its process lives: this one"
    with pytest.raises(TargetInUse, match="another process of ours"):
        kernel.recover(TARGET.iqn, initiator=US, host=fake.host)
    lock = next((fake.root / kernel.LOCKS).iterdir())
    lock.rename(lock.with_name("held"))  # as if the process were gone
    assert kernel.abandoned(initiator="iqn.other", host=fake.host) == []
    assert kernel.abandoned(initiator=US, host=fake.host) == [TARGET.iqn]
    kernel.recover(TARGET.iqn, initiator=US, host=fake.host)
    assert fake.left() == []
    attachment.close()


def test_a_record_that_died_young_is_known_by_the_lock_left_with_it(
    make: Callable[..., FakeHost],
) -> None:
    fake = make()
    record = ["iscsiadm", "-m", "node", "-T", TARGET.iqn, "-p", str(TARGET.portal), "--op", "new"]
    fake.host.run(record, timeout=1)
    with pytest.raises(TargetInUse, match="is not ours"):
        kernel.attach(TARGET, initiator=US, host=fake.host)
    (fake.root / kernel.LOCKS / kernel._lock_name(TARGET.iqn)).touch()
    assert kernel.abandoned(initiator=US, host=fake.host) == [TARGET.iqn]
    use(fake)
    assert fake.left() == []


def test_a_logout_under_the_reader_is_never_an_end_of_file(make: Callable[..., FakeHost]) -> None:
    fake = make()
    with kernel.attach(TARGET, initiator=US, host=fake.host) as attachment:
        device = attachment.open(1)
        os.truncate(fake.disks[0], 0)  # the kernel answers 0 bytes from then on
        with pytest.raises(ShortRead):
            device.read_into(4096, memoryview(bytearray(4096)))
        fake.log_out_all()
        with pytest.raises(SessionLost):
            attachment.open(2)
    assert fake.left() == []


def test_multipath_and_other_luns(make: Callable[..., FakeHost]) -> None:
    fake = make()
    with kernel.attach(TARGET, initiator=US, host=fake.host) as attachment:
        assert [lun.lun for lun in attachment.luns] == [1, 2], "LUN 0 is a controller"
        with pytest.raises(LunNotFound):
            attachment.open(0)
        fake.hold("sda", "dm-3", "mpatha")
        with pytest.raises(DeviceBusy, match=r"held by dm-3 mpatha.*multipath\.conf"):
            attachment.open(1)
    with pytest.raises(AttachError, match="already detached"):
        attachment.open(2)


def test_a_wrong_secret_and_a_wrong_name(make: Callable[..., FakeHost]) -> None:
    fake = make()
    with pytest.raises(LoginFailed):
        kernel.attach(Target(TARGET.portal, TARGET.iqn), initiator=US, host=fake.host)
    with pytest.raises(TargetNotFound):
        kernel.attach(TARGET, initiator="iqn.2026-01.local.test:other", host=fake.host)
    assert fake.left() == []


def test_why_the_kernel_cannot(
    make: Callable[..., FakeHost], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = make()
    assert kernel.unavailable(kernel.Host(user=1)) == "it needs root"
    with monkeypatch.context() as patch:  # after THIS_HOST was made
        patch.setattr(os, "geteuid", lambda: 65_534)
        assert kernel.unavailable() == "it needs root"
    assert "iscsi_tcp" in kernel.unavailable(fake.host)
    (fake.root / "sys/class/iscsi_transport/tcp").mkdir(parents=True)
    sockets = fake.root / "proc/net/unix"
    sockets.parent.mkdir(parents=True)
    sockets.write_text("Num RefCount\n")
    assert "iscsid does not run" in kernel.unavailable(fake.host)
    sockets.write_text("0: 2 0 1 1 1 81 @ISCSIADM_ABSTRACT_NAMESPACE\n")
    assert kernel.unavailable(fake.host) == ""
    bare = kernel.Host(fake.root, lambda argv, *, timeout: Done(127), user=0)
    assert "open-iscsi" in kernel.unavailable(bare)


# --- the language of iscsiadm, as open-iscsi 2.1.8 speaks it

REFUSED = """iscsiadm: Could not login to [iface: default, target: t, portal: 127.0.0.1,3260].
iscsiadm: initiator reported error (24 - iSCSI login failed due to authorization failure)
iscsiadm: Could not log into all portals
"""


@pytest.mark.parametrize(
    ("done", "kind"),
    [
        (Done(24, "", REFUSED), LoginFailed),
        (Done(21, "", "iscsiadm: error (20 - could not connect to iscsid)"), KernelUnavailable),
        (Done(19), TargetNotFound),
        (Done(8), PortalUnreachable),
        (Done(11), PortalUnreachable),
        (Done(15, "", "iscsiadm: 1 session requested, but 1 already present."), TargetInUse),
        (Done(21, "", "iscsiadm: No records found"), TargetNotFound),
        (Done(124), PortalUnreachable),
        (Done(127), KernelUnavailable),
        (Done(7, "", "iscsiadm: bad option"), CommandFailed),
    ],
)  # fmt: skip
def test_exit_codes_are_typed_errors_of_one_line(done: Done, kind: type[AttachError]) -> None:
    error = _iscsiadm.failure(done, step="login", target="t")
    assert type(error) is kind
    assert "\n" not in str(error)


def test_a_discovery_as_it_is_printed() -> None:
    text = (
        "iscsiadm: a warning\n127.0.0.2:3260,1 iqn.2010-06.com.nutanix:vg-1\n"
        "[fe80::1]:3261,-1 iqn.2010-06.com.nutanix:vg-1\n127.0.0.2:3260,1 iqn.x:y\n"
    )
    one, two = _iscsiadm.parse_discovery(text)
    assert one.portals == (Portal("127.0.0.2"), Portal("fe80::1", 3261))
    assert two.iqn == "iqn.x:y"
    assert _iscsiadm.parse_discovery("iscsiadm: No portals found\n") == []


RECORD = """# BEGIN RECORD 2.1.8
node.name = iqn.x:y
node.startup = automatic
node.session.auth.username_in = old
node.session.auth.password_in = older
node.conn[0].timeo.login_timeout = 15
# END RECORD
"""


def test_a_record_is_edited_and_nothing_else_of_it_changes() -> None:
    settings = _iscsiadm.record_settings(US, TARGET.chap, login_timeout=5, replacement_timeout=0.2)
    lines = _iscsiadm.edit_record(RECORD, settings).splitlines()
    assert lines[:2] == ["# BEGIN RECORD 2.1.8", "node.name = iqn.x:y"]
    assert lines[-1] == "# END RECORD"
    assert lines.count("node.startup = manual") == 1
    assert "node.session.scan = manual" in lines
    assert "node.session.timeo.replacement_timeout = 1" in lines
    assert f"node.session.auth.password = {SECRET}" in lines
    assert not [line for line in lines if "old" in line or "automatic" in line]
    assert _iscsiadm.record_initiator("\n".join(lines)) == US
    assert _iscsiadm.record_initiator(RECORD) == ""


def test_programs_end_in_time_or_are_said_to_be_missing() -> None:
    assert run(["sh", "-c", "echo $LC_ALL; echo no >&2; exit 3"], timeout=5) == Done(
        3, "C\n", "no\n"
    )
    assert run(["/nowhere/iscsiadm"], timeout=5).status == 127
    assert run(["sleep", "10"], timeout=0.1).status == 124


@pytest.mark.security
def test_locks_are_in_a_folder_that_only_we_can_use(make: Callable[..., FakeHost]) -> None:
    """Who else writes there could hold our locks, or remove them: a sweep would end our session."""
    fake = make()
    folder = fake.root / kernel.LOCKS
    with kernel._locked(fake.host, "name", "lock", "x", 1):
        assert folder.stat().st_mode & 0o777 == 0o700
        (folder / "name").unlink()
    (folder / "name").symlink_to(fake.root / "made")
    with (
        pytest.raises(OSError, match="Too many levels"),
        kernel._locked(fake.host, "name", "lock", "x", 1),
    ):
        pass
    assert not (fake.root / "made").exists()
    folder.chmod(0o777)
    with (
        pytest.raises(KernelUnavailable, match="is not a folder that only user"),
        kernel._locked(fake.host, "name", "lock", "x", 1),
    ):
        pass
