"""Tells tox which environments the members have, so that tox.ini need not name the members.

`py-<member>` on the Python of this machine, `py311-`, `py312-` and `py313-<member>`, and for a
library `lowest-<member>`: on the lowest direct dependencies that it allows.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tox.plugin import impl

sys.path.insert(0, str(Path(__file__).parent / ".ci"))
from members import read_members

PYTHONS = ("py", "py311", "py312", "py313")


@impl
def tox_extend_envs() -> list[str]:
    """Return the names of the members' environments."""
    members = read_members().values()
    everywhere = [f"{python}-{member.name}" for member in members for python in PYTHONS]
    return everywhere + [f"lowest-{member.name}" for member in members if member.is_library]
