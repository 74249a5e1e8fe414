"""The main job over the kernel transport: it runs in the guest of `./run e2e-kernel` only."""

from __future__ import annotations

import os

collect_ignore_glob = [] if os.environ.get("KERNEL_GUEST") else ["test_*.py"]
