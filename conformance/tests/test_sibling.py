"""The backend of docs/sibling.md, driven as bacula-fd would: a chain, and its restore."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING

from ptcomm import Level, Replace
from ptcomm_runner import jobs
from ptcomm_runner.catalog import Status, Store
from ptcomm_runner.display import Silent
from vectortool.vectors import ROOT

if TYPE_CHECKING:
    from pathlib import Path

PAGE = (ROOT.parent / "docs/sibling.md").read_text("utf-8")


def test_a_chain_comes_back_bit_for_bit(tmp_path: Path) -> None:
    code, _ = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    program, image = tmp_path / "backend.py", tmp_path / "web.raw"
    program.write_text(code)
    settings = jobs.Settings(
        command=(sys.executable, "-W", "error", str(program)),
        parameters=(("image", str(image)), ("state", str(tmp_path))),
        working_dir=tmp_path / "working",
        watcher=Silent(),
        timeout=60.0,
    )
    store = Store(tmp_path / "store")
    content = bytearray(range(256)) * 8192
    for number, level in enumerate((Level.FULL, Level.INCREMENTAL)):
        content[100_000 * number : 100_000 * number + 5] = b"hello"
        image.write_bytes(content)
        result = jobs.backup(store, "web", level, settings)
        assert result.status is Status.GOOD, result
        assert (result.data_bytes < len(content) // 10) == (level is Level.INCREMENTAL)
    restored = jobs.restore(
        store, "web", settings, job_id=None, where="/", replace=Replace.ALWAYS, include=()
    )
    assert restored.status is Status.GOOD, restored
    assert (tmp_path / "web.raw.restored").read_bytes() == content
