"""Time, so that tests can hold it in their hands. No other module sleeps or asks for the time."""

from __future__ import annotations

import time
from typing import Protocol

import attrs


class Clock(Protocol):
    """Seconds, all of them."""

    def now(self) -> float:
        """Return the time since the epoch."""
        ...

    def monotonic(self) -> float:
        """Return a time that only ever advances."""
        ...

    def sleep(self, seconds: float) -> None:
        """Wait."""
        ...


@attrs.frozen
class SystemClock:
    """The machine's own clock."""

    def now(self) -> float:
        """Return the time since the epoch."""
        return time.time()

    def monotonic(self) -> float:
        """Return a time that only ever advances."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)
