"""Progress of long work as information lines in the job log."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from command_line.text import size

if TYPE_CHECKING:
    from collections.abc import Callable

INTERVAL = 30.0
"""Seconds between two lines about one disk."""


class Progress:
    """Says every half minute how far the work on one file is."""

    def __init__(self, say: Callable[[str], None], what: str, total: int) -> None:
        """Report through `say` on `what`, which is done after `total` bytes."""
        self._say = say
        self._what = what
        self._total = total
        self._done = 0
        self._next = time.monotonic() + INTERVAL

    def advance(self, done: int) -> None:
        """Count `done` more bytes; say so when it is time."""
        self._done += done
        now = time.monotonic()
        if now >= self._next:
            self._next = now + INTERVAL
            percent = 100 * self._done // max(self._total, 1)
            self._say(f"{self._what}: {percent} % ({size(self._done)} of {size(self._total)})")
