"""Making a VM on AHV from restored disks, through the image service."""

from __future__ import annotations

import hashlib
from contextlib import ExitStack
from typing import TYPE_CHECKING

import prism_client

from nutanix_backend import cluster, metadata, qemu_img
from nutanix_backend.errors import RestoreRefused, with_notes
from nutanix_backend.guards import ImageGuard, VmGuard
from nutanix_backend.names import OURS
from nutanix_backend.progress import Progress, size

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from prism_client import PrismClient

    from nutanix_backend.jobs.job import JobContext
    from nutanix_backend.journal import Journal
    from nutanix_backend.metadata import VmConfig
    from nutanix_backend.restore.plan import VmPlan
    from nutanix_backend.restore.writer import DiskWriter


def vm_name(job: JobContext, plan: VmPlan) -> str:
    """The name of the restored VM: the one asked for, or the old one marked with the job."""
    return job.settings.restore_vm_name or f"{plan.manifest.vm_name}-restore-{job.info.job_id}"


def refuse_unfit(client: PrismClient, job: JobContext, plan: VmPlan) -> None:
    """Raise RestoreRefused when the cluster is not there or the name of the VM is taken.

    Raises PrismError when images cannot be uploaded.
    """
    clusters = cluster.data_clusters(client)
    if plan.manifest.cluster_id not in clusters:
        raise RestoreRefused(
            f"VM {plan.manifest.vm_name} was backed up from cluster {plan.manifest.cluster}, which "
            "this Prism does not manage: restore its disks with where=/a/folder"
        )
    name = vm_name(job, plan)
    if client.vms.find(name):
        raise RestoreRefused(f"a VM called {name} exists: give another restore_vm_name")
    client.images.check_upload()


def create_vm(
    client: PrismClient,
    job: JobContext,
    journal: Journal,
    plan: VmPlan,
    configuration: bytes,
    disks: Sequence[DiskWriter],
) -> None:
    """Upload every disk as an image, create the VM from them, remove the images.

    A VM that is made stays: what fails behind that is reported, and does not cost the restore.
    """
    config = metadata.decode(configuration)
    name = vm_name(job, plan)
    description = f"restored by job {job.info.name} from {plan.manifest.job}"
    guard = None
    try:
        with ExitStack() as stack:
            images = {
                disk.chain.newest.disk_id: stack.enter_context(
                    _image(client, job, journal, disk)
                ).image.ext_id
                for disk in disks
            }
            guard = stack.enter_context(
                VmGuard(client, journal, _specification(config, name, description, images))
            )
            guard.keep()
        if job.settings.restore_powerstate == "on":
            client.vms.power_on(guard.vm.ext_id)
    except prism_client.PrismError as error:
        if guard is None:
            raise
        job.report(f"VM {name} is restored, but: {with_notes(error)}")
    job.say(
        f"VM {plan.manifest.vm_name} as of job {plan.manifest.job} is restored as {name} "
        f"({guard.vm.ext_id}) with {len(disks)} of {len(config.disks)} disks"
    )


def _image(client: PrismClient, job: JobContext, journal: Journal, disk: DiskWriter) -> ImageGuard:
    """A disk as an image; of its copies here none is left."""
    entry = disk.chain.newest
    qcow2 = disk.path.with_suffix(".qcow2")

    def upload(name: str) -> prism_client.Image:
        length = qcow2.stat().st_size
        job.say(f"disk {entry.index}: uploading {size(length)}")
        progress = Progress(job.say, f"disk {entry.index} upload", length)
        image = client.images.upload(name, qcow2, sha256=_sha256(qcow2), progress=progress.advance)
        qcow2.unlink()
        return image

    qemu_img.convert_to_qcow2(disk.path, qcow2)
    disk.path.unlink()
    return ImageGuard(client, journal, f"{OURS}{job.info.name} disk {entry.disk_id}", upload)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _specification(
    config: VmConfig, name: str, description: str, images: dict[str, str]
) -> prism_client.VmSpec:
    """The old hardware under a new name; new UUID and MAC addresses, for the source may live."""
    return prism_client.VmSpec(
        name=name,
        description=description,
        cluster_ext_id=config.cluster_id,
        sockets=config.sockets,
        cores_per_socket=config.cores_per_socket,
        threads_per_core=config.threads_per_core,
        memory=config.memory,
        machine_type=config.machine_type or None,
        boot=prism_client.Boot(config.firmware, config.secure_boot, config.boot_order),
        disks=tuple(
            prism_client.DiskSpec(images[disk.disk_id], disk.bus, disk.index)
            for disk in config.disks
            if disk.disk_id in images
        ),
        nics=tuple(
            prism_client.NicSpec(nic.subnet or None, None, nic.connected) for nic in config.nics
        ),
    )
