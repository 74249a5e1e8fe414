"""The kernel transport against a kernel: its tests run where one can be spared.

That is a guest of `./run test kernel`, which says so in the environment; elsewhere they are not
collected, since logging in and out is nothing to do to a developer's machine.
"""

from __future__ import annotations

import os
from pathlib import Path

from iscsi_attach.kernel import DATABASES

collect_ignore_glob = [] if os.environ.get("KERNEL_GUEST") else ["*/test_*.py"]


def records(kind: str) -> list[Path]:
    """What open-iscsi has recorded: in its folder of Debian 12, or in that of Debian 13."""
    return [path for folder in DATABASES for path in Path("/", folder, kind).rglob("*")]
