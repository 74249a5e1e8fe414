# ruff: noqa: S311 - a script outside of the package; its dice need no secrecy
"""File systems that were changed at random: each ends in a result or in a typed error.

    python fuzz/filesystems.py [COUNT] [--first N] [--workers N]

Real tools make a disk of each kind. Each mutant is read through the real reader and its child,
sealed as always; the child is forked from this process instead of being started, which is 20 times
as fast. A child that crashes or hangs is a typed error of the reader, and is counted. Anything else
is a finding: it is printed with its number, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import mmap
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
from chain_disk import Disk
from guest_files import FilesError, GuestFiles, LimitReached, Limits, ReaderDied, child

if TYPE_CHECKING:
    import socket

MIB = 1 << 20
LIMITS = Limits(entries=5000, silence=5, processor=5, memory=1024 * MIB)
KEY = b"a passphrase"
BATCH = 500
"""Mutants that one process reads before it says how they ended."""


class ForkedChild:
    """A child as `subprocess.Popen` has it."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._status: int | None = None

    def kill(self) -> None:
        """End it."""
        if self._status is None:
            os.kill(self.pid, signal.SIGKILL)

    def wait(self, timeout: float = 0) -> int:  # noqa: ARG002 - it ends at once: its channel is closed
        """Its exit code, negative for a signal."""
        if self._status is None:
            self._status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self._status


class ForkedFiles(GuestFiles):
    """A reader whose child is forked."""

    def _start(self, theirs: socket.socket) -> ForkedChild:  # type: ignore[override]
        pid = os.fork()
        if not pid:
            try:
                self._channel.close()
                sys.argv = ["child", str(os.dup(theirs.fileno()))]
                child.main()
            except BaseException:  # noqa: BLE001 - a forked process must not come back
                traceback.print_exc()
                os._exit(3)
            os._exit(0)
        return ForkedChild(pid)


class Mutant(Disk):
    """A disk with other bytes in some places."""

    def __init__(self, base: mmap.mmap, patches: dict[int, bytes]) -> None:
        self._base = base
        self._patches = patches

    @property
    def size(self) -> int:
        """Bytes of the disk."""
        return len(self._base)

    def close(self) -> None:
        """Nothing is open."""

    def extents(self) -> list[tuple[int, int]]:
        """All of it."""
        return [(0, self.size)]

    def read(self, offset: int, length: int) -> bytearray:
        """Bytes with the patches over them."""
        found = bytearray(self._base[offset : offset + length])
        for at, patch in self._patches.items():
            low, high = max(at, offset), min(at + len(patch), offset + length)
            if low < high:
                found[low - offset : high - offset] = patch[low - at : high - at]
        return found


@attrs.frozen
class Seed:
    """A disk that a tool made, and the sectors of it that hold something."""

    name: str
    path: Path
    sectors: tuple[int, ...]


def tool(*words: object, text: str | None = None) -> None:
    """Run a program."""
    subprocess.run(
        [str(word) for word in words], check=True, capture_output=True, text=True, input=text
    )


def make_seeds(folder: Path) -> list[Seed]:
    """Disks of all kinds that the tools of this machine can make."""
    tree = folder / "tree"
    (tree / "docs" / "many").mkdir(parents=True)
    for number in range(60):
        (tree / "docs" / "many" / f"file number {number}").write_bytes(b"content" * number)
    (tree / "large").write_bytes(bytes(range(256)) * 600)
    (tree / "link").symlink_to("docs")
    with (tree / "sparse").open("wb") as file:
        file.seek(MIB)
        file.write(b"x")
    prototype = folder / "prototype"
    prototype.write_text(
        f"/\n0 0\nd--755 0 0\nlarge ---644 1 2 {tree}/large\nlink l--777 0 0 large\n"
        "docs d--755 0 0\n"
        + "".join(f"name{n} ---644 0 0 {tree}/sparse\n" for n in range(40))
        + "$\n$\n"
    )
    makers: dict[str, tuple[int, list[tuple[object, ...]]]] = {
        "ext4": (8, [("mke2fs", "-q", "-F", "-t", "ext4", "-d", tree)]),
        "ext4 without checksums": (
            8, [("mke2fs", "-q", "-F", "-t", "ext4", "-O", "^metadata_csum", "-d", tree)],
        ),
        "ext2": (4, [("mke2fs", "-q", "-F", "-t", "ext2", "-b", "1024", "-d", tree)]),
        "XFS": (304, [("mkfs.xfs", "-q", "-p", prototype)]),
        "XFS without checksums": (304, [("mkfs.xfs", "-q", "-m", "crc=0", "-p", prototype)]),
        "NTFS": (8, [("mkntfs", "-q", "-F", "-f")]),
        "FAT": (2, [("mkfs.vfat",)]),
        "exFAT": (4, [("mkfs.exfat",)]),
    }  # fmt: skip
    found = []
    for name, (size, commands) in makers.items():
        if not shutil.which(str(commands[0][0])):
            sys.stdout.write(f"{name}: {commands[0][0]} is not installed\n")
            continue
        path = folder / name
        with path.open("xb") as file:
            file.truncate(size * MIB)
        for command in commands:
            tool(*command, path)
        if name == "NTFS":
            for number in range(20):
                tool("ntfscp", "-f", path, tree / "large", f"file{number}")
        if name == "FAT":
            tool("mcopy", "-s", "-i", path, tree / "docs", tree / "large", "::/")
        found.append(seed_of(name, path))
    return [*found, disk_of_partitions(folder, found[0].path), encrypted(folder, found[0].path)]


def seed_of(name: str, path: Path) -> Seed:
    """The sectors that hold something, of a metadata kind: those of long data count once."""
    sectors, seen = [], Counter[bytes]()
    with path.open("rb") as file:
        for number in range(path.stat().st_size // 512):
            sector = file.read(512)
            if any(sector):
                seen[sector[:64]] += 1
                if seen[sector[:64]] < 8:
                    sectors.append(number)
    return Seed(name, path, tuple(sectors))


def disk_of_partitions(folder: Path, content: Path) -> Seed:
    """A GPT with a file system in it."""
    path = folder / "GPT"
    with path.open("xb") as file:
        file.truncate(16 * MIB)
    tool("sfdisk", "-q", path, text="label: gpt\nstart=2048, size=16384\n")
    with path.open("r+b") as file:
        file.seek(MIB)
        file.write(content.read_bytes())
    found = seed_of("GPT", path)
    return attrs.evolve(found, sectors=tuple(n for n in found.sectors if n < 200 or n > 32_000) * 3)


def encrypted(folder: Path, content: Path) -> Seed:
    """A LUKS volume; only its header is changed."""
    path, key = folder / "LUKS", folder / "key"
    key.write_bytes(KEY)
    options = ("-O", "luks", "-o", "key-secret=s,iter-time=10")
    tool(
        "qemu-img",
        "convert",
        "--object",
        f"secret,id=s,file={key}",
        "-f",
        "raw",
        *options,
        content,
        path,
    )
    return Seed("LUKS", path, tuple(range(9)))


def mutate(chance: random.Random, seed: Seed, base: mmap.mmap) -> dict[int, bytes]:
    """Some changes, most of them of one number."""
    patches = {}
    for _ in range(chance.choice((1, 1, 2, 3, 8, 30))):
        at = chance.choice(seed.sectors) * 512 + chance.randrange(512)
        match chance.randrange(6):
            case 0:
                patch = bytes([base[at] ^ 1 << chance.randrange(8)])
            case 1:
                patch = chance.randbytes(chance.choice((1, 2, 4, 8, 64)))
            case 2:
                patch = chance.choice((b"\0", b"\xff")) * chance.choice((1, 2, 4, 8, 512))
            case 3:
                patch = chance.choice((1, 2, 127, 1 << 15, 1 << 31)).to_bytes(8, "little")[
                    : chance.choice((2, 4, 8))
                ]
            case 4:
                other = chance.choice(seed.sectors) * 512
                at -= at % 512
                patch = bytes(base[other : other + 512])
            case _:
                patch = base[at : at + 4][::-1]
        patches[at] = patch
    return patches


def read(seed: Seed, base: mmap.mmap, patches: dict[int, bytes]) -> str:
    """How the reading of a mutant ends."""
    disk = Mutant(base, patches)
    keys = [KEY] if seed.name == "LUKS" else []
    try:
        with ForkedFiles([disk], keys, LIMITS) as files:
            for found in files.files(["/**"]):
                try:
                    for _ in found.pieces:
                        pass
                except LimitReached:
                    raise
                except ReaderDied:
                    raise
                except FilesError:
                    continue
    except LimitReached:
        return "limit reached"
    except ReaderDied as error:
        return str(error).partition(": ")[0]
    except FilesError:
        return "error"
    return "result"


def work(job: tuple[list[Seed], range]) -> tuple[Counter[tuple[str, str]], list[str]]:
    """Read the mutants of these numbers."""
    seeds, numbers = job
    counts: Counter[tuple[str, str]] = Counter()
    findings = []
    files = {seed.name: seed.path.open("rb") for seed in seeds}
    bases = {name: mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) for name, file in files.items()}
    for number in numbers:
        chance = random.Random(number)
        seed = seeds[number % len(seeds)]
        try:
            patches = mutate(chance, seed, bases[seed.name])
            counts[seed.name, read(seed, bases[seed.name], patches)] += 1
        except Exception:  # noqa: BLE001 - that is what is looked for
            findings.append(f"{seed.name}, mutant {number}:\n{traceback.format_exc()}")
    return counts, findings


def summary(counts: Counter[tuple[str, str]], findings: list[str], began: float) -> str:
    """How many mutants were read in how many seconds, and what was found."""
    read_ones = counts.total() + len(findings)
    return f"{read_ones} mutants in {time.monotonic() - began:.0f} s, {len(findings)} findings"


def main() -> int:
    """Read mutants, and print how they ended."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("count", type=int, nargs="?", default=100_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first mutant")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        seeds = make_seeds(Path(name))
        last = options.first + options.count
        jobs = [
            (seeds, range(first, min(first + BATCH, last)))
            for first in range(options.first, last, BATCH)
        ]
        total: Counter[tuple[str, str]] = Counter()
        findings: list[str] = []
        with get_context("fork").Pool(options.workers) as pool:
            for counts, found in pool.imap_unordered(work, jobs):
                total += counts
                findings += found
                sys.stderr.write(f"{summary(total, findings, began)}\n")
    for (kind, how), number in sorted(total.items()):
        sys.stdout.write(f"{kind:24} {how:70} {number:7}\n")
    sys.stdout.write(f"{summary(total, findings, began)}\n")
    sys.stdout.writelines(findings[:20])
    return int(bool(findings))


if __name__ == "__main__":
    sys.exit(main())
