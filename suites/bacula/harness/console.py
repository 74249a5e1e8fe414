"""What an administrator does through bconsole: define, run, cancel and delete jobs, and restore.

What became of a job is read from the catalog, as BVFS and reporting tools do.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import sqlite3
import subprocess
import time
import zlib
from contextlib import closing
from typing import TYPE_CHECKING, Any

import attrs

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from suites.bacula.harness.daemons import Daemons

PATIENCE = 90.0
"""Seconds after which a job hangs; a Director takes half of them to give a lost client up."""
ENDED = "TWfAEeBI"
PLUGIN_OPTIONS = "13"
"""The number of "Plugin Options" in the menu before a restore."""


@attrs.frozen
class Manifest:
    """What a job said about one VM, and the digest by which a later job refers to it."""

    digest: str
    content: dict[str, Any]

    @property
    def vm_id(self) -> str:
        """The VM."""
        return str(self.content["vm_id"])

    @property
    def folder(self) -> str:
        """Where its files are inside the backup."""
        return f"@nutanix/{self.content['cluster']}/{self.vm_id}"

    @property
    def disks(self) -> list[dict[str, Any]]:
        """Its disks, in their order."""
        return list(self.content["disks"])

    @property
    def bases(self) -> set[str]:
        """What its disks stand on; an empty text stands for a whole disk."""
        return {str(disk["base"]) for disk in self.disks}


@attrs.frozen
class BaculaJob:
    """A job as the catalog has it; `level` is F, I or D, `size` in bytes.

    `status` is T (good), W (good, with warnings), f (failed) or A (cancelled). The catalog itself
    makes no difference between T and W: the job log does.
    """

    job_id: int
    unique_name: str
    level: str
    status: str
    files: int
    size: int
    errors: int
    log: tuple[str, ...]
    manifests: tuple[Manifest, ...]

    @property
    def words(self) -> str:
        """The whole job log."""
        return "\n".join(self.log)

    def said(self, text: str) -> bool:
        """Whether some line of the job log has this text."""
        return any(text in line for line in self.log)


class Console:
    """A bconsole that is told its answers in advance."""

    def __init__(self, daemons: Daemons) -> None:
        """Talk to the Director of `daemons`."""
        self._daemons = daemons
        self._program = daemons.installation.prefix / "usr/sbin/bconsole"

    def say(self, *lines: str) -> str:
        """Type these lines; return what the console printed."""
        done = subprocess.run(
            [self._program, "-n", "-c", self._daemons.work / "bconsole.conf"],
            input="\n".join((*lines, "")), text=True, capture_output=True, check=True,
            env=self._daemons.installation.environment, timeout=PATIENCE,
        )  # fmt: skip
        return done.stdout

    # --- jobs

    def define(self, text: str) -> None:
        """Add resources to the Director's configuration."""
        with self._daemons.jobs_file.open("a") as file:
            file.write(text)
        said = self.say("reload")
        if "rror" in said:
            raise RuntimeError(f"the Director does not accept\n{text}\n{said}")

    def start(self, name: str, level: str) -> int:
        """Start a backup; return its JobId."""
        return _job_id(self.say(f"run job={name} level={level} yes"))

    def run(self, name: str, level: str) -> BaculaJob:
        """Run a backup to its end."""
        return self.wait(self.start(name, level))

    def cancel(self, job_id: int) -> None:
        """Cancel a job."""
        self.say(f"cancel jobid={job_id} yes")

    def wait(self, job_id: int) -> BaculaJob:
        """Wait until a job has ended."""
        self.wait_until(lambda: self.status(job_id) in ENDED, f"job {job_id} to end")
        return self.job(job_id)

    def wait_until(self, happened: Callable[[], object], what: str) -> None:
        """Wait for something to happen."""
        deadline = time.monotonic() + PATIENCE
        while not happened():
            if time.monotonic() > deadline:
                everybody = ("status director", "status client=client", "status storage=disk")
                raise TimeoutError(f"waited in vain for {what}\n{self.say(*everybody)}")
            time.sleep(0.05)

    # --- restores

    def chain(self, job_id: int) -> str:
        """The jobs that the Director restores for the point in time of a job, like "1,4,5"."""
        return self.say(f".bvfs_get_jobids jobid={job_id}").split()[-1]

    def start_restore(
        self, job_ids: str, where: Path | str, *, job: str = "restore", client: str = "client"
    ) -> int:
        """Start a restore of all files of these jobs of a client to ours; return its JobId."""
        return _job_id(self.say(f"{_restore(job_ids, where, job, client)} yes"))

    def restore(
        self, job_ids: str, where: Path | str, options: Mapping[str, str] | None = None
    ) -> BaculaJob:
        """Restore these jobs to the end, with plugin options edited as the menu offers them."""
        if not options:
            return self.wait(self.start_restore(job_ids, where))
        offered = self.plugin_options(job_ids)
        edits = [
            line
            for name, value in options.items()
            for line in ("mod", str(offered.index(name) + 1), value)
        ]
        command = _restore(job_ids, where)
        return self.wait(_job_id(self.say(command, "mod", PLUGIN_OPTIONS, *edits, "yes", "yes")))

    def plugin_options(self, job_ids: str) -> list[str]:
        """The names of the plugin options that bconsole offers for a restore of these jobs."""
        said = self.say(_restore(job_ids, "/"), "mod", PLUGIN_OPTIONS, "no", "no")
        table = said.partition("Default Value")[2].partition("Use above")[0]
        return re.findall(r"^(\w+):", table, re.MULTILINE)

    # --- the catalog

    def status(self, job_id: int) -> str:
        """The letter that says how a job is."""
        ((status,),) = self._query("SELECT JobStatus FROM Job WHERE JobId = ?", job_id)
        return str(status)

    def log(self, job_id: int) -> tuple[str, ...]:
        """The job log so far."""
        rows = self._query("SELECT LogText FROM Log WHERE JobId = ? ORDER BY LogId", job_id)
        return tuple(text.rstrip("\n\\") for (text,) in rows)

    def job(self, job_id: int) -> BaculaJob:
        """A job with its log and the manifests that it left."""
        ((name, level, status, files, size, errors),) = self._query(
            "SELECT Job, Level, JobStatus, JobFiles, JobBytes, JobErrors FROM Job WHERE JobId = ?",
            job_id,
        )
        log, manifests = self.log(job_id), self._manifests(job_id)
        job = BaculaJob(job_id, name, level, status, files, size, errors, log, manifests)
        warned = job.status == "T" and job.said("OK -- with warnings")
        return attrs.evolve(job, status="W") if warned else job

    def files(self, job_id: int) -> list[str]:
        """The names of the files that the catalog has of a job."""
        rows = self._query(
            "SELECT Path.Path || File.Filename FROM File JOIN Path USING (PathId) "
            "WHERE JobId = ? ORDER BY FileIndex",
            job_id,
        )
        return [name for (name,) in rows]

    def _manifests(self, job_id: int) -> tuple[Manifest, ...]:
        rows = self._query(
            "SELECT RestoreObject, ObjectCompression FROM RestoreObject "
            "WHERE JobId = ? AND ObjectName LIKE '%manifest%' ORDER BY FileIndex",
            job_id,
        )
        return tuple(_decoded(content, compressed) for content, compressed in rows)

    def _query(self, query: str, *values: object) -> Sequence[tuple[Any, ...]]:
        with closing(sqlite3.connect(self._daemons.catalog_file, timeout=PATIENCE)) as catalog:
            return catalog.execute(query, values).fetchall()


def _decoded(content: str, compressed: int) -> Manifest:
    data = base64.b64decode(content + "===")  # the daemon leaves the padding out
    data = zlib.decompress(data) if compressed else data
    return Manifest(f"sha256:{hashlib.sha256(data).hexdigest()}", json.loads(data))


def _restore(job_ids: str, where: Path | str, job: str = "restore", client: str = "client") -> str:
    what = f"client={client} jobid={job_ids} all done"
    return f"restore {what} restoreclient=client where={where} restorejob={job}"


def _job_id(said: str) -> int:
    found = re.search(r"JobId=(\d+)", said)
    if found is None:
        raise RuntimeError(f"no job was started:\n{said}")
    return int(found[1])
