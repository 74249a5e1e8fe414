"""The VMs in a store of `job backup`: which files make which disk, as of which job."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
from chain_disk import CachedDisk, ChainDisk, ChainFile
from digests import BadList, ImageDigests
from ptcomm_runner import catalog

from nutanix_backend import manifest
from nutanix_backend.errors import RestoreFailed
from nutanix_backend.names import FileKind
from nutanix_backend.restore.plan import plan_vm

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from nutanix_backend.manifest import Manifest
    from nutanix_backend.restore.plan import DiskChain, VmPlan


@attrs.frozen
class StoredVm:
    """A VM as of a job: the manifests of its chain, oldest first, and the files by their names."""

    job: catalog.Job
    manifests: Sequence[Manifest]
    files: Mapping[str, Path]

    @property
    def name(self) -> str:
        """The name of the VM."""
        return self.manifests[-1].vm_name

    def plan(self, disks: Sequence[str] = ()) -> VmPlan:
        """How its disks are put together; raise RestoreRefused."""
        return plan_vm(self.manifests, disks)

    def paths(self, chain: DiskChain) -> list[Path]:
        """The files of a disk, oldest first; raise RestoreFailed when one is not in the store."""
        missing = next((file.name for file in chain.files if file.name not in self.files), None)
        if missing:
            raise RestoreFailed(f"{missing} is not in the store")
        return [self.files[file.name] for file in chain.files]

    def disk(self, chain: DiskChain) -> ChainDisk:
        """A disk, to be read at any offset; raise RestoreFailed, ChainError."""
        return ChainDisk(
            [
                ChainFile(path, is_delta=file.kind is FileKind.DELTA, size=file.size)
                for file, path in zip(chain.files, self.paths(chain), strict=True)
            ]
        )

    def proven_disk(self, chain: DiskChain) -> CachedDisk:
        """A disk of which each block is compared with the digest list, if there is one."""
        return CachedDisk(self.disk(chain), self.digests(chain))

    def digests(self, chain: DiskChain) -> ImageDigests | None:
        """The digest list of a disk, if it is in the backup and whole."""
        folder = chain.files[-1].name.rpartition("/")[0]
        stem = f"{folder}/disk-{chain.index}-{chain.disk_id}."
        for name, path in self.files.items():
            if name.startswith(stem) and name.endswith(".digests"):
                try:
                    found = ImageDigests.decode(path.read_bytes())
                except (OSError, BadList):
                    continue
                if found.root() == chain.image_root:
                    return found
        return None


def vms_of(store: catalog.Store, job: catalog.Job, jobs: Sequence[catalog.Job]) -> list[StoredVm]:
    """The VMs that `job` saved; `jobs` are those of its name.

    Raises RunnerError, BackendError, OSError when the chain is not whole.
    """
    chain = catalog.chain(jobs, job.job_id)
    vms = manifests_of(store, chain)
    files = {
        stored.file.name: store.file_path(owner, stored)
        for owner, _, stored in catalog.newest_files(chain)
    }
    return [
        StoredVm(job, manifests, files)
        for manifests in vms.values()
        if manifests[-1].job == job.job_name
    ]


def manifests_of(
    store: catalog.Store, chain: Sequence[catalog.Job]
) -> Mapping[str, list[Manifest]]:
    """The manifests of a chain, oldest first, by the folders of their VMs. Errors as `vms_of`."""
    found: dict[str, list[Manifest]] = {}
    for job in chain:
        for stored in job.objects:
            if stored.name.startswith(manifest.OBJECT_PREFIX):
                read = manifest.decode(store.object_path(job, stored).read_bytes())
                found.setdefault(read.folder.path, []).append(read)
    return found
