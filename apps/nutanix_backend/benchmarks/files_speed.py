"""Single files out of a backup: the first listing of a large disk, and a large file.

    python benchmarks/files_speed.py [--mebibytes 1024] [--rounds 5]

The disk of 1 TiB is sparse and has an ext4; it is a full and two deltas, with a digest list that is
compared. `get` writes a file through the sandboxed reader; its peers read the same file in the same
run: libfsext in this process, from the whole image and without a sandbox, and `cat` of a file of
its size. Rounds alternate, and the best one counts. Memory is the peak of this process and of its
child.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pyfsext
from chain_disk import CachedDisk, ChainDisk, ChainFile
from digests import ImageDigests
from guest_files import FolderTarget, GuestFiles
from phcbt01.testing import encode

if TYPE_CHECKING:
    from collections.abc import Callable

MIB, TIB = 1 << 20, 1 << 40


def main() -> int:
    """Print one line per measurement; 1 when a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mebibytes", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        folder = Path(name)
        files = make(folder, options.mebibytes)
        digests = digests_of(files)
        seconds = first_listing(files, digests)
        print(f"first listing of 1 TiB, full and 2 deltas: {seconds:.2f} s (goal: below 10)")
        ratios = large_file(folder, files, digests, options)
        own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        child = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024
        print(f"peak memory: {own} MiB here (with the list of 1 TiB), {child} MiB in the child")
        return int(seconds >= 10 or ratios < 200)


def make(folder: Path, mebibytes: int) -> list[ChainFile]:
    """A disk of 1 TiB with one large file and many small ones; two deltas that change nothing."""
    root = folder / "root"
    (root / "docs").mkdir(parents=True)
    noise = random.Random(1).randbytes(MIB)
    with (root / "large").open("wb") as file:
        file.writelines(noise for _ in range(mebibytes))
    for number in range(2000):
        (root / "docs" / f"{number}").write_bytes(b"x" * number)
    full = folder / "full.raw"
    with full.open("xb") as file:
        file.truncate(TIB)
    words = (
        "mke2fs",
        "-q",
        "-F",
        "-t",
        "ext4",
        "-E",
        "lazy_itable_init=1,nodiscard",
        "-d",
        root,
        full,
    )
    subprocess.run([str(word) for word in words], check=True)
    found = [ChainFile(full, is_delta=False, size=TIB)]
    with ChainDisk(found) as disk:
        for number in range(2):
            begins = [begin for begin, _ in disk.extents()][number::7][:20_000]
            path = folder / f"{number}.phcbt01"
            path.write_bytes(encode(TIB, [(at, bytes(disk.read(at, 4096))) for at in begins]))
            found.append(ChainFile(path, is_delta=True, size=TIB))
    return found


def digests_of(files: list[ChainFile]) -> ImageDigests:
    """The digest list of the disk."""
    image = ImageDigests(TIB)
    with ChainDisk(files) as disk:
        for begin, end in disk.extents():
            image.doubt(begin, end - begin)
        for offset, length in image.stale():
            image.put(offset, disk.read(offset, length))
    return image


def first_listing(files: list[ChainFile], digests: ImageDigests) -> float:
    """Seconds from nothing to the list of a folder."""
    began = time.monotonic()
    with CachedDisk(ChainDisk(files), digests) as disk, GuestFiles([disk]) as reader:
        entries = list(reader.entries(["/*"]))
    assert [entry.name for entry in entries] == ["/lost+found", "/docs", "/large"]
    return time.monotonic() - began


def large_file(
    folder: Path, files: list[ChainFile], digests: ImageDigests, options: argparse.Namespace
) -> float:
    """Print the speeds of the routes; MB/s of `get`."""
    size = options.mebibytes * MIB
    steps: dict[str, Callable[[], None]] = {
        "files get": lambda: get(folder, files, digests),
        "libfsext": lambda: direct(folder, files[0].path),
        "cat": lambda: cat(folder),
    }
    best = dict.fromkeys(steps, float("inf"))
    for _ in range(options.rounds):
        for name, step in steps.items():
            began = time.monotonic()
            step()
            best[name] = min(best[name], time.monotonic() - began)
            (folder / "out" / "large").unlink()
    speeds: dict[str, float] = {name: size / seconds / 1e6 for name, seconds in best.items()}
    for name, speed in speeds.items():
        print(f"{name:10} {speed:6.0f} MB/s   {speeds['files get'] / speed:5.2f}")
    print(f"load of the machine: {os.getloadavg()[0]:.1f} (goal of files get: 200 MB/s)")
    return speeds["files get"]


def get(folder: Path, files: list[ChainFile], digests: ImageDigests) -> None:
    """As `files get` does it."""
    with (
        CachedDisk(ChainDisk(files), digests) as disk,
        GuestFiles([disk]) as reader,
        FolderTarget(folder / "out", print) as target,
    ):
        for found in reader.files(["/large"]):
            target.put(found, found.entry.path)


def direct(folder: Path, image: Path) -> None:
    """The library alone, which trusts what it reads."""
    volume = pyfsext.volume()
    with image.open("rb", buffering=0) as source, (folder / "out" / "large").open("wb") as out:
        volume.open_file_object(source)
        entry = volume.get_file_entry_by_path("/large")
        while piece := entry.read(MIB):
            out.write(piece)


def cat(folder: Path) -> None:
    """The same bytes from a file."""
    with (folder / "out" / "large").open("ab") as out:
        subprocess.run(["cat", folder / "root" / "large"], stdout=out, check=True)


if __name__ == "__main__":
    sys.exit(main())
