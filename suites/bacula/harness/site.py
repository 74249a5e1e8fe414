"""One test's corner: its VMs on the lab, its job at the Director, its state on the host.

Every backup keeps a copy of what the guests had on their disks; restores are compared with it.
"""

from __future__ import annotations

import filecmp
import os
import random
import re
import subprocess
import time
from itertools import count
from typing import TYPE_CHECKING

import attrs

from suites.bacula.harness.daemons import USER, let_pass

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from prism_lab import Lab

    from suites.bacula.harness.console import BaculaJob, Console, Manifest
    from suites.bacula.harness.daemons import Daemons
    from suites.bacula.harness.report import Report

KIB, MIB = 1 << 10, 1 << 20
FILESET = """
FileSet {{
  Name = "{name}"
  Include {{
    Options {{
      Signature = Xxh3_128
    }}
{lines}
  }}
}}
"""
JOB = """
Job {{
  Name = "{name}"
  Type = Backup
  Client = client
  FileSet = "{fileset}"
  Storage = {storage}
  Pool = {storage}
  Messages = Standard
{options}
}}
"""
SLOW = "Maximum Bandwidth = 8 mb/s"
"""An option of a job that leaves time to act while a disk is on its way."""


@attrs.frozen
class Guest:
    """A VM of the lab, and what is done inside it."""

    lab: Lab
    name: str
    ext_id: str

    @property
    def disks(self) -> list[Path]:
        """The live bytes of its disks."""
        (vm,) = (vm for vm in self.lab.state()["vms"] if vm["ext_id"] == self.ext_id)
        return [self.lab.disk_file(self.ext_id, index) for index in range(len(vm["disks"]))]

    def write(self, index: int, offset: int, length: int) -> None:
        """Write random bytes."""
        with self.disks[index].open("r+b") as file:
            file.seek(offset)
            file.write(random.randbytes(length))

    def recovery_points(self) -> list[str]:
        """What is left of it on the cluster, oldest first."""
        points = self.lab.state()["recovery_points"]
        return [point["ext_id"] for point in points if self.ext_id in point["vms"]]


@attrs.define
class Site:
    """The corner of a test."""

    name: str
    folder: Path
    lab: Lab
    daemons: Daemons
    console: Console
    report: Report
    guests: dict[str, Guest] = attrs.field(factory=dict)
    jobs: list[BaculaJob] = attrs.field(factory=list)
    references: int = 3
    """How many recovery points of a VM may stay after a job."""
    _ended: int = 0
    """The second in which the last job ended."""
    _numbers: Iterator[int] = attrs.field(factory=count)

    # --- the cluster

    def guest(self, *sizes: int, name: str = "") -> Guest:
        """A new VM with disks of these sizes, each with some data in it."""
        name = name or f"{self.name}-vm"
        guest = Guest(self.lab, name, self.lab.create_vm(name, sizes))
        self.guests[guest.ext_id] = guest
        for index, size in enumerate(sizes):
            for part in range(3):
                guest.write(index, part * size // 3 // 4096 * 4096, size // 8)
        return guest

    def assert_clean(self) -> None:
        """The cluster holds references only, no backend runs, and the state is its user's."""
        self.console.wait_until(lambda: not self.daemons.backends(), "the backends to end")
        state = self.lab.state()
        left = {kind: state[kind] for kind in ("volume_groups", "images", "sessions", "tasks")}
        assert not any(left.values()), left
        for guest in self.guests.values():
            assert len(guest.recovery_points()) <= self.references, "recovery points are left"
        foreign = [path for path in self.state_dir.rglob("*") if path.stat().st_uid != USER]
        assert not foreign, "root has left files in the state of the backend's user"

    # --- the Director

    @property
    def config_file(self) -> Path:
        """The file with what every job needs to reach Prism."""
        return self.folder / "prism.conf"

    @property
    def state_dir(self) -> Path:
        """Where the backend keeps the chains of the VMs."""
        return self.folder / "state"

    def connect(self) -> None:
        """Write the configuration file, and give the state to its user, as the package does."""
        self.state_dir.mkdir(mode=0o700)
        os.chown(self.state_dir, USER, USER)
        let_pass(self.folder)
        values = {
            "prism": self.lab.pc_host,
            "user": self.lab.user,
            "password": self.lab.password,
            "ca": self.lab.ca_file,
            "state_dir": self.state_dir,
            "proxy_mode": "in_cluster",
        }
        self.config_file.touch(mode=0o600)
        self.config_file.write_text("".join(f"{key} = {text}\n" for key, text in values.items()))

    @property
    def plugin(self) -> str:
        """The beginning of a plugin line."""
        return f"podheitor-nutanix: config_file={self.config_file}"

    def define(self, *lines: str, storage: str = "disk", options: str = "") -> None:
        """Define the job of this test: its plugin lines, without what all have in common."""
        text = "\n".join(f'    Plugin = "{self.plugin} {line}"' for line in lines)
        fileset = FILESET.format(name=self.name, lines=text)
        job = JOB.format(name=self.name, fileset=self.name, storage=storage, options=options)
        self.console.define(fileset + job)

    def define_from(self, example: Path) -> None:
        """Define a job of the FileSet in a file, which reads our configuration file."""
        fileset = example.read_text().replace(
            "/etc/podheitor-nutanix/prism.conf", str(self.config_file)
        )
        (name,) = re.findall(r'Name = "(.*)"', fileset)
        self.name = name
        job = JOB.format(name=name, fileset=name, storage="disk", options="")
        self.console.define(fileset + job)

    # --- backups

    def start(self, level: str) -> int:
        """Start the job; what the guests have now is what it must bring back.

        The catalog knows when a job ended to the second. A job that ends in the same second as the
        one before it is left out of the chain that the Director restores.
        """
        while int(time.time()) == self._ended:
            time.sleep(0.05)
        job_id = self.console.start(self.name, level)
        for guest in self.guests.values():
            for index, disk in enumerate(guest.disks):
                copy = self._copy(job_id, guest.ext_id, index)
                copy.parent.mkdir(parents=True, exist_ok=True)
                subprocess.run(["cp", "--sparse=always", disk, copy], check=True)
        return job_id

    def wait(self, job_id: int) -> BaculaJob:
        """Wait until the job has ended."""
        job = self.console.wait(job_id)
        self._ended = int(time.time())
        self.jobs.append(job)
        self.report.add(job)
        return job

    def backup(self, level: str) -> BaculaJob:
        """Run the job to its end, whatever that is."""
        return self.wait(self.start(level))

    def good(self, level: str, base: BaculaJob | None = None) -> BaculaJob:
        """Run the job: it must end without a word of trouble, and stand on `base` alone."""
        job = self.backup(level)
        assert (job.status, job.level) == ("T", level[0]), job.words
        assert_quiet(job)
        assert self.report.bases(job) == [str(base.job_id) if base else "none"], job.words
        return job

    def start_and_wait_for_data(self, level: str) -> int:
        """Start the job, and wait until data of a disk is in the volume; return its JobId."""
        before = self._volume_size()
        job_id = self.start(level)
        self.console.wait_until(lambda: self._volume_size() > before + MIB, "data to flow")
        return job_id

    def _volume_size(self) -> int:
        return sum(path.stat().st_size for path in (self.daemons.work / "volumes").iterdir())

    # --- restores

    def restore(self, job: BaculaJob, where: Path | str, **options: str) -> BaculaJob:
        """Restore the point in time of a job, as the Director puts its chain together."""
        chain = self.console.chain(job.job_id)
        assert str(job.job_id) in chain.split(","), f"the Director restores {chain}"
        return self.console.restore(chain, where, options)

    def assert_restores(self, *jobs: BaculaJob) -> None:
        """A restore of each job to a folder gives what the guests had, bit for bit."""
        for job in jobs:
            where = self.folder / f"restored-{next(self._numbers)}"
            done = self.restore(job, where)
            assert done.status == "T", done.words
            assert_quiet(done)
            wrong = [line for m in job.manifests for line in self._differences(job, m, where)]
            self.report.entries[job.job_id].verdict = "DIFFERS" if wrong else "identical"
            assert not wrong, f"the restore of job {job.job_id} differs: {'; '.join(wrong)}"

    def assert_every_good_job_restores(self) -> None:
        """The same for all jobs that ended well."""
        self.assert_restores(*(job for job in self.jobs if job.status in {"T", "W"}))

    def assert_made(self, job: BaculaJob, name: str) -> None:
        """The VM `name` on the cluster has the disks that the only guest had at a job."""
        (guest,) = self.guests.values()
        for index in range(len(guest.disks)):
            assert same(
                self.lab.disk_file(name, index), self._copy(job.job_id, guest.ext_id, index)
            )

    def forget(self, job: BaculaJob) -> None:
        """Delete a job from the catalog."""
        self.console.say(f"delete jobid={job.job_id} yes")
        self.jobs.remove(job)
        self.report.entries[job.job_id].verdict = "deleted"

    def _differences(self, job: BaculaJob, manifest: Manifest, where: Path) -> Iterator[str]:
        """What is wrong with the images of a VM that was restored below a folder."""
        folder = where / manifest.folder / "disks"
        names = {f"disk-{disk['index']}-{disk['disk_id']}.raw" for disk in manifest.disks}
        found = {path.name for path in folder.iterdir()}
        if found != names:
            yield f"{sorted(found)} were restored and not {sorted(names)}"
        for name in names & found:
            copy = self._copy(job.job_id, manifest.vm_id, int(name.split("-")[1]))
            if not same(folder / name, copy):
                yield f"{name} {difference(folder / name, copy)}"

    def _copy(self, job_id: int, vm_id: str, index: int) -> Path:
        return self.folder / "copies" / str(job_id) / vm_id / f"{index}.raw"


def same(one: Path, other: Path) -> bool:
    """Whether two files hold the same bytes."""
    return filecmp.cmp(one, other, shallow=False)


def difference(one: Path, other: Path) -> str:
    """Where two images differ, in blocks of 4 KiB, and whether one of them is zero there."""
    images = (one.read_bytes(), other.read_bytes())
    lengths = " and ".join(str(len(image)) for image in images)
    starts = range(0, max(map(len, images)), 4096)
    wrong = [at for at in starts if images[0][at : at + 4096] != images[1][at : at + 4096]]
    zeros = [sum(not any(image[at : at + 4096]) for at in wrong) for image in images]
    return (
        f"({lengths} bytes) differs in {len(wrong)} blocks from {wrong[:1]} to {wrong[-1:]}, of "
        f"which {zeros[0]} are zero in the restored image and {zeros[1]} in the copy"
    )


def assert_quiet(job: BaculaJob) -> None:
    """The file daemon has nothing to complain about in the job log."""
    marks = ("Error:", "Warning:", "Fatal error:", "Security Alert", "reported error")
    said = [line for line in job.log if line.startswith("client ")]
    trouble = [line for line in said if any(mark in line for mark in marks)]
    assert not trouble, trouble
    assert job.errors == 0, job.words
