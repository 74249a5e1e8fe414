# mypy: disable-error-code="attr-defined,method-assign,index"
"""One bug for each target, put in at run time: a target that misses it proves nothing.

Each is of the kind that a hurried change makes: a check off by one, dropped, or too forgiving.
"""

from __future__ import annotations

import os
from datetime import datetime
from typing import TYPE_CHECKING, Any

import attrs
import digests.image
import disk_images.reading
import disk_images.tar_stream
import durable.records
import nutanix_backend.names
import nutanix_backend.restore.sources
import nutanix_backend.settings.parameters
import phcbt01._apply
import phcbt01._merge
import phcbt01._sequence
import phcbt01.decode
import phcbt01.index
import phcbt01.testing
import prism_client._regions
import prism_client._v3.api
import prism_client._v3.wire
import prism_client._v4.api
import ptcomm._commands
import ptcomm.packets
import vm_config.readers.text
import vm_replica.protocol.lines

if TYPE_CHECKING:
    from collections.abc import Callable


def packets() -> None:
    """A length that is read with int(), which takes blanks, signs and underscores."""
    real = ptcomm.packets._decode_header

    def lenient(data: bytes, offset: int) -> Any:
        try:
            digits = b"%06d" % abs(int(data[1:7]))
        except ValueError:
            digits = data[1:7]
        return real(data[:1] + digits + data[7:], offset)

    ptcomm.packets._decode_header = lenient


def sessions() -> None:
    """Lines that nobody would write like that are accepted."""
    ptcomm._commands.read = lambda kind, lines: ptcomm._commands._READERS[kind](lines)


def decode() -> None:
    """Bytes after the last region are not noticed by the index."""
    real = phcbt01.index.read_index

    def forgiving(stream: Any, layout: Any = phcbt01.OURS) -> Any:
        try:
            return real(stream, layout)
        except phcbt01.FormatError as error:
            if error.code is phcbt01.Code.TRAILING_BYTES:
                return None
            raise

    phcbt01.testing.read_index = forgiving


def index() -> None:
    """Find misses the last byte of a region."""
    real = phcbt01.Index.find
    phcbt01.Index.find = lambda self, offset: real(self, offset + 1)


def apply() -> None:
    """Zeros are taken for nothing to write."""
    real = phcbt01._apply.write_sparse

    def skipping(target: Any, offset: int, view: Any) -> None:
        if any(view):
            real(target, offset, view)

    phcbt01._apply.write_sparse = skipping


def merge() -> None:
    """The older delta wins."""
    real = phcbt01._merge._overlay
    phcbt01._merge._overlay = lambda older, newer: real(newer, older)


def lists() -> None:
    """A marked block may be one of zeros: then there are two lists of one image."""
    digests.image.ImageDigests._refuse_zero = lambda *_: None


def prism_v4() -> None:
    """The end of a region may lie one block behind the disk."""
    real = prism_client._regions.CheckedListing._region

    def unclipped(self: Any, item: Any, listed: int, page: Any) -> Any:
        region = real(self, item, listed, page)
        return attrs.evolve(region, length=int(item["length"]))

    prism_client._regions.CheckedListing._region = unclipped


def prism_v3() -> None:
    """A time that is none is not expected."""
    prism_client._v3.wire._created = lambda metadata: datetime.fromisoformat(
        metadata.text("creation_time")
    )


def prism_lists() -> None:
    """Every entry is taken to have an id."""
    prism_client._v4.api.label = lambda entry: ("", entry["extId"])
    prism_client._v3.api.label = lambda entry: ("", entry["metadata"]["uuid"])


def manifest() -> None:
    """Text without a form in UTF-8 is accepted."""
    real = durable.records._strict
    converter = durable.records._converter
    converter.register_structure_hook(
        str, lambda value, kind: value if isinstance(value, str) else real(value, kind)
    )


def state() -> None:
    """What is saved is not UTF-8."""
    real = durable.records.dump
    durable.records.dump = lambda record: real(record).decode().encode("utf-16")


def names() -> None:
    """Dots in the cluster are not looked for."""
    real = nutanix_backend.names._PATTERNS

    def lenient(name: str) -> Any:
        match = next(filter(None, (pattern.fullmatch(name) for pattern in real)), None)
        if match is None:
            raise nutanix_backend.names.RestoreRefused(name)
        folder = nutanix_backend.names.VmFolder(match["cluster"], match["vm"], match["namespace"])
        kind = nutanix_backend.names.FileKind.METADATA
        where = match["where"]
        return nutanix_backend.names.VirtualFile(name[len(where) :], where, folder, kind)

    nutanix_backend.names.recognise = lenient


def parameters() -> None:
    """A time that is no number is not expected."""
    nutanix_backend.settings.values.READERS[nutanix_backend.settings.table.Kind.SECONDS] = (
        lambda _, text: float(text)
    )


def readers() -> None:
    """Memory may be any number, also none."""
    module = vm_config.readers.text
    module.number = lambda text, what, *, largest: int(text or 0) if what and largest else 0


def sources() -> None:
    """A folder without a name is one."""
    real = nutanix_backend.restore.sources._folder_and_file
    nutanix_backend.restore.sources._folder_and_file = lambda name, parts: (
        ([".."], ["100.conf"]) if "" in parts else real(name, parts)
    )


def images() -> None:
    """What lies outside of the file is read all the same, and is short."""
    file = disk_images.reading.ImageFile
    file.read = lambda self, offset, length, what: os.pread(
        self._fd, length, max(offset, 0) if what else 0
    )


def packages() -> None:
    """Where an archive ends is not looked at."""
    stream: Any = disk_images.tar_stream.TarStream
    stream.end = lambda _self: None


def replication() -> None:
    """A word that is no command is not expected."""
    lines = vm_replica.protocol.lines
    lines.kind_of = lambda line: lines._BY_NAME[line.split(b" ", 1)[0].decode(errors="replace")]


PLANTED: dict[str, Callable[[], None]] = {
    "packets": packets,
    "sessions": sessions,
    "decode": decode,
    "index": index,
    "apply": apply,
    "merge": merge,
    "lists": lists,
    "prism_v4": prism_v4,
    "prism_v3": prism_v3,
    "prism_lists": prism_lists,
    "manifest": manifest,
    "state": state,
    "names": names,
    "readers": readers,
    "sources": sources,
    "images": images,
    "packages": packages,
    "parameters": parameters,
    "replication": replication,
}
