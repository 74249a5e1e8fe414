"""The reader: what it finds, what it leaves out, and a child process that lies."""

from __future__ import annotations

import io
import json
import os
import struct
import tarfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import pytest
from guest_files import (
    Entry,
    FilesError,
    FolderTarget,
    FoundFile,
    GuestFiles,
    LimitReached,
    Limits,
    NotThere,
    NotWhole,
    ReaderDied,
    TarTarget,
    wire,
)

from libs.guest_files.tests.conftest import MIB, MemoryDisk, disk_of, run

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator


@pytest.fixture
def files(make_ext: Callable[[Path], Path], tree: Path) -> Iterator[GuestFiles]:
    with disk_of(make_ext(tree)) as disk, GuestFiles([disk]) as found:
        yield found


def test_entries_and_their_data(files: GuestFiles, tree: Path) -> None:
    (volume,) = files.volumes()
    assert (volume.name, volume.kind, volume.size, volume.reason) == ("disk0", "ext4", 16 * MIB, "")
    names = [entry.name for entry in files.entries(["/etc/nginx/**"])]
    assert sorted(names) == [
        "/etc/nginx", "/etc/nginx/conf.d", "/etc/nginx/conf.d/a.conf", "/etc/nginx/nginx.conf",
    ]  # fmt: skip
    for found in files.files(["/**"]):
        path = tree.joinpath(*found.entry.path)
        if found.entry.kind == "file":
            content = bytearray(found.entry.size)
            for offset, piece in found.pieces:
                content[offset : offset + len(piece)] = piece
            assert content == path.read_bytes()
    (sparse,) = files.entries(["/sparse"])
    assert sparse.data_bytes < MIB
    (link,) = files.entries(["/etc/link"])
    assert (link.kind, link.target) == ("link", "hosts")


def test_data_that_nobody_reads_is_let_go(files: GuestFiles) -> None:
    assert sum(1 for _ in files.files(["/**"])) == sum(1 for _ in files.entries(["/**"]))


def test_a_folder_gets_the_files(files: GuestFiles, tree: Path, tmp_path: Path) -> None:
    to = tmp_path / "to"
    with FolderTarget(to, pytest.fail) as target:
        for found in files.files(["/etc/**", "/large", "/sparse"]):
            target.put(found, found.entry.path)
    for name in ("large", "sparse", "etc/hosts", "etc/nginx/conf.d/a.conf"):
        assert (to / name).read_bytes() == (tree / name).read_bytes()
        assert (to / name).stat().st_mtime == int((tree / name).stat().st_mtime)
    assert (to / "etc/link").readlink() == Path("hosts")
    assert (to / "sparse").stat().st_blocks * 512 < MIB


def test_an_archive_has_the_files(files: GuestFiles, tree: Path) -> None:
    stream = io.BytesIO()
    target = TarTarget(stream, pytest.fail)
    for found in files.files(["/**"]):
        target.put(found, found.entry.path)
    target.finish()
    stream.seek(0)
    with tarfile.open(fileobj=stream) as archive:
        for member in archive:
            path = tree / member.name
            if member.isfile():
                file = archive.extractfile(member)
                assert file
                assert file.read() == path.read_bytes(), member.name
        assert archive.getmember("etc/link").linkname == "hosts"


def test_what_is_not_there_is_named(files: GuestFiles) -> None:
    with pytest.raises(NotThere, match="there is no volume other: known are disk0"):
        list(files.entries(["/"], "other"))
    with pytest.raises(FilesError, match="cannot be a path"):
        list(files.entries(["/.."]))


def test_a_journal_that_was_not_replayed_is_told(
    make_ext: Callable[[Path], Path], tree: Path
) -> None:
    image, heard = make_ext(tree), list[str]()
    run("debugfs", "-w", "-R", "feature needs_recovery", image)
    with disk_of(image) as disk, GuestFiles([disk], warn=heard.append) as files:
        for _ in range(2):
            assert list(files.entries(["/etc/hosts"]))
    (line,) = heard
    assert line.startswith("disk0: its journal holds changes of the last seconds")


@pytest.mark.parametrize(
    ("offset", "magic", "kind"),
    [(0x10040, b"_BHRfS_M", "btrfs"), (3, b"ReFS\0\0\0\0", "ReFS"), (4086, b"SWAPSPACE2", "swap")],
)
def test_what_cannot_be_read_is_named_with_what_to_do(offset: int, magic: bytes, kind: str) -> None:
    content = bytearray(MIB)
    content[offset : offset + len(magic)] = magic
    with GuestFiles([MemoryDisk(bytes(content))]) as files:
        (volume,) = files.volumes()
        assert volume.kind == kind
        assert ("restore the disk" in volume.reason) == (kind != "swap")
        with pytest.raises(FilesError, match="disk0"):
            list(files.entries(["/**"], "disk0"))
        assert list(files.entries(["/**"])) == []


@pytest.mark.parametrize(
    ("feature", "words"), [("inline_data", "data in its inodes"), ("encrypt", "encrypted files")]
)
def test_an_ext4_whose_files_would_be_misread_is_refused(
    make_ext: Callable[[Path], Path], tree: Path, feature: str, words: str
) -> None:
    image = make_ext(tree)
    run("debugfs", "-w", "-R", f"feature {feature}", image)
    with disk_of(image) as disk, GuestFiles([disk]) as files:
        (volume,) = files.volumes()
        assert words in volume.reason
        with pytest.raises(FilesError, match=words):
            list(files.entries(["/**"], "disk0"))


@pytest.mark.parametrize(
    ("offset", "value", "words"),
    [(16, b"\0" * 7 + b"\1", "realtime device"), (216, b"\0\0\1\0", "sb_features_incompat 0x100")],
)
def test_an_xfs_whose_files_would_be_misread_is_refused(
    offset: int, value: bytes, words: str
) -> None:
    content = bytearray(MIB)
    content[:4], content[101] = b"XFSB", 5
    content[offset : offset + len(value)] = value
    with GuestFiles([MemoryDisk(bytes(content))]) as files:
        (volume,) = files.volumes()
        assert words in volume.reason


def test_a_small_fat32_is_refused_and_not_misread() -> None:
    content = bytearray(MIB)
    content[:11] = b"\xeb\x58\x90mkfs.fat"
    struct.pack_into("<HBHB", content, 11, 512, 1, 32, 2)
    struct.pack_into("<I", content, 32, 2048)
    struct.pack_into("<I", content, 36, 8)
    content[82:90], content[510:512] = b"FAT32   ", b"\x55\xaa"
    with GuestFiles([MemoryDisk(bytes(content))]) as files:
        (volume,) = files.volumes()
        assert "fewer clusters than a FAT32 may have" in volume.reason


def test_the_child_has_no_rights(files: GuestFiles) -> None:
    files.volumes()
    status = Path(f"/proc/{files._child.pid}/status").read_text()
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert fields["NoNewPrivs"] == "1"
    assert int(fields["CapEff"], 16) == 0
    if os.geteuid() == 0:
        assert set(fields["Uid"].split()) == {"65534"}
        assert int(fields["CapBnd"], 16) == 0
    opened = list(Path(f"/proc/{files._child.pid}/fd").iterdir())
    assert len(opened) == 4, "standard streams, and one socket"


def test_too_many_entries_are_refused(make_ext: Callable[[Path], Path], tree: Path) -> None:
    limits = Limits(entries=5)
    with (
        disk_of(make_ext(tree)) as disk,
        GuestFiles([disk], limits=limits) as files,
        pytest.raises(LimitReached, match="more than 5 files"),
    ):
        list(files.entries(["/**"]))


def test_folders_that_are_too_deep_are_left_out(
    make_ext: Callable[[Path], Path], tree: Path
) -> None:
    heard: list[str] = []
    limits = Limits(depth=2)
    with (
        disk_of(make_ext(tree)) as disk,
        GuestFiles([disk], limits=limits, warn=heard.append) as files,
    ):
        assert "/etc/nginx/nginx.conf" not in [entry.name for entry in files.entries(["/**"])]
    assert heard == ["disk0:/etc/nginx lies too deep: what is below it is left out"]


def test_a_child_that_is_killed_is_told(files: GuestFiles) -> None:
    files.volumes()
    files._child.kill()
    with pytest.raises(ReaderDied, match="ended with signal 9"):
        list(files.entries(["/**"]))


# --- a child that lies


ENTRY = attrs.asdict(Entry("disk0", ("a",), "file", 0o644, 10, ranges=((0, 10),)))
VOLUME = {"name": "disk0", "kind": "ext4", "size": 5, "label": "", "reason": ""}


class Liar:
    """Says in the place of the child what a test wants it to say."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *frames: tuple[bytes, bytes]) -> None:
        self._frames = frames
        self._threads: list[threading.Thread] = []
        monkeypatch.setattr(GuestFiles, "_start", self._start)

    def _start(self, theirs: socket.socket) -> Any:
        thread = threading.Thread(target=self._talk, args=(theirs.dup(),), daemon=True)
        thread.start()

        class Child:
            pid = 0

            def kill(self) -> None: ...

            def wait(self, timeout: float = 0) -> int:
                return 1

        return Child()

    def _talk(self, channel: socket.socket) -> None:
        with channel:
            wire.receive(channel)
            wire.receive(channel)
            wire.send(channel, b"V", json.dumps(VOLUME).encode())
            wire.send(channel, b"Z", b"null")
            wire.receive(channel)
            for kind, content in self._frames:
                wire.send(channel, kind, content)


def frame(_letter: bytes, /, **fields: object) -> tuple[bytes, bytes]:
    return _letter, json.dumps({**ENTRY, **fields}).encode()


WHOLE = frame(b"E")
DATA = (b"D", wire.OFFSET.pack(0) + b"0123456789")


@pytest.mark.parametrize(
    ("frames", "error"),
    [
        ([frame(b"E", path=["..", "x"])], ReaderDied),
        ([frame(b"E", path=["a/b"])], ReaderDied),
        ([frame(b"E", path=[""])], ReaderDied),
        ([frame(b"E", path=[1])], ReaderDied),
        ([frame(b"E", kind="disk")], ReaderDied),
        ([frame(b"E", size=-1)], ReaderDied),
        ([frame(b"E", size=True)], ReaderDied),
        ([frame(b"E", volume="other")], ReaderDied),
        ([frame(b"E", ranges=[[0, 11]])], ReaderDied),
        ([frame(b"E", ranges=[[5, 1], [0, 1]])], ReaderDied),
        ([frame(b"E", ranges=[[0]])], ReaderDied),
        ([frame(b"E", modified="now")], ReaderDied),
        ([frame(b"E", more=1)], ReaderDied),
        ([(b"E", b"{")], ReaderDied),
        ([(b"V", b"{}")], ReaderDied),
        ([frame(b"E", size=1 << 50, ranges=[[0, 1 << 50]])], LimitReached),
        ([WHOLE, (b"D", wire.OFFSET.pack(5) + b"12345")], ReaderDied),
        ([WHOLE, (b"D", wire.OFFSET.pack(0) + b"0123456789a")], ReaderDied),
        ([WHOLE, DATA, DATA], ReaderDied),
        ([WHOLE, (b"D", b"")], ReaderDied),
        ([WHOLE, (b"F", b'""')], NotWhole),
        ([WHOLE, DATA, (b"F", b'"it is damaged"')], NotWhole),
        ([WHOLE, DATA], ReaderDied),
        ([(b"R", wire.READ.pack(1, 0, 1))], ReaderDied),
        ([(b"R", wire.READ.pack(0, 1 << 20, 1))], ReaderDied),
        ([(b"R", b"")], ReaderDied),
        ([(b"X", b'"broken"')], FilesError),
    ],
)
def test_lies_are_errors(
    monkeypatch: pytest.MonkeyPatch, frames: list[tuple[bytes, bytes]], error: type[FilesError]
) -> None:
    Liar(monkeypatch, *frames)
    with GuestFiles([MemoryDisk(bytes(MIB))]) as files, pytest.raises(error):
        read_all(files)


def read_all(files: GuestFiles) -> None:
    for found in files.files(["/**"]):
        list(found.pieces)


def test_silence_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs_open: list[socket.socket] = []

    def start(_: GuestFiles, theirs: socket.socket) -> Any:
        theirs_open.append(theirs.dup())

        class Child:
            def kill(self) -> None: ...

            def wait(self) -> int:
                return 0

        return Child()

    monkeypatch.setattr(GuestFiles, "_start", start)
    limits = Limits(silence=0.05)
    with (
        GuestFiles([MemoryDisk(b"x")], limits=limits) as files,
        pytest.raises(LimitReached, match="said nothing"),
    ):
        files.volumes()
    theirs_open[0].close()


# --- targets


def found(*path: str, kind: str = "file", content: bytes = b"x", **more: Any) -> FoundFile:
    entry = Entry("disk0", path, kind, 0o4755, len(content), **more)
    return FoundFile(entry, iter([(0, memoryview(content))]))


def test_a_link_is_not_followed_on_the_way_to_a_file(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    with FolderTarget(tmp_path / "to", pytest.fail) as target:
        target.put(found("a", kind="link", content=b"", target=str(outside)), ("a",))
        with pytest.raises(OSError, match="Not a directory"):
            target.put(found("a", "x"), ("a", "x"))
    assert list(outside.iterdir()) == []


def test_nothing_is_replaced_unless_it_is_asked_for(tmp_path: Path) -> None:
    for overwrite in (False, True):
        with FolderTarget(tmp_path / "to", pytest.fail, overwrite=overwrite) as target:
            if not overwrite:
                target.put(found("a"), ("a",))
                with pytest.raises(FileExistsError):
                    target.put(found("a", content=b"other"), ("a",))
            else:
                target.put(found("a", content=b"other"), ("a",))
    assert (tmp_path / "to" / "a").read_bytes() == b"other"
    assert (tmp_path / "to" / "a").stat().st_mode & 0o7777 == 0o755


def test_a_file_that_is_not_whole_does_not_stay(tmp_path: Path) -> None:
    def broken() -> Iterator[tuple[int, memoryview]]:
        yield 0, memoryview(b"x")
        raise NotWhole("it is damaged")

    entry = found("a").entry
    with FolderTarget(tmp_path / "to", pytest.fail) as target, pytest.raises(NotWhole):
        target.put(FoundFile(entry, broken()), ("a",))
    assert list((tmp_path / "to").iterdir()) == []
    with pytest.raises(FilesError, match="the archive is not whole"):
        TarTarget(io.BytesIO(), pytest.fail).put(FoundFile(entry, broken()), ("a",))


def test_special_files_are_left_out_with_a_reason(tmp_path: Path) -> None:
    heard: list[str] = []
    with FolderTarget(tmp_path / "to", heard.append) as target:
        assert not target.put(found("f", kind="fifo"), ("f",))
        assert not target.put(found("d", reason="its content is deduplicated"), ("d",))
    tar = TarTarget(io.BytesIO(), heard.append)
    assert not tar.put(found("s", kind="socket"), ("s",))
    assert heard == [
        "disk0:/f is left out: it is a special file (fifo)",
        "disk0:/d is left out: its content is deduplicated",
        "disk0:/s is left out: a tar archive holds no socket",
    ]
