"""What readers share: bytes to text, and the spellings of numbers, sizes and MAC addresses."""

from __future__ import annotations

import re

from vm_config.errors import ConfigurationError

MIB = 1 << 20
MAX_CONTENT = 4 * MIB
"""Bytes of the largest configuration that is read; real ones have some thousand."""
MAX_MEMORY = 64 << 40
MAX_CPUS = 4096
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40, "P": 1 << 50}
_SIZE = re.compile(r"([0-9]{1,12})(?:\.([0-9]{1,6}))?([KMGTP]?)B?", re.IGNORECASE)
_MARKS = (
    (b"\xef\xbb\xbf", "utf-8"),
    (b"\xff\xfe", "utf-16-le"),
    (b"\xfe\xff", "utf-16-be"),
)


def decode(content: bytes, what: str, encoding: str = "utf-8") -> str:
    """The text of a configuration: UTF-16 or UTF-8 by its first bytes, else in `encoding`.

    What is not valid in `encoding` is read as Windows-1252, byte by byte: a name may then look odd.
    """
    if len(content) > MAX_CONTENT:
        raise ConfigurationError(f"the {what} has {len(content)} bytes: none is as large")
    for mark, name in _MARKS:
        if content.startswith(mark):
            return content[len(mark) :].decode(name, "replace")
    start = content[:4]
    if len(start) == 4 and start[1] == start[3] == 0 < start[0]:
        return content.decode("utf-16-le", "replace")
    if len(start) == 4 and start[0] == start[2] == 0 < start[1]:
        return content.decode("utf-16-be", "replace")
    try:
        return content.decode(encoding)
    except UnicodeDecodeError:
        return content.decode("cp1252", "replace")


def number(text: str, what: str, *, largest: int) -> int:
    """A count of at least 1; raise ConfigurationError for anything else."""
    if re.fullmatch(r"[0-9]{1,15}", text) and 1 <= int(text) <= largest:
        return int(text)
    raise ConfigurationError(f"the configuration says {text[:50]!r} for {what}")


def size(text: str) -> int | None:
    """A size with a unit ("32G"), in bytes; None when it is none."""
    match = _SIZE.fullmatch(text.strip())
    if not match:
        return None
    unit = _UNITS[match[3].upper()]
    digits = match[2] or ""
    return int(match[1]) * unit + (int(digits) * unit // 10 ** len(digits) if digits else 0)


def mac(text: str) -> str:
    """A MAC address as `aa:bb:cc:dd:ee:ff`, or nothing when it is none or all zeros."""
    digits = re.sub(r"[^0-9a-f]", "", text.lower())
    if len(digits) != 12 or not digits.strip("0"):
        return ""
    return ":".join(digits[at : at + 2] for at in range(0, 12, 2))


def vlan(text: str) -> int | None:
    """A VLAN id; None for none (0 is untagged)."""
    return int(text) if re.fullmatch(r"[0-9]{1,4}", text) and 1 <= int(text) <= 4094 else None


def stem(path: str) -> str:
    """The name of a file without folders (of any system) and without its ending."""
    name = re.split(r"[/\\:]", path)[-1]
    return name.rpartition(".")[0] or name
