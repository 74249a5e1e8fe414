"""Text from a server, made fit for a message: one printable line of a bounded length."""

from __future__ import annotations

_LONGEST = 600


def one_line(words: str, longest: int = _LONGEST) -> str:
    """Return text from the server fit for one line of a log."""
    printable = "".join(c if c.isprintable() else " " for c in words[: 4 * longest])
    return " ".join(printable.split())[:longest]
