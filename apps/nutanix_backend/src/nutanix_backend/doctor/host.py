"""What the backend needs of this host: programs, libraries, its folder, its past."""

from __future__ import annotations

import os
import shutil
import tempfile
from typing import TYPE_CHECKING

import iscsi_attach
import qemu_img
from durable import records
from iscsi_attach import kernel
from vm_replica.owner import user_name

from nutanix_backend.doctor.finding import Finding
from nutanix_backend.references.state import VmState

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from nutanix_backend.references.state import JobRecord
    from nutanix_backend.settings.parameters import Settings


def check(settings: Settings) -> Iterator[Finding]:
    """Look at the programs and folders that jobs use, and at what past jobs have recorded."""
    yield _qemu_img()
    yield _initiator(settings.transport)
    yield _state_folder(settings.state_dir)
    yield _previous_jobs(settings.state_dir)


def _qemu_img() -> Finding:
    path = shutil.which("qemu-img")
    if path is None:
        return Finding.bad("qemu-img", "no qemu-img on PATH, to restore VMs: install qemu-utils")
    if weakness := qemu_img.weakness():
        return Finding.note("qemu-img", f"{path}: {weakness}")
    return Finding.ok("qemu-img", f"{path}, in a sandbox")


def _initiator(transport: str) -> Finding:
    """Tell which iSCSI initiator jobs use, and why it is not the kernel's."""
    why_not = "" if transport == "userspace" else kernel.unavailable()
    if transport != "userspace" and not why_not:
        return Finding.ok("initiator", "open-iscsi, in the kernel")
    if transport == "kernel":
        return Finding.bad("initiator", f"transport=kernel cannot be used: {why_not}")
    try:
        name = iscsi_attach.require_library()
    except iscsi_attach.LibraryMissing as error:
        return Finding.bad("initiator", str(error))
    reason = f"; the kernel initiator cannot be used: {why_not}" if why_not else ""
    return Finding.ok("initiator", f"{name}, in user space{reason}")


def _state_folder(folder: Path) -> Finding:
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.NamedTemporaryFile(dir=folder) as file:
            file.write(b"doctor")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return Finding.bad(
            "state",
            f"{folder} cannot be written: {error.strerror}: make it, owned by podheitor-nutanix, "
            "or by the user of a bacula-fd that is not root",
        )
    return Finding.ok("state", f"{folder} can be written by user {user_name(os.geteuid())}")


def _previous_jobs(folder: Path) -> Finding:
    """Whether the Director's name of the previous job arrives: recorded jobs tell."""
    past = [job for file in folder.glob("bitmap/*/*.json") for job in _jobs(file)]
    later = [job for job in past if job.level != "F"]
    if not later:
        return Finding.note("chain", f"no incremental is recorded yet, of {len(past)} jobs")
    newest = max(later, key=lambda job: job.job_id)
    if not newest.predecessor:
        return Finding.bad(
            "chain",
            f"job {newest.job} was given no previous job and can only be a full: is the plugin "
            "(.so) the one of this package, and the Director 15?",
        )
    return Finding.ok(
        "chain", f"job {newest.job} received the name of the previous job ({newest.predecessor})"
    )


def _jobs(file: Path) -> tuple[JobRecord, ...]:
    try:
        return records.load(file.read_bytes(), VmState).jobs
    except (OSError, records.RecordError):
        return ()  # the next backup of that VM will say so, and be a full
