"""Images of v4. It has no upload of bytes: that is handed in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import attrs

from prism_client._v4 import wire
from prism_client._v4.api import equals, segment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from uuid import UUID

    from prism_client._v4.api import Api, Writes
    from prism_client.model import Image

_PATH = "content/images"
_KIND = "vmm:content:image"


class Upload(Protocol):
    """Makes an image of a file."""

    def check(self) -> None: ...

    def __call__(
        self, name: str, path: Path, *, sha256: str | None, progress: Callable[[int], None] | None
    ) -> Image: ...


@attrs.frozen
class Images:
    """services.Images over v4."""

    api: Api
    writes: Writes
    _upload: Upload

    @property
    def can_fetch(self) -> bool:
        return True

    def check_upload(self) -> None:
        self._upload.check()

    def upload(
        self,
        name: str,
        path: Path,
        *,
        sha256: str | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Image:
        return self._upload(name, path, sha256=sha256, progress=progress)

    def create_from_url(
        self, name: str, url: str, *, sha256: str, request_id: UUID | None = None
    ) -> Image:
        body = {
            "name": name,
            "type": "DISK_IMAGE",
            "source": {
                "$objectType": "vmm.v4.content.UrlSource",
                "url": url,
                "shouldAllowInsecureUrl": True,
            },
            "checksum": {
                "$objectType": "vmm.v4.content.ImageSha256Checksum",
                "hexDigest": sha256,
            },
        }
        return self.get(self.writes.create(_PATH, body, _KIND, request_id))

    def get(self, ext_id: str) -> Image:
        return wire.image(self.api.get(_entity(ext_id)))

    def list(self, *, name: str | None = None) -> Iterator[Image]:
        filter_ = None if name is None else equals("name", name)
        for image in self.api.records("image", _PATH, wire.image, filter_=filter_, name=name):
            if name in (None, image.name):
                yield image

    def delete(self, ext_id: str) -> bool:
        return self.writes.delete(_entity(ext_id))


def _entity(ext_id: str) -> str:
    return f"{_PATH}/{segment(ext_id)}"
