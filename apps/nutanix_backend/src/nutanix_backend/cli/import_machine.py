"""`import`: a machine that another product exported, from files of this host, without a backup.

The files are given to the backend as if a sibling's plugin had backed them up: what a restore reads
and where it can go is the same.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import unquote

import attrs
from ptcomm import File, FileType, Stat, Times
from ptcomm_runner import command, jobs
from ptcomm_runner.daemon import FileItem
from ptcomm_runner.errors import RunnerError

from nutanix_backend.restore import configuration

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

    from command_line.arguments import Subparsers
    from ptcomm_runner.command import OwnBackend

NAMESPACES = {
    ".ova": "@vsphere",
    ".ovf": "@vsphere",
    ".vmx": "@vsphere",
    ".conf": "@proxmox",
    ".xml": "@hyperv",
    ".vmcx": "@hyperv",
}
MAX_DESCRIPTOR = 4 << 20


@attrs.frozen
class Local:
    """A file of this host: nobody digested it."""

    data_bytes: int
    digest: str | None = None


def add_parser(subparsers: Subparsers, own: OwnBackend) -> None:
    """Add `import` to the subparsers of the program of a backend."""
    parser = subparsers.add_parser(
        "import", help="restore a machine from an .ova, .ovf, .vmx, .conf or .xml of this host"
    )
    parser.set_defaults(run=run, own=own, name="import", action="import")
    parser.add_argument("file", type=Path, help="the package, or the configuration of the machine")
    parser.add_argument(
        "--disk",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help="a file of a disk; of an .ovf those beside it that it names are found",
    )
    parser.add_argument("--where", default="/", help="/ (default), or a folder for the disks")
    command.add_job_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Run an `import` command line; return 0 when the machine was restored, else 1.

    Raises RunnerError, RestoreRefused and OSError.
    """
    files = list(_items(args.file, args.disk))
    where = str(Path(args.where).resolve())
    return command.run_job(args, partial(jobs.restore_files, args.name, files=files, where=where))


def _items(main: Path, disks: Sequence[Path]) -> Iterator[FileItem]:
    """The files with the names that a backup of them would have."""
    namespace = NAMESPACES.get(main.suffix.lower())
    if namespace is None:
        raise RunnerError(f"{main}: its name must end with one of {', '.join(NAMESPACES)}")
    folder = f"{namespace}/{main.stem}"
    yield file_item(main, f"{folder}/{main.name}")
    found = _beside(main) if main.suffix.lower() == ".ovf" and not disks else disks
    for disk in found:
        yield file_item(disk, f"{folder}/disks/{disk.name}")


def file_item(path: Path, name: str) -> FileItem:
    """A file of this host as a file of a backup, under this name."""
    length = path.stat().st_size
    head = File(name, Stat(FileType.REGULAR, length), Times(1, 1, 1))
    return FileItem(head, path, Local(length))


def _beside(descriptor: Path) -> Iterator[Path]:
    """The files of the disks that a descriptor names, which must lie in or below its folder."""
    if descriptor.stat().st_size > MAX_DESCRIPTOR:
        raise RunnerError(f"{descriptor} is larger than any OVF descriptor")
    for disk in configuration.disk_files(descriptor.read_bytes()):
        names = (disk.name, unquote(disk.name))  # VMware writes them as parts of an address
        if any(name.startswith("/") or ".." in PurePosixPath(name).parts for name in names):
            raise RunnerError(f"{descriptor} names {disk.name!r}, which is not beside it")
        paths = [descriptor.parent / name for name in names]
        yield next((path for path in paths if path.exists()), paths[-1])
