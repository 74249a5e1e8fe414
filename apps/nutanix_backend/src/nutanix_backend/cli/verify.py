"""The command line `verify`: whether each backup of a store can be restored, without restoring it.

Each disk of each job is put together block by block, from the whole image and the deltas of its
chain, and compared with the root of its digest list. Nothing is written, and one block is held in
memory. A job on a base that is proven needs to read only what it changed. The results are recorded
in the state of this host, for reports.

The points of replicas in a receiver's store are proven by what the receiver knows of them; images
in a folder that a restore wrote, by the roots of the backups in the store.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import phcbt01
from chain_disk import ChainError, ImageFile
from command_line import program, terminal
from digests import ImageDigests, StreamDigest
from ptcomm_runner import catalog
from ptcomm_runner.errors import RunnerError
from vm_replica.errors import ReplicationError
from vm_replica.evidence import Evidence, TrialKind, trial
from vm_replica.store.access import open_store

from nutanix_backend.errors import BackendError, RestoreFailed
from nutanix_backend.files.stored import manifests_of, vms_of
from nutanix_backend.references import evidence
from nutanix_backend.settings.table import BY_NAME

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

    from command_line.arguments import Subparsers
    from vm_replica.evidence import Trial

    from nutanix_backend.files.stored import StoredVm
    from nutanix_backend.manifest import Manifest
    from nutanix_backend.restore.plan import DiskChain, PlannedFile

CHUNK = 1 << 20
PROVEN = "proven"
WITHOUT_LIST = "undamaged; it was saved without a digest list"
ERRORS = (BackendError, ChainError, RunnerError, phcbt01.PhcbtError, OSError)
"""What makes a point one that cannot be restored."""


def add_parser(subparsers: Subparsers) -> None:
    """Add `verify` to a program's subparsers."""
    parser = subparsers.add_parser(
        "verify", help="prove the backups of a store, without restoring them"
    )
    parser.add_argument(
        "--store", required=True, type=Path, help="folder of `job backup`, or of a receiver"
    )
    parser.add_argument("--name", help="only the jobs of this name")
    parser.add_argument(
        "--restored", type=Path, metavar="FOLDER", help="prove the images that a restore wrote here"
    )
    parser.add_argument(
        "--state-dir",
        type=Path,
        metavar="FOLDER",
        default=Path(BY_NAME["state_dir"].default),
        help="where the results are recorded for `report`, if it exists; default: %(default)s",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Prove each job; 2 if one cannot be restored. Raises RunnerError, OSError."""
    if not args.store.is_dir():
        raise RunnerError(f"{args.store} is not a folder: --store names the folder of the jobs")
    worst = program.DONE
    for verdict in _verdicts(args):
        terminal.say(terminal.plain(str(verdict)))
        if verdict.fault:
            worst = program.UNUSABLE
    return worst


def _verdicts(args: argparse.Namespace) -> Iterator[Verdict]:
    if (args.store / "replicas").is_dir():
        return replicas(args.store)
    proof = StoreProof(catalog.Store(args.store))
    return proof.restored(args.restored) if args.restored else _recorded(args, proof)


def _recorded(args: argparse.Namespace, proof: StoreProof) -> Iterator[Verdict]:
    """Prove, and record what became of each VM: what failed comes last, so that it is seen."""
    yield from proof.verdicts(args.name)
    if not args.state_dir.is_dir():
        return
    for whose, trials in proof.trials.values():
        for one in sorted(trials, key=lambda one: not one.good):
            if problem := evidence.record(args.state_dir, whose, one):
                terminal.complain(problem)


@attrs.frozen
class Verdict:
    """What is known of a disk, a VM or a point: how far it is proven, or its fault."""

    what: str
    fault: str = ""
    proof: str = PROVEN
    is_left_out: bool = False
    """Whether it is of a disk that the backup left out on purpose: there is nothing to prove."""

    def __str__(self) -> str:
        """A line for the terminal."""
        return f"{self.what}: {self.fault or self.proof}"


def replicas(root: Path) -> Iterator[Verdict]:
    """Prove the points of all replicas in the store of a receiver; raise StoreError."""
    for replica in open_store(root).replicas():
        for point in replica.points():
            what = f"replica {replica.name} generation {point.number}"
            try:
                replica.verify(point.number)
            except ReplicationError as error:
                yield Verdict(what, str(error))
            else:
                yield Verdict(what)


class StoreProof:
    """The jobs of a store, proven one after the other."""

    def __init__(self, store: catalog.Store) -> None:
        """Read from `store`, and write nothing."""
        self._store = store
        self._undamaged: set[Path] = set()
        self.trials: dict[str, tuple[Evidence, list[Trial]]] = {}
        """By the folder of a VM: what became of its points. One without a list is not proven."""
        self._proven: dict[Path, ImageDigests] = {}
        """By the newest file of a chain: the list of a disk that was put together and compared."""

    def verdicts(self, name: str | None = None) -> Iterator[Verdict]:
        """Prove the good backups of a name, or of all."""
        jobs = self._store.jobs(name)
        for job in jobs:
            if job.kind is catalog.Kind.BACKUP and job.status.good:
                same = [other for other in jobs if other.name == job.name]
                yield from self._job(job, same)

    def _job(self, job: catalog.Job, jobs: list[catalog.Job]) -> Iterator[Verdict]:
        try:
            vms = vms_of(self._store, job, jobs)
        except ERRORS as error:
            yield Verdict(f"job {job.job_id}, all VMs", str(error))
            return
        for vm in vms:
            verdicts = list(self._vm(vm))
            yield from verdicts
            self._note(vm.manifests[-1], verdicts)

    def _note(self, newest: Manifest, verdicts: Sequence[Verdict]) -> None:
        """Remember whether a point of a VM is proven as a whole."""
        fault = next((str(verdict) for verdict in verdicts if verdict.fault), "")
        disks = [verdict for verdict in verdicts if not verdict.is_left_out]
        if not fault and any(verdict.proof != PROVEN for verdict in disks):
            return
        whose = Evidence(cluster=newest.cluster, vm_id=newest.vm_id, vm_name=newest.vm_name)
        _, trials = self.trials.setdefault(newest.folder.path, (whose, []))
        seen = f"{len(disks)} disks put together and compared"
        trials.append(trial(TrialKind.PROOF, newest.job, fault, seen))

    def _vm(self, vm: StoredVm) -> Iterator[Verdict]:
        what = f"job {vm.job.job_id}, {vm.manifests[-1].title}"
        try:
            plan = vm.plan()
        except BackendError as error:
            yield Verdict(what, str(error))
            return
        for excluded in plan.excluded:
            proof = f"not in the backup: {excluded.reason} left it out"
            yield Verdict(f"{what} disk {excluded.index}", proof=proof, is_left_out=True)
        for chain in plan.disks:
            disk = f"{what} disk {chain.index}"
            try:
                self._disk(vm, chain)
            except ERRORS as error:
                yield Verdict(disk, str(error))
            else:
                yield Verdict(disk, proof=PROVEN if chain.image_root else WITHOUT_LIST)

    def restored(self, folder: Path) -> Iterator[Verdict]:
        """Find for each image that a restore wrote below `folder` the job whose disk it is."""
        jobs = [job for job in self._store.jobs() if job.status.good]
        known = {
            (disk.disk_id, disk.image_root): read
            for job in jobs
            for manifests in manifests_of(self._store, [job]).values()
            for read in manifests
            for disk in read.disks
        }
        for path in sorted(folder.rglob("disk-*-*.raw")):
            disk_id = path.stem.split("-", 2)[2]
            with ImageFile(path) as image:
                found = known.get((disk_id, _root(image, path.stat().st_size)))
            if found:
                yield Verdict(str(path), proof=f"{found.title} as of job {found.job}, proven")
            else:
                yield Verdict(str(path), "it is not the disk of any backup with a digest list")

    def _disk(self, vm: StoredVm, chain: DiskChain) -> None:
        """Prove a disk; raise one of ERRORS."""
        paths = vm.paths(chain)
        for file, path in zip(chain.files, paths, strict=True):
            self._refuse_damaged(file, path)
        if chain.image_root:
            image = self._put_together(vm, chain, paths)
            if image.root() != chain.image_root:
                raise RestoreFailed(_difference(image, chain, vm))
            for path in paths:
                self._proven.pop(path, None)
            self._proven[paths[-1]] = image

    def _refuse_damaged(self, file: PlannedFile, path: Path) -> None:
        """Compare a file with its digest, once."""
        if path in self._undamaged:
            return
        digest = StreamDigest()
        with path.open("rb", buffering=0) as source:
            while piece := source.read(CHUNK):
                digest.update(piece)
        if digest.text() != file.digest or path.stat().st_size != file.stream_bytes:
            raise RestoreFailed(f"{file.name} is not what was backed up: it is damaged")
        self._undamaged.add(path)

    def _put_together(self, vm: StoredVm, chain: DiskChain, paths: list[Path]) -> ImageDigests:
        """The digest list of a disk as its files make it."""
        base = self._proven.get(paths[-2]) if len(paths) > 1 else None
        image = ImageDigests.decode(base.encode()) if base else ImageDigests(0)
        with vm.disk(chain) as disk:
            image.resize(disk.size)
            for begin, end in disk.changes() if base else disk.extents():
                image.doubt(begin, end - begin)
            for offset, length in image.stale():
                image.put(offset, disk.read(offset, length))
        return image


def _root(whole: ImageFile, size: int) -> str:
    """The root of a raw image."""
    image = ImageDigests(size)
    for begin, end in whole.extents():
        image.doubt(begin, end - begin)
    for offset, length in image.stale():
        image.put(offset, whole.read(offset, length))
    return image.root()


def _difference(image: ImageDigests, chain: DiskChain, vm: StoredVm) -> str:
    """What is wrong with a disk, and where, if its list is in the backup."""
    where, expected = "", vm.digests(chain)
    if expected and len(expected) == len(image):
        blocks = list(image.differences(expected))
        where = f": {len(blocks)} blocks of 1 MiB differ, the first at byte {blocks[0]}"
    return (
        f"it is not the one that was backed up, although each of its {len(chain.files)} files is "
        f"as it was saved{where}; restore an earlier backup, and run a full backup now"
    )
