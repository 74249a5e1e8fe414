"""The start: the daemon waits for our Hello, so nothing heavy is loaded before it."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from apps.nutanix_backend.tests.conftest import Daemon

HEAVY = {
    "requests",
    "urllib3",
    "rich",
    "cattrs",
    "xxhash",
    "prism_client",
    "iscsi_attach",
    "argparse",
}


def test_nothing_heavy_is_loaded_before_hello(
    daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    seen = tmp_path / "modules.json"
    script = f"""if True:
        import atexit, json, pathlib, runpy, sys
        note = lambda: pathlib.Path({str(seen)!r}).write_text(json.dumps(sorted(sys.modules)))
        atexit.register(note)
        sys.argv = ["podheitor-nutanix-backend"]
        runpy.run_module("nutanix_backend", run_name="__main__")
    """
    wire = daemon((sys.executable, "-c", script))
    wire.greet()
    wire.close_input()
    wire.read_to_end()
    wire.assert_ended_well()
    loaded = {name.partition(".")[0] for name in json.loads(seen.read_text())}
    assert "ptcomm" in loaded
    assert not loaded & HEAVY
