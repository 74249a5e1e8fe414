"""Values and messages as text for people."""

from __future__ import annotations

from datetime import UTC, datetime


def with_notes(error: BaseException, text: str = "") -> str:
    """An error, or a `text` in its place, and what was noted about it later, as one line."""
    return "; ".join([text or str(error), *getattr(error, "__notes__", ())])


def printable(text: str) -> str:
    """The text with a question mark for each character that could control a terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def size(amount: float) -> str:
    """Bytes for people: 1536 is "1.5 KiB"."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.1f} {unit}" if unit != "B" else f"{amount:.0f} B"
        amount /= 1024
    return f"{amount:.1f} TiB"


def duration(seconds: float) -> str:
    """A time span in seconds for people: 93784 is "1 d 2:03:04"."""
    days, rest = divmod(int(seconds), 86_400)
    hours, rest = divmod(rest, 3600)
    clock = f"{hours}:{rest // 60:02}:{rest % 60:02}"
    return f"{days} d {clock}" if days else clock


def utc(seconds: int) -> str:
    """A time (seconds since the epoch) as date and time in UTC; the number if no date has it."""
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S}"
    except (OverflowError, ValueError, OSError):
        return str(seconds)


def local_time(seconds: int) -> str:
    """A time (seconds since the epoch) in the time zone of this host, like `utc`."""
    try:
        return f"{datetime.fromtimestamp(seconds).astimezone():%Y-%m-%d %H:%M:%S}"
    except (OverflowError, ValueError, OSError):
        return str(seconds)
