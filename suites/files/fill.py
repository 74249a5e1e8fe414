"""Runs in the guest of a test: makes file systems on disks and fills them, three times over.

    fill.py FOLDER

Real tools make them and real drivers write them: the kernel's ext4, XFS, VFAT and device-mapper,
ntfs-3g and exfat-fuse. After each of three times the disks are copied to FOLDER/<number>, beside
`truth.json`, which has what the drivers themselves say of every file.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import stat
import struct
import subprocess
import sys
from pathlib import Path

MIB = 1 << 20
LVM = (
    'devices { use_devicesfile=0 filter=["a|^/dev/loop|","r|.*|"] }'
    " activation { udev_sync=0 udev_rules=0 verify_udev_operations=0 }"
    ' global { locking_dir="/run/lock/lvm" use_lvmpolld=0 event_activation=0 }'
    " backup { backup=0 archive=0 }"
)


def run(*words: object, text: str | None = None) -> str:
    """Run a program; its output."""
    done = subprocess.run(
        [str(word) for word in words], input=text, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{words}: {done.stdout}{done.stderr}")
    return done.stdout.strip()


class Disks:
    """Two disks of Linux and one of Windows, as loop devices in memory."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self.devices: dict[str, str] = {}
        for name, size in (("linux", 192), ("second", 288), ("windows", 176)):
            with (work / name).open("xb") as file:
                file.truncate(size * MIB)
        run("sfdisk", "-q", work / "linux", text=(
            "label: gpt\nstart=2048, size=73728, type=uefi\nsize=131072, type=linux\ntype=lvm\n"
        ))  # fmt: skip
        run("sfdisk", "-q", work / "windows", text=(
            "label: dos\nstart=2048, size=131072, type=7\ntype=5\n"
            "start=135168, size=100000, type=c\nstart=237568, type=7\n"
        ))  # fmt: skip
        self._loop("esp", "linux", 2048, 73728)
        self._loop("root", "linux", 75776, 131072)
        self._loop("pv1", "linux", 206848, 192 * 2048 - 206848 - 34)
        self._loop("pv2", "second", 0, 288 * 2048)
        self._loop("ntfs", "windows", 2048, 131072)
        self._loop("fat", "windows", 135168, 100_000)
        self._loop("exfat", "windows", 237568, 176 * 2048 - 237568)
        self._make()

    def _loop(self, name: str, disk: str, start: int, sectors: int) -> None:
        options = ("--offset", start * 512, "--sizelimit", sectors * 512)
        self.devices[name] = run("losetup", "--find", "--show", *options, self.work / disk)

    def _make(self) -> None:
        device = self.devices
        os.makedirs("/run/lock/lvm", exist_ok=True)
        pair = (device["pv1"], device["pv2"])
        lvm("pvcreate", "-y", *pair)
        lvm("vgcreate", "-s", "1M", "vg0", *pair)
        lvm("lvcreate", "-y", "-Wn", "-Zn", "-l", "32", "-i2", "-I64k", "-n", "striped", "vg0")
        lvm("lvcreate", "-y", "-Wn", "-Zn", "-l", "312", "-n", "data", "vg0", *pair)
        lvm("vgmknodes", "vg0")
        device["data"] = "/dev/mapper/vg0-data"
        device["striped"] = "/dev/mapper/vg0-striped"
        segments = lvm("lvs", "--noheadings", "-o", "seg_pe_ranges", "vg0/data")
        assert device["pv1"] in segments, segments
        assert device["pv2"] in segments, "it lies on both disks"
        run("mkfs.vfat", "-F", "32", "-s", "1", "-n", "ESP", device["esp"])
        run("mkfs.ext4", "-q", "-L", "root", device["root"])
        run("mkfs.xfs", "-q", "-L", "data", device["data"])
        run("mkfs.ext2", "-q", "-b", "1024", device["striped"])
        run("mkntfs", "-q", "-f", "-F", "-L", "Windows", device["ntfs"])
        run("mkfs.vfat", "-n", "DATA", device["fat"])
        run("mkfs.exfat", device["exfat"])

    def copy(self, folder: Path) -> None:
        """Copy the disks as they are."""
        run("sync")
        folder.mkdir()
        for name in ("linux", "second", "windows"):
            run("cp", "--sparse=always", self.work / name, folder / f"{name}.raw")


OF_WINDOWS = {
    # name in the image: the tag of its reparse point, and its attributes
    "compressed": (0x80000017, 0x20),
    "in the cloud": (0x9000001A, 0x1020),
    "in the cloud and here": (0x9000001A, 0x20),
    "deduplicated": (0x80000013, 0x20),
}


def of_windows(image: Path, mounted: Path) -> None:
    """Make an NTFS with files of kinds that only Windows writes: 10,000 bytes each, from a seed."""
    with image.open("xb") as file:
        file.truncate(16 * MIB)
    device = run("losetup", "--find", "--show", image)
    run("mkntfs", "-q", "-f", "-F", device)
    run("mount", "-t", "ntfs-3g", "-o", "streams_interface=xattr", device, mounted)
    for name, (tag, attributes) in OF_WINDOWS.items():
        path, content = mounted / name, random.Random(name).randbytes(10_000)
        path.write_bytes(b"" if name in {"compressed", "in the cloud"} else content)
        os.truncate(path, len(content))
        if name == "compressed":  # XPRESS4K: where chunks 1 and 2 begin, then chunks, here stored
            os.setxattr(path, "user.WofCompressedData", struct.pack("<II", 4096, 8192) + content)
        os.setxattr(path, "system.ntfs_attrib_be", struct.pack(">I", attributes))
        point = struct.pack("<IHHIIII", tag, 16, 0, 1, 2, 1, 0)
        os.setxattr(path, "system.ntfs_reparse_data", point)
    run("umount", mounted)


def lvm(*words: str) -> str:
    """Run a command of LVM."""
    return run(words[0], "--config", LVM, *words[1:])


VOLUMES = {
    # name in `files`: device, type to mount, whether it is of Unix
    "disk0p1": ("esp", "vfat", False),
    "disk0p2": ("root", "ext4", True),
    "vg0/data": ("data", "xfs", True),
    "vg0/striped": ("striped", "ext4", True),
    "disk2p1": ("ntfs", "ntfs-3g", False),
    "disk2p5": ("fat", "vfat", False),
    "disk2p6": ("exfat", "exfat-fuse", False),
}


COARSE = {"vfat", "exfat-fuse"}
"""File systems whose times are whole, even seconds."""


def main() -> None:
    """Make, fill, and copy three times."""
    out, work = Path(sys.argv[1]), Path("/dev/shm/work/disks")
    work.mkdir(parents=True)
    disks = Disks(work)
    mounted = Path("/dev/shm/work/mnt")
    mounted.mkdir()
    of_windows(work / "of windows", mounted)
    shutil.copyfile(work / "of windows", out / "of windows.raw")
    for number in (1, 2, 3):
        truth = {}
        for name, (device, kind, is_unix) in VOLUMES.items():
            options = {"vfat": "utf8,tz=UTC,fmask=0133,dmask=0022"}.get(kind, "defaults")
            run("mount", "-t", kind, "-o", options, disks.devices[device], mounted)
            change(mounted, random.Random(f"{name} {number}"), number, is_unix=is_unix, kind=kind)
            run("umount", mounted)
            run("mount", "-t", kind, "-o", f"ro,{options}", disks.devices[device], mounted)
            truth[name] = [*tell(mounted)]
            run("umount", mounted)
        disks.copy(out / str(number))
        (out / str(number) / "truth.json").write_text(json.dumps(truth))
        print("filled", number, {name: len(rows) for name, rows in truth.items()}, flush=True)


def change(root: Path, chance: random.Random, number: int, *, is_unix: bool, kind: str) -> None:
    """What a guest does before backup `number`."""
    if number == 1:
        first(root, chance, is_unix=is_unix, kind=kind)
    else:
        (root / "docs" / f"note {number - 1}.txt").unlink(missing_ok=True)
        with (root / "docs" / "large").open("r+b") as file:
            file.seek(chance.randrange(2 * MIB))
            file.write(chance.randbytes(70_000))
            file.seek(0, 2)
            file.write(chance.randbytes(9_000))
        shutil.rmtree(root / "docs" / "many" / f"{number}0")
    write(root / "docs" / f"note {number}.txt", b"as of backup %d\n" % number)
    write(root / "docs" / f"Größe-漢字-{number}", chance.randbytes(5000))
    below = (Path(top, name) for top, folders, files in os.walk(root) for name in folders + files)
    for path in sorted(below, reverse=True):
        if not path.is_symlink() and "keep" not in path.name:
            when = chance.randrange(10**9, 18 * 10**8) // 2 * 2 * 10**9
            os.utime(path, ns=(when, when + (0 if kind in COARSE else 123_456_700)))


def first(root: Path, chance: random.Random, *, is_unix: bool, kind: str) -> None:
    """A tree with all that a file system of this kind can hold."""
    docs = root / "docs"
    docs.mkdir()
    for size in (0, 1, 511, 4096, 4097, 100_000):
        write(docs / f"{size}.bin", chance.randbytes(size))
    write(docs / "large", chance.randbytes(2 * MIB + 77))
    write(docs / "A name that is rather long, with spaces, and more than one dot..txt", b"x")
    for folder in range(40):
        many = docs / "many" / str(folder)
        many.mkdir(parents=True)
        for file in range(2 if kind in COARSE else 12):
            write(many / f"file-{file}", chance.randbytes(chance.randrange(3000)))
    if kind == "ntfs-3g":
        os.link(docs / "4097.bin", docs / "second name")
        write(docs / "sparse", b"", holes=True)
    if is_unix:
        unix(docs, chance)


def unix(docs: Path, chance: random.Random) -> None:
    write(docs / "sparse", b"", holes=True)
    os.link(docs / "large", docs / "another name")
    os.symlink("../docs/large", docs / "link")
    os.symlink("x" * 300, docs / "a link that is long")
    os.mkfifo(docs / "fifo", 0o640)
    os.mknod(docs / "device", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    write(docs / "program", b"#!/bin/sh\n")
    os.chown(docs / "program", 1000, 70_000)
    os.chmod(docs / "program", 0o4755)
    raw = os.fsencode(docs)
    for number in range(30):
        Path(os.fsdecode(raw + b"/caf\xe9 %d" % number)).write_bytes(chance.randbytes(number))
    (docs / "latin").mkdir()
    Path(os.fsdecode(raw + b"/latin/\xfcber")).write_bytes(b"short")
    with (docs / "allocated").open("wb") as file:
        file.write(b"begin")
        os.posix_fallocate(file.fileno(), 0, 300_000)
    wide = docs / "wide"
    wide.mkdir()
    for number in range(3000):
        odd = b"\xe9" if number % 3 == 0 else b""
        Path(os.fsdecode(os.fsencode(wide) + b"/entry number %05d" % number + odd)).touch()


def write(path: Path, content: bytes, *, holes: bool = False) -> None:
    with path.open("wb") as file:
        file.write(content)
        if holes:
            file.seek(3 * MIB)
            file.write(b"in the middle")
            file.truncate(9 * MIB + 5)


def tell(root: Path) -> list[dict[str, object]]:
    """What the driver says of every file; names in hex."""
    rows = []
    base = os.fsencode(root)
    for folder, folders, files in os.walk(base):
        for name in (*folders, *files):
            path = os.path.join(folder, name)
            found = os.lstat(path)
            row = {
                "path": path[len(base) + 1 :].hex(),
                "mode": found.st_mode,
                "owner": [found.st_uid, found.st_gid],
                "size": found.st_size,
                "modified": found.st_mtime_ns,
                "links": found.st_nlink,
                "inode": found.st_ino,
            }
            if stat.S_ISLNK(found.st_mode):
                row["target"] = os.readlink(path).hex()
            if stat.S_ISREG(found.st_mode):
                with open(path, "rb") as file:
                    row["digest"] = hashlib.file_digest(file, "sha256").hexdigest()
            rows.append(row)
    return rows


if __name__ == "__main__":
    main()
