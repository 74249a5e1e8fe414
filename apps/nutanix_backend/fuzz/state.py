"""Any bytes: a state, or an empty one and the reason; what is saved is loaded as the same one."""

from __future__ import annotations

import tempfile
from pathlib import Path

from nutanix_backend.references.state import StateFile, VmState

_PATH = Path(tempfile.mkdtemp(prefix="fuzz-state-")) / "state.json"


def check(data: bytes) -> None:
    """Load a state file of these bytes."""
    _PATH.write_bytes(data)
    file = StateFile(_PATH, "0a1b")
    state, reason = file.load()
    if reason:
        if state != VmState(1, "0a1b", ()) or "\n" in reason:
            raise AssertionError(f"an unusable state file gave {state!r}, {reason!r}")
        return
    file.save(state)
    if file.load() != (state, ""):
        raise AssertionError("a state is not what was saved")
