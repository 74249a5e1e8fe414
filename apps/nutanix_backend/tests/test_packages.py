"""Packages (.ova), unpacked exports (.ovf), and images whose names look like those of extents."""

from __future__ import annotations

import hashlib
import io
import random
import struct
import subprocess
import tarfile
from typing import TYPE_CHECKING, Any

import phcbt01
import pytest
from command_line import program
from nutanix_backend.__main__ import command_line
from ptcomm import Answer, Job, JobType, Phase, Reply

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from apps.nutanix_backend.tests.conftest import Daemon, Product

MIB = 1 << 20
SIZE = 2 * MIB
OVF = """\
<?xml version="1.0"?>
<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1"
 xmlns:rasd="urn:rasd" xmlns:vmw="urn:vmw">
  <References>{files}<File ovf:id="iso" ovf:href="tools.iso"/></References>
  <DiskSection>{disks}</DiskSection>
  <VirtualSystem ovf:id="box"><Name>{name}</Name>
    <VirtualHardwareSection>
      <Item><rasd:InstanceID>1</rasd:InstanceID><rasd:ResourceType>3</rasd:ResourceType>
        <rasd:VirtualQuantity>2</rasd:VirtualQuantity></Item>
      <Item><rasd:InstanceID>2</rasd:InstanceID><rasd:ResourceType>4</rasd:ResourceType>
        <rasd:VirtualQuantity>1024</rasd:VirtualQuantity></Item>
      <Item><rasd:InstanceID>3</rasd:InstanceID><rasd:ResourceType>6</rasd:ResourceType>
        <rasd:ResourceSubType>VirtualSCSI</rasd:ResourceSubType></Item>
      {items}
      <Item><rasd:InstanceID>9</rasd:InstanceID><rasd:ResourceType>10</rasd:ResourceType>
        <rasd:Connection>VM Network</rasd:Connection></Item>
    </VirtualHardwareSection>
    <vmw:BootOrderSection vmw:instanceId="{boot}" vmw:type="disk"/>
  </VirtualSystem>
</Envelope>
"""
ITEM = (
    "<Item><rasd:InstanceID>{id}</rasd:InstanceID><rasd:ResourceType>17</rasd:ResourceType>"
    "<rasd:HostResource>ovf:/disk/{disk}</rasd:HostResource><rasd:Parent>3</rasd:Parent>"
    "<rasd:AddressOnParent>{slot}</rasd:AddressOnParent></Item>"
)
FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def descriptor(
    names: Sequence[str], *, name: str = "box", boot: int = 10, more: str = "", disk_more: str = ""
) -> bytes:
    """An OVF of a machine with these files as its disks, the first of which is device 10."""
    files = "".join(
        f'<File ovf:id="f{n}" ovf:href="{href}" {more}/>' for n, href in enumerate(names)
    )
    disks = "".join(
        f'<Disk ovf:diskId="d{n}" ovf:fileRef="f{n}" ovf:capacity="{SIZE}" {disk_more}/>'
        for n in range(len(names))
    )
    items = "".join(ITEM.format(id=10 + n, disk=f"d{n}", slot=n) for n in range(len(names)))
    return OVF.format(files=files, disks=disks, items=items, boot=boot, name=name).encode()


def manifest(members: Iterable[tuple[str, bytes]], algorithm: str = "SHA256") -> bytes:
    new = algorithm.lower()
    lines = (
        f"{algorithm}({name})= {hashlib.new(new, data).hexdigest()}\n" for name, data in members
    )
    return "".join(lines).encode()


def tar(members: Iterable[tuple[str, bytes]], form: int = tarfile.USTAR_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


@pytest.fixture(scope="module")
def raws() -> list[bytes]:
    """Three disks."""
    source = random.Random(5)
    return [source.randbytes(70_000) + bytes(SIZE - 70_001) + bytes([n]) for n in (1, 2, 3)]


@pytest.fixture(scope="module")
def streams(raws: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """The same as stream-optimized vmdk."""
    folder = tmp_path_factory.mktemp("streams")
    found = []
    for raw in raws:
        (folder / "raw").write_bytes(raw)
        command = [
            "qemu-img",
            "convert",
            "-f",
            "raw",
            "-O",
            "vmdk",
            "-o",
            "subformat=streamOptimized",
        ]
        subprocess.run([*command, folder / "raw", folder / "d.vmdk"], check=True)
        found.append((folder / "d.vmdk").read_bytes())
    return found


def restored(folder: Path) -> list[bytes]:
    disks = sorted(folder.rglob("disk-*.raw"), key=lambda path: path.name)
    assert not list(folder.rglob("*.partial"))
    return [disk.read_bytes() for disk in disks]


@pytest.fixture
def give(daemon: Callable[..., Daemon], tmp_path: Path) -> Callable[..., Daemon]:
    """Give files to a restore below a folder, in their order."""

    def start(*files: tuple[str, bytes], **parameters: object) -> Daemon:
        wire = daemon()
        wire.start_restore(tmp_path / "out", **parameters)
        for name, content in files:
            wire.give_file(f"{tmp_path / 'out'}/@vsphere/box/{name}", content)
        return wire

    return start


@pytest.fixture
def refuse(give: Callable[..., Daemon], tmp_path: Path) -> Callable[[bytes], str]:
    """Give a package that is refused; no disk is written. Returns the reason."""

    def start(package: bytes) -> str:
        wire = give()
        wire.offer_file(f"{tmp_path / 'out'}/@vsphere/box/box.ova", len(package))
        assert wire.next() == Reply(Answer.OK)
        wire.send_content(package)
        line = wire.fatal()
        assert restored(tmp_path / "out") == []
        return line

    return start


# --- packages


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("place", [1, 2, -1])
@pytest.mark.parametrize("algorithm", ["SHA1", "SHA256", "SHA512"])
def test_a_package_is_restored_bit_for_bit(
    give: Callable[..., Daemon],
    raws: list[bytes],
    streams: list[bytes],
    tmp_path: Path,
    form: str,
    place: int,
    algorithm: str,
) -> None:
    names = ["box-disk1.vmdk", f"{'long-' * 30}disk2.vmdk" if form != "ustar" else "d 2.vmdk"]
    members = [("box.ovf", descriptor([names[0], names[1].replace(" ", "%20")]))]
    members += [("tools.iso", b"iso" * 1000), *zip(names, streams, strict=False)]
    members.insert(place, ("box.mf", manifest([members[0], *members[2:]], algorithm)))
    wire = give(("box.ova", tar(members, FORMATS[form])))
    wire.finish()
    assert restored(tmp_path / "out") == raws[:2]
    assert (tmp_path / "out/@vsphere/box/box.ovf").read_bytes() == members[0][1]
    said = "\n".join(message.text for message in wire.messages)
    assert "2 disks, which agree with the digests of its manifest" in said


def test_a_package_without_digests_is_restored_and_says_so(
    give: Callable[..., Daemon], raws: list[bytes], streams: list[bytes], tmp_path: Path
) -> None:
    package = tar(
        [("./a.vmdk", streams[0]), ("._box.ovf", b"mac"), ("./box.ovf", descriptor(["a.vmdk"]))]
    )
    wire = give(("box.ova", package))
    wire.finish()
    assert restored(tmp_path / "out") == raws[:1]
    assert any("no digests for a.vmdk" in message.text for message in wire.messages)


def test_one_disk_of_a_package(
    give: Callable[..., Daemon], raws: list[bytes], streams: list[bytes], tmp_path: Path
) -> None:
    names = ["a.vmdk", "b.vmdk", "c.vmdk"]
    package = tar([("box.ovf", descriptor(names)), *zip(names, streams, strict=True)])
    give(("box.ova", package), disk=1).finish()
    assert restored(tmp_path / "out") == [raws[1]]


def test_disks_of_a_package_in_other_formats(
    give: Callable[..., Daemon], raws: list[bytes], tmp_path: Path
) -> None:
    """As oVirt names them: by their ids alone, and their formats are in the descriptor."""
    text = descriptor(["d1d1d1d1"], disk_more='ovf:volume-format="RAW"')
    give(("box.ova", tar([("box.ovf", text), ("d1d1d1d1", raws[0])]))).finish()
    assert restored(tmp_path / "out") == raws[:1]


def damaged(streams: list[bytes]) -> dict[str, tuple[bytes, str]]:
    ovf = descriptor(["a.vmdk"])
    good = [("box.ovf", ovf), ("a.vmdk", streams[0])]
    listed = [*good, ("box.mf", manifest(good))]
    changed = bytearray(streams[0])
    changed[70_000] ^= 1
    other = manifest([("box.ovf", b"x"), good[1]])
    huge = tarfile.TarInfo("x")
    huge.type, huge.size = tarfile.XHDTYPE, 1 << 40
    negative = bytearray(tarfile.TarInfo("a.vmdk").tobuf(tarfile.USTAR_FORMAT))
    negative[124:136] = b"\xff" * 12
    negative[148:156] = b"        "
    negative[148:156] = b"%06o\0 " % sum(negative)
    sparse = tarfile.TarInfo("a.vmdk")
    sparse.type = tarfile.GNUTYPE_SPARSE
    return {
        "a changed disk": (
            tar([good[0], ("a.vmdk", bytes(changed)), listed[2]]),
            "not what its manifest",
        ),
        "a changed descriptor": (
            tar([*good, ("box.mf", other)]),
            "box.ovf is not what its manifest",
        ),
        "no digest": (tar([*good, ("box.mf", b"MD5(a)= 00\n")]), "not a digest"),
        "cut off": (tar(good)[: len(streams[0]) // 2], "in the middle of a.vmdk: it was cut off"),
        "a disk too few": (tar(good[:1]), "its disk a.vmdk is missing"),
        "no descriptor": (tar(good[1:]), "holds no OVF descriptor"),
        "two descriptors": (tar([*good, ("b.ovf", ovf)]), "two descriptors"),
        "a disk twice": (tar([*good, good[1]]), "a.vmdk is in it twice"),
        "a wrong length": (
            tar([("box.ovf", descriptor(["a.vmdk"], more='ovf:size="5"')), good[1]]),
            "says 5",
        ),
        "gzip": (
            tar([("box.ovf", descriptor(["a.vmdk"], more='ovf:compression="gzip"'))]),
            "with gzip",
        ),
        "parts": (
            tar([("box.ovf", descriptor(["a.vmdk"], more='ovf:chunkSize="9"'))]),
            "into parts",
        ),
        "another kind": (tar([("box.ovf", descriptor(["a.dat"]))]), "kind that is not known"),
        "qcow2": (tar([("box.ovf", descriptor(["a.qcow2"])), ("a.qcow2", b"QFI")]), "qcow2"),
        "no archive": (b"PK" * 1000, "no tar archive"),
        "nothing": (bytes(1024), "empty"),
        "not OVF": (tar([("box.ovf", b"<domain/>")]), "not an OVF descriptor"),
        "a long text": (tar([("box.ovf", bytes(5 * MIB))]), "none is as large"),
        "a long header": (huge.tobuf(tarfile.GNU_FORMAT), "a header has"),
        "a negative length": (bytes(negative) + bytes(1024), "impossible members"),
        "holes": (sparse.tobuf(tarfile.GNU_FORMAT) + bytes(1024), "with holes"),
        "more members than any": (tar((f"{n}", b"") for n in range(5000)), "impossible members"),
    }


@pytest.mark.parametrize("fault", damaged([bytes(80_000)] * 3))
def test_a_package_that_is_not_whole_is_refused_before_a_disk_is_written(
    refuse: Callable[[bytes], str], streams: list[bytes], fault: str
) -> None:
    package, why = damaged(streams)[fault]
    assert why in refuse(package)


def test_names_in_a_package_lead_nowhere(
    give: Callable[..., Daemon], raws: list[bytes], streams: list[bytes], tmp_path: Path
) -> None:
    text = (
        descriptor(["../../etc/a.vmdk"])
        .replace(b'"d0"', b'"../../d0"')
        .replace(b"/d0<", b"/../../d0<")
    )
    give(("box.ova", tar([("../box.ovf", text), ("../../etc/a.vmdk", streams[0])]))).finish()
    assert restored(tmp_path / "out") == raws[:1]
    files = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert sorted(name for name in files if name.endswith((".raw", ".ovf"))) == [
        "box.ovf",
        "disk-1-a.raw",
    ]


# --- a VM on AHV


def test_a_package_becomes_a_vm_that_boots_from_its_third_disk(
    product: Product, daemon: Callable[..., Daemon], raws: list[bytes], streams: list[bytes]
) -> None:
    names = ["a.vmdk", "b.vmdk", "c.vmdk"]
    members = [("box.ovf", descriptor(names, boot=12)), *zip(names, streams, strict=True)]
    package = tar([*members, ("box.mf", manifest(members))])
    vm = restore_to_lab(product, daemon(), "from-ova", ("box.ova", package))
    disks = {(disk.bus, disk.index): disk.file.read_bytes() for disk in vm.disks}
    assert disks == {("SCSI", number): raw for number, raw in enumerate(raws)}
    assert vm.hardware["bootConfig"]["bootDevice"]["diskAddress"] == {"busType": "SCSI", "index": 2}
    assert vm.hardware["memorySizeBytes"] == 1 << 30


def test_an_unpacked_export_becomes_a_vm(
    product: Product, daemon: Callable[..., Daemon], raws: list[bytes], streams: list[bytes]
) -> None:
    vm = restore_to_lab(
        product,
        daemon(),
        "from-ovf",
        ("box.ovf", descriptor(["my%20disk.vmdk"])),
        ("disks/my disk.vmdk", streams[0]),
    )
    assert [disk.file.read_bytes() for disk in vm.disks] == raws[:1]
    assert "bootDevice" not in vm.hardware["bootConfig"], "there is nothing to choose"


def restore_to_lab(product: Product, wire: Daemon, name: str, *files: tuple[str, bytes]) -> Any:
    options = {"network_map": "VM Network:lab-net", "restore_vm_name": name, "restore_via": "image"}
    working = str(product.root / "working")
    job = Job("packages.1", 9, JobType.RESTORE, where="/", working_dir=working)
    wire.start(Phase.RESTORE, job, product.parameters(**options))
    for file, content in files:
        wire.give_file(f"/@vsphere/box/{file}", content)
    wire.finish()
    (vm,) = (vm for vm in product.lab._world.vms.values() if vm.name == name)
    return vm


# --- files of this host


def bring(*arguments: object) -> int:
    """Run the command line `import`."""
    return program.run(command_line(), ["import", "--json", *map(str, arguments)])


@pytest.mark.usefixtures("capsys")
def test_a_package_of_this_host_is_imported(
    raws: list[bytes], streams: list[bytes], tmp_path: Path
) -> None:
    package = tmp_path / "box.ova"
    package.write_bytes(tar([("box.ovf", descriptor(["a.vmdk"])), ("a.vmdk", streams[0])]))
    state = f"state_dir={tmp_path / 'state'}"
    assert bring("--where", tmp_path / "out", package, state) == 0
    assert restored(tmp_path / "out") == raws[:1]


@pytest.mark.usefixtures("capsys")
def test_an_export_of_this_host_is_imported_with_the_disks_beside_it(
    raws: list[bytes], streams: list[bytes], tmp_path: Path
) -> None:
    (tmp_path / "box.ovf").write_bytes(descriptor(["my%20disk.vmdk", "b.vmdk"]))
    (tmp_path / "my disk.vmdk").write_bytes(streams[0])
    (tmp_path / "b.vmdk").write_bytes(streams[1])
    state = f"state_dir={tmp_path / 'state'}"
    assert bring("--where", tmp_path / "out", tmp_path / "box.ovf", state) == 0
    assert restored(tmp_path / "out") == raws[:2]
    one = ("--disk", tmp_path / "b.vmdk")
    assert bring("--where", tmp_path / "new", *one, tmp_path / "box.ovf", state) == 0
    assert restored(tmp_path / "new") == [raws[1]]


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("box.txt", b"", "its name must end with one of .ova, .ovf"),
        ("box.ovf", descriptor(["../a.vmdk"]), "names '../a.vmdk', which is not beside it"),
        ("box.ovf", descriptor(["%2fetc/a.vmdk"]), "which is not beside it"),
        ("box.ovf", descriptor(["none.vmdk"]), "No such file"),
        ("box.ovf", b"<domain/>", "not an OVF descriptor"),
    ],
)
def test_what_cannot_be_imported_is_said_in_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str, content: bytes, why: str
) -> None:
    (tmp_path / name).write_bytes(content)
    assert bring(tmp_path / name) == 1
    said = capsys.readouterr().err
    assert why in said
    assert said.count("\n") == 1


# --- names that look like extents


def flat(name: str) -> bytes:
    """The descriptor of a disk whose data is in a file of this name."""
    return (
        f'# Disk DescriptorFile\nCID=1\nparentCID=ffffffff\ncreateType="vmfs"\n'
        f'RW {SIZE // 512} VMFS "{name}"\n'
    ).encode()


VMX = 'config.version = "8"\nmemSize = "512"\n'


@pytest.mark.parametrize(
    "vm", ["db-s001", "web-f100", "river-delta", "old-flat", "x-sesparse", "a-rdm"]
)
@pytest.mark.parametrize("is_sorted", [True, False])
@pytest.mark.parametrize("with_configuration", [True, False])
def test_a_disk_may_be_called_like_an_extent(
    give: Callable[..., Daemon],
    raws: list[bytes],
    tmp_path: Path,
    vm: str,
    is_sorted: bool,
    with_configuration: bool,
) -> None:
    files = [(f"disks/{vm}.vmdk", flat(f"{vm}-flat.vmdk")), (f"disks/{vm}-flat.vmdk", raws[0])]
    files = sorted(files) if is_sorted else files[::-1] if sorted(files) == files else files
    vmx = (f"{vm}.vmx", f'{VMX}scsi0:0.fileName = "{vm}.vmdk"\n'.encode())
    give(*[vmx] * with_configuration, *files).finish()
    (disk,) = (tmp_path / "out").rglob("disk-*.raw")
    assert disk.name == f"disk-0-{vm}.raw"
    assert disk.read_bytes() == raws[0]


def test_a_disk_and_the_extent_that_it_is_called_like(
    give: Callable[..., Daemon], raws: list[bytes], tmp_path: Path
) -> None:
    """Disk `db` in two extents, and a disk `db-s003` beside it."""
    main = (
        flat("db-s001.vmdk")
        + f'RW {SIZE // 512} ZERO\nRW {SIZE // 512} VMFS "db-s002.vmdk"\n'.encode()
    )
    files = [
        ("disks/db-s001.vmdk", raws[0]),
        ("disks/db-s002.vmdk", raws[1]),
        ("disks/db-s003-flat.vmdk", raws[2]),
        ("disks/db-s003.vmdk", flat("db-s003-flat.vmdk")),
        ("disks/db.vmdk", main),
    ]
    for number, order in enumerate((files, files[::-1])):
        wire = give(*order, state_dir=tmp_path / f"{number}", overwrite="yes")
        wire.finish()
        found = {
            path.name.partition("-")[2][2:]: path for path in (tmp_path / "out").rglob("disk-*.raw")
        }
        assert found["db.raw"].read_bytes() == raws[0] + bytes(SIZE) + raws[1]
        assert found["db-s003.raw"].read_bytes() == raws[2]
        for path in found.values():
            path.unlink()


def test_only_the_disk_that_is_asked_for_is_kept(
    give: Callable[..., Daemon], raws: list[bytes], tmp_path: Path
) -> None:
    vmx = f'{VMX}scsi0:0.fileName = "a.vmdk"\nscsi0:1.fileName = "b-s001.vmdk"\n'.encode()
    wire = give(("box.vmx", vmx), disk=1)
    where = f"{tmp_path / 'out'}/@vsphere/box/disks"
    for name in ("a-flat", "a"):
        assert wire.give_file(f"{where}/{name}.vmdk", raws[0]) is Answer.SKIP, "it is not even sent"
    wire.give_file(f"{where}/b-s001-flat.vmdk", raws[1])
    wire.give_file(f"{where}/b-s001.vmdk", flat("b-s001-flat.vmdk"))
    wire.finish()
    assert restored(tmp_path / "out") == [raws[1]]


def test_a_whole_sparse_image_may_be_called_like_an_extent(
    give: Callable[..., Daemon], raws: list[bytes], streams: list[bytes], tmp_path: Path
) -> None:
    assert struct.unpack_from("<Q", streams[0], 28)[0], "it holds its descriptor"
    give(("disks/vm-s001.vmdk", streams[0])).finish()
    assert restored(tmp_path / "out") == raws[:1]


# --- deltas


def test_a_delta_of_another_layout_is_restored(give: Callable[..., Daemon], tmp_path: Path) -> None:
    layout = phcbt01.Layout(is_big_endian=True, header_width=4, has_length_first=True)
    data = b"changed!" * 64
    delta = (
        layout.build_header(phcbt01.Header(SIZE, 1))
        + layout.build_region(phcbt01.Region(4096, len(data)))
        + data
    )
    files = (
        ("disks/scsi0.raw", bytes(SIZE)),
        ("disks/scsi0.20261101T000000Z.phcbt01", delta),
    )
    give(*files, layout=layout).finish()
    (disk,) = restored(tmp_path / "out")
    assert disk == bytes(4096) + data + bytes(SIZE - 4096 - len(data))
