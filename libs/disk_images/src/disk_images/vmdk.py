"""VMware's vmdk: sparse, stream-optimized, flat with a descriptor, split into extents.

Layout as VMware's "Virtual Disk Format 5.0" describes it. A descriptor is read here, and another
with the extents found is written for qemu-img, which so never reads one of the backup.
"""

from __future__ import annotations

import re
import struct
import unicodedata
from array import array
from enum import Enum
from typing import TYPE_CHECKING

import attrs
from vm_config.readers import text as texts

from disk_images.reading import MAX_SIZE, ZEROS, GuestImage

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Mapping, Sequence

    from disk_images.errors import ImageRefused
    from disk_images.reading import ImageFile

SECTOR = 512
_MAGIC, _CHANGES = b"KDMV", (b"COWD", b"\xbe\xba\xfe\xca\0\0\0\0")
_HEADER = struct.Struct("<4sIIQQQQIQQQ5xH")
_MARKER = struct.Struct("<QI")
_GRAIN_TABLE = 512  # entries, of 4 bytes
_AT_END = (1 << 64) - 1
_REDUNDANT, _ZEROED, _COMPRESSED, _MARKERS = 1 << 1, 1 << 2, 1 << 16, 1 << 17
_MAX_DESCRIPTOR, _MAX_LINE = 1 << 20, 4096
_OF_A_SNAPSHOT = "it holds the changes of a snapshot, not a disk"
_ACCESS = (["RW"], ["RDONLY"], ["NOACCESS"])
_KINDS = {
    "monolithicsparse",
    "monolithicflat",
    "twogbmaxextentsparse",
    "twogbmaxextentflat",
    "streamoptimized",
    "vmfs",
}
_ZEROS_AT_ONCE = 1 << 40
"""Bytes of the largest file of zeros: some file systems have none of 64 TiB."""
_EXTENT = re.compile(
    r"\s*(?P<access>RW|RDONLY|NOACCESS)\s+(?P<sectors>[0-9]{1,18})\s+(?P<type>[A-Za-z]+)"
    r'(?:\s+"(?P<file>[^"]*)"(?:\s+(?P<offset>[0-9]{1,18}))?)?(?:\s+\S+)*\s*'
)


class _Content(Enum):
    """What the first bytes of a file say."""

    DESCRIPTOR = "descriptor"
    SPARSE = "sparse"
    CHANGES = "changes"
    FLAT = "flat"


@attrs.frozen
class _Extent:
    """A line of a descriptor; offset and length in sectors. One of zeros has no file."""

    sectors: int
    is_sparse: bool
    file: str
    offset: int

    @property
    def is_zeros(self) -> bool:
        return not self.file


@attrs.frozen
class _Descriptor:
    kind: str
    extents: tuple[_Extent, ...]

    @property
    def files(self) -> list[str]:
        """The files that are named, each once."""
        return list(dict.fromkeys(e.file for e in self.extents if not e.is_zeros))

    @property
    def zeros(self) -> int:
        """Bytes of the file of zeros that is needed."""
        longest = max((e.sectors for e in self.extents if e.is_zeros), default=0)
        return min(longest * SECTOR, _ZEROS_AT_ONCE)


@attrs.frozen
class _Sparse:
    """The header of a sparse extent; sizes in sectors, offsets in bytes."""

    capacity: int
    grain: int
    flags: int
    tables: int
    spare_tables: int
    descriptor: int
    descriptor_length: int
    is_at_end: bool = False

    @property
    def is_compressed(self) -> bool:
        return bool(self.flags & _COMPRESSED)


def extent_name(number: int) -> str:
    """The name of a file of data in the descriptor that is written here."""
    return f"extent-{number}"


def examine(images: Sequence[ImageFile]) -> GuestImage:
    """Vet the files of one disk; raise ImageRefused."""
    contents = [_content(image) for image in images]
    descriptors = [i for i, c in zip(images, contents, strict=True) if c is _Content.DESCRIPTOR]
    if len(descriptors) > 1:
        raise descriptors[1].refused(f"{descriptors[0].name} is a descriptor of the same disk")
    if descriptors:
        return _of_extents(descriptors[0], [i for i in images if i is not descriptors[0]])
    if len(images) == 1 and contents[0] is _Content.SPARSE:
        return _of_one_file(images[0])
    if _Content.CHANGES in contents:
        raise images[contents.index(_Content.CHANGES)].refused(_OF_A_SNAPSHOT)
    raise images[0].refused("the descriptor of its disk is missing: select all files of the disk")


def is_whole_disk(image: ImageFile) -> bool:
    """Tell whether a file is a descriptor or holds one: its name may look like that of an extent.

    An extent of several may have room for a descriptor, which is empty.
    """
    if image.read(0, min(image.size, 4), "header") == _MAGIC:
        start = _header(image, 0).descriptor
        return start > 0 and image.read(start, 1, "descriptor") != b"\0"
    return _is_descriptor(image)


def _content(image: ImageFile) -> _Content:
    start = image.read(0, min(image.size, 8), "header")
    if start.startswith(_MAGIC):
        return _Content.SPARSE
    if start.startswith(_CHANGES):
        return _Content.CHANGES
    return _Content.DESCRIPTOR if _is_descriptor(image) else _Content.FLAT


def _is_descriptor(image: ImageFile) -> bool:
    start = texts.decode(image.read(0, min(image.size, SECTOR), "header"), "descriptor")
    return re.match(r"[\s\0]*#\s*Disk\s*Descriptor\s*File", start, re.IGNORECASE) is not None


# --- one file, with the descriptor inside


def _of_one_file(image: ImageFile) -> GuestImage:
    sparse = _sparse(image)
    if sparse.descriptor_length > _MAX_DESCRIPTOR:
        raise image.refused("its descriptor is larger than any")
    text = image.read(sparse.descriptor, sparse.descriptor_length, "descriptor").partition(b"\0")[0]
    if not sparse.descriptor or not text:
        raise image.refused("it is one extent of several: select all files of the disk")
    found = _descriptor(image, text)
    if len(found.extents) > 1:
        raise image.refused("its descriptor names other files")
    return GuestImage(
        format="vmdk",
        kind=found.kind,
        name=image.name,
        size=sparse.capacity * SECTOR,
        data_bytes=_allocated(image, sparse),
        files=(image.path,),
        descriptor=_rewritten([_Extent(sparse.capacity, True, extent_name(0), 0)]),  # noqa: FBT003 - is_sparse
        header=_header_for_the_start(image) if sparse.is_at_end else b"",
    )


# --- a descriptor and its extents


def _of_extents(main: ImageFile, others: Sequence[ImageFile]) -> GuestImage:
    if main.size > _MAX_DESCRIPTOR:
        raise main.refused("it is larger than any descriptor")
    by_name = {_composed(other.name): other for other in others}
    found = _descriptor(main, main.read(0, main.size, "content"), by_name)
    if not found.extents:
        raise main.refused("it names no extents")
    if missing := [name for name in found.files if name not in by_name]:
        raise _missing(main, missing[0])
    if spare := set(by_name) - set(found.files):
        raise main.refused(f"{min(spare)} came with it, which is none of its extents")
    names = {name: extent_name(number) for number, name in enumerate(found.files)}
    return GuestImage(
        format="vmdk",
        kind=found.kind,
        name=main.name,
        size=sum(extent.sectors for extent in found.extents) * SECTOR,
        data_bytes=_data_of_all(main, found.extents, by_name),
        files=tuple(by_name[name].path for name in found.files),
        descriptor=_rewritten(attrs.evolve(e, file=names.get(e.file, "")) for e in found.extents),
        zeros=found.zeros,
    )


def _composed(name: str) -> str:
    """A name as most systems spell it: macOS takes letters and their accents apart."""
    return unicodedata.normalize("NFC", name)


def _data_of_all(
    main: ImageFile, extents: Sequence[_Extent], by_name: Mapping[str, ImageFile]
) -> int:
    """The bytes of all extents; a file must be as long as all that is shown of it."""
    shown: dict[str, int] = {}
    data_bytes = 0
    for extent in extents:
        if extent.is_zeros:
            continue
        if extent.is_sparse and extent.file in shown:
            raise main.refused(f"it shows the content of {extent.file} more than once")
        data_bytes += _data_of(main, extent, by_name[extent.file])
        shown[extent.file] = shown.get(extent.file, 0) + extent.sectors * SECTOR
    for name in (e.file for e in extents if not e.is_zeros and not e.is_sparse):
        if shown[name] > by_name[name].size:
            raise main.refused(f"it shows the content of {name} more than once")
    return data_bytes


def _missing(main: ImageFile, name: str) -> ImageRefused:
    """A name with a path or a protocol in it can only be meant to leave the backup."""
    if set(name) & set("/\\:") or name in {"", ".", ".."}:
        return main.refused(f"its extent {name!r} lies outside of the backup")
    return main.refused(f"its extent {name!r} is missing: select all files of the disk")


def _data_of(main: ImageFile, extent: _Extent, image: ImageFile) -> int:
    """The bytes that an extent holds at most, when it is as large as its descriptor says."""
    if not extent.is_sparse:
        if (extent.offset + extent.sectors) * SECTOR > image.size:
            raise image.refused(f"it is {image.size} bytes, shorter than {main.name} says")
        return min(extent.sectors * SECTOR, image.allocated)
    if _content(image) is _Content.CHANGES:
        raise image.refused(_OF_A_SNAPSHOT)
    sparse = _sparse(image)
    if sparse.is_at_end:
        raise image.refused("it is a stream, which is never one extent of several")
    if sparse.capacity != extent.sectors:
        raise image.refused(
            f"it has {sparse.capacity} sectors where {main.name} says {extent.sectors}"
        )
    return _allocated(image, sparse)


def _descriptor(
    image: ImageFile, content: bytes, files: Container[str] = frozenset()
) -> _Descriptor:
    """Read a descriptor: what stands on another image, on a device or on a key is refused.

    It says in which encoding its names are; where none of `files` has such a name, they are taken
    as the bytes that they are.
    """
    settings, lines = _settings(image, _text(content, texts.declared_encoding(content)))
    _refuse_dependent(image, settings)
    kind = settings.get("createtype", "")
    if kind.lower() not in _KINDS:
        raise image.refused(f"images of type {kind[:50]!r} cannot be restored")
    found = _Descriptor(kind, tuple(_extent(image, line) for line in lines))
    if any(name not in files for name in found.files):
        _, lines = _settings(image, content.decode("utf-8", "surrogateescape"))
        other = _Descriptor(kind, tuple(_extent(image, line) for line in lines))
        if all(name in files for name in other.files):
            return other
    return found


def _text(content: bytes, encoding: str) -> str:
    return _composed(texts.decode(content, "descriptor", encoding))


def _settings(image: ImageFile, text: str) -> tuple[dict[str, str], list[str]]:
    """The settings by their keys in lower case, and the lines of extents."""
    settings: dict[str, str] = {}
    extents = []
    for line in texts.lines(text):
        if len(line) > _MAX_LINE:
            raise image.refused("a line of its descriptor is longer than any")
        if line.split(maxsplit=1)[:1] in _ACCESS:
            extents.append(line)
        else:
            key, _, value = line.partition("=")
            settings.setdefault(key.strip().lower(), value.strip().strip('"'))
    return settings, extents


def _refuse_dependent(image: ImageFile, settings: Mapping[str, str]) -> None:
    """Raise ImageRefused when more than the files is needed: a parent, or a key."""
    if "parentfilenamehint" in settings or settings.get("parentcid", "ffffffff") != "ffffffff":
        raise image.refused("it stands on another image: it is a snapshot or a linked clone")
    has_key = any(
        value and key.startswith(("encryption", "keyid", "ddb.encryption"))
        for key, value in settings.items()
    )
    if has_key or "crypt" in settings.get("ddb.iofilters", "").lower():
        raise image.refused(
            "the disk is encrypted: what is in its files cannot be read without the key of its "
            "host. Decrypt the VM there and back it up again"
        )


def _extent(image: ImageFile, line: str) -> _Extent:
    found = _EXTENT.fullmatch(line)
    if not found:
        raise image.refused(f"its extent {line.strip()[:100]!r} cannot be understood")
    sectors, kind, offset = int(found["sectors"]), found["type"].upper(), int(found["offset"] or 0)
    is_data = kind in {"FLAT", "VMFS", "SPARSE"} and found["file"] is not None
    is_zeros = kind == "ZERO" and found["file"] is None
    if found["access"] == "NOACCESS" or not (is_data or is_zeros):
        raise image.refused(f"its extent {line.strip()[:100]!r} is no data of a disk")
    name = found["file"] or ""
    if is_data and not name:
        raise _missing(image, name)
    if not 0 < sectors <= MAX_SIZE // SECTOR or offset > MAX_SIZE // SECTOR:
        raise image.refused(f"its extent {line.strip()[:100]!r} is larger than any disk")
    return _Extent(sectors, kind == "SPARSE", name, offset)


def _rewritten(extents: Iterable[_Extent]) -> str:
    lines = [line for extent in extents for line in _lines_of(extent)]
    head = ["# Disk DescriptorFile", "version=1", "CID=fffffffe", "parentCID=ffffffff"]
    return "\n".join([*head, 'createType="twoGbMaxExtentSparse"', *lines, ""])


def _lines_of(extent: _Extent) -> list[str]:
    """An extent for qemu-img, which knows no zeros: it gets a file of them, as often as needed."""
    if extent.is_sparse:
        return [f'RW {extent.sectors} SPARSE "{extent.file}"']
    if not extent.is_zeros:
        return [f'RW {extent.sectors} FLAT "{extent.file}" {extent.offset}']
    most = _ZEROS_AT_ONCE // SECTOR
    lengths = [min(most, extent.sectors - at) for at in range(0, extent.sectors, most)]
    return [f'RW {length} FLAT "{ZEROS}" 0' for length in lengths]


# --- sparse extents


def _sparse(image: ImageFile) -> _Sparse:
    """The header; that of a stream stands behind the data, where all is known."""
    found = _header(image, 0)
    if found.tables == _AT_END * SECTOR:
        found = attrs.evolve(
            _header(image, image.size - 2 * SECTOR),
            descriptor=found.descriptor,
            descriptor_length=found.descriptor_length,
            is_at_end=True,
        )
    return found


def _header_for_the_start(image: ImageFile) -> bytes:
    """What stands at the end of a stream, but for where its descriptor is."""
    start, end = (image.read(at, SECTOR, "header") for at in (0, image.size - 2 * SECTOR))
    return end[:28] + start[28:44] + end[44:]


def _header(image: ImageFile, offset: int) -> _Sparse:
    fields = _HEADER.unpack(image.read(offset, _HEADER.size, "header"))
    magic, version, flags, capacity, grain, descriptor, length, entries, spare, tables = fields[:10]
    if magic != _MAGIC or not 1 <= version <= 3 or entries != _GRAIN_TABLE:
        raise image.refused("its header is damaged")
    if not 0 < capacity <= MAX_SIZE // SECTOR:
        raise image.refused(f"it says that it has {capacity} sectors")
    if not 8 <= grain <= 2048 or grain & (grain - 1):
        raise image.refused(f"it says that its grains have {grain} sectors")
    if fields[11] > 1 or bool(flags & _COMPRESSED) != bool(fields[11]):
        raise image.refused("its compression is not known")
    return _Sparse(
        capacity=capacity,
        grain=grain,
        flags=flags,
        tables=tables * SECTOR,
        spare_tables=spare * SECTOR if flags & _REDUNDANT else 0,
        descriptor=descriptor * SECTOR,
        descriptor_length=length * SECTOR,
    )


def _allocated(image: ImageFile, sparse: _Sparse) -> int:
    """The bytes of all grains, each of which must lie in the file."""
    grains = -(-sparse.capacity // sparse.grain)
    count = -(-grains // _GRAIN_TABLE)
    directory = _numbers(image.read(sparse.tables, 4 * count, "grain directory"))
    if sparse.spare_tables:
        image.read(sparse.spare_tables, 4 * count, "second grain directory")
    present = [(at, sector) for at, sector in enumerate(directory) if sector]
    if len({sector for _, sector in present}) != len(present):
        raise image.refused("its grain directory names a table twice")
    allocated = 0
    for at, sector in present:
        table = _numbers(image.read(sector * SECTOR, 4 * _GRAIN_TABLE, "grain table"))
        table = table[: grains - at * _GRAIN_TABLE]
        allocated += _grains(image, sparse, at * _GRAIN_TABLE, table)
    least = SECTOR if sparse.is_compressed else sparse.grain * SECTOR
    if (allocated - 1) * least > image.size:
        raise image.refused("its grain tables show the same grains more than once")
    return min(allocated * sparse.grain, sparse.capacity) * SECTOR


def _grains(image: ImageFile, sparse: _Sparse, first: int, table: array[int]) -> int:
    """The number of grains that a table names, all inside the file."""
    absent = table.count(0) + (table.count(1) if sparse.flags & _ZEROED else 0)
    if sparse.is_compressed:
        _refuse_bad_markers(image, sparse, first, table)
    elif absent < len(table) and (max(table) + sparse.grain) * SECTOR > image.size:
        _refuse_outside(image, sparse, first, table)
    return len(table) - absent


def _refuse_outside(image: ImageFile, sparse: _Sparse, first: int, table: array[int]) -> None:
    """The last grain of the disk may be shorter than others; no other may leave the file."""
    for at, sector in enumerate(table, first):
        length = min(sparse.grain, sparse.capacity - at * sparse.grain)
        if sector > 1 and (sector + length) * SECTOR > image.size:
            raise image.refused(f"grain {at} lies outside of the file: it is cut off, or lies")


def _refuse_bad_markers(image: ImageFile, sparse: _Sparse, first: int, table: array[int]) -> None:
    """A compressed grain says which sectors it holds and how long it is."""
    for at, sector in enumerate(table, first):
        if sector > 1:
            start = sector * SECTOR
            where, length = _MARKER.unpack(image.read(start, _MARKER.size, f"grain {at}"))
            end = start + _MARKER.size + length
            too_long = length > 2 * sparse.grain * SECTOR or end > image.size
            if where != at * sparse.grain or not length or too_long:
                raise image.refused(f"grain {at} is not what its table says")


def _numbers(content: bytes) -> array[int]:
    numbers = array("I", content)
    if numbers.itemsize != 4:
        raise AssertionError("an unsigned int has four bytes on every Linux")
    return numbers
