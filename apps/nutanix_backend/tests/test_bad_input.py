"""Bad input of every kind: one clear line, status f, nothing looks whole, nothing is left over."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import attrs
import pytest
import trustme
from prism_lab import Lab
from ptcomm import (
    Ack,
    Answer,
    Data,
    DataStart,
    Finish,
    Job,
    JobType,
    Level,
    Parameters,
    Phase,
    Reply,
    Severity,
    Start,
)
from ptcomm_runner.catalog import Status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ptcomm_runner.jobs import Result

    from apps.nutanix_backend.tests.conftest import Daemon, MadeUp, Product

KIB, MIB = 1 << 10, 1 << 20
FULL, INCREMENTAL = Level.FULL, Level.INCREMENTAL
NOBODY = "127.0.9.9"
"""A loopback address where nobody listens."""


def fatal_line(result: Result) -> str:
    """The one line that says why a job failed."""
    assert result.status is Status.FAILED
    (line,) = (m.text for m in result.log if m.severity is Severity.FATAL)
    assert "\n" not in line
    assert "internal error" not in line
    assert "Traceback" not in line
    return line


def warnings_of(result: Result) -> str:
    """The warnings of a job, as one text."""
    return "\n".join(m.text for m in result.log if m.severity is Severity.WARNING)


NO_VM = "no VM is restored: the reasons are above"


def reason(daemon: Daemon) -> str:
    """Why the only VM that failed is not restored, where there are others."""
    (line,) = (m.text for m in daemon.messages if m.severity is Severity.NONFATAL)
    return line


# --- the cluster and what is asked of it ---------------------------------------------------------


@pytest.fixture
def refused(product: Product, lab: Lab) -> Callable[..., str]:
    """Run a backup that must fail before anything is created; returns its line."""

    def run(**parameters: Any) -> str:
        before = len(lab.requests)
        line = fatal_line(product.backup(FULL, **parameters))
        assert {method for method, _, _ in lab.requests[before:]} <= {"GET", "OPTIONS"}
        assert not list((product.root / "store").rglob("*.raw*"))
        return line

    return run


def test_an_unknown_vm(refused: Callable[..., str]) -> None:
    assert refused(vm="nobody") == "no VM is called nobody: check vm= against the names in Prism"


def test_no_vm_at_all(refused: Callable[..., str], product: Product) -> None:
    assert "parameter vm is missing: name a VM" in refused(vm=None)
    guest = product.guest(MIB)
    assert "exclude_category leave out all" in refused(vm=guest.name, exclude_vm=guest.name)


def test_two_vms_of_one_name(refused: Callable[..., str], product: Product) -> None:
    twins = [product.guest(MIB, name="twin"), product.guest(MIB, name="twin")]
    line = refused(vm="twin")
    assert line.startswith("2 VMs are called twin: use the UUID, one of ")
    assert all(twin.ext_id in line for twin in twins)
    product.good_backup(FULL, twins[0], vm=twins[0].ext_id)


def test_a_wrong_password(refused: Callable[..., str], product: Product) -> None:
    line = refused(vm="any", password="not-the-password")
    assert "answered 401" in line
    assert "check user, password or key" in line
    assert "not-the-password" not in line
    log = (product.root / "state" / "log" / "backend.log").read_text()
    assert "not-the-password" not in log


def test_a_certificate_of_another_authority(
    refused: Callable[..., str], lab: Lab, tmp_path: Path
) -> None:
    other = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(str(other))
    line = refused(vm="any", ca=other)
    assert f"the certificate of {lab.pc_host}:9440 is not trusted" in line
    assert "other.pem holds the CA that signed it, or give the fingerprint" in line


def test_a_prism_that_is_not_there(refused: Callable[..., str]) -> None:
    line = refused(vm="any", prism=NOBODY)
    assert NOBODY in line
    assert "is 127.0.9.9:9440 the right host and port?" in line


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"prism": None}, "parameter prism is missing"),
        (
            {"prism": "pc:https"},
            "parameter prism: 'pc:https': the port is a number from 1 to 65535, not 'https'",
        ),
        ({"user": None}, "no credentials for Prism: give user and password_file"),
        ({"vmm": "x"}, "unknown parameter vmm: did you mean vm?"),
        ({"cluster": "elsewhere"}, "cluster elsewhere is not known to Prism: it has lab-cluster"),
        ({"state_dir": "/dev/null/x"}, "state_dir=/dev/null/x is outside of the folders"),
    ],
)
def test_parameters_that_cannot_work(
    refused: Callable[..., str], parameters: dict[str, Any], words: str
) -> None:
    assert words in refused(**({"vm": "any"} | parameters))


def test_a_certificate_that_nobody_verifies_is_warned_of(product: Product) -> None:
    guest = product.guest(MIB)
    result = product.backup(FULL, guest, ca=None, prism_insecure="yes")
    assert result.status is Status.GOOD
    assert warnings_of(result) == (
        "prism_insecure=yes: the certificate of Prism is not verified; an attacker on "
        "the network can read and change the connection"
    )


def test_a_portal_that_is_not_there(product: Product) -> None:
    guest = product.guest(MIB)
    line = fatal_line(product.backup(FULL, guest, dsip=NOBODY))
    assert f"{NOBODY}:3260" in line
    assert not guest.recovery_points()


def test_a_chap_secret_that_the_target_does_not_take(product: Product, lab: Lab) -> None:
    guest = product.guest(MIB)

    def change_the_secret(_answer: dict[str, Any]) -> None:
        for group in lab._world.volume_groups.values():
            group.chap_secret = "another-secret"

    lab.faults.edit("POST */attach-iscsi-client", change_the_secret)
    line = fatal_line(product.backup(FULL, guest))
    assert "CHAP" in line
    assert "another-secret" not in line
    assert not guest.recovery_points()


def test_a_cluster_without_data_services_address(
    make_product: Callable[[Lab, Path], Product], tmp_path: Path
) -> None:
    with Lab.start(tmp_path / "lab", data_services=False) as lab:
        product = make_product(lab, tmp_path / "host")
        guest = product.guest(MIB)
        line = fatal_line(product.backup(FULL, guest))
        assert "has no data services IP: set one in Prism Element" in line
        assert "or give dsip=" in line
        assert not guest.recovery_points()


def test_a_cluster_without_change_tracking_is_read_in_full_and_says_so(
    make_product: Callable[[Lab, Path], Product], tmp_path: Path
) -> None:
    with Lab.start(tmp_path / "lab", change_tracking=False) as lab:
        product = make_product(lab, tmp_path / "host")
        guest = product.guest(2 * MIB)
        results = [product.backup(level, guest) for level in (FULL, INCREMENTAL)]
        for result in results:
            assert result.status is Status.GOOD
            assert "disk SCSI.0 is read as a whole: " in warnings_of(result)
            assert product.files(result, guest) == {"0-raw": 2 * MIB}
        assert "Prism cannot list its changes" in warnings_of(results[1])
        product.assert_restores(results[1], guest)


def test_a_list_of_changes_that_lies_is_never_built_on(product: Product, lab: Lab) -> None:
    guest = product.guest(2 * MIB)
    product.good_backup(FULL, guest)
    guest.write(0, 0, 64 * KIB)
    guest.write(0, MIB, 64 * KIB)

    def reverse(answer: dict[str, Any]) -> None:
        answer["data"] = answer["data"][::-1]

    lab.faults.edit("POST */compute-changed-regions", reverse)
    result = product.backup(INCREMENTAL, guest)
    assert "a page of the list is missing" in fatal_line(result)
    assert len(guest.recovery_points()) == 1
    guest.write(0, 0, 4 * KIB)
    product.assert_restores(product.good_backup(INCREMENTAL, guest), guest)


# --- where a restore goes ------------------------------------------------------------------------


@pytest.fixture
def backup(made_up: Callable[[], MadeUp]) -> MadeUp:
    """A disk of 512 KiB in a full and an incremental."""
    backup = made_up()
    backup.full(os.urandom(512 * KIB))
    backup.incremental([(5, b"changed"), (300 * KIB, os.urandom(70 * KIB))])
    return backup


def whole(folder: Path) -> list[Path]:
    """What looks like a restored disk."""
    return list(folder.rglob("*.raw")) + list(folder.rglob("*.partial"))


def give_all(daemon: Daemon, backup: MadeUp, where: Path | str = "") -> None:
    """Everything of a backup, which must be taken."""
    daemon.give_manifests(backup)
    for name, content in backup.files.items():
        assert daemon.give_file(f"{where}/{name}" if where else name, content) is Answer.OK


def refusal(daemon: Daemon, backup: MadeUp, where: Path | str = "") -> str:
    """Why the first file of a backup is refused."""
    daemon.give_manifests(backup)
    name = next(iter(backup.files))
    daemon.offer_file(f"{where}/{name}" if where else name)
    line = daemon.fatal()
    daemon.end()
    return line


def test_the_daemon_of_these_tests_can_restore(
    daemon: Callable[..., Daemon], backup: MadeUp, tmp_path: Path
) -> None:
    """What goes wrong below goes wrong because of what is done to it there."""
    wire = daemon()
    wire.start_restore(tmp_path / "out")
    give_all(wire, backup, tmp_path / "out")
    wire.finish()
    (made,) = whole(tmp_path / "out")
    assert made.read_bytes() == backup.images[0]


def test_an_existing_file_is_not_replaced_unasked(
    daemon: Callable[..., Daemon], backup: MadeUp, tmp_path: Path
) -> None:
    path = tmp_path / "disk.img"
    path.write_bytes(b"mine")
    wire = daemon()
    wire.start_restore("", disk_path=path)
    assert refusal(wire, backup) == f"{path} exists: give overwrite=yes to replace its content"
    assert path.read_bytes() == b"mine"
    wire = daemon()
    wire.start_restore("", disk_path=path, overwrite="yes")
    give_all(wire, backup)
    wire.finish()
    assert path.read_bytes() == backup.images[0]


def test_a_device_that_is_too_small_or_mounted(
    daemon: Callable[..., Daemon],
    backup: MadeUp,
    tmp_path: Path,
    loop_device: Callable[[int], Path],
) -> None:
    small = loop_device(256 * KIB)
    wire = daemon()
    wire.start_restore("", disk_path=small, overwrite="yes")
    line = refusal(wire, backup)
    assert line == f"{small} has {256 * KIB} bytes, the disk needs {512 * KIB}"
    assert small.read_bytes() == bytes(256 * KIB)

    mounted, point = loop_device(4 * MIB), tmp_path / "mounted"
    subprocess.run(["mkfs.ext4", "-q", str(mounted)], check=True)
    point.mkdir()
    subprocess.run(["mount", str(mounted), str(point)], check=True)
    try:
        (point / "file").write_bytes(b"in use")
        wire = daemon()
        wire.start_restore("", disk_path=mounted, overwrite="yes")
        assert "is it mounted or in use?" in refusal(wire, backup)
        assert (point / "file").read_bytes() == b"in use"
    finally:
        subprocess.run(["umount", str(point)], check=True)


def test_one_path_takes_one_disk_of_one_vm(
    daemon: Callable[..., Daemon], made_up: Callable[..., MadeUp], tmp_path: Path
) -> None:
    path = tmp_path / "disk.img"
    several = made_up()
    several.full(bytes(KIB), bytes(KIB))
    wire = daemon()
    wire.start_restore("", disk_path=path)
    line = refusal(wire, several)
    assert line == (
        "disk_path takes one disk, VM web01 has 2: choose with disk= one of 0, 1, "
        "or give disk_path=number:path,..."
    )

    one, other = made_up(), made_up("22222222-2222-4222-8222-222222222222", "db01")
    one.full(b"1" * KIB)
    other.full(b"2" * KIB)
    wire = daemon()
    wire.start_restore("", disk_path=path, overwrite="yes")
    wire.give_manifests(one, other)
    for name, content in one.files.items():
        wire.give_file(name, content)
    wire.offer_file(next(iter(other.files)))
    wire.hear(Reply)
    wire.finish()
    (line,) = (m.text for m in wire.messages if m.severity is Severity.NONFATAL)
    assert line.startswith(
        "VM db01 is not restored: disk_path takes the disks of one VM, but VM web01"
    )
    assert "and VM db01 are to be restored: select the files of one" in line
    assert path.read_bytes() == b"1" * KIB


def test_a_restore_to_nowhere(daemon: Callable[..., Daemon], backup: MadeUp) -> None:
    wire = daemon()
    wire.start_restore("", restore_to="disk")
    assert refusal(wire, backup) == "restore_to=disk needs disk_path, or where=/a/folder"


@pytest.fixture
def small_file_system(tmp_path: Path) -> Iterator[Path]:
    """A folder that takes 400 KiB."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to mount a small file system")
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "small", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_file_system_without_room_is_refused_at_once(
    daemon: Callable[..., Daemon], backup: MadeUp, small_file_system: Path
) -> None:
    where = small_file_system / "out"
    wire = daemon()
    wire.start_restore(where)
    line = refusal(wire, backup, where)
    assert line == (
        f"{small_file_system} has 400.0 KiB free, the restore needs 512.0 KiB: "
        "check_space=no restores without this check"
    )
    assert not where.exists()


def test_a_file_system_that_fills_up_leaves_nothing_that_looks_whole(
    daemon: Callable[..., Daemon], made_up: Callable[..., MadeUp], small_file_system: Path
) -> None:
    """Others write there too: what was free at the start is gone in the middle."""
    where = small_file_system / "out"
    backup = made_up()
    backup.full(os.urandom(256 * KIB) + bytes(256 * KIB))
    backup.manifests = [
        attrs.evolve(saved, disks=(attrs.evolve(saved.disks[0], data_bytes=256 * KIB),))
        for saved in backup.manifests
    ]
    wire = daemon()
    wire.start_restore(where)
    wire.give_manifests(backup)
    ((name, content),) = backup.files.items()
    wire.offer_file(f"{where}/{name}", len(content))
    assert wire.hear(Reply).answer is Answer.OK
    (small_file_system / "other").write_bytes(bytes(200 * KIB))
    wire.send_content(content)
    line = wire.fatal()
    assert "No space left on device" in line
    assert f"{where}/{name}" in line
    wire.end()
    assert not whole(where)


def test_a_limit_of_the_file_size_leaves_nothing_that_looks_whole(
    daemon: Callable[..., Daemon], backup: MadeUp, tmp_path: Path
) -> None:
    limited = """if True:
        import resource, runpy
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
        runpy.run_module("nutanix_backend", run_name="__main__")
    """
    wire = daemon((sys.executable, "-c", limited))
    wire.start_restore(tmp_path / "out")
    wire.give_manifests(backup)
    wire.offer_file(f"{tmp_path}/out/{next(iter(backup.files))}")
    line = wire.fatal()
    assert "File too large" in line
    assert str(tmp_path / "out") in line
    wire.end()
    assert not whole(tmp_path / "out")


# --- manifests -----------------------------------------------------------------------------------


@pytest.fixture
def restoring(daemon: Callable[..., Daemon], tmp_path: Path) -> Iterator[Daemon]:
    """A restore to a folder that has begun; afterwards nothing in it looks whole."""
    wire = daemon()
    wire.start_restore(tmp_path / "out")
    yield wire
    wire.end()
    assert not whole(tmp_path / "out")


def test_files_without_a_manifest(restoring: Daemon, backup: MadeUp, tmp_path: Path) -> None:
    restoring.offer_file(f"{tmp_path}/out/{next(iter(backup.files))}")
    line = restoring.fatal()
    assert line.startswith(f"no manifest came for {backup.folder.path}: ")
    assert "its backup did not complete, or was not made by this plugin" in line


def test_the_manifest_of_another_vm(
    restoring: Daemon, backup: MadeUp, made_up: Callable[..., MadeUp], tmp_path: Path
) -> None:
    foreign = made_up("22222222-2222-4222-8222-222222222222")
    foreign.full(bytes(KIB))
    restoring.give_manifests(foreign)
    restoring.offer_file(f"{tmp_path}/out/{next(iter(backup.files))}")
    assert restoring.fatal() == NO_VM
    assert f"is not restored: no manifest came for {backup.folder.path}: " in reason(restoring)


@pytest.mark.parametrize("change", ["gone", "altered"])
def test_a_base_that_is_missing_or_wrong(
    restoring: Daemon, backup: MadeUp, tmp_path: Path, change: str
) -> None:
    if change == "gone":
        del backup.manifests[0]
    else:
        backup.manifests[0] = attrs.evolve(backup.manifests[0], recovery_point="another")
    restoring.give_manifests(backup)
    restoring.offer_file(f"{tmp_path}/out/{next(iter(backup.files))}")
    assert restoring.fatal() == (
        "disk 0 of VM web01: the changes saved by job made-up.2 are based on a backup "
        "that is not part "
        "of this restore: select all since the full"
    )


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda content: content[:-5], "a manifest in the backup is damaged: "),
        (lambda content: b"", "a manifest in the backup is damaged: "),
        (lambda content: content.replace(b'"schema":1', b'"schema":2,"new":0'), "newer plugin"),
        (
            lambda content: content.replace(b"/disks/", b"/../disks/"),
            "is inconsistent about disk 0",
        ),
    ],
)
def test_a_manifest_that_is_damaged_newer_or_hostile(
    restoring: Daemon, backup: MadeUp, tmp_path: Path, damage: Callable[[bytes], bytes], words: str
) -> None:
    saved = backup.manifests[0]
    restoring.offer_object(saved.object_name, damage(saved.encode()))
    restoring.hear(Reply)
    restoring.offer_file(f"{tmp_path}/out/{saved.disks[0].file}")
    assert words in restoring.fatal()


def test_objects_that_are_not_ours_are_passed_by(
    daemon: Callable[..., Daemon], backup: MadeUp, tmp_path: Path
) -> None:
    """Such as the one by which bconsole offers the restore options."""
    wire = daemon()
    wire.start_restore(tmp_path / "out")
    wire.offer_object("RestoreOptions", b"\xff not a manifest")
    wire.hear(Reply)
    give_all(wire, backup, tmp_path / "out")
    wire.finish()
    assert len(whole(tmp_path / "out")) == 1


def test_an_object_of_absurd_length(restoring: Daemon, backup: MadeUp) -> None:
    name = backup.manifests[0].object_name
    restoring.raw(packet("C", f"RESTOREOBJ:{name}\n") + packet("C", f"RESTOREOBJ_LEN:{10**18}\n"))
    restoring.raw(packet("D", "{}") + packet("F", ""))
    assert "the daemon does not speak as expected: " in restoring.fatal()


def test_an_object_that_does_not_end(restoring: Daemon, backup: MadeUp) -> None:
    name = backup.manifests[0].object_name
    restoring.raw(packet("C", f"RESTOREOBJ:{name}\n") + packet("C", f"RESTOREOBJ_LEN:{10**9}\n"))
    piece = packet("D", " " * 999_999)
    for _ in range(70):
        restoring.raw(piece)
    assert "over 67108864 bytes came" in restoring.fatal()


# --- data ----------------------------------------------------------------------------------------


def flip(content: bytes, at: int) -> bytes:
    """One bit is another."""
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


@pytest.mark.parametrize(
    ("victim", "damage"),
    [
        (0, lambda content: flip(content, 200_000)),
        (0, lambda content: content[:-512]),
        (0, lambda content: content + b"\0"),
        (0, lambda content: bytes(len(content))),
        (1, lambda content: flip(content, len(content) - 9)),
        (1, lambda content: content[:-9]),
        (1, lambda content: flip(content, 2)),
        (1, lambda content: flip(content, 17)),
        (1, lambda content: flip(content, 26)),
        (1, lambda content: content[:23]),
    ],
)
def test_data_that_was_altered_is_never_restored(
    restoring: Daemon,
    backup: MadeUp,
    tmp_path: Path,
    victim: int,
    damage: Callable[[bytes], bytes],
) -> None:
    """A raw image, a delta's data, and each field of a delta's headers."""
    restoring.give_manifests(backup)
    names = list(backup.files)
    if victim:
        restoring.give_file(f"{tmp_path}/out/{names[0]}", backup.files[names[0]])
    restoring.offer_file(f"{tmp_path}/out/{names[victim]}")
    assert restoring.hear(Reply).answer is Answer.OK
    restoring.send_content(damage(backup.files[names[victim]]))
    line = restoring.fatal()
    assert "the disk" in line or names[victim] in line
    assert "internal error" not in line


@pytest.mark.parametrize("missing", [0, 1])
def test_a_file_that_does_not_come(
    restoring: Daemon, backup: MadeUp, tmp_path: Path, missing: int
) -> None:
    restoring.give_manifests(backup)
    names = list(backup.files)
    if missing == 0:
        restoring.offer_file(f"{tmp_path}/out/{names[1]}")
        assert "arrived out of order: the file that it is based on did not" in restoring.fatal()
        return
    restoring.give_file(f"{tmp_path}/out/{names[0]}", backup.files[names[0]])
    restoring.say(Finish())
    line = restoring.fatal()
    assert line.startswith(f"{names[1]} did not arrive, so disk 0 of VM web01 is not restored")
    assert "select all of its files" in line


def test_a_daemon_that_vanishes_in_the_middle_of_a_file(
    restoring: Daemon, backup: MadeUp, tmp_path: Path
) -> None:
    restoring.give_manifests(backup)
    restoring.offer_file(f"{tmp_path}/out/{next(iter(backup.files))}")
    restoring.hear(Reply)
    restoring.say(DataStart(), Data(bytes(65_536)))


def test_files_that_the_plan_does_not_need_are_skipped(
    daemon: Callable[..., Daemon], backup: MadeUp, tmp_path: Path
) -> None:
    """Of a disk that was not asked for, or of a job in which the VM failed."""
    wire = daemon()
    wire.start_restore(tmp_path / "out", disk=0)
    wire.give_manifests(backup)
    names = list(backup.files)
    unneeded = names[1].replace("T00", "T09").replace("T01", "T09")
    assert unneeded != names[1]
    for name, content in backup.files.items():
        assert wire.give_file(f"{tmp_path}/out/{name}", content) is Answer.OK
    assert wire.give_file(f"{tmp_path}/out/{unneeded}", b"junk") is Answer.SKIP
    wire.finish()
    (made,) = whole(tmp_path / "out")
    assert made.read_bytes() == backup.images[0]


@pytest.mark.parametrize(
    "name",
    [
        "@nutanix/lab/../../etc/passwd",
        "@nutanix/../11111111-1111-4111-8111-111111111111/vm-metadata.json",
        "/out/../@nutanix/lab/11111111-1111-4111-8111-111111111111/vm-metadata.json",
        "@nutanix/lab/11111111-1111-4111-8111-111111111111/disks/disk-0-../x.raw",
        "/etc/passwd",
    ],
)
def test_names_that_are_not_of_a_backup(restoring: Daemon, backup: MadeUp, name: str) -> None:
    restoring.give_manifests(backup)
    restoring.offer_file(name)
    assert restoring.fatal() == NO_VM
    assert f"{name!r} is not a file of a VM backup: do not select it" in reason(restoring)


def test_a_vm_is_made_without_its_configuration_file_but_not_without_its_disks(
    product: Product,
) -> None:
    guest = product.guest(MIB)
    product.good_backup(FULL, guest)
    before = len(product.lab.state()["vms"])
    product.good_restore("/", include=("*.raw",))
    before += 1  # the manifest has it too
    assert len(product.lab.state()["vms"]) == before

    alone = product.restore("/", include=("*.json",))
    assert "did not arrive, so disk 0 of VM" in fatal_line(alone)
    assert len(product.lab.state()["vms"]) == before, "nor of its configuration alone"


def test_a_vm_of_another_cluster_is_not_made_here(
    product: Product, daemon: Callable[..., Daemon], backup: MadeUp
) -> None:
    wire = daemon()
    wire.start_restore("", **dict(product.parameters()))
    line = refusal(wire, backup)
    assert line == (
        "VM web01 was backed up from cluster lab, which this Prism does not manage: "
        "name another with target_cluster=, or restore its disks with where=/a/folder"
    )


# --- the wire ------------------------------------------------------------------------------------


def packet(status: str, payload: str) -> bytes:
    """A packet, made by hand."""
    return f"{status}{len(payload):06}\n{payload}".encode()


HELLO = packet("C", "Hello podheitor-nutanix 4\n")
JOB = b"".join(
    packet("C", line)
    for line in ("Job\n", "Name=j\n", "JobID=1\n", "Type=B\n", "Level=F\n", "Namespace=@n\n")
) + packet("F", "")


PARAMETERS = packet("C", "Params\n") + packet("C", "vm=x\n") + packet("F", "")
NONSENSE = {
    "nothing": b"",
    "half a header": b"C00000",
    "half a packet": b"C000006\nHel",
    "no such status": b"X000001\n!",
    "a letter in the length": b"C00000A\nHello x 4\n",
    "a sign in the length": b"C+00012\nHello x 4\n",
    "a space in the length": b"C 00012\nHello x 4\n",
    "no newline after the length": b"C000012 Hello x 4\n",
    "seven digits": b"C9999999\n" + b"x" * 100,
    "a long hello": b"C999999\nHello " + b"x" * 999_993,
    "a command without newline": packet("C", "Hello x 4"),
    "an empty hello": packet("C", "Hello\n"),
    "data first": packet("D", "data"),
    "an end first": packet("F", ""),
    "zeros": b"\0" * 5000,
    "ones": b"\xff" * 5000,
    "hello twice": HELLO * 2,
    "parameters before the job": HELLO + PARAMETERS,
    "a start before the job": HELLO + packet("C", "BackupStart\n"),
    "a job id that is no number": HELLO + JOB.replace(b"JobID=1", b"JobID=x"),
    "an empty job": HELLO + packet("C", "Job\n") + packet("F", ""),
    "a job twice": HELLO + JOB * 2,
    "a parameter without a value": HELLO + JOB + PARAMETERS.replace(b"vm=x", b"vm x"),
    "half a job": HELLO + JOB[:-12],
}


@pytest.mark.parametrize("said", NONSENSE.values(), ids=NONSENSE)
def test_what_is_not_ptcomm_ends_with_one_line_at_most(
    daemon: Callable[..., Daemon], said: bytes
) -> None:
    """Never a hang, a traceback or an exit status: the process ends with 0."""
    wire = daemon()
    for piece in (said[at : at + 60_000] for at in range(0, len(said), 60_000)):
        wire.raw(piece)
    wire.close_input()
    fatal = [text for text in heard_texts(wire) if text.startswith("A")]
    assert len(fatal) <= 1
    assert all("the daemon does not speak as expected: " in text for text in fatal)
    wire.assert_ended_well()


def heard_texts(wire: Daemon) -> list[str]:
    """Everything the backend said until it closed its pipe, packet by packet."""
    data = wire.read_to_end()
    texts = []
    while data:
        length = int(data[1:7])
        texts.append(data[:1].decode() + data[8 : 8 + length].decode())
        data = data[8 + length :]
    return texts


def test_a_session_out_of_order(daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    wire = daemon()
    wire.greet()
    wire.raw(PARAMETERS)
    assert "the daemon does not speak as expected: " in wire.fatal()
    wire.end()


def test_data_without_a_file(restoring: Daemon) -> None:
    restoring.raw(packet("D", "data"))
    assert "the daemon does not speak as expected: " in restoring.fatal()


def test_a_listing_without_a_connection_is_refused(daemon: Callable[..., Daemon]) -> None:
    wire = daemon()
    wire.greet()
    state_dir = ("state_dir", str(wire.folder / "state"))
    for event in (Job("j", 1, JobType.ESTIMATE), Parameters((state_dir,))):
        wire.say(event)
        wire.hear(Ack)
    wire.say(Start(Phase.LISTING))
    assert wire.fatal().startswith("parameter prism is missing: ")
    wire.end()
