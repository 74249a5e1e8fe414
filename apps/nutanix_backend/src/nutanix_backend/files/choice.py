"""Which VM, as of when: from a store of `job backup`, the store of a receiver, or raw images."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
from chain_disk import CachedDisk, ChainDisk, ChainFile
from command_line import arguments
from ptcomm_runner import catalog
from vm_replica.errors import StoreError
from vm_replica.store.access import find, open_store

from nutanix_backend import names
from nutanix_backend.errors import ParameterError, RestoreRefused, SelectionError
from nutanix_backend.files.stored import vms_of

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Mapping, Sequence

    from chain_disk import Disk

    from nutanix_backend.files.stored import StoredVm


@attrs.frozen
class OpenVm:
    """A VM as of one moment: its disks by their numbers, and its configuration if it is there."""

    name: str
    as_of: str
    disks: Mapping[int, Disk]
    ids: Mapping[int, str] = attrs.field(factory=dict)
    """The names of the disks in the backup, by their numbers."""
    namespace: str = names.NAMESPACE
    configuration: str = ""


def add_choice(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose a VM."""
    place = parser.add_mutually_exclusive_group(required=True)
    place.add_argument(
        "--store", type=Path, help="folder of `job backup`, or of a receiver of replicas"
    )
    place.add_argument(
        "--restored", type=Path, metavar="FOLDER", help="folder below which a restore wrote images"
    )
    place.add_argument(
        "--image", type=Path, action="append", metavar="FILE", help="a raw image; repeatable"
    )
    parser.add_argument("--vm", type=arguments.typed, help="name or UUID; needed if there are more")
    parser.add_argument("--name", help="job of `job backup`; default: the newest that has the VM")
    parser.add_argument(
        "--job", type=arguments.number(least=1), metavar="ID", help="as of this job; default: last"
    )
    parser.add_argument(
        "--point", type=arguments.number(least=1), metavar="N", help="generation of a replica"
    )
    parser.add_argument(
        "--disk", action="append", default=[], metavar="N", help="only this disk; repeatable"
    )


@contextmanager
def opened(args: argparse.Namespace) -> Iterator[OpenVm]:
    """The VM that the options choose. Raises BackendError, RunnerError, StoreError, ChainError."""
    if args.image:
        vm = _images(args.image, "images", "the images")
    elif args.restored:
        vm = _restored(args)
    elif (args.store / "replicas").is_dir():
        vm = _replica(args)
    else:
        vm = _stored(args)
    try:
        yield _limited(vm, args.disk)
    finally:
        for disk in vm.disks.values():
            disk.close()


def _limited(vm: OpenVm, wanted: Sequence[str]) -> OpenVm:
    """The VM with the disks of these numbers alone."""
    unknown = sorted(set(wanted) - {str(number) for number in vm.disks})
    if unknown:
        known = ", ".join(map(str, vm.disks))
        raise SelectionError(f"{vm.name} has no disk {', '.join(unknown)}: it has {known}")
    kept = {n: disk for n, disk in vm.disks.items() if not wanted or str(n) in wanted}
    return attrs.evolve(vm, disks=kept)


def _images(paths: Sequence[Path], name: str, as_of: str) -> OpenVm:
    disks: dict[int, Disk] = {}
    for number, path in enumerate(paths):
        disks[number] = CachedDisk(ChainDisk([ChainFile(path, is_delta=False)]))
    return OpenVm(name, as_of, disks)


def _restored(args: argparse.Namespace) -> OpenVm:
    """Images of one VM below a folder, as a restore names them."""
    found: dict[str, dict[int, Path]] = {}
    for path in sorted(args.restored.rglob("disk-*-*.raw")):
        try:
            file = names.recognise(str(path.absolute()))
        except RestoreRefused:
            continue
        vm = str(Path(file.where, file.folder.path))
        if args.vm in {None, file.folder.vm}:
            found.setdefault(vm, {})[file.index] = path
    folder = _only(found, f"{args.restored} has the images of", args.vm)
    disks: dict[int, Disk] = {
        number: CachedDisk(ChainDisk([ChainFile(path, is_delta=False)]))
        for number, path in sorted(found[folder].items())
    }
    metadata = Path(folder, "vm-metadata.json")
    configuration = metadata.read_text() if metadata.exists() else ""
    ids = {number: path.stem.split("-", 2)[2] for number, path in found[folder].items()}
    return OpenVm(Path(folder).name, "restored", disks, ids, configuration=configuration)


def _only(found: Mapping[str, object], what: str, wanted: str | None) -> str:
    if len(found) == 1:
        return next(iter(found))
    if not found:
        raise SelectionError(f"{what} no VM{f' {wanted}' if wanted else ''}")
    raise SelectionError(f"{what} {len(found)} VMs, choose with --vm: {', '.join(sorted(found))}")


def _stored(args: argparse.Namespace) -> OpenVm:
    if not args.store.is_dir():
        raise ParameterError(f"{args.store} is not a folder: --store names the folder of the jobs")
    vm = _stored_vm(catalog.Store(args.store), args)
    newest = vm.manifests[-1]
    plan = vm.plan(tuple(args.disk))
    disks: dict[int, Disk] = {chain.index: vm.proven_disk(chain) for chain in plan.disks}
    as_of = f"as of job {vm.job.job_name}"
    ids = {chain.index: chain.disk_id for chain in plan.disks}
    return OpenVm(vm.name, as_of, disks, ids, configuration=newest.configuration)


def _stored_vm(store: catalog.Store, args: argparse.Namespace) -> StoredVm:
    """The newest backup of the VM that is asked for."""
    jobs = store.jobs(args.name)
    good = [job for job in jobs if job.kind is catalog.Kind.BACKUP and job.status.good]
    for job in reversed(good):
        if args.job not in {None, job.job_id}:
            continue
        vms = vms_of(store, job, [other for other in jobs if other.name == job.name])
        found = {
            vm.manifests[-1].vm_id: vm
            for vm in vms
            if args.vm in {None, vm.name, vm.manifests[-1].vm_id}
        }
        if found:
            return found[_only(found, f"job {job.job_id} has", args.vm)]
    what = f"VM {args.vm}" if args.vm else "a VM"
    which = f"job {args.job}" if args.job else "a good job"
    raise SelectionError(f"{store.root} has no backup of {what} by {which}: see `job list`")


def _replica(args: argparse.Namespace) -> OpenVm:
    if not args.vm:
        raise ParameterError("give --vm: the name or UUID of the VM, or CLUSTER/UUID")
    replica = find(open_store(args.store), args.vm)
    points = replica.points()
    if not points:
        raise StoreError(f"the replica {replica.name} is empty: no seed has been committed yet")
    number = args.point or points[-1].number
    generation = replica.files.generation(number)
    disks: dict[int, Disk] = {
        disk.index: CachedDisk(replica.reader(number, disk.disk_id)) for disk in generation.disks
    }
    configuration = generation.manifest.configuration
    return OpenVm(
        generation.manifest.vm_name,
        f"generation {number}",
        disks,
        {disk.index: disk.disk_id for disk in generation.disks},
        configuration.kind,
        configuration.text,
    )
