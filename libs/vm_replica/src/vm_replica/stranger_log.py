"""Log lines that strangers cause: some each minute, the others are counted.

Whoever can reach the port could fill the disk with them otherwise, and hide a line that matters.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import logging


class StrangerLog:
    """Writes at most so many warnings in so many seconds; from several threads."""

    def __init__(self, log: logging.Logger, *, most: int = 20, seconds: float = 60.0) -> None:
        """Write to `log`."""
        self._log = log
        self._most, self._seconds = most, seconds
        self._lock = threading.Lock()
        self._since, self._count = 0.0, 0

    def warning(self, text: str, *values: object) -> None:
        """Write a line, unless there were too many; the next minute begins with their number."""
        with self._lock:
            left_out = self._begin_again()
            self._count += 1
            is_written = self._count <= self._most
        if left_out > 0:
            self._log.warning("%d more lines about strangers were left out", left_out)
        if is_written:
            self._log.warning(text, *values)

    def _begin_again(self) -> int:
        """When the time is over: how many lines of it were left out."""
        now = time.monotonic()
        if now - self._since < self._seconds:
            return 0
        left_out = self._count - self._most
        self._since, self._count = now, 0
        return left_out
