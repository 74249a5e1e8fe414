"""Encrypted volumes that Windows and cryptsetup made, opened with each kind of key."""

from __future__ import annotations

import configparser
import hashlib
import os
import subprocess
from pathlib import Path
from typing import BinaryIO

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from guest_files import GuestFiles, bitlocker
from guest_files.sources import CachedSource, Source
from guest_files.volumes import kind_of

from suites.files.conftest import raw_disk, run

HERE = Path(__file__).parent
MIB = 1 << 20
KEY = b"a passphrase"
PASSWORD, RECOVERY = "PW", "RP"
BITLOCKER = (
    ("bitlk-aes-xts-128", PASSWORD),
    ("bitlk-aes-xts-256", RECOVERY),
    ("bitlk-aes-cbc-elephant-256", PASSWORD),
    ("bitlk-aes-xts-128-smart-card", RECOVERY),
    ("bitlk-togo-aes-xts-128", PASSWORD),
)


def files_of(path: Path, key: bytes) -> dict[bytes, bytes]:
    """The bytes of every file of the only volume."""
    warnings: list[str] = []
    found = {}
    with GuestFiles([raw_disk(path)], [key], warn=warnings.append) as files:
        for file in files.files(["/**"]):
            content = bytearray(file.entry.size)
            for offset, piece in file.pieces:
                content[offset : offset + len(piece)] = piece
            found[b"/".join(map(os.fsencode, file.entry.path))] = bytes(content)
    assert warnings == []
    return found


@pytest.fixture(scope="module")
def images() -> Path:
    """Images of BitLocker and their keys."""
    kept = HERE.parents[1] / ".cache" / "bitlocker"
    subprocess.run([HERE / "fetch-bitlocker", kept], check=True)
    return kept / "images"


@pytest.mark.parametrize(("name", "kind_of_key"), BITLOCKER)
def test_bitlocker_of_windows(images: Path, name: str, kind_of_key: str) -> None:
    """All plain bytes are those that cryptsetup knows; the images hold no whole file system."""
    known = configparser.ConfigParser()
    known.read(images / "images.conf")
    image = images / f"{name}.img"
    with image.open("rb") as file:
        source = CachedSource(
            image.stat().st_size, lambda offset, length: os.pread(file.fileno(), length, offset)
        )
        assert kind_of(source) == "BitLocker"
        plain = bitlocker.unlock(source, [b"not the key", known[name][kind_of_key].encode()])
        digest = hashlib.sha256()
        for offset in range(0, plain.size, MIB):
            digest.update(plain.read_at(offset, MIB))
    assert digest.hexdigest() == known[name]["SHA256SUM"]


class Failing(Source):
    """A disk on which one read fails, and every later one."""

    def __init__(self, file: BinaryIO, size: int, good: int) -> None:
        self.size = size
        self._file = file
        self._left = good

    def read_at(self, offset: int, length: int) -> bytes:
        if self._left == 0:
            raise OSError("the disk does not answer")
        self._left -= 1
        return os.pread(self._file.fileno(), length, offset)


def test_a_disk_that_cannot_be_read_is_not_a_key_that_does_not_fit(images: Path) -> None:
    image = images / "bitlk-aes-xts-128.img"
    refusals = []
    with image.open("rb") as file:
        for good in range(1000):
            try:
                bitlocker.unlock(Failing(file, image.stat().st_size, good), [b"anaconda"])
            except OSError as error:
                refusals.append(str(error))
            else:
                break
    assert 10 < len(refusals) < 1000
    assert set(refusals) == {"the disk does not answer"}


def test_bitlocker_without_its_key(images: Path) -> None:
    with GuestFiles([raw_disk(images / "bitlk-aes-xts-128.img")], [b"not the key"]) as files:
        (volume,) = files.volumes()
    assert volume.kind == "BitLocker"
    assert "no key fits" in volume.reason


def test_bitlocker_with_its_key(images: Path) -> None:
    """What the first sector of the plain volume says is told, and that the rest is not there."""
    with GuestFiles([raw_disk(images / "bitlk-aes-xts-128.img")], [b"anaconda"]) as files:
        (volume,) = files.volumes()
    assert volume.kind == "NTFS"
    assert "cannot be read" in volume.reason


@pytest.mark.parametrize("sector", [512, 4096])
@pytest.mark.parametrize("kdf", ["argon2id", "pbkdf2"])
def test_luks2_of_cryptsetup(tmp_path: Path, kdf: str, sector: int) -> None:
    """The header is cryptsetup's, the data is encrypted with the volume key that it tells."""
    tree, plain, volume = tmp_path / "tree", tmp_path / "plain", tmp_path / "volume"
    tree.mkdir()
    (tree / "file").write_bytes(os.urandom(3 * MIB))
    run("mke2fs", "-q", "-F", "-t", "ext4", "-b", 4096, "-d", tree, plain, "8M")
    encrypt(plain, volume, kdf, sector)
    assert files_of(volume, KEY)[b"file"] == (tree / "file").read_bytes()


def encrypt(plain: Path, volume: Path, kdf: str, sector: int) -> None:
    """Make a LUKS2 volume with the bytes of a file."""
    key = volume.with_name("key")
    key.write_bytes(KEY)
    with volume.open("xb") as file:
        file.truncate(32 * MIB)
    fast = ("--pbkdf-force-iterations", 4) if kdf != "pbkdf2" else ("--iter-time", 1)
    memory = ("--pbkdf-memory", 32768, "--pbkdf-parallel", 2) if kdf != "pbkdf2" else ()
    run(
        "cryptsetup", "luksFormat", "--batch-mode", "--type", "luks2", "--sector-size", sector,
        "--pbkdf", kdf, *fast, *memory, "--key-file", key, volume,
    )  # fmt: skip
    told = volume.with_name("volume-key")
    run(
        "cryptsetup", "luksDump", "--batch-mode", "--dump-volume-key", "--volume-key-file", told,
        "--key-file", key, volume,
    )  # fmt: skip
    with plain.open("rb") as source, volume.open("r+b") as file:
        file.seek(16 * MIB)
        for at in range(0, plain.stat().st_size, sector):
            tweak = (at // 512).to_bytes(16, "little")  # plain64 counts sectors of 512 bytes
            cipher = Cipher(algorithms.AES(told.read_bytes()), modes.XTS(tweak)).encryptor()
            file.write(cipher.update(source.read(sector)))
