"""Values and messages as text for people."""

from __future__ import annotations


def with_notes(error: BaseException, text: str = "") -> str:
    """An error, or a `text` in its place, and what was noted about it later, as one line."""
    return "; ".join([text or str(error), *getattr(error, "__notes__", ())])


def size(amount: float) -> str:
    """Bytes for people: 1536 is "1.5 KiB"."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.1f} {unit}" if unit != "B" else f"{amount:.0f} B"
        amount /= 1024
    return f"{amount:.1f} TiB"
