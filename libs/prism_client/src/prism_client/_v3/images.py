"""Images of v3, and their upload: v3 has the only public call that takes the bytes themselves."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import attrs

from prism_client._http import Call
from prism_client._v3 import wire
from prism_client._v3.api import V3, segment, task_failed
from prism_client.errors import (
    ApiError,
    AuthFailed,
    BadAnswer,
    NotFound,
    PrismError,
    TaskTimeout,
    Timeout,
    TransportError,
    Unsupported,
)
from prism_client.model import Image

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from uuid import UUID

    from prism_client._fields import Fields
    from prism_client._v3.api import Api

log = logging.getLogger(__name__)

_CHUNK = 128 << 10  # bytes; each has the time-out to itself, so that a slow line may be slow
_PAUSE = 1.0  # seconds between two looks at an image that is not ready
_TRIES = 3  # uploads of one file, of which all but the last broke
_LOOKS = 8  # at an image, after the connection broke at the very end: some 30 seconds
_GATEWAY_GAVE_UP = frozenset({408, 502, 504})  # a proxy's words: Prism itself may still be at work


@attrs.frozen
class Images:
    """services.Images over v3."""

    api: Api

    @property
    def can_fetch(self) -> bool:
        return False

    def check_upload(self) -> None:
        Uploader(self.api).check()

    def upload(
        self,
        name: str,
        path: Path,
        *,
        sha256: str | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Image:
        return Uploader(self.api)(name, path, sha256=sha256, progress=progress)

    def create_from_url(
        self,
        name: str,
        url: str,  # noqa: ARG002 - nobody fetches it
        *,
        sha256: str,  # noqa: ARG002
        request_id: UUID | None = None,  # noqa: ARG002
    ) -> Image:
        raise Unsupported(f"image {name} cannot be fetched by the server: v3 takes uploads")

    def get(self, ext_id: str) -> Image:
        return wire.image(self.api.get(_entity(ext_id)))

    def list(self, *, name: str | None = None) -> Iterator[Image]:
        for image in self.api.records("image", "images", wire.image, name=name):
            if name in (None, image.name):
                yield image

    def delete(self, ext_id: str) -> bool:
        return self.api.delete(_entity(ext_id))


@attrs.frozen
class Uploader:
    """Creates an image, streams the file into it, and waits until Prism has taken it in.

    An image that did not become whole is deleted again.
    """

    api: Api

    def __call__(
        self,
        name: str,
        path: Path,
        *,
        sha256: str | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Image:
        stream = FileStream(path, path.stat().st_size, progress)
        answer = self._create(name, sha256)
        ext_id = answer.need("metadata").text("uuid")
        task = answer.child("status", "execution_context").opt_text("task_uuid")
        try:
            if task is not None:
                self.api.wait(task)
            self._send(ext_id, stream, sha256)
            self._until_whole(ext_id, stream.size)
        except BaseException as exc:
            self._discard(ext_id, exc)
            raise
        return Image(ext_id, name, stream.size)

    def check(self) -> None:
        """Raise Unsupported when v3 does not take the login that v4 took."""
        try:
            self.api.ask("images/list", {"kind": "image", "length": 1, "offset": 0})
        except AuthFailed as exc:
            raise Unsupported(
                "images are uploaded over Prism's v3 API, which does not take this login; an API"
                f" key may be for v4 only, so give user and password ({exc})"
            ) from exc

    def _create(self, name: str, sha256: str | None) -> Fields:
        resources: dict[str, Any] = {"image_type": "DISK_IMAGE"}
        if sha256 is not None:
            resources["checksum"] = {"checksum_algorithm": "SHA_256", "checksum_value": sha256}
        body = {
            "api_version": "3.1",
            "metadata": {"kind": "image"},
            "spec": {"name": name, "resources": resources},
        }
        return self.api.http.send(Call("POST", f"{V3}/images", json=body)).json()

    def _send(self, ext_id: str, stream: FileStream, sha256: str | None) -> None:
        """Send the file, again when the connection breaks before Prism has everything.

        Once all was sent, an answer that is late or lost is no reason to send it again: the image
        itself says whether it is whole.
        """
        for left in reversed(range(_TRIES)):
            stream.is_sent = False
            try:
                self._put(ext_id, stream, sha256)
            except (TransportError, ApiError) as exc:
                if isinstance(exc, ApiError) and exc.status not in _GATEWAY_GAVE_UP:
                    raise
                if stream.is_sent and self._may_be_whole(ext_id, stream.size, exc):
                    return
                if not left:
                    raise
                log.info("sending %s again: %s", stream.path, exc)
            else:
                return

    def _may_be_whole(self, ext_id: str, size: int, exc: TransportError | ApiError) -> bool:
        """Say whether Prism has the whole file, or is silent because it still works on it."""
        log.info("image %s was sent whole, but the answer did not come: %s", ext_id, exc)
        if isinstance(exc, Timeout):
            return True
        for look in range(_LOOKS):
            if self._is_whole(ext_id, size):
                return True
            self.api.clock.sleep(_PAUSE * 1.5**look)
        return False

    def _put(self, ext_id: str, stream: FileStream, sha256: str | None) -> None:
        headers = {"Content-Type": "application/octet-stream"}
        if sha256 is not None:
            headers["X-Nutanix-Checksum-Type"] = "SHA_256"
            headers["X-Nutanix-Checksum-Bytes"] = sha256
        self.api.http.send(
            Call(
                "PUT",
                f"{V3}/{_entity(ext_id)}/file",
                body=lambda: stream,
                headers=headers,
                silence=self.api.deadline,  # the server may check the whole file before it answers
            )
        )

    def _until_whole(self, ext_id: str, size: int) -> None:
        """Look again and again, until the deadline. Raises TaskTimeout, TaskFailed, BadAnswer."""
        end = self.api.clock.monotonic() + self.api.deadline
        while not self._is_whole(ext_id, size):
            if self.api.clock.monotonic() >= end:
                raise TaskTimeout(
                    f"image {ext_id} is not ready after {self.api.deadline:g} s;"
                    " see its task in Prism, or allow more time",
                    task_ext_id=ext_id,
                )
            self.api.clock.sleep(_PAUSE)

    def _is_whole(self, ext_id: str, size: int) -> bool:
        """Look at the image, after all bytes were sent. Raises TaskFailed, BadAnswer."""
        status = self.api.get(_entity(ext_id)).need("status")
        state = status.opt_text("state")
        if state == "ERROR":
            words = [item.opt_text("message") or "" for item in status.items("message_list")]
            raise task_failed(ext_id, "image upload", "ERROR", "; ".join(words))
        arrived = status.child("resources").opt_integer("size_bytes") or 0
        if state != "COMPLETE" or arrived == 0 < size:
            return False  # the size may become known a little later
        if arrived != size:
            raise BadAnswer(f"image {ext_id}: {size} bytes were sent, {arrived} arrived")
        return True

    def _discard(self, ext_id: str, because: BaseException) -> None:
        try:
            self.api.http.send(Call("DELETE", f"{V3}/{_entity(ext_id)}", repeatable=True))
        except NotFound:
            log.debug("image %s is gone already", ext_id)
        except PrismError as exc:
            log.warning("the unfinished image %s stays behind: %s", ext_id, exc)
            because.add_note(f"the unfinished image {ext_id} stays behind: {exc}")


@attrs.define
class FileStream:
    """A file in chunks, from its start each time; reports the bytes as they are sent.

    progress: called with how many bytes more were sent. What is sent again does not count again,
    so that the sum is never larger than the file.
    """

    path: Path
    size: int
    progress: Callable[[int], None] | None
    is_sent: bool = attrs.field(default=False, init=False)
    _reported: int = attrs.field(default=0, init=False)

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[bytes]:
        """Yield exactly `size` bytes, which is what was announced. Raises ValueError."""
        sent = 0
        self.is_sent = self.size == 0
        with self.path.open("rb") as file:
            while sent < self.size:
                chunk = file.read(min(_CHUNK, self.size - sent))
                if not chunk:
                    raise ValueError(f"{self.path} became shorter while it was uploaded")
                yield chunk
                sent += len(chunk)
                self.is_sent = sent == self.size
                self._report(sent)

    def _report(self, sent: int) -> None:
        more = sent - self._reported
        if more > 0 and self.progress is not None:
            self._reported = sent
            self.progress(more)


def _entity(ext_id: str) -> str:
    return f"images/{segment(ext_id)}"
