"""The main job on the embedded lab: Full, two Incrementals, restores, each proven bit for bit.

It drives the two command lines as an administrator would, and looks at the lab's bytes only to
compare. Guests are ext4 file systems that are written, discarded and checked with e2fsprogs.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import attrs
import xxhash
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Iterator

MIB = 1 << 20
console = Console(width=110)


def command(*arguments: object, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a program; its last words become the error when it fails."""
    done = subprocess.run([str(a) for a in arguments], capture_output=True, text=True, check=False)
    if check and done.returncode:
        console.print(done.stdout[-2000:], done.stderr[-2000:], style="red", highlight=False)
        sys.exit(f"demo: {arguments[0]} failed with status {done.returncode}")
    return done


@attrs.frozen
class Disk:
    """A disk of a lab VM: the file behind it, and the names it goes by."""

    vm: str
    index: int
    path: Path


class LabCluster:
    """The lab, through its command line."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, *arguments: object) -> str:
        """Run a prism-lab command; return what it printed."""
        return command("prism-lab", *arguments, "--dir", self.folder).stdout

    @contextmanager
    def up(self) -> Iterator[dict[str, Any]]:
        """The running lab; yields its addresses and credentials."""
        self("up", "--detach")
        try:
            yield json.loads((self.folder / "lab.json").read_text())
        finally:
            self("down")

    def create_vm(self, name: str, *sizes: str) -> list[Disk]:
        """Create a VM with thin disks of these sizes."""
        self("vm", "create", name, *(word for size in sizes for word in ("--disk", size)))
        return [self.disk(name, index) for index in range(len(sizes))]

    def disk(self, vm: str, index: int) -> Disk:
        """A disk of a VM that exists."""
        return Disk(vm, index, Path(self("vm", "path", vm, index).strip()))

    def state(self) -> dict[str, Any]:
        """Everything that is on the cluster now."""
        state: dict[str, Any] = json.loads(self("state", "--json"))
        return state


class Guest:
    """An ext4 file system filling a disk, used the way a guest would use it."""

    def __init__(self, disk: Disk, scratch: Path) -> None:
        self._disk = disk
        self._scratch = scratch

    def install(self, files: int, size: int) -> None:
        """Make the file system with `files` files of `size` bytes."""
        tree = self._scratch / "tree"
        for number in range(files):
            folder = tree / f"folder-{number % 7}"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"file-{number}").write_bytes(os.urandom(size))
        command("mkfs.ext4", "-q", "-F", "-d", tree, self._disk.path)
        shutil.rmtree(tree)

    def write(self, name: str, size: int) -> None:
        """Write a file."""
        content = self._scratch / "content"
        content.write_bytes(os.urandom(size))
        self._debugfs(f"write {content} {name}")
        content.unlink()

    def remove(self, *names: str) -> None:
        """Remove files and discard the space they leave, as fstrim does."""
        for name in names:
            self._debugfs(f"rm {name}")
        command("e2fsck", "-fy", "-E", "discard", self._disk.path, check=False)

    def _debugfs(self, request: str) -> None:
        command("debugfs", "-w", "-R", request, self._disk.path)


class Backup:
    """The backend, through its standalone runner."""

    def __init__(self, folder: Path, lab: dict[str, Any]) -> None:
        self.store = folder / "store"
        self._work = folder / "working"
        password = folder / "password"
        password.touch(mode=0o600)
        password.write_text(lab["password"] + "\n")
        self._parameters = [
            f"prism={lab['pc']}",
            f"user={lab['user']}",
            f"password_file={password}",
            f"ca={lab['ca']}",
            f"state_dir={folder / 'state'}",
            "proxy_mode=in_cluster",
            "transport=userspace",  # a demo leaves the kernel's initiator alone
        ]

    def back_up(self, level: str) -> dict[str, Any]:
        """Run a backup job of all VMs; return the runner's result."""
        done = self._job("backup", self.store, "--level", level, "vm=web01", "vm=db01")
        if done.returncode:
            sys.exit(f"demo: the {level} backup failed: {done.stderr}")
        result: dict[str, Any] = json.loads(done.stdout)
        return result

    def restore(self, *arguments: object, store: Path | None = None) -> tuple[bool, str]:
        """Run a restore; return whether it succeeded, and what it said."""
        done = self._job("restore", store or self.store, *arguments)
        return done.returncode == 0, done.stdout + done.stderr

    def manifests(self, job_id: int) -> list[dict[str, Any]]:
        """The manifests that a job left."""
        folder = next((self.store / "demo").glob(f"*{job_id}-*"))
        return [json.loads(path.read_bytes()) for path in sorted((folder / "objects").iterdir())]

    def _job(self, kind: str, store: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
        return command(
            "podheitor-nutanix-backend", "job", kind, "--store", store, "--name", "demo",
            "--working-dir", self._work, "--json", *arguments, *self._parameters, check=False,
        )  # fmt: skip


def identical(one: Path, other: Path) -> bool:
    """Compare two images bit for bit; holes on both sides are equal without being read."""
    with one.open("rb") as a, other.open("rb") as b:
        if os.fstat(a.fileno()).st_size != os.fstat(b.fileno()).st_size:
            return False
        return all(_same(a, b, *extent) for file in (a, b) for extent in _data(file.fileno()))


def _same(a: BinaryIO, b: BinaryIO, start: int, end: int) -> bool:
    a.seek(start)
    b.seek(start)
    left = end - start
    while left:
        block = a.read(min(4 * MIB, left))
        if block != b.read(len(block)) or not block:
            return False
        left -= len(block)
    return True


def _data(descriptor: int) -> Iterator[tuple[int, int]]:
    """The parts of a file that are no holes."""
    end = 0
    size = os.fstat(descriptor).st_size
    while end < size:
        try:
            start = os.lseek(descriptor, end, os.SEEK_DATA)
        except OSError:
            return
        end = os.lseek(descriptor, start, os.SEEK_HOLE)
        yield start, end


def file_system_is_clean(path: Path) -> bool:
    """Check an ext4 without changing it."""
    return command("e2fsck", "-fn", path, check=False).returncode == 0


@attrs.define
class Step:
    """A row of the table: a job, and what it moved. Bytes and seconds."""

    name: str
    allocated: int = 0
    changed: int = 0
    read: int = 0
    sent: int = 0
    seconds: float = 0.0
    verdict: str = ""


class Demo:
    """The story: every method is a chapter."""

    def __init__(self, folder: Path, lab: LabCluster, backup: Backup) -> None:
        self._folder = folder
        self._lab = lab
        self._backup = backup
        self._steps: list[Step] = []
        self._truth: dict[int, dict[str, Path]] = {}
        """For each job the bytes of its recovery point, by the name of the disk's image."""

    def run(self) -> None:
        """Back up, change, restore, compare, refuse; then look at what is left."""
        self._create_guests()
        jobs = [self._back_up("full")]
        for changes in (self._change_a_little, self._change_more):
            changes()
            jobs.append(self._back_up("incremental"))
        for job in jobs:
            self._restore_images(job)
        self._restore_vms(jobs[-1])
        self._refuse(jobs)
        self._show_table()
        self._look_around()

    def _create_guests(self) -> None:
        say("creating web01 (3 GiB) and db01 (2 GiB and 2 GiB): thin disks with ext4 on them")
        self.disks = [
            *self._lab.create_vm("web01", "3G"),
            *self._lab.create_vm("db01", "2G", "2G"),
        ]
        self.guests = [Guest(disk, self._folder) for disk in self.disks]
        for guest, (files, size) in zip(
            self.guests, ((300, 512 * 1024), (60, MIB), (24, 4 * MIB)), strict=True
        ):
            guest.install(files, size)

    def _change_a_little(self) -> None:
        say("guests write, delete and discard")
        web, system, data = self.guests
        web.write("new-page", 9 * MIB)
        web.remove(*(f"folder-3/file-{n}" for n in range(3, 300, 7)))
        system.write("upgrade", 5 * MIB)
        data.write("table", 30 * MIB)

    def _change_more(self) -> None:
        say("guests write, delete and discard again")
        web, _, data = self.guests
        web.write("another-page", 3 * MIB)
        data.remove("table")
        data.write("journal", 12 * MIB)

    def _back_up(self, level: str) -> int:
        say(f"{level} backup of both VMs")
        began = time.monotonic()
        result = self._backup.back_up(level)
        step = Step(f"job {result['job_id']}: {level}", seconds=time.monotonic() - began)
        self._keep_truth(result["job_id"])
        for manifest in self._backup.manifests(result["job_id"]):
            for disk in manifest["disks"]:
                step.allocated += allocated(self._truth[result["job_id"]][image_name(disk)])
                step.read += disk["data_bytes"]
                step.sent += disk["stream_bytes"]
                step.changed += disk["stream_bytes"] if disk["base"] else disk["data_bytes"]
        self._steps.append(step)
        return int(result["job_id"])

    def _keep_truth(self, job: int) -> None:
        """Copy the bytes of the recovery points of a job: later jobs delete them."""
        kept = self._folder / f"truth-{job}"
        kept.mkdir()
        self._truth[job] = {}
        for manifest in self._backup.manifests(job):
            for disk in manifest["disks"]:
                source = self._lab("rp", "path", manifest["recovery_point"], disk["disk_id"])
                copy = kept / image_name(disk)
                command("cp", "--sparse=always", source.strip(), copy)
                self._truth[job][copy.name] = copy

    def _restore_images(self, job: int) -> None:
        say(f"restoring the disks as of job {job} to raw images")
        where = self._folder / f"restored-{job}"
        began = time.monotonic()
        good, words = self._backup.restore("--job", job, "--where", where)
        step = Step(f"restore of job {job} to images", seconds=time.monotonic() - began)
        if not good:
            sys.exit(f"demo: the restore failed: {words}")
        images = {path.name: path for path in where.rglob("*.raw")}
        self._judge(step, job, images)
        shutil.rmtree(where)

    def _restore_vms(self, job: int) -> None:
        say(f"restoring both VMs as of job {job} to new VMs on the cluster")
        began = time.monotonic()
        good, words = self._backup.restore("--job", job, "--where", "/")
        step = Step(f"restore of job {job} to new VMs", seconds=time.monotonic() - began)
        if not good:
            sys.exit(f"demo: the restore failed: {words}")
        names = {vm["name"] for vm in self._lab.state()["vms"]}
        images = {}
        for manifest in self._backup.manifests(job):
            (name,) = (n for n in names if n.startswith(f"{manifest['vm_name']}-restore-"))
            for disk in manifest["disks"]:
                images[image_name(disk)] = self._lab.disk(name, disk["index"]).path
        self._judge(step, job, images)

    def _judge(self, step: Step, job: int, images: dict[str, Path]) -> None:
        """Every disk is there, bit for bit the recovery point's, and holds a clean file system."""
        truth = self._truth[job]
        same = set(images) == set(truth) and all(identical(truth[n], images[n]) for n in truth)
        clean = all(file_system_is_clean(path) for path in images.values())
        step.verdict = (
            f"{len(images)} disks identical, ext4 clean" if same and clean else "DIFFERENT"
        )
        self._steps.append(step)

    def _refuse(self, jobs: list[int]) -> None:
        """A chain with a job missing, and one with a truncated delta, are refused."""
        for name, damage in (("wrong base", self._lose_a_job), ("truncated delta", self._truncate)):
            say(f"trying to restore from a {name}")
            store = self._folder / name.replace(" ", "-")
            shutil.copytree(self._backup.store, store, copy_function=sparse_copy)
            damage(store / "demo", jobs)
            where = self._folder / f"refused-{name.replace(' ', '-')}"
            good, words = self._backup.restore("--job", jobs[-1], "--where", where, store=store)
            whole = list(where.rglob("*.raw"))
            refused = not good and (name != "wrong base" or not whole)
            self._steps.append(Step(f"{name}", verdict="refused" if refused else "ACCEPTED"))
            console.print(f"   {last_line(words)}", highlight=False)
            shutil.rmtree(store)

    def _lose_a_job(self, store: Path, jobs: list[int]) -> None:
        shutil.rmtree(next(store.glob(f"*{jobs[1]}-*")))

    def _truncate(self, store: Path, jobs: list[int]) -> None:
        """Cut the end off a delta, and make the store believe that it always was so short."""
        job = next(store.glob(f"*{jobs[2]}-*"))
        delta = max(job.rglob("*.phcbt01"), key=lambda path: path.stat().st_size)
        os.truncate(delta, delta.stat().st_size - 5)
        record = json.loads((job / "job.json").read_text())
        for stored in record["files"]:
            if stored["file"]["name"].endswith(delta.name):
                stored["data_bytes"] = delta.stat().st_size
                stored["digest"] = xxhash.xxh3_128(delta.read_bytes()).hexdigest()
        (job / "job.json").write_text(json.dumps(record))

    def _show_table(self) -> None:
        table = Table(title="What moved")
        for heading in ("step", "allocated", "changed", "read", "sent", "seconds", "verdict"):
            table.add_column(heading, justify="left" if heading in {"step", "verdict"} else "right")
        for step in self._steps:
            moved = (step.allocated, step.changed, step.read, step.sent)
            amounts = [f"{amount / MIB:,.1f} MiB" if amount else "" for amount in moved]
            seconds = f"{step.seconds:.1f}" if step.seconds else ""
            table.add_row(step.name, *amounts, seconds, step.verdict)
        console.print(table)

    def _look_around(self) -> None:
        """Only the references are left on the cluster; and no verdict was bad."""
        state = self._lab.state()
        say(f"left on the cluster: {', '.join(f'{len(v)} {k}' for k, v in state.items())}")
        references = {
            job["reference"]["reference_recovery_point_ext_id"]
            for path in (self._folder / "state" / "bitmap").rglob("*.json")
            for job in json.loads(path.read_text())["jobs"]
            if job["reference"]
        }
        points = {point["ext_id"] for point in state["recovery_points"]}
        leaks = [kind for kind in ("volume_groups", "images", "sessions") if state[kind]]
        bad = [step.name for step in self._steps if step.verdict in {"DIFFERENT", "ACCEPTED"}]
        if points != references or leaks or bad:
            sys.exit(f"demo: FAILED: {points ^ references or leaks or bad}")
        say(f"proven: every disk restored is its recovery point; {len(points)} references are left")


def say(text: str) -> None:
    """A line about what is going on."""
    console.print(f"[bold]--[/] {text}", highlight=False)


def last_line(text: str) -> str:
    """The last line that says something."""
    return [line for line in text.splitlines() if line.strip()][-1]


def image_name(disk: dict[str, Any]) -> str:
    """The name of a disk's whole image."""
    return f"disk-{disk['index']}-{disk['disk_id']}.raw"


def allocated(path: Path) -> int:
    """Bytes that a file takes on disk."""
    return path.stat().st_blocks * 512


def sparse_copy(source: str, target: str) -> None:
    """Copy a file and keep its holes."""
    command("cp", "--sparse=always", source, target)


def main() -> None:
    """Run the demo in a temporary folder."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="podheitor-demo-") as name:
        folder = Path(name)
        lab = LabCluster(folder / "lab")
        say("starting the lab: a Prism Central, a cluster and an iSCSI target on loopback")
        with lab.up() as description:
            Demo(folder, lab, Backup(folder, description)).run()
    say(f"done in {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
