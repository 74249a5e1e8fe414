"""An OVA: one tar file with an OVF descriptor, digests of its files, and the images of the disks.

As DMTF's DSP0243 describes it. The files of disks are staged as they arrive; when all has come,
their digests are compared, before any disk is written.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Protocol
from urllib.parse import unquote

import attrs
from disk_images import TarStream

from nutanix_backend.errors import RestoreRefused
from nutanix_backend.restore import configuration
from nutanix_backend.restore.sources import Role

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from disk_images import Member
    from vm_config.readers.ovf import DiskFile

    from nutanix_backend.restore.sources import SourceFile

FORMATS = ("vmdk", "vhdx", "raw")
"""Of the images that are read, as their names end."""
MAX_TEXT = 4 << 20
"""Bytes of the longest descriptor or manifest that is kept."""
_DIGESTS = {"sha1", "sha224", "sha256", "sha384", "sha512"}
_LINE = re.compile(r"([A-Za-z0-9-]{3,10}) ?\((.*)\) ?= ?([0-9A-Fa-f]{40,128})")


class Taker(Protocol):
    """The VM whose package it is."""

    def configuration(self, file: SourceFile, content: bytes) -> None:
        """Take the descriptor."""

    def wants(self, file: SourceFile) -> bool:
        """Whether a disk is asked for."""

    def staging_file(self, name: str, length: int) -> StagingFile:
        """Give the place for a file of this length; raise RestoreRefused when it has none."""

    def take_image(self, file: SourceFile, path: Path) -> None:
        """Take a staged file of a disk, which is all of its image."""

    def say(self, text: str) -> None:
        """Write a line into the job log."""


class StagingFile(Protocol):
    """A file that is being staged."""

    path: Path

    def write(self, piece: memoryview) -> None:
        """Take the next piece."""

    def end(self) -> None:
        """It is whole."""


class _Text:
    """The descriptor or the manifest, kept in memory."""

    def __init__(self, package: Package, name: str) -> None:
        self._package = package
        self._name = name
        self._content = bytearray()

    def write(self, piece: memoryview) -> None:
        self._content += piece

    def end(self) -> None:
        self._package.take_text(self._name, bytes(self._content))


class Package:
    """A package on its way; what takes it is a VM, which gets its descriptor and its disks."""

    def __init__(self, file: SourceFile, vm: Taker) -> None:
        """Read the package `file` for `vm`."""
        self._file = file
        self._vm = vm
        self._stream = TarStream(file.file, self._open_member)
        self._descriptor: tuple[str, bytes] | None = None
        self._manifest = b""
        self._disks: dict[str, DiskFile] = {}
        self._staged: dict[str, Path] = {}

    def write(self, piece: memoryview) -> None:
        """Take the next piece of the tar file."""
        self._stream.write(piece)

    def end(self) -> None:
        """All is in: compare the digests, and hand the disks on."""
        self._stream.end()
        if self._descriptor is None:
            raise self._refused("it holds no OVF descriptor")
        wanted = {name: disk for name, disk in self._disks.items() if self._is_wanted(disk)}
        self._refuse_incomplete(wanted)
        self._check_digests(wanted)
        for name, disk in wanted.items():
            path = self._staged[name]
            named = path.with_name(f"{disk.key}.{disk.format}")
            if named.exists():
                raise self._refused(f"two of its disks are called {named.name}")
            self._vm.take_image(self._disk_file(disk), path.rename(named))

    def take_text(self, name: str, content: bytes) -> None:
        """A descriptor or a manifest is in."""
        if name.lower().endswith(".mf"):
            self._manifest = content
            return
        if self._descriptor is not None:
            raise self._refused(f"it holds two descriptors, {self._descriptor[0]} and {name}")
        self._descriptor = name, content
        self._vm.configuration(self._configuration_file(name), content)
        self._disks = {unquote(disk.name): disk for disk in configuration.disk_files(content)}
        for disk in self._disks.values():
            self._refuse_unreadable(disk)

    def _open_member(self, name: str, length: int) -> Member | None:
        """The descriptor should be first; without it every file may be that of a disk."""
        if name.lower().endswith((".ovf", ".mf")):
            if length > MAX_TEXT:
                raise self._refused(f"its {name} has {length} bytes: none is as large")
            return _Text(self, name)
        key = unquote(name)
        disk = self._disks.get(key)
        if self._descriptor is not None and (disk is None or not self._is_wanted(disk)):
            return None
        if key in self._staged:
            raise self._refused(f"{name} is in it twice")
        staged = self._vm.staging_file(f"member-{len(self._staged)}", length)
        self._staged[key] = staged.path
        return staged

    def _is_wanted(self, disk: DiskFile) -> bool:
        return self._vm.wants(self._disk_file(disk))

    def _disk_file(self, disk: DiskFile) -> SourceFile:
        name = f"{self._file.folder}/disks/{disk.key}.{disk.format}"
        return attrs.evolve(self._file, name=name, role=Role.DISK, key=disk.key, format=disk.format)

    def _configuration_file(self, name: str) -> SourceFile:
        short = name.rpartition("/")[2]
        return attrs.evolve(
            self._file,
            name=f"{self._file.folder}/{short}",
            role=Role.CONFIGURATION,
            format="ovf",
        )

    def _refuse_unreadable(self, disk: DiskFile) -> None:
        if disk.compression not in {"", "identity"}:
            raise self._refused(
                f"its {disk.name} is compressed with {disk.compression[:20]}: unpack the package, "
                "decompress the file and restore from the unpacked files"
            )
        if disk.is_in_parts:
            raise self._refused(f"its {disk.name} is split into parts: export it in one piece")
        if disk.format not in FORMATS:
            kind = (
                f"a {disk.format} image" if disk.format else "an image of a kind that is not known"
            )
            raise self._refused(
                f"its {disk.name} is {kind}, {', '.join(FORMATS)} are read: unpack the package, "
                "convert the image with qemu-img where it can be trusted, and restore that"
            )

    def _refuse_incomplete(self, disks: Mapping[str, DiskFile]) -> None:
        for name, disk in disks.items():
            if name not in self._staged:
                raise self._refused(f"its disk {disk.name} is missing: it was cut off, or edited")

    def _check_digests(self, disks: Mapping[str, DiskFile]) -> None:
        """Compare what the manifest says of the descriptor and of each disk, else their lengths."""
        found = self._digests()
        name, content = self._descriptor or ("", b"")
        if unquote(name) in found:
            algorithm, digest = found[unquote(name)]
            self._compare(name, hashlib.new(algorithm, content).hexdigest(), digest)
        unproven = []
        for key, disk in disks.items():
            path = self._staged[key]
            if key in found:
                algorithm, digest = found[key]
                with path.open("rb") as file:
                    self._compare(
                        disk.name, hashlib.file_digest(file, algorithm).hexdigest(), digest
                    )
            elif disk.size is not None and path.stat().st_size != disk.size:
                raise self._refused(
                    f"its {disk.name} has {path.stat().st_size} bytes, its descriptor says "
                    f"{disk.size}"
                )
            else:
                unproven.append(disk.name)
        self._report(len(disks), unproven)

    def _report(self, count: int, unproven: list[str]) -> None:
        proof = "which agree with the digests of its manifest"
        if unproven:
            proof = f"of which it has no digests for {', '.join(unproven[:10])}"
        self._vm.say(f"{self._file.file} holds the images of {count} disks, {proof}")

    def _digests(self) -> dict[str, tuple[str, str]]:
        """Algorithm and digest by the name of the file."""
        found = {}
        for line in self._manifest.decode("utf-8", "surrogateescape").splitlines():
            if not line.strip():
                continue
            match = _LINE.fullmatch(line.strip())
            algorithm = match[1].lower().replace("-", "") if match else ""
            if not match or algorithm not in _DIGESTS:
                raise self._refused(f"its manifest has a line {line.strip()[:80]!r}, not a digest")
            found[unquote(match[2])] = algorithm, match[3].lower()
        return found

    def _compare(self, name: str, found: str, expected: str) -> None:
        if found != expected:
            raise self._refused(
                f"its {name} is not what its manifest says: it was damaged or changed. Fetch the "
                "package again; if somebody edited it on purpose, remove the manifest from it"
            )

    def _refused(self, why: str) -> RestoreRefused:
        return RestoreRefused(f"{self._file.file} cannot be restored: {why}")
