"""Patterns, partitions, LVM and LUKS, each by itself, also when they are made to break a reader."""

from __future__ import annotations

import random
import struct
import subprocess
from typing import TYPE_CHECKING

import pytest
from guest_files import FilesError, literal, luks, lvm, partitions
from guest_files.errors import CannotOpen
from guest_files.patterns import Pattern
from guest_files.sources import CachedSource, FileObject, Pieces
from hypothesis import given
from hypothesis import strategies as st

from libs.guest_files.tests.conftest import MIB, Memory, run

if TYPE_CHECKING:
    from pathlib import Path

NAMES = st.lists(st.sampled_from(["a", "b", "ab", "*", "[", "c.txt", "A"]), max_size=4)


def means(pattern: Pattern, path: list[str]) -> bool:
    state = pattern.start
    for name in path:
        state = pattern.follow(state, name)
    return pattern.accepts(state)


@pytest.mark.parametrize(
    ("pattern", "path", "meant"),
    [
        ("/", "", True),
        ("/etc/nginx/**", "etc/nginx", True),
        ("/etc/nginx/**", "etc/nginx/conf.d/a.conf", True),
        ("/etc/nginx/**", "etc/nginxx", False),
        ("/etc/*.conf", "etc/a.conf", True),
        ("/etc/*.conf", "etc/a/b.conf", False),
        ("/**/*.conf", "etc/a/b.conf", True),
        ("/**/*.conf", "b.conf", True),
        ("/**", "", True),
        ("etc//hosts/", "etc/hosts", True),
        ("/ETC/hosts", "etc/hosts", False),
        ("/[ab]/?", "b/x", True),
    ],
)
def test_patterns(pattern: str, path: str, meant: bool) -> None:
    assert means(Pattern(pattern), [*filter(None, path.split("/"))]) is meant


def test_patterns_fold_case_where_the_file_system_does() -> None:
    assert means(Pattern("/Users/*.TXT", folds_case=True), ["users", "a.txt"])


@given(NAMES)
def test_a_literal_pattern_means_its_path_alone(path: list[str]) -> None:
    pattern = Pattern(literal("/".join(path)))
    assert means(pattern, path)
    assert not means(pattern, [*path, "x"])
    assert not means(pattern, ["other", *path[1:]])


@pytest.mark.parametrize("text", ["/a/../b", "/" + "a/" * 101, "/a\0"])
def test_paths_that_cannot_be_are_refused(text: str) -> None:
    with pytest.raises(FilesError, match="cannot be a path"):
        Pattern(text)


# --- sources


@given(st.data())
def test_sources_give_the_bytes_of_their_places(data: st.DataObject) -> None:
    content = random.Random(1).randbytes(300_000)
    disk = CachedSource(len(content), lambda offset, length: content[offset : offset + length])
    pieces, plain = [], b""
    for _ in range(data.draw(st.integers(1, 5))):
        begin = data.draw(st.integers(0, len(content) - 1))
        length = data.draw(st.integers(1, len(content) - begin))
        pieces.append((disk, begin, length))
        plain += content[begin : begin + length]
    joined = FileObject(Pieces(pieces))
    assert joined.get_size() == len(plain)
    joined.seek(data.draw(st.integers(0, len(plain))))
    at, size = joined.tell(), data.draw(st.integers(0, 200_000))
    assert joined.read(size) == plain[at : at + size]
    joined.seek(-1, 2)
    assert joined.read() == plain[-1:]


def test_a_volume_that_reaches_behind_its_disk_is_an_error() -> None:
    with pytest.raises(OSError, match="reaches behind the end"):
        Pieces([(Memory(bytes(10)), 5, 10)]).read_at(0, 10)


# --- partitions


def row(kind: int, first: int, count: int) -> bytes:
    return struct.pack("<B3xB3xII", 0, kind, first, count)


def table(*rows: bytes) -> bytes:
    return bytes(446) + b"".join(rows).ljust(64, b"\0") + b"\x55\xaa"


def test_mbr_with_logical_partitions() -> None:
    disk = bytearray(100 * 512)
    disk[:512] = table(row(7, 1, 9), row(5, 10, 80))
    disk[10 * 512 : 11 * 512] = table(row(0x83, 2, 5), row(5, 20, 20))
    disk[30 * 512 : 31 * 512] = table(row(0x83, 1, 3))
    found = partitions.read(Memory(bytes(disk)))
    assert [(p.number, p.offset // 512, p.size // 512, p.type) for p in found] == [
        (1, 1, 9, "07"),
        (5, 12, 5, "83"),
        (6, 31, 3, "83"),
    ]


def test_a_loop_of_logical_partitions_ends() -> None:
    disk = bytearray(100 * 512)
    disk[:512] = table(row(5, 10, 80))
    disk[10 * 512 : 11 * 512] = table(row(0x83, 2, 5), row(5, 20, 20))
    disk[30 * 512 : 31 * 512] = table(row(0x83, 1, 3), row(5, 0, 20))
    assert len(partitions.read(Memory(bytes(disk)))) == 2


@pytest.mark.parametrize("label", ["gpt", "dos"])
def test_what_sfdisk_makes(tmp_path: Path, label: str) -> None:
    image = tmp_path / "disk"
    image.write_bytes(bytes(8 * MIB))
    run("sfdisk", "-q", image, text=f"label: {label}\nstart=2048,size=2048\nstart=4096,size=4096\n")
    content = bytearray(image.read_bytes())
    expected = [(1, MIB, MIB), (2, 2 * MIB, 2 * MIB)]
    assert [
        (p.number, p.offset, p.size) for p in partitions.read(Memory(bytes(content)))
    ] == expected
    if label == "gpt":  # the first table is damaged: the copy at the end is read
        content[512:600] = bytes(88)
        found = partitions.read(Memory(bytes(content)))
        assert [(p.number, p.offset, p.size) for p in found] == expected


# --- LVM


def test_the_text_of_lvm() -> None:
    text = 'a = 1 # one\nb { c = "x \\"y\\"" d = [ "p", 2, [] ] }\n'
    assert lvm.parse(text) == {"a": 1, "b": {"c": 'x "y"', "d": ["p", 2, []]}}


@pytest.mark.parametrize(
    "text", ["a", "a = [ 1", "a { b = 1", "a ! 1", "a {" * 30, "= =", 'a = "x']
)
def test_metadata_of_lvm_that_is_broken_is_an_error(text: str) -> None:
    with pytest.raises(lvm.BadMetadata):
        lvm.parse(text)


GROUP = """vg {{ id = "g" seqno = 3 extent_size = 2
physical_volumes {{ pv0 {{ id = "aa-bb" pe_start = 4 }} }}
logical_volumes {{ lv {{ status = ["VISIBLE"] {segments} }} hidden {{ status = [] }} }} }}"""
SEGMENT = """segment{n} {{ start_extent = {start} extent_count = {count} type = "{kind}"
stripe_count = 1 stripes = [ "{place}", {first} ] }}"""


def volumes(*segments: tuple[int, int, str, str, int]) -> list[lvm.LogicalVolume]:
    made = [
        SEGMENT.format(n=n, start=start, count=count, kind=kind, place=place, first=first)
        for n, (start, count, kind, place, first) in enumerate(segments, 1)
    ]
    text = GROUP.format(segments=" ".join(made))
    content = bytes(2048) + b"".join(bytes([n]) * 1024 for n in range(9))
    return list(lvm.logical_volumes([lvm.PhysicalVolume("aabb", Memory(content), text)]))


def test_a_volume_in_two_segments() -> None:
    (found,) = volumes((2, 1, "striped", "pv0", 1), (0, 2, "striped", "pv0", 5))
    assert (found.name, found.size, found.reason) == ("vg/lv", 3072, "")
    assert found.source
    assert found.source.read_at(0, 3072) == b"\5" * 1024 + b"\6" * 1024 + b"\1" * 1024


def test_other_kinds_of_volume_are_named_and_not_guessed() -> None:
    (found,) = volumes((0, 2, "thin", "pv0", 5))
    assert (found.source, found.reason) == (None, "it is a thin volume of LVM")


def test_a_disk_that_is_missing_is_named() -> None:
    text = GROUP.format(
        segments=SEGMENT.format(n=1, start=0, count=1, kind="striped", place="pv0", first=0)
    )
    other = lvm.PhysicalVolume("other", Memory(b""), text)
    (found,) = lvm.logical_volumes([other])
    assert found.reason == "its physical volume pv0 is missing"


@pytest.mark.parametrize(
    "segment",
    [(1, 1, "striped", "pv0", 0), (0, 1, "striped", "pv9", 0), (0, 1, "striped", "pv0", -1)],
)
def test_metadata_that_makes_no_sense_is_an_error(segment: tuple[int, int, str, str, int]) -> None:
    with pytest.raises(lvm.BadMetadata):
        volumes(segment)


# --- LUKS


def test_luks_of_qemu(tmp_path: Path) -> None:
    raw, image, key = tmp_path / "raw", tmp_path / "luks", tmp_path / "key"
    content = random.Random(2).randbytes(MIB)
    raw.write_bytes(content)
    key.write_text("a passphrase")
    secret = f"secret,id=s,file={key}"
    options = ("-f", "raw", "-O", "luks", "-o", "key-secret=s,iter-time=10")
    for attempt in range(20):  # qemu-img now and then cannot measure how fast it is
        try:
            run("qemu-img", "convert", "--object", secret, *options, raw, image)
        except subprocess.CalledProcessError:
            if attempt == 19:
                raise
        else:
            break
    source = Memory(image.read_bytes())
    plain = luks.unlock(source, [b"wrong", b"a passphrase"])
    assert plain.size == MIB
    assert plain.read_at(0, MIB) == content
    assert plain.read_at(1000, 5000) == content[1000:6000]
    assert plain.read_at(MIB, 1) == b""
    with pytest.raises(CannotOpen, match="no key fits"):
        luks.unlock(source, [b"wrong"])


@given(st.binary(max_size=700))
def test_a_header_of_luks_that_is_damaged_is_an_error(noise: bytes) -> None:
    for version in (1, 2):
        start = luks.MAGIC + struct.pack(">H", version) + noise
        with pytest.raises(CannotOpen):
            luks.unlock(Memory(start), [b"key"])
