"""The limit on what all replications of a process send together."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from command_line.cancel import Cancelled

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ptcomm.events import Buffer


SLICE = 0.25
"""Seconds that a piece may take: a slow link must not look like a dead one to the receiver."""
SMALLEST = 4096


class Throttle:
    """Lets `rate` bytes a second through (0: all), whichever thread sends them.

    `stop` ends every wait with Cancelled.
    """

    def __init__(self, rate: float, stop: threading.Event) -> None:
        self._rate = rate
        self._stop = stop
        self._lock = threading.Lock()
        self._free = 0.0

    def slices(self, piece: Buffer) -> Iterator[Buffer]:
        """The piece in parts, each when its time has come."""
        if not self._rate:
            yield piece
            return
        view = memoryview(piece).cast("B")
        step = max(int(self._rate * SLICE), SMALLEST)
        for start in range(0, len(view), step):
            part = view[start : start + step]
            self.check_cancelled(self._delay(len(part)))
            yield part

    def _delay(self, length: int) -> float:
        """Book the time that so many bytes take; the seconds until it begins."""
        with self._lock:
            now = time.monotonic()
            begin = max(now, self._free)
            self._free = begin + length / self._rate
        return begin - now

    def check_cancelled(self, seconds: float = 0.0) -> None:
        """Wait so long; raise Cancelled when we are told to stop."""
        if self._stop.wait(seconds) if seconds > 0 else self._stop.is_set():
            raise Cancelled("replication was told to stop")
