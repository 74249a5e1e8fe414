"""Any bodies as the answers of v3 to an upload: an image or PrismError, in bounded time."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, cast

import attrs
from prism_client import PrismError
from prism_client._http import Answer
from prism_client._v3.api import Api
from prism_client._v3.images import Uploader

if TYPE_CHECKING:
    from prism_client._http import Call, Http

_HANDLE, _NAME = tempfile.mkstemp(prefix="fuzz-image-")
os.write(_HANDLE, b"image")
os.close(_HANDLE)


@attrs.define
class Clock:
    """Time that passes only when somebody sleeps."""

    seconds: float = 0.0

    def now(self) -> float:
        """Seconds."""
        return self.seconds

    def monotonic(self) -> float:
        """Seconds."""
        return self.seconds

    def sleep(self, seconds: float) -> None:
        """Make time pass."""
        self.seconds += seconds


@attrs.define
class Server:
    """Gives the bodies one after the other, the last one for ever."""

    bodies: list[bytes]

    def send(self, call: Call) -> Answer:
        """The next body."""
        body = self.bodies.pop(0) if len(self.bodies) > 1 else self.bodies[0]
        return Answer(f"{call.method} {call.path}", 200, {}, body)


def check(data: bytes) -> None:
    """Upload to a server whose answers are the lines of the input."""
    server = Server(data.split(b"\n"))
    upload = Uploader(Api(cast("Http", server), Clock(), deadline=5.0))
    with suppress(PrismError):
        upload("fuzz", Path(_NAME), sha256="00")
