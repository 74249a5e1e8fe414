"""Copies on a plain host: a folder with the disks as images, and a libvirt domain that boots them.

A copy is made below another name and gets its own when it is complete. A folder is ours by the key
in it, and is not removed while a guest runs from it.
"""

from __future__ import annotations

import fcntl
import os
import shlex
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import durable
import qemu_img
from command_line.text import size, utc
from durable.names import component
from vm_config import libvirt
from vm_config.libvirt import DomainDisk
from vm_replica.failover.errors import FailoverFailed, FailoverRefused

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from vm_replica.failover.entry_points import Say, TargetOptions
    from vm_replica.failover.point import Point, PointDisk
    from vm_replica.failover.transitions import Copy

KIND = "host"
"""The name of its entry point."""
FORMATS = ("qcow2", "raw")
_KEY = "podheitor-copy"
_PARTIAL = ".partial"


@contextmanager
def target(parameters: Mapping[str, str], options: TargetOptions, _say: Say, /) -> Iterator[Host]:
    """The entry point: `folder` is where copies are made, `format` (qcow2) one of FORMATS.

    `volume_groups` is yes or no: whether copies have the disks of volume groups.
    """
    if unknown := sorted(set(parameters) - {"folder", "format", "volume_groups"}):
        raise FailoverRefused(
            f"this host has no parameter {unknown[0]}: it has folder, format and volume_groups"
        )
    if not parameters.get("folder"):
        raise FailoverRefused("give the folder for the copy: --folder DIR")
    image_format = parameters.get("format", "qcow2")
    if image_format not in FORMATS:
        raise FailoverRefused(f"{image_format} is not a format of images: give qcow2 or raw")
    groups = parameters.get("volume_groups", "yes")
    if groups not in {"yes", "no"}:
        raise FailoverRefused(f"volume_groups={groups}: give yes or no")
    folder = Path(parameters["folder"]).absolute()
    yield Host(folder, image_format, options.networks, leaves_groups=groups == "no")


@attrs.frozen
class Host:
    """Makes copies in folders below `folder`.

    `format` is one of FORMATS; `bridges` gives for networks of the source those of this host; with
    `leaves_groups` a copy has no disks of volume groups.
    """

    folder: Path
    format: str = "qcow2"
    bridges: Mapping[str, str] = attrs.field(factory=dict)
    leaves_groups: bool = attrs.field(default=False, kw_only=True)

    @property
    def kind(self) -> str:
        """Plain host."""
        return KIND

    @property
    def starts(self) -> bool:
        """Whoever defines the domain starts it."""
        return False

    @property
    def takes_groups(self) -> bool:
        """The disks of volume groups are further disks of the domain."""
        return True

    @property
    def place(self) -> str:
        """The folder."""
        return str(self.folder)

    def refuse_unfit(self, name: str, point: Point, *, test: bool) -> None:  # noqa: ARG002 - one rule for both
        """Raise FailoverRefused for a folder that is missing or full, or a name that is taken."""
        if not self.folder.is_dir():
            raise FailoverRefused(
                f"{self.folder} is not a folder: make it, or give another --folder"
            )
        if self._final(name).exists():
            raise FailoverRefused(f"{self._final(name)} exists: remove it, or give another --name")
        point = self._wanted(point)
        free = shutil.disk_usage(self.folder).free
        # raw and qcow2 of one disk at a time
        largest = max((disk.allocated for disk in point.all_disks), default=0)
        needed = point.allocated + (largest if self.format == "qcow2" else 0)
        if free < needed:
            raise FailoverRefused(
                f"{self.folder} has {size(free)} free, the copy needs {size(needed)}"
            )

    def make(self, copy: Copy, point: Point, *, test: bool) -> str:
        """Write the disks and the domain; a test copy has no network cards."""
        point = self._wanted(point)
        partial, final = self._partial(copy.name), self._final(copy.name)
        durable.make_folder(partial)
        durable.replace(partial / _KEY, copy.key.encode())
        disks = [
            DomainDisk(disk.disk_id, self._image(partial / name, disk), self.format)
            for name, disk in _files(point)
        ]
        content = libvirt.describe(
            point.machine,
            copy.name,
            copy.key,
            [attrs.evolve(disk, path=final / disk.path.name) for disk in disks],
            {} if test else self.bridges,
            accelerated=Path("/dev/kvm").exists(),
        )
        durable.replace(partial / "domain.xml", content)
        if final.exists():
            raise FailoverFailed(
                f"{final} was made by somebody else in the meantime: remove it, or give --name"
            )
        durable.rename(partial, final)
        define = shlex.join(["virsh", "define", str(final / "domain.xml")])
        start = shlex.join(["virsh", "start", libvirt.name_of(copy.name)])
        return "\n".join([*_words(point), f"{copy.name} is ready: {define} && {start}"])

    def watch(self, copy: Copy) -> str:
        """Raise FailoverRefused: nothing is started here."""
        raise FailoverRefused(f"{copy.name} at {self.place} is not started by this program")

    def has(self, copy: Copy) -> bool:
        """Whether its folder is there."""
        return _is_ours(self._final(copy.name), copy.key)

    @property
    def shares_groups(self) -> bool:
        """Each domain has images of its own."""
        return False

    def remove(self, copy: Copy, _kept: Mapping[str, str] | None = None, /) -> None:
        """Remove the folder; raise FailoverFailed while a guest uses the images."""
        for folder in (self._final(copy.name), self._partial(copy.name)):
            if _is_ours(folder, copy.key):
                _refuse_in_use(folder.iterdir(), copy.name)
                shutil.rmtree(folder)

    def _wanted(self, point: Point) -> Point:
        return point.without_groups() if self.leaves_groups else point

    def _image(self, raw: Path, disk: PointDisk) -> Path:
        disk.write(raw)
        if self.format == "raw":
            return raw
        qcow2 = raw.with_suffix(".qcow2")
        qemu_img.convert_to_qcow2(raw, qcow2)
        raw.unlink()
        _sync(qcow2)
        return qcow2

    def _final(self, name: str) -> Path:
        return self.folder / component(name)

    def _partial(self, name: str) -> Path:
        return self.folder / f"{component(name)}{_PARTIAL}"


def _files(point: Point) -> Iterator[tuple[str, PointDisk]]:
    """The disks of the domain, and their files; those of volume groups are behind the VM's own."""
    for disk in point.disks:
        yield f"disk-{disk.index}.raw", disk
    for group_number, group in enumerate(point.groups):
        for number, disk in enumerate(group.disks):
            yield f"group-{group_number}-disk-{number}.raw", disk


def _words(point: Point) -> Iterator[str]:
    for number, group in enumerate(point.groups):
        yield (
            f"volume group {group.name} as of {utc(group.taken)} is group-{number}-disk-*, further "
            "disks of the domain: other VMs that share it have copies of their own"
        )
    yield from (f"warning: {line}" for line in point.missing)


def _is_ours(folder: Path, key: str) -> bool:
    """Whether a folder holds this key, or nothing yet."""
    if not folder.is_dir():
        return False
    try:
        return (folder / _KEY).read_text() == key
    except FileNotFoundError:
        return not any(path.name != f"{_KEY}.new" for path in folder.iterdir())


def _refuse_in_use(paths: Iterable[Path], name: str) -> None:
    """qemu locks the images that it has open, so a lock on the whole file fails."""
    for path in paths:
        with path.open("r+b") as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                stop = shlex.join(["virsh", "destroy", libvirt.name_of(name)])
                raise FailoverFailed(
                    f"{path} is in use: the VM {name} is running; run {stop}"
                ) from error


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
