"""Guest images: every honest kind bit for bit; every trick refused before qemu-img sees it.

The images are made by qemu-img and then bent byte by byte.
"""

from __future__ import annotations

import os
import random
import shutil
import struct
import subprocess
from typing import TYPE_CHECKING, Any
from uuid import UUID

import attrs
import disk_images as images
import pytest
import qemu_img
from disk_images.errors import ImageRefused
from qemu_img import ToolFailed

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Make = Callable[[str], list[Path]]

MIB = 1 << 20
SIZE = 9 * MIB
KINDS = {
    "monolithicSparse": ("vmdk", "subformat=monolithicSparse"),
    "monolithicFlat": ("vmdk", "subformat=monolithicFlat"),
    "streamOptimized": ("vmdk", "subformat=streamOptimized"),
    "twoGbMaxExtentSparse": ("vmdk", "subformat=twoGbMaxExtentSparse"),
    "twoGbMaxExtentFlat": ("vmdk", "subformat=twoGbMaxExtentFlat"),
    "dynamic": ("vhdx", "subformat=dynamic,block_size=1M"),
    "fixed": ("vhdx", "subformat=fixed"),
    "raw": ("raw", ""),
}


WHOLE = ("monolithicFlat", "twoGbMaxExtentFlat", "fixed", "raw")  # copied below without holes


def content() -> bytes:
    """A disk with holes, with data that compress and that do not, and something at its very end."""
    source = random.Random(7)
    disk = bytearray(SIZE)
    disk[100 * 512 : 101 * 512] = source.randbytes(512)
    disk[MIB : MIB + 200_000] = source.randbytes(200_000)
    disk[5 * MIB : 6 * MIB] = b"A" * MIB
    disk[-512:] = b"end!" * 128
    return bytes(disk)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for each kind, with the files of one disk."""
    root = tmp_path_factory.mktemp("made")
    (root / "disk.raw").write_bytes(content())
    for kind, (form, options) in KINDS.items():
        (root / kind).mkdir()
        command = ["qemu-img", "convert", "-f", "raw", "-O", form, str(root / "disk.raw")]
        more = ["-o", options] if options else []
        subprocess.run([*command, *more, str(root / kind / f"disk.{form}")], check=True)
    return root


@pytest.fixture
def image(made: Path, tmp_path: Path) -> Make:
    """Give the files of an image of some kind, to be bent."""

    def copy(kind: str) -> list[Path]:
        folder = tmp_path / kind
        folder.mkdir()
        for file in (made / kind).iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        return sorted(folder.iterdir(), key=lambda file: (len(file.name), file.name))

    return copy


def write(path: Path, offset: int, data: bytes | bytearray) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def read(path: Path, offset: int, form: str) -> tuple[Any, ...]:
    with path.open("rb") as file:
        file.seek(offset)
        return struct.unpack(form, file.read(struct.calcsize(form)))


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def refused(files: list[Path], why: str) -> None:
    """Refused by looking at it: qemu-img is not started, and nothing is left behind."""
    target = files[0].parent / "out.raw"
    with pytest.raises(ImageRefused, match=why) as error:
        images.convert_to_raw(files, target)
    assert "\n" not in str(error.value)
    assert set(target.parent.iterdir()) == set(files)


# --- honest images


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_converted_bit_for_bit_with_its_holes(image: Make, kind: str) -> None:
    files = image(kind)
    target = files[0].parent / "out.raw"
    found = images.convert_to_raw(files, target)
    assert target.read_bytes() == content()
    assert target.stat().st_blocks * 512 < SIZE // 2
    assert (found.size, found.kind) == (SIZE, kind)
    assert found.data_bytes >= 1.2 * MIB
    assert images.vet(files) == found
    assert set(target.parent.iterdir()) == {*files, target}


def test_the_data_of_a_sparse_image_are_known_before_it_is_converted(image: Make) -> None:
    for kind in KINDS:
        assert images.vet(image(kind)).data_bytes <= (SIZE if kind in WHOLE else 6 * MIB), kind


@pytest.mark.parametrize("kind", [kind for kind, (form, _) in KINDS.items() if form == "vmdk"])
def test_an_extent_of_several_is_not_a_whole_disk(image: Make, kind: str) -> None:
    files = image(kind)
    whole = [path.name for path in files if images.is_whole_disk(path)]
    assert whole == [path.name for path in files if "-" not in path.stem]


def test_a_stream_may_have_its_header_at_its_end(image: Make) -> None:
    """As written by VMware's own tools, which cannot go back to the start of a stream."""
    (one,) = image("streamOptimized")
    header = bytearray(one.read_bytes()[:512])
    with one.open("ab") as file:
        file.write(bytes(-one.stat().st_size % 512))
        file.write(struct.pack("<QII496x", 1, 0, 3))
        file.write(header)
        file.write(bytes(512))
    write(one, 56, struct.pack("<Q", (1 << 64) - 1))
    images.convert_to_raw([one], one.parent / "out.raw")
    assert (one.parent / "out.raw").read_bytes() == content()


def test_a_raw_image_is_raw_whatever_it_begins_with(tmp_path: Path) -> None:
    """A guest that writes a qcow2 header to its disk gets its disk, not the file it names."""
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret" * 1000)
    disk = tmp_path / "disk.raw"
    command = [
        "qemu-img",
        "create",
        "-q",
        "-f",
        "qcow2",
        "-F",
        "raw",
        "-b",
        str(secret),
        str(disk),
        "1M",
    ]
    subprocess.run(command, check=True)
    disk.write_bytes(disk.read_bytes().ljust(MIB, b"\0"))
    images.convert_to_raw([disk], tmp_path / "out.raw")
    assert (tmp_path / "out.raw").read_bytes() == disk.read_bytes()


def test_an_image_of_esxi_names_its_data_vmfs(image: Make) -> None:
    main, flat = image("monolithicFlat")
    edit(main, 'createType="monolithicFlat"', 'createType="vmfs"')
    edit(main, f'FLAT "{flat.name}" 0', f'VMFS "{flat.name}"')
    images.convert_to_raw([main, flat], main.parent / "out.raw")
    assert (main.parent / "out.raw").read_bytes() == content()


def test_several_extents_make_one_disk_in_their_order(image: Make, tmp_path: Path) -> None:
    (one,) = image("monolithicSparse")
    disk = content()
    (tmp_path / "d-f001.vmdk").write_bytes(disk[: 4 * MIB])
    (tmp_path / "d-f002.vmdk").write_bytes(bytes(512) + disk[4 * MIB :])
    (tmp_path / "d-s003.vmdk").write_bytes(one.read_bytes())
    main = tmp_path / "d.vmdk"
    main.write_text(
        "# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\n"
        'createType="twoGbMaxExtentSparse"\n'
        f'RW {8192} FLAT "d-f001.vmdk" 0\n'
        f'RW {(SIZE - 4 * MIB) // 512} FLAT "d-f002.vmdk" 1\n'
        f'RW {SIZE // 512} SPARSE "d-s003.vmdk"\n'
        'ddb.comment = "RW 1 FLAT"\n'
    )
    images.convert_to_raw(sorted(tmp_path.glob("d*.vmdk")), tmp_path / "out.raw")
    assert (tmp_path / "out.raw").read_bytes() == disk + disk


def test_names_with_a_meaning_for_qemu_are_only_names(image: Make, tmp_path: Path) -> None:
    (one,) = image("monolithicSparse")
    odd = tmp_path / "json:{},driver=nbd,%s.vmdk"
    one.rename(odd)
    images.convert_to_raw([odd], tmp_path / "out.raw")
    assert (tmp_path / "out.raw").read_bytes() == content()


def test_a_vhdx_that_was_not_closed_is_repaired_first(image: Make) -> None:
    """The log of a running machine's disk holds changes of the tables, not yet written there."""
    (one,) = image("dynamic")
    for at in (64 * 1024, 128 * 1024):
        header = bytearray(one.read_bytes()[at : at + 4096])
        header[48:64] = bytes(range(1, 17))
        header[4:8] = bytes(4)
        header[4:8] = struct.pack("<I", crc32c(header))
        write(one, at, header)
    assert images.vet([one]).needs_replay
    images.convert_to_raw([one], one.parent / "out.raw")
    assert (one.parent / "out.raw").read_bytes() == content()


@pytest.mark.parametrize(
    ("written", "why"),
    [
        ("a parent", "stands on a parent|cannot read"),
        ("far behind its end", "cannot read|not an image|outside"),
    ],
)
def test_a_log_cannot_make_another_disk_of_it(image: Make, written: str, why: str) -> None:
    """What it wrote is looked at again, and qemu-img itself refuses a parent."""
    (one,) = image("dynamic")
    where, _ = vhdx_item(one, PARAMETERS)
    sector = bytearray(one.read_bytes()[where - where % 4096 :][:4096])
    struct.pack_into("<I", sector, where % 4096 + 4, 2)
    offset = where - where % 4096 if written == "a parent" else 1 << 50
    add_log(one, offset, bytes(sector))
    size = one.stat().st_size
    with pytest.raises((ImageRefused, ToolFailed), match=why):
        images.convert_to_raw([one], one.parent / "out.raw")
    assert list(one.parent.iterdir()) == [one]
    assert one.stat().st_size <= size + 64 * MIB


def add_log(path: Path, offset: int, sector: bytes) -> None:
    """Give a VHDX a log that writes one sector at `offset`, as a machine that died leaves it."""
    guid, sequence, size = b"L" * 16, 5, path.stat().st_size
    (log_offset,) = read(path, 65536 + 72, "<Q")
    entry = bytearray(8192)
    struct.pack_into(
        "<4sIIIQII16sQQ", entry, 0, b"loge", 0, 8192, 0, sequence, 1, 0, guid, size, size
    )
    ends = struct.unpack("<I", sector[4092:])[0], struct.unpack("<Q", sector[:8])[0]
    struct.pack_into("<4sIQQQ", entry, 64, b"desc", *ends, offset, sequence)
    entry[4096:] = b"data" + bytes(4) + sector[8:4092] + struct.pack("<I", sequence)
    struct.pack_into("<I", entry, 4, crc32c(entry))
    write(path, log_offset, entry)
    for at in (65536, 131072):
        header = bytearray(path.read_bytes()[at : at + 4096])
        header[48:64], header[4:8] = guid, bytes(4)
        header[4:8] = struct.pack("<I", crc32c(header))
        write(path, at, header)


def crc32c(data: bytes | bytearray) -> int:
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    return value ^ 0xFFFFFFFF


def test_a_stream_may_say_that_it_is_only_to_be_read(image: Make) -> None:
    """As VMware and VirtualBox write what is to be sent, under a name that no file has."""
    (one,) = image("streamOptimized")
    data = one.read_bytes()
    start = data.index(b"RW 18432 SPARSE")
    end = data.index(b"\n", start)
    line = b'RDONLY 18432 SPARSE "call-me-stream.vmdk"'
    write(one, start, line + data[end : 20 * 512 - len(line)])
    found = images.convert_to_raw([one], one.parent / "out.raw")
    assert found.kind == "streamOptimized"
    assert (one.parent / "out.raw").read_bytes() == content()


@pytest.mark.parametrize("access", ["RW", "RDONLY"])
def test_an_extent_may_be_only_to_be_read(image: Make, access: str) -> None:
    main, flat = image("monolithicFlat")
    edit(main, "RW 18432", f"{access} 18432")
    images.convert_to_raw([main, flat], main.parent / "out.raw")
    assert (main.parent / "out.raw").read_bytes() == content()


@pytest.mark.parametrize(
    ("said", "encoding", "name"),
    [
        ("GBK", "gbk", "CentOS 7 64 位"),
        ("Shift_JIS", "cp932", "サーバー①"),
        ("windows-1251", "cp1251", "сервер"),
        ("windows-1252", "cp1252", "Servidor São"),
        ("windows-949-2000", "cp949", "서버"),
        ("Big5", "cp950", "資料"),
        ("UTF-8", "utf-8-sig", "数据"),
        ("UTF-16", "utf-16", "数据"),
        ("UTF-8", "utf-8", "cafe\N{COMBINING ACUTE ACCENT}"),
        ("UTF-8", "gbk", "数据"),  # it lies
    ],
)
def test_names_of_extents_are_in_the_encoding_of_the_descriptor(
    image: Make, said: str, encoding: str, name: str
) -> None:
    main, flat = image("monolithicFlat")
    named = flat.rename(flat.with_name(f"{name}-flat.vmdk"))
    if (said, encoding) == ("UTF-8", "gbk"):
        raw = f"{name}-flat.vmdk".encode("gbk").decode("utf-8", "surrogateescape")
        named = named.rename(named.with_name(raw))
    text = main.read_text().replace(flat.name, f"{name}-flat.vmdk")
    main.write_bytes(text.replace("CID=", f'encoding="{said}"\nCID=', 1).encode(encoding))
    images.convert_to_raw([main, named], main.parent / "out.raw")
    assert (main.parent / "out.raw").read_bytes() == content()


def test_extents_of_zeros_have_no_file(image: Make) -> None:
    main, flat = image("monolithicFlat")
    line = f'RW {SIZE // 512} FLAT "{flat.name}" 0'
    edit(main, line, f"RW 63 ZERO\n{line}\nRW 2048 ZERO")
    found = images.convert_to_raw([main, flat], main.parent / "out.raw")
    expected = bytes(63 * 512) + content() + bytes(MIB)
    assert (main.parent / "out.raw").read_bytes() == expected
    assert found.size == len(expected)
    assert found.data_bytes == images.vet([main, flat]).data_bytes <= SIZE


def test_zeros_may_be_more_than_the_largest_file(tmp_path: Path) -> None:
    main = tmp_path / "d.vmdk"
    sectors = (3 << 40) // 512 + 1
    main.write_text(
        "# Disk DescriptorFile\nCID=1\nparentCID=ffffffff\n"
        f'createType="twoGbMaxExtentSparse"\nRW {sectors} ZERO\n'
    )
    found = images.vet([main])
    assert (found.size, found.data_bytes, found.zeros) == (sectors * 512, 0, 1 << 40)
    assert [line.split()[1] for line in found.descriptor.splitlines() if '"zeros"' in line] == [
        *[str((1 << 40) // 512)] * 3,
        "1",
    ]


# --- descriptors that lie


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd",
        "../disk-flat.vmdk",
        "sub/disk-flat.vmdk",
        "\\\\\\\\.\\\\PhysicalDrive0",
        "nbd://127.0.0.1:10809/export",
        'json:{\\"driver\\":\\"nbd\\"}',
        "ssh:host",
        "..",
        "",
    ],
)
def test_an_extent_outside_of_the_backup_is_refused(image: Make, name: str) -> None:
    main, flat = image("monolithicFlat")
    edit(main, flat.name, name.replace('\\"', "'"))
    refused([main, flat], "outside of the backup")


def test_an_extent_that_did_not_come_is_refused(image: Make) -> None:
    main, flat = image("monolithicFlat")
    flat.unlink()
    refused([main], "is missing: select all")


def test_extents_without_their_descriptor_are_refused(image: Make) -> None:
    for kind in ("monolithicFlat", "twoGbMaxExtentSparse"):
        main, extent = image(kind)
        main.unlink()
        refused([extent], "select all")


def test_a_link_in_place_of_an_extent_is_refused(image: Make, tmp_path: Path) -> None:
    main, flat = image("monolithicFlat")
    flat.rename(tmp_path / "elsewhere")
    flat.symlink_to(tmp_path / "elsewhere")
    refused([main, flat], "cannot be opened")


def test_a_device_or_pipe_in_place_of_an_image_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "disk.vmdk")
    refused([tmp_path / "disk.vmdk"], "is not a file")


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("parentCID=ffffffff", "parentCID=12345678", "stands on another image"),
        ("parentCID", 'parentFileNameHint="base.vmdk"\nparentCID', "stands on another image"),
        ('createType="monolithicFlat"', 'createType="fullDevice"', "'fullDevice' cannot"),
        ('createType="monolithicFlat"', 'createType="vmfsRawDeviceMap"', "cannot be restored"),
        ('createType="monolithicFlat"', "", "cannot be restored"),
        ("RW 18432 FLAT", "RW 99999 FLAT", "shorter than"),
        ("RW 18432 FLAT", "RW 0 FLAT", "larger than any|no data"),
        ("RW 18432 FLAT", "RW 99999999999999 FLAT", "larger than any"),
        ("RW 18432 FLAT", "NOACCESS 18432 FLAT", "no data of a disk"),
        ("RW 18432 FLAT", "RW 18432 VMFSRDM", "no data of a disk"),
        ("RW 18432 FLAT", "RW 18432 ZERO", "no data of a disk"),
        ("CID=", "keyID=AAAAAAAA\nCID=", "the disk is encrypted"),
        ("CID=", 'encryptionKeys="vmware:key/list"\nCID=', "the disk is encrypted"),
        ("CID=", 'encryption.data = "AAAA"\nCID=', "the disk is encrypted"),
        ("CID=", 'ddb.iofilters = "cache,vmwarevmcrypt"\nCID=', "the disk is encrypted"),
        ("RW 18432 FLAT", "RW many FLAT", "cannot be understood"),
        ("RW 18432 FLAT", "RW 18432 SPARSE", "header is damaged"),
        ('vmdk" 0', 'vmdk" 1', "shorter than"),
        ("# Disk DescriptorFile", "# Disk DescriptorFile\n" + "#" * 5000, "longer than any"),
    ],
)
def test_a_descriptor_that_lies_is_refused(image: Make, old: str, new: str, why: str) -> None:
    main, flat = image("monolithicFlat")
    edit(main, old, new)
    refused([main, flat], why)


def test_a_descriptor_that_shows_one_file_twice_is_refused(image: Make) -> None:
    main, flat = image("monolithicFlat")
    line = next(line for line in main.read_text().splitlines() if line.startswith("RW"))
    edit(main, line, f"{line}\n{line}")
    refused([main, flat], "more than once")


def test_a_file_beside_the_extents_is_refused(image: Make, tmp_path: Path) -> None:
    main, flat = image("monolithicFlat")
    other = flat.with_name("other.vmdk")
    other.write_bytes(bytes(512))
    refused([main, flat, other], "none of its extents")


def test_a_huge_descriptor_is_not_read(image: Make) -> None:
    main, flat = image("monolithicFlat")
    with main.open("r+b") as file:
        file.truncate(1 << 40)
    refused([main, flat], "larger than any descriptor")


def test_a_descriptor_of_nothing_is_refused(tmp_path: Path) -> None:
    main = tmp_path / "disk.vmdk"
    main.write_text('# Disk DescriptorFile\nparentCID=ffffffff\ncreateType="vmfs"\n')
    refused([main], "names no extents")


@pytest.mark.parametrize(
    ("kind", "extent", "magic"),
    [
        ("vmfsSparse", "VMFSSPARSE", b"COWD"),
        ("seSparse", "SESPARSE", b"\xbe\xba\xfe\xca\0\0\0\0"),
        ("vmfsThin", "VMFSRDM", b""),
    ],
)
def test_a_snapshot_of_esxi_is_called_one(
    image: Make, kind: str, extent: str, magic: bytes
) -> None:
    main, flat = image("monolithicFlat")
    edit(main, 'createType="monolithicFlat"', f'createType="{kind}"')
    edit(main, "RW 18432 FLAT", f"RW 18432 {extent}")
    edit(main, "parentCID=ffffffff", 'parentCID=0badcafe\nparentFileNameHint="base.vmdk"')
    write(flat, 0, magic)
    refused([main, flat], "it is a snapshot or a linked clone")


def test_a_flat_disk_of_a_guest_may_begin_as_a_snapshot_does(image: Make) -> None:
    """What the guest writes to its disk is not looked at."""
    main, flat = image("monolithicFlat")
    write(flat, 0, b"COWD")
    images.convert_to_raw([main, flat], main.parent / "out.raw")
    assert (main.parent / "out.raw").read_bytes() == b"COWD" + content()[4:]


def test_one_sparse_extent_cannot_be_shown_many_times(image: Make) -> None:
    """Its tables would be read once for each line of the descriptor."""
    main, extent = image("twoGbMaxExtentSparse")
    line = next(line for line in main.read_text().splitlines() if line.startswith("RW"))
    edit(main, line, "\n".join([line] * 1000))
    refused([main, extent], "more than once")


# --- sparse extents that lie


def test_a_snapshot_inside_one_file_is_refused(image: Make) -> None:
    (one,) = image("monolithicSparse")
    data = one.read_bytes()
    one.write_bytes(data.replace(b"parentCID=ffffffff", b"parentCID=0badbeef"))
    refused([one], "stands on another image")


def test_an_embedded_descriptor_that_names_files_is_refused(image: Make) -> None:
    (one,) = image("monolithicSparse")
    data = one.read_bytes()
    start = data.index(b"RW 18432 SPARSE")
    two = b'RW 18000 SPARSE "a"\nRW 432 SPARSE "/etc/passwd"\n'
    write(one, start, two)
    refused([one], "names other files")


@pytest.mark.parametrize("magic", [b"COWD", b"\xbe\xba\xfe\xca\0\0\0\0"])
def test_the_changes_of_a_snapshot_are_no_disk(image: Make, magic: bytes) -> None:
    (one,) = image("monolithicSparse")
    write(one, 0, magic)
    refused([one], "changes of a snapshot")


@pytest.mark.parametrize(
    ("offset", "form", "value", "why"),
    [
        (4, "<I", 4, "header is damaged"),  # version
        (12, "<Q", 0, "has 0 sectors"),  # qemu-img would read all from the descriptor inside
        (12, "<Q", 1 << 60, "sectors"),
        (12, "<Q", 1 << 36, "outside of the file"),  # 32 TiB: its directory would not fit
        (20, "<Q", 7, "grains have 7"),
        (20, "<Q", 1 << 40, "grains have"),
        (28, "<Q", 1 << 50, "outside of the file"),  # the descriptor
        (28, "<Q", 0, "one extent of several"),
        (36, "<Q", 1 << 40, "larger than any"),
        (44, "<I", 1 << 31, "header is damaged"),  # entries of a grain table
        (48, "<Q", 1 << 50, "outside of the file"),  # the second directory
        (56, "<Q", 1 << 50, "outside of the file"),  # the directory
        (77, "<H", 9, "compression"),
        (77, "<H", 1, "compression"),  # compressed, but not by its flags
    ],
)
def test_a_sparse_header_that_lies_is_refused(
    image: Make, offset: int, form: str, value: int, why: str
) -> None:
    (one,) = image("monolithicSparse")
    write(one, offset, struct.pack(form, value))
    refused([one], why)


def test_a_sparse_image_that_was_cut_off_is_refused(image: Make) -> None:
    for kind in ("monolithicSparse", "streamOptimized", "dynamic", "fixed"):
        (one,) = image(kind)
        with one.open("r+b") as file:
            file.truncate(one.stat().st_size - 200 * 1024 if kind != "fixed" else 8 * MIB)
        refused([one], r"outside of the file|damaged|not what its table says")


def grain_tables(path: Path) -> list[tuple[int, int]]:
    (directory,) = read(path, 56, "<Q")
    return [(directory * 512, *read(path, directory * 512, "<I"))]


def test_grains_outside_of_the_file_are_refused(image: Make) -> None:
    (one,) = image("monolithicSparse")
    ((_, table),) = grain_tables(one)
    write(one, table * 512, struct.pack("<I", 1 << 31))
    refused([one], "grain 0 lies outside")


def test_a_grain_shown_again_and_again_is_refused(image: Make) -> None:
    (one,) = image("monolithicSparse")
    ((_, table),) = grain_tables(one)
    (grain,) = read(one, table * 512, "<I")
    write(one, table * 512, struct.pack("<I", grain) * 144)
    refused([one], "more than once")


def test_a_table_shown_again_and_again_is_refused(image: Make) -> None:
    """A directory of 32 TiB in a small file, all of it one table: a huge table of tables."""
    (one,) = image("monolithicSparse")
    ((_, table),) = grain_tables(one)
    entries = 4096
    start = one.stat().st_size // 512 + 1
    with one.open("r+b") as file:
        file.seek(start * 512)
        file.write(struct.pack("<I", table) * entries)
    write(one, 56, struct.pack("<Q", start))
    write(one, 48, struct.pack("<Q", start))
    write(one, 12, struct.pack("<Q", entries * 512 * 128))
    refused([one], "a table twice")


def test_a_compressed_grain_that_lies_is_refused(image: Make) -> None:
    for at, form, value in ((0, "<Q", 1 << 20), (8, "<I", 0), (8, "<I", 1 << 30)):
        (one,) = image("streamOptimized")
        ((_, table),) = grain_tables(one)
        (grain,) = read(one, table * 512, "<I")
        write(one, grain * 512 + at, struct.pack(form, value))
        refused([one], "grain 0 is not what its table says")
        one.unlink()
        one.parent.rmdir()


def test_a_sparse_extent_that_differs_from_its_descriptor_is_refused(image: Make) -> None:
    main, extent = image("twoGbMaxExtentSparse")
    edit(main, "RW 18432 SPARSE", "RW 18400 SPARSE")
    refused([main, extent], "18432 sectors where")


# --- VHDX that lies

REGIONS = (192 * 1024, 256 * 1024)
PARAMETERS = UUID("caa16737-fa36-4d43-b3b6-33f0aa44e76b").bytes_le
VIRTUAL_SIZE = UUID("2fa54224-cd1b-4876-b211-5dbed83bf4b8").bytes_le
LOCATOR = UUID("a8d35f2d-b30b-454d-abf7-d3d84834ab0c").bytes_le
BAT = UUID("2dc27766-f623-4200-9d64-115e9bfd4a08").bytes_le


def vhdx_item(path: Path, item: bytes) -> tuple[int, int]:
    """Where an item of the metadata stands, and where its entry in their table."""
    data = path.read_bytes()
    metadata = data.index(b"metadata")
    entry = data.index(item, metadata)
    return metadata + struct.unpack_from("<I", data, entry + 16)[0], entry


def vhdx_table(path: Path) -> int:
    data = path.read_bytes()
    (offset,) = struct.unpack_from("<Q", data, data.index(BAT) + 16)
    return int(offset)


def test_a_differencing_disk_is_refused(image: Make) -> None:
    (one,) = image("dynamic")
    where, _ = vhdx_item(one, PARAMETERS)
    write(one, where + 4, struct.pack("<I", 2))
    refused([one], "stands on a parent")


def test_a_parent_locator_is_refused(image: Make) -> None:
    (one,) = image("dynamic")
    data = one.read_bytes()
    metadata = data.index(b"metadata")
    (count,) = struct.unpack_from("<H", data, metadata + 10)
    entry = LOCATOR + struct.pack("<III4x", 65536, 20, 0)
    write(one, metadata + 32 + count * 32, entry)
    write(one, metadata + 10, struct.pack("<H", count + 1))
    refused([one], "stands on a parent")


@pytest.mark.parametrize(
    ("item", "form", "value", "why"),
    [
        (VIRTUAL_SIZE, "<Q", 0, "says that it has"),
        (VIRTUAL_SIZE, "<Q", 1 << 63, "says that it has"),
        (VIRTUAL_SIZE, "<Q", SIZE + 1, "says that it has"),
        (VIRTUAL_SIZE, "<Q", 1 << 45, "too short"),
        (PARAMETERS, "<I", 512, "blocks have 512"),
        (PARAMETERS, "<I", 3 * MIB, "blocks have"),
    ],
)
def test_vhdx_metadata_that_lie_are_refused(
    image: Make, item: bytes, form: str, value: int, why: str
) -> None:
    (one,) = image("dynamic")
    where, _ = vhdx_item(one, item)
    write(one, where, struct.pack(form, value))
    refused([one], why)


@pytest.mark.parametrize(
    ("field", "form", "value", "why"),
    [
        (0, "16s", bytes(16), "lack an item"),
        (16, "<I", 1 << 31, "lies outside"),
        (20, "<I", 4, "lack an item"),
    ],
)
def test_vhdx_items_that_are_not_there_are_refused(
    image: Make, field: int, form: str, value: int | bytes, why: str
) -> None:
    (one,) = image("dynamic")
    _, entry = vhdx_item(one, VIRTUAL_SIZE)
    write(one, entry + field, struct.pack(form, value))
    refused([one], why)


def test_vhdx_regions_that_lie_are_refused(image: Make) -> None:
    (one,) = image("dynamic")
    entry = one.read_bytes().index(BAT) - REGIONS[0]
    for value, why in ((1 << 60, "outside"), (4 * MIB, "damaged")):
        for at in REGIONS[: 2 if value == 1 << 60 else 1]:
            write(one, at + entry + 16, struct.pack("<Q", value))
        refused([one], why)
    write(one, REGIONS[0], b"none")
    refused([one], "damaged")


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (6 | 1 << 40, "outside of the file"),
        (6, "outside of the file"),  # a block at offset 0
        (7 | 1 << 20, "in a parent"),
    ],
)
def test_vhdx_blocks_that_lie_are_refused(image: Make, value: int, why: str) -> None:
    (one,) = image("dynamic")
    write(one, vhdx_table(one), struct.pack("<Q", value))
    refused([one], why)


def test_a_vhdx_block_shown_again_and_again_is_refused(image: Make) -> None:
    (one,) = image("dynamic")
    where, _ = vhdx_item(one, VIRTUAL_SIZE)
    write(one, where, struct.pack("<Q", 100 * MIB))
    table = vhdx_table(one)
    entries = struct.unpack("<9Q", one.read_bytes()[table : table + 72])
    first = next(entry for entry in entries if entry & 7 == 6)
    write(one, table, struct.pack("<Q", first) * 100)
    refused([one], "more than once")


# --- formats that are not taken


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("disk.qcow2", "is a qcow2 image"),
        ("disk.vhd", "Convert-VHD"),
        ("disk.avhdx", "is a checkpoint"),
        ("disk.iso", "not known"),
        ("disk.vmdk", "descriptor of its disk is missing"),
        ("disk.vhdx", "does not begin as"),
    ],
)
def test_other_formats_are_refused(tmp_path: Path, name: str, why: str) -> None:
    """A qcow2 with a backing file or an external data file is one of them, under any name."""
    file = tmp_path / name
    options = ["-o", f"data_file={tmp_path}/data.raw"]
    command = ["qemu-img", "create", "-q", "-f", "qcow2", *options, str(file), "1M"]
    subprocess.run(command, check=True)
    (tmp_path / "data.raw").unlink()
    refused([file], why)


def test_files_of_two_formats_or_two_images_are_no_disk(image: Make, tmp_path: Path) -> None:
    (one,) = image("monolithicSparse")
    (other,) = image("dynamic")
    with pytest.raises(ImageRefused, match="several formats"):
        images.vet([one, other])
    second = tmp_path / "second.vhdx"
    second.write_bytes(other.read_bytes())
    with pytest.raises(ImageRefused, match="cannot be one disk"):
        images.vet([other, second])
    with pytest.raises(ImageRefused, match="without files"):
        images.vet([])
    main, flat = image("monolithicFlat")
    again = tmp_path / "again.vmdk"
    again.write_bytes(main.read_bytes())
    with pytest.raises(ImageRefused, match="descriptor of the same disk"):
        images.vet([main, flat, again])


@pytest.mark.parametrize("size", [0, 100])
def test_a_raw_image_of_no_whole_sectors_is_refused(tmp_path: Path, size: int) -> None:
    (tmp_path / "disk.raw").write_bytes(bytes(size))
    refused([tmp_path / "disk.raw"], "no disk is")


def test_a_disk_that_grows_beyond_what_is_free_is_refused(
    image: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    (one,) = image("streamOptimized")
    needed = images.vet([one]).data_bytes
    usage = shutil.disk_usage(one.parent)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=needed - 1))
    refused([one], "bytes free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=needed))
    images.convert_to_raw([one], one.parent / "out.raw")


def test_nothing_is_overwritten(image: Make) -> None:
    (one,) = image("raw")
    target = one.parent / "out.raw"
    target.write_bytes(b"mine")
    with pytest.raises(ImageRefused, match="exists already"):
        images.convert_to_raw([one], target)
    assert target.read_bytes() == b"mine"


# --- limits


@pytest.mark.parametrize(
    ("limits", "why"),
    [
        ({"cpu": 60, "wall": 60, "memory": 16 * MIB}, "cannot read disk.vmdk"),
        ({"cpu": 60, "wall": 0}, "took more than"),
    ],
)
def test_qemu_img_is_stopped_at_a_limit_and_leaves_nothing(
    image: Make, limits: dict[str, int], why: str
) -> None:
    (one,) = image("streamOptimized")
    with pytest.raises(ToolFailed, match=why):
        images.convert_to_raw([one], one.parent / "out.raw", images.Limits(**limits))
    assert list(one.parent.iterdir()) == [one]


def test_a_disk_larger_than_the_limit_is_refused(image: Make) -> None:
    (one,) = image("monolithicSparse")
    limits = images.Limits(cpu=60, wall=60, output=SIZE - 1)
    with pytest.raises(ImageRefused, match="more than"):
        images.convert_to_raw([one], one.parent / "out.raw", limits)


def test_what_qemu_img_writes_and_how_long_it_computes_is_limited(tmp_path: Path) -> None:
    bounds = qemu_img.Bounds(cpu=60, wall=60, memory=2048 * MIB, output=MIB)
    made = qemu_img.Files(write=(tmp_path / "x",))
    command = ["create", "-q", "-f", "raw", made.name(tmp_path / "x"), "2M"]
    with pytest.raises(ToolFailed, match=r"wrote more than|too large"):
        qemu_img.run(command, "make x", made, bounds)
    (tmp_path / "big.raw").write_bytes(bytes(MIB))
    command = ["bench", "-q", "-f", "raw", "-c", "2000000000", "-s", "512", "-S", "0"]
    used = qemu_img.Files(write=(tmp_path / "big.raw",))
    words = [*command, used.name(tmp_path / "big.raw")]
    with pytest.raises(ToolFailed, match="1 s of processor time"):
        qemu_img.run(words, "run", used, attrs.evolve(bounds, cpu=1))
