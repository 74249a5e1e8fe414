"""Copies of restore points on a plain host, as images and a libvirt domain."""

from __future__ import annotations

import fcntl
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import attrs
import pytest
from replica_receiver.host import Host, target
from vm_config.ahv_record import ConfigDisk, ConfigNic, VmConfig
from vm_replica.failover import transitions
from vm_replica.failover.entry_points import TargetOptions
from vm_replica.failover.errors import FailoverFailed, FailoverRefused
from vm_replica.failover.point import Point, PointDisk, PointGroup
from vm_replica.protocol.manifest import Configuration

if TYPE_CHECKING:
    from collections.abc import Callable

    import phcbt01


MIB = 1 << 20
MAC = "50:6b:8d:00:00:01"


def config(**changes: Any) -> VmConfig:
    """A VM with three disks on two buses and two cards."""
    plain = VmConfig(
        schema=1,
        vm_id="11111111-1111-4111-8111-111111111111",
        name="web01",
        description="",
        cluster_id="cluster-1",
        sockets=2,
        cores_per_socket=2,
        threads_per_core=1,
        memory=1 << 30,
        machine_type="PC",
        firmware="legacy",
        secure_boot=False,
        boot_order=("DISK",),
        disks=(
            ConfigDisk("disk-a", "SCSI", 0, 8 * MIB),
            ConfigDisk("disk-b", "SCSI", 1, 4 * MIB),
            ConfigDisk("disk-c", "IDE", 0, MIB),
        ),
        nics=(ConfigNic(MAC, "subnet-1", True), ConfigNic("50:6b:8d:00:00:02", "subnet-2", True)),
        prism={},
    )
    return attrs.evolve(plain, **changes)


def content(size: int, seed: int) -> bytes:
    """Bytes of a disk: some data, then a hole."""
    return bytes([seed]) * (size // 4) + bytes(size - size // 4)


def writer(data: bytes) -> Callable[[Path | phcbt01.Target], object]:
    """Write a disk with this content."""

    def write(target: Path | phcbt01.Target) -> None:
        assert isinstance(target, Path)
        target.write_bytes(data)

    return write


@pytest.fixture
def point() -> Point:
    """Generation 7 of the VM."""
    disks = tuple(
        PointDisk(d.disk_id, n, d.size, d.size, writer(content(d.size, n + 1)))
        for n, d in enumerate(config().disks)
    )
    configuration = Configuration("@nutanix", config().encode().decode())
    return Point(7, config().vm_id, configuration, configuration.read(), disks)


def copy_at(place: str, kind: str, name: str = "web01-test-7") -> transitions.Copy:
    return transitions.Copy(str(uuid4()), name, kind, place, 7)


# --- a plain host --------------------------------------------------------------------------------


def test_the_disks_of_volume_groups_are_disks_of_the_domain(tmp_path: Path, point: Point) -> None:
    disk = PointDisk("of-group", 0, MIB, MIB, writer(content(MIB, 9)))
    group = PointGroup("group-1", "data", (disk,), 0)
    whole = attrs.evolve(point, groups=(group,), missing=("volume group x is not in this copy",))
    host = Host(tmp_path, "raw")
    copy = copy_at(host.place, host.kind)
    host.refuse_unfit(copy.name, whole, test=True)
    said = host.make(copy, whole, test=True)
    assert "volume group data as of 1970-01-01 00:00:00 is group-0-disk-*" in said
    assert "warning: volume group x is not in this copy" in said
    image = tmp_path / copy.name / "group-0-disk-0.raw"
    assert image.read_bytes() == content(MIB, 9)
    assert str(image) in (tmp_path / copy.name / "domain.xml").read_text()


def test_a_copy_on_a_host_without_its_volume_groups(tmp_path: Path, point: Point) -> None:
    whole = attrs.evolve(point, groups=(PointGroup("group-1", "data", (), 0),))
    options = TargetOptions(tmp_path, tmp_path)
    given = {"folder": str(tmp_path), "format": "raw"}
    with target({**given, "volume_groups": "no"}, options, lambda _: None) as host:
        copy = copy_at(host.place, host.kind)
        host.refuse_unfit(copy.name, whole, test=True)
        said = host.make(copy, whole, test=True)
    assert host.leaves_groups
    assert "warning: volume group data is not in this copy: volume_groups=no" in said
    assert "as of 1970" not in said
    with (
        pytest.raises(FailoverRefused, match="volume_groups=only: give yes or no"),
        target({**given, "volume_groups": "only"}, options, lambda _: None),
    ):
        raise AssertionError("it was taken")


@pytest.mark.parametrize("image_format", ["qcow2", "raw"])
def test_a_copy_on_a_host_is_whole_and_ours(
    tmp_path: Path, point: Point, image_format: str
) -> None:
    host = Host(tmp_path, image_format, {"*": "br0"})
    copy = copy_at(host.place, host.kind)
    host.refuse_unfit(copy.name, point, test=True)
    said = host.make(copy, point, test=True)
    folder = tmp_path / copy.name
    assert str(folder / "domain.xml") in said
    assert not list(tmp_path.glob("*.partial"))
    for disk in point.disks:
        image = folder / f"disk-{disk.index}.{image_format}"
        raw = image
        if image_format == "qcow2":
            raw = tmp_path / "raw"
            command = ["qemu-img", "convert", "-f", "qcow2", "-O", "raw", str(image), str(raw)]
            subprocess.run(command, check=True)
        assert raw.read_bytes() == content(disk.size, disk.index + 1)
    with pytest.raises(FailoverRefused, match="exists"):
        host.refuse_unfit(copy.name, point, test=True)
    host.remove(copy)
    host.remove(copy)
    assert not folder.exists()


def test_a_folder_of_somebody_else_is_not_removed(tmp_path: Path, point: Point) -> None:
    host = Host(tmp_path, "raw")
    copy = copy_at(host.place, host.kind)
    host.make(copy, point, test=True)
    host.remove(attrs.evolve(copy, key=str(uuid4())))
    assert (tmp_path / copy.name / "domain.xml").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("precious")
    host.remove(attrs.evolve(copy, name="mine"))
    assert (tmp_path / "mine" / "file").exists()


def test_a_copy_killed_at_any_write_is_removed(
    tmp_path: Path, point: Point, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After each kill there is either no copy or a whole one, and removing leaves nothing."""

    class Killed(BaseException):
        pass

    for number in range(1, 30):
        left = number

        def sync(_descriptor: int) -> None:
            nonlocal left
            left -= 1
            if not left:
                raise Killed

        folder = tmp_path / str(number)
        folder.mkdir()
        host = Host(folder, "qcow2")
        copy = copy_at(host.place, host.kind)
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", sync)
            try:
                host.make(copy, point, test=True)
            except Killed:
                pass
            else:
                break
        final = folder / copy.name
        assert not final.exists() or (final / "domain.xml").exists()
        host.remove(copy)
        assert not list(folder.iterdir())
    else:
        pytest.fail("it never came to its end")
    assert number > 8


def test_a_running_guest_keeps_its_images(tmp_path: Path, point: Point) -> None:
    """qemu holds shared locks of its own on the file description; here one stands in for it."""
    host = Host(tmp_path, "raw")
    copy = copy_at(host.place, host.kind)
    host.make(copy, point, test=True)
    image = tmp_path / copy.name / "disk-0.raw"
    f_ofd_setlk = 37
    with image.open("rb") as guest:
        flock = (fcntl.F_RDLCK).to_bytes(2, "little") + bytes(6) + (100).to_bytes(8, "little")
        flock += (1).to_bytes(8, "little") + bytes(8)
        fcntl.fcntl(guest, f_ofd_setlk, flock)
        with pytest.raises(FailoverFailed, match="virsh destroy"):
            host.remove(copy)
        assert image.exists()
    host.remove(copy)
    assert not image.exists()


def test_no_room_is_known_before(tmp_path: Path, point: Point) -> None:
    big = attrs.evolve(point.disks[0], allocated=1 << 62)
    with pytest.raises(FailoverRefused, match="free, the copy needs"):
        Host(tmp_path).refuse_unfit("x", attrs.evolve(point, disks=(big,)), test=True)
    with pytest.raises(FailoverRefused, match="is not a folder"):
        Host(tmp_path / "none").refuse_unfit("x", point, test=True)
