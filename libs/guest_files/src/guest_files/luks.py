"""LUKS 1 and 2 with AES-XTS, opened with a passphrase or the content of a key file.

The layouts are those of the LUKS1 On-Disk Format Specification 1.2.3 and the LUKS2 On-Disk Format
Specification 1.1. libluksde is not used: it reads no LUKS2.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import struct
from typing import TYPE_CHECKING, Any, Final

import attrs
from cryptography.exceptions import InvalidKey, UnsupportedAlgorithm
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf import argon2

from guest_files.errors import CannotOpen
from guest_files.sources import SECTOR, Source

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MAGIC: Final = b"LUKS\xba\xbe"
_ACTIVE: Final = 0x00AC71F3
_LARGEST_JSON: Final = 4 << 20
_LARGEST_AREA: Final = 16 << 20
_LARGEST_MEMORY: Final = 1 << 20
"""KiB that Argon2 may ask for; cryptsetup asks for no more."""
_MOST_ROUNDS: Final = 100_000_000
_ERRORS = (
    KeyError, TypeError, ValueError, IndexError, AttributeError, struct.error, binascii.Error,
    UnsupportedAlgorithm, OverflowError, MemoryError, RecursionError,
)  # fmt: skip
"""What a damaged or unknown header leads to."""


@attrs.frozen
class _Area:
    """The key material of a key slot, and how its key is made from a passphrase."""

    offset: int
    stripes: int
    hash: str
    encryption: str
    key_bytes: int
    slot_key_bytes: int
    kdf: dict[str, Any]


@attrs.frozen
class _Digest:
    """By what the volume key is recognised."""

    hash: str
    rounds: int
    salt: bytes
    value: bytes

    def knows(self, key: bytes) -> bool:
        found = _pbkdf2(self.hash, key, self.salt, self.rounds, len(self.value))
        return hmac.compare_digest(found, self.value)


@attrs.frozen
class _Header:
    """What both versions say: where the data lies, how it is encrypted, and the key slots."""

    offset: int
    sector: int
    first: int
    encryption: str
    slots: tuple[tuple[_Area, _Digest], ...]


def unlock(source: Source, keys: Iterable[bytes]) -> Source:
    """The plain bytes of a LUKS volume; raise CannotOpen, OSError."""
    try:
        header = _read(source)
        _check_cipher(header.encryption)
        for key in keys:
            for area, digest in header.slots:
                volume_key = _open_slot(source, area, key)
                if digest.knows(volume_key):
                    return Decrypted(source, volume_key, header.offset, header.sector, header.first)
    except _ERRORS as error:
        raise CannotOpen(f"its LUKS header cannot be used: {error!r}") from error
    raise CannotOpen("no key fits: give its passphrase or key file with --key-file")


def _check_cipher(name: str) -> None:
    if name not in {"aes-xts-plain64", "aes-xts-plain"}:
        raise CannotOpen(f"it is encrypted with {name[:40]}, only aes-xts can be read")


def _read(source: Source) -> _Header:
    start = source.read_at(0, 4096)
    (version,) = struct.unpack_from(">H", start, 6)
    if version == 1:
        return _version1(start)
    return _version2(source, start)


def _version1(start: bytes) -> _Header:
    cipher, mode, name = (_text(start[at : at + 32]) for at in (8, 40, 72))
    payload, width = struct.unpack_from(">II", start, 104)
    digest = _Digest(name, struct.unpack_from(">I", start, 164)[0], start[132:164], start[112:132])
    slots = []
    for at in range(208, 208 + 8 * 48, 48):
        active, rounds = struct.unpack_from(">II", start, at)
        offset, stripes = struct.unpack_from(">II", start, at + 40)
        kdf = {
            "type": "pbkdf2",
            "hash": name,
            "iterations": rounds,
            "salt": start[at + 8 : at + 40],
        }
        if active == _ACTIVE:
            area = _Area(offset * SECTOR, stripes, name, f"{cipher}-{mode}", width, width, kdf)
            slots.append((area, digest))
    return _Header(payload * SECTOR, SECTOR, 0, f"{cipher}-{mode}", tuple(slots))


def _version2(source: Source, start: bytes) -> _Header:
    (size,) = struct.unpack_from(">Q", start, 8)
    if size > _LARGEST_JSON:
        raise ValueError(f"a header of {size} bytes")
    text = source.read_at(4096, size - 4096)
    name = _text(start[72:104])
    whole = start[:448] + bytes(64) + start[512:] + text
    if hashlib.new(name, whole).digest() != start[448 : 448 + hashlib.new(name).digest_size]:
        raise ValueError("its checksum differs")
    plain = json.loads(text.rstrip(b"\0"))
    (number, segment), *others = plain["segments"].items()
    if others or segment["type"] != "crypt":
        raise CannotOpen("it has several segments: it is being encrypted anew")
    slots = tuple(
        (_area(plain["keyslots"][slot]), _digest(digest))
        for digest in plain["digests"].values()
        if number in digest["segments"]
        for slot in digest["keyslots"]
        if plain["keyslots"][slot]["type"] == "luks2"
    )
    return _Header(
        int(segment["offset"]),
        int(segment["sector_size"]),
        int(segment["iv_tweak"]),
        segment["encryption"],
        slots,
    )


def _area(slot: dict[str, Any]) -> _Area:
    area, kdf = slot["area"], dict(slot["kdf"])
    kdf["salt"] = base64.b64decode(kdf["salt"])
    return _Area(
        offset=int(area["offset"]),
        stripes=int(slot["af"]["stripes"]),
        hash=slot["af"]["hash"],
        encryption=area["encryption"],
        key_bytes=int(slot["key_size"]),
        slot_key_bytes=int(area["key_size"]),
        kdf=kdf,
    )


def _digest(plain: dict[str, Any]) -> _Digest:
    salt, value = base64.b64decode(plain["salt"]), base64.b64decode(plain["digest"])
    return _Digest(plain["hash"], int(plain["iterations"]), salt, value)


def _open_slot(source: Source, area: _Area, passphrase: bytes) -> bytes:
    """The volume key that a passphrase leads to, right or wrong."""
    _check_cipher(area.encryption)
    size = area.stripes * area.key_bytes
    if not 0 < size <= _LARGEST_AREA:
        raise ValueError(f"key material of {size} bytes")
    key = _derive(area.kdf, passphrase, area.slot_key_bytes)
    padded = -(-size // SECTOR) * SECTOR
    material = Decrypted(source, key, area.offset, SECTOR, 0).read_at(0, padded)[:size]
    if len(material) < size:
        raise ValueError("its key material is cut short")
    return _merge(material, area)


def _derive(kdf: dict[str, Any], passphrase: bytes, length: int) -> bytes:
    if kdf["type"] == "pbkdf2":
        return _pbkdf2(kdf["hash"], passphrase, kdf["salt"], int(kdf["iterations"]), length)
    kinds: dict[str, Any] = {"argon2id": argon2.Argon2id, "argon2i": argon2.Argon2i}
    if int(kdf["memory"]) > _LARGEST_MEMORY or int(kdf["time"]) > 10_000:
        raise ValueError("its key slot asks for more memory or time than cryptsetup allows")
    made = kinds[kdf["type"]](
        salt=kdf["salt"],
        length=length,
        iterations=int(kdf["time"]),
        lanes=int(kdf["cpus"]),
        memory_cost=int(kdf["memory"]),
    )
    try:
        return bytes(made.derive(passphrase))
    except InvalidKey as error:
        raise ValueError(str(error)) from error


def _pbkdf2(name: str, key: bytes, salt: bytes, rounds: int, length: int) -> bytes:
    if rounds > _MOST_ROUNDS:
        raise ValueError(f"{rounds} rounds of PBKDF2")
    return hashlib.pbkdf2_hmac(name, key, salt, rounds, length)


def _merge(material: bytes, area: _Area) -> bytes:
    """Undo the anti-forensic split."""
    width = area.key_bytes
    found = bytes(width)
    for number in range(area.stripes):
        stripe = material[number * width : (number + 1) * width]
        found = bytes(a ^ b for a, b in zip(found, stripe, strict=True))
        if number < area.stripes - 1:
            found = b"".join(_diffused(found, area.hash))
    return found


def _diffused(block: bytes, name: str) -> Iterator[bytes]:
    step = hashlib.new(name).digest_size
    for number, at in enumerate(range(0, len(block), step)):
        piece = block[at : at + step]
        yield hashlib.new(name, struct.pack(">I", number) + piece).digest()[: len(piece)]


def _text(raw: bytes) -> str:
    return raw.partition(b"\0")[0].decode("ascii")


class Decrypted(Source):
    """The plain bytes of an encrypted range. The tweak of a sector is its number in 512 bytes."""

    def __init__(self, source: Source, key: bytes, offset: int, sector: int, first: int) -> None:
        """Decrypt what lies behind `offset`; `first` is the tweak of the first sector."""
        if sector not in {512, 1024, 2048, 4096}:
            raise ValueError(f"sectors of {sector} bytes")
        self.size = max(0, source.size - offset) // sector * sector
        self._source = source
        self._cipher = algorithms.AES(key)
        self._offset = offset
        self._sector = sector
        self._first = first

    def read_at(self, offset: int, length: int) -> bytes:
        """So many bytes, fewer at the end."""
        end = min(offset + length, self.size)
        if offset >= end:
            return b""
        begin = offset - offset % self._sector
        stop = -(-end // self._sector) * self._sector
        raw = self._source.read_at(self._offset + begin, stop - begin)
        plain = b"".join(
            self._decrypt(raw[at : at + self._sector], (begin + at) // SECTOR)
            for at in range(0, len(raw), self._sector)
        )
        return plain[offset - begin : end - begin]

    def _decrypt(self, sector: bytes, number: int) -> bytes:
        tweak = ((number + self._first) & (1 << 64) - 1).to_bytes(16, "little")
        decryptor = Cipher(self._cipher, modes.XTS(tweak)).decryptor()
        return decryptor.update(sector) + decryptor.finalize()
