"""Names from outside as names of files."""

from __future__ import annotations

from urllib.parse import quote


def component(text: str) -> str:
    """Make any name (of a cluster, say) safe as one path component, without two becoming one."""
    safe = quote(text, safe=" ")
    return safe.replace(".", "%2E") if not safe.strip(".") else safe
