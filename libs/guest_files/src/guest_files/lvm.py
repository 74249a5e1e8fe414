"""LVM2: the logical volumes of volume groups, over any number of disks.

The layout of labels and metadata areas is the one of lvm2's own format_text documentation. libvslvm
is not used: it reads no striped volume, and does not tell a thin one from a plain one. Of the
kinds of segment only plain and striped ones are read; any other kind is named and refused.
"""

from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING, Any, Final

import attrs

from guest_files.errors import FilesError
from guest_files.sources import SECTOR, Pieces

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from guest_files.sources import Source

_LARGEST_TEXT: Final = 16 << 20
_DEEPEST: Final = 16
_MOST_PIECES: Final = 1_000_000
_LABEL_SECTORS: Final = 4
_AREA_MAGIC: Final = b" LVM2 x[5A%r0N*>"
_TOKENS = re.compile(
    r"""\s+|\#[^\n]*|(?P<text>"(?:[^"\\]|\\.)*")|(?P<number>-?[0-9]+(?:\.[0-9]+)?)"""
    r"""|(?P<word>[A-Za-z_][A-Za-z0-9_.+/-]*)|(?P<sign>[{}\[\]=,])""",
    re.DOTALL,
)


class BadMetadata(FilesError):
    """The metadata of a volume group cannot be read."""


@attrs.frozen
class LogicalVolume:
    """A logical volume: its name (group/volume), and its bytes, or why they cannot be had."""

    name: str
    size: int
    source: Source | None = None
    reason: str = ""


@attrs.frozen
class PhysicalVolume:
    """A place with the label of LVM: its id, and the text of the metadata that it carries."""

    identifier: str
    source: Source
    text: str


def physical_volume(source: Source) -> PhysicalVolume | None:
    """The physical volume that a source is, if it is one. Raises BadMetadata, OSError."""
    start = source.read_at(0, _LABEL_SECTORS * SECTOR)
    for at in range(0, len(start), SECTOR):
        sector = start[at : at + SECTOR]
        if sector.startswith(b"LABELONE") and sector[24:32] == b"LVM2 001":
            return _labelled(source, sector)
    return None


def _labelled(source: Source, sector: bytes) -> PhysicalVolume:
    (header,) = struct.unpack_from("<I", sector, 20)
    identifier = sector[header : header + 32].decode("ascii", "replace")
    pairs = [struct.unpack_from("<QQ", sector, at) for at in range(header + 40, SECTOR - 15, 16)]
    _, areas, *_ = _lists(pairs)  # those of data, then those of metadata
    texts = [text for offset, size in areas if (text := _text(source, offset, size))]
    return PhysicalVolume(identifier, source, max(texts, key=_sequence, default=""))


def _lists(pairs: Iterable[tuple[int, int]]) -> list[list[tuple[int, int]]]:
    """Lists of areas, each of which ends with a pair of zeros."""
    found: list[list[tuple[int, int]]] = [[]]
    for offset, size in pairs:
        if offset:
            found[-1].append((offset, size))
        else:
            found.append([])
    return [*found, []]


def _text(source: Source, offset: int, size: int) -> str:
    """The newest text in a metadata area, which is a ring."""
    header = source.read_at(offset, SECTOR)
    if header[4:20] != _AREA_MAGIC:
        return ""
    start, length, _, flags = struct.unpack_from("<QQII", header, 40)
    if not start or flags & 1:
        return ""
    if length > min(size, _LARGEST_TEXT) or not SECTOR <= start < size:
        raise BadMetadata("the metadata of LVM lies outside of its area")
    until_end = min(length, size - start)
    raw = source.read_at(offset + start, until_end)
    raw += source.read_at(offset + SECTOR, length - until_end)
    return raw.rstrip(b"\0").decode("utf-8", "replace")


def _sequence(text: str) -> int:
    match = re.search(r"\bseqno\s*=\s*([0-9]{1,18})", text)
    return int(match[1]) if match else 0


def logical_volumes(found: Iterable[PhysicalVolume]) -> Iterator[LogicalVolume]:
    """The volumes of all groups; those whose disks are not all there have a reason."""
    places = {_plain(volume.identifier): volume.source for volume in found}
    newest: dict[str, tuple[int, dict[str, Any]]] = {}
    for volume in found:
        if volume.text:
            name, group = _group(volume.text)
            key = str(group.get("id", name))
            if key not in newest or newest[key][0] < _sequence(volume.text):
                newest[key] = (_sequence(volume.text), {"name": name, **group})
    for _, group in newest.values():
        yield from _volumes(group, places)


def _plain(identifier: str) -> str:
    return identifier.replace("-", "")


def _group(text: str) -> tuple[str, dict[str, Any]]:
    """The name and the section of the group: the one that has physical volumes."""
    for name, value in parse(text).items():
        if isinstance(value, dict) and "physical_volumes" in value:
            return name, value
    raise BadMetadata("the metadata of LVM names no volume group")


def _volumes(group: dict[str, Any], places: dict[str, Source]) -> Iterator[LogicalVolume]:
    volumes = group.get("logical_volumes", {})
    if not isinstance(volumes, dict):
        raise BadMetadata("the metadata of LVM has no list of volumes")
    for name, volume in volumes.items():
        if not isinstance(volume, dict) or "VISIBLE" not in volume.get("status", []):
            continue
        full = f"{group['name']}/{name}"
        try:
            yield _volume(full, volume, group, places)
        except (KeyError, TypeError, IndexError, OverflowError) as error:
            raise BadMetadata(f"the metadata of LVM describes {full} in a wrong way") from error


def _volume(
    name: str, volume: dict[str, Any], group: dict[str, Any], places: dict[str, Source]
) -> LogicalVolume:
    extent = _number(group["extent_size"]) * SECTOR
    segments = [value for key, value in volume.items() if re.fullmatch(r"segment[0-9]+", key)]
    segments.sort(key=lambda segment: _number(segment["start_extent"]))
    size = sum(_number(segment["extent_count"]) for segment in segments) * extent
    kinds = {str(segment["type"]) for segment in segments} - {"striped"}
    if kinds:
        return LogicalVolume(name, size, reason=f"it is a {', '.join(sorted(kinds))} volume of LVM")
    pieces: list[tuple[Source, int, int]] = []
    at = 0
    for segment in segments:
        if _number(segment["start_extent"]) != at:
            raise BadMetadata(f"the metadata of LVM leaves a gap in {name}")
        at += _number(segment["extent_count"])
        stripes = segment["stripes"]
        for place in stripes[::2]:
            if _plain(group["physical_volumes"][place]["id"]) not in places:
                return LogicalVolume(name, size, reason=f"its physical volume {place} is missing")
        pieces += _segment(segment, group, places, extent)
        if len(pieces) > _MOST_PIECES:
            return LogicalVolume(name, size, reason="it has too many stripes")
    return LogicalVolume(name, size, Pieces(pieces))


def _segment(
    segment: dict[str, Any], group: dict[str, Any], places: dict[str, Source], extent: int
) -> list[tuple[Source, int, int]]:
    """The pieces of a segment."""
    legs = []
    for place, first in zip(segment["stripes"][::2], segment["stripes"][1::2], strict=True):
        physical = group["physical_volumes"][place]
        begin = _number(physical["pe_start"]) * SECTOR + _number(first) * extent
        legs.append((places[_plain(physical["id"])], begin))
    length = _number(segment["extent_count"]) * extent
    if len(legs) != _number(segment["stripe_count"]) or not legs:
        raise BadMetadata("the metadata of LVM counts its stripes in a wrong way")
    if len(legs) == 1:
        return [(*legs[0], length)]
    step = _number(segment["stripe_size"]) * SECTOR
    if not step or length % (step * len(legs)) or length // step > _MOST_PIECES:
        raise BadMetadata("the metadata of LVM cuts its stripes in a wrong way")
    return [
        (source, begin + row * step, step)
        for row in range(length // (step * len(legs)))
        for source, begin in legs
    ]


def _number(value: object) -> int:
    if not isinstance(value, int) or not 0 <= value < 1 << 48:
        raise BadMetadata(f"the metadata of LVM has {value!r} where a number is due")
    return value


# --- the text


def parse(text: str) -> dict[str, Any]:
    """Read the text form: `key = value`, lists in brackets, sections in braces. BadMetadata."""
    tokens = _tokens(text)
    return _section(tokens, 0)


def _tokens(text: str) -> Iterator[str]:
    at = 0
    text = text.rstrip("\0")
    while at < len(text):
        match = _TOKENS.match(text, at)
        if match is None:
            raise BadMetadata(f"the metadata of LVM cannot be read at character {at}")
        at = match.end()
        if match.lastgroup:
            yield match[0]


def _section(tokens: Iterator[str], depth: int) -> dict[str, Any]:
    if depth > _DEEPEST:
        raise BadMetadata("the metadata of LVM is nested too deeply")
    found: dict[str, Any] = {}
    for key in tokens:
        if key == "}":
            return found
        if key in "{[]=,":
            raise BadMetadata(f"the metadata of LVM has {key!r} where a name is due")
        sign = next(tokens, "")
        if sign == "{":
            found[key] = _section(tokens, depth + 1)
        elif sign == "=":
            found[key] = _value(next(tokens, ""), tokens)
        else:
            raise BadMetadata(f"the metadata of LVM has {sign!r} behind {key!r}")
    if depth:
        raise BadMetadata("the metadata of LVM ends in the middle")
    return found


def _value(word: str, tokens: Iterator[str]) -> Any:  # noqa: ANN401 - text, number or list
    if word == "[":
        found: list[Any] = []
        for item in tokens:
            if item == "]":
                return found
            if item != ",":
                found.append(_value(item, tokens))
        raise BadMetadata("a list in the metadata of LVM has no end")
    if word.startswith('"'):
        return re.sub(r"\\(.)", r"\1", word[1:-1])
    if re.fullmatch(r"-?[0-9]{1,18}", word):
        return int(word)
    return word
