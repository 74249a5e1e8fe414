"""What happens to images: create, fill with bytes, download, delete."""

from __future__ import annotations

import hashlib
import secrets
from typing import IO, TYPE_CHECKING

from prism_lab import _storage
from prism_lab._model import Image, World, new_id
from prism_lab.errors import LabError

if TYPE_CHECKING:
    from pathlib import Path

_CHUNK = 1 << 20
_HASHES = {"SHA_1": "sha1", "SHA_256": "sha256"}


class Images:
    """The images of a cluster."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._tokens: dict[str, str] = {}

    def create(
        self, name: str, kind: str, description: str = "", ext_id: str | None = None
    ) -> Image:
        """Add an image that has no bytes yet."""
        ext_id = ext_id or new_id()
        folder = self._world.root / "images"
        folder.mkdir(parents=True, exist_ok=True)
        image = Image(name, kind, folder / ext_id, description, ext_id=ext_id)
        with self._world.lock:
            self._world.images[ext_id] = image
        return image

    def fill(
        self, image: Image, source: IO[bytes], checksum: tuple[str, str] | None = None
    ) -> None:
        """Store the bytes of an image; LabError for a wrong checksum or an unusable image."""
        partial = image.file.with_suffix(".part")
        try:
            _receive(source, partial, checksum)
            _storage.image_format(partial)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        partial.replace(image.file)
        image.state = "COMPLETE"
        image.version += 1

    def delete(self, image: Image) -> None:
        """Take an image away; VMs made from it keep their disks."""
        with self._world.lock:
            del self._world.images[image.ext_id]
        image.file.unlink(missing_ok=True)

    def download_token(self, image: Image) -> str:
        """Return the cookie with which the redirected download is allowed."""
        token = f"NTNX_IGW_SESSION={secrets.token_urlsafe(24)}"
        self._tokens[token] = image.ext_id
        return token

    def for_token(self, cookie: str, ext_id: str) -> Path | None:
        """Return the file of a redirected download, or None if the cookie is not for it."""
        image = self._world.images.get(ext_id)
        if image is None or self._tokens.get(cookie) != ext_id:
            return None
        return image.file


def _receive(source: IO[bytes], target: Path, checksum: tuple[str, str] | None) -> None:
    algorithm = _HASHES.get(checksum[0]) if checksum else "sha256"
    if algorithm is None:
        raise LabError(f"{checksum} is not a checksum that images know")
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with target.open("wb") as sink:
        while chunk := source.read(_CHUNK):
            digest.update(chunk)
            sink.write(chunk)
    if checksum and digest.hexdigest() != checksum[1].lower():
        raise LabError(f"the image's {checksum[0]} is {digest.hexdigest()}, not {checksum[1]}")
