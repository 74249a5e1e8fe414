"""The table of what a restore makes of each field of a VM knows every field of every SDK."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from nutanix_backend.ahv import vm_fields

from apps.prism_lab.sdk.conftest import ENVIRONMENTS

_LISTER = Path(__file__).parent / "vm_fields.py"


@pytest.mark.parametrize("family", ["latest", "v4.1", "v4.0"])
def test_the_table_covers_the_models(family: str) -> None:
    ended = subprocess.run(
        [f"{ENVIRONMENTS}/{family}/bin/python", str(_LISTER)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    paths = json.loads(ended.stdout)
    assert len(paths) > 200
    unknown = [path for path in paths if vm_fields.covering(path) is None]
    assert not unknown, f"a line in {vm_fields.__name__} is due for {unknown}"
    if family == "latest":
        stale = [
            field.path
            for field in vm_fields.FIELDS
            if not any(vm_fields.covering(path) is field for path in paths)
        ]
        assert not stale, f"no SDK has {stale}"
