"""Bytes of a snapshot by HTTP ranges, served well or badly.

No public release of Prism is known to offer this, and no official SDK has it: the path of the call
is this lab's own assumption.
"""

from __future__ import annotations

import re
import threading
from typing import TYPE_CHECKING

from flask import Response, request, send_file

from prism_lab.errors import StartFailed

if TYPE_CHECKING:
    from pathlib import Path

OFFERS = ("no", "yes", "whole", "shifted", "short", "wrong")
"""What a cluster may do; see Settings.ranged_reads."""
_RANGE = re.compile(r"bytes=([0-9]+)-([0-9]+)")


class RangedReads:
    """How the next reads are answered: as one of OFFERS says, and from some read on as another."""

    def __init__(self, offer: str) -> None:
        """Answer so; StartFailed for what is none of OFFERS."""
        self._offer = self._later = offer
        self._before = 0
        self._lock = threading.Lock()
        self.change(offer, after=0)

    def change(self, offer: str, *, after: int) -> None:
        """Answer otherwise after so many more reads."""
        if offer not in OFFERS:
            raise StartFailed(f"ranged_reads is one of {', '.join(OFFERS)}, not {offer}")
        with self._lock:
            self._later, self._before = offer, after
            if not after:
                self._offer = offer

    def next(self) -> str:
        """Return how to answer this read."""
        with self._lock:
            answer = self._offer
            self._before = max(0, self._before - 1)
            if not self._before:
                self._offer = self._later
            return answer


def answer(file: Path, offer: str) -> Response:
    """Answer the current request for a range of a file, as `offer` says."""
    size = file.stat().st_size
    asked = _RANGE.fullmatch(request.headers.get("Range", ""))
    if asked is None or offer == "whole":
        return send_file(file, mimetype="application/octet-stream", conditional=False)
    start, end = int(asked[1]), min(int(asked[2]) + 1, size)
    if start >= end:
        return Response(status=416, headers={"Content-Range": f"bytes */{size}"})
    if offer == "shifted":
        start, end = (start + 512, end + 512) if end + 512 <= size else (start - 512, end - 512)
    content = _read(file, start, end - start)
    if offer == "short":
        content = content[: len(content) // 2]
    if offer == "wrong":
        content = bytes(byte ^ 1 for byte in content)
    head = {"Content-Range": f"bytes {start}-{end - 1}/{size}", "Accept-Ranges": "bytes"}
    return Response(content, 206, head, content_type="application/octet-stream")


def _read(file: Path, offset: int, length: int) -> bytes:
    with file.open("rb") as disk:
        disk.seek(offset)
        return disk.read(length)
