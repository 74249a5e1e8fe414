"""Lines that say how far long work is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from command_line import progress

if TYPE_CHECKING:
    import pytest


def test_progress_speaks_when_it_is_time_and_only_then(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    progress.Progress(said.append, "disk-0", 4096).advance(1024)
    assert not said
    monkeypatch.setattr(progress, "INTERVAL", 0.0)
    slow = progress.Progress(said.append, "disk-0", 4096)
    slow.advance(1024)
    slow.advance(1024)
    assert said == ["disk-0: 25 % (1.0 KiB of 4.0 KiB)", "disk-0: 50 % (2.0 KiB of 4.0 KiB)"]
    progress.Progress(said.append, "nothing", 0).advance(0)
    assert said[-1] == "nothing: 0 % (0 B of 0 B)"
