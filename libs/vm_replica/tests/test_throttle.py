"""The limit on what all replications of a process send together."""

from __future__ import annotations

import threading

import pytest
from command_line.cancel import Cancelled
from vm_replica.throttle import Throttle


def test_the_limit_holds_for_all_who_send() -> None:
    stop = threading.Event()
    throttle = Throttle(1000.0, stop)
    slices = [bytes(part) for part in throttle.slices(b"x" * 100)]
    assert b"".join(slices) == b"x" * 100
    assert throttle._delay(0) > 0.05
    stop.set()
    with pytest.raises(Cancelled):
        list(throttle.slices(b"x"))
