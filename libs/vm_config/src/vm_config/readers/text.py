"""What readers share: bytes to text, and how numbers, sizes, UUIDs and MAC addresses are spelt."""

from __future__ import annotations

import codecs
import re

from vm_config.errors import ConfigurationError

MIB = 1 << 20
MAX_CONTENT = 4 * MIB
"""Bytes of the largest configuration that is read; real ones have some thousand."""
MAX_MEMORY = 64 << 40
MAX_CPUS = 4096
_DECLARATION_WITHIN = 65536
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40, "P": 1 << 50}
_SIZE = re.compile(r"([0-9]{1,12})(?:\.([0-9]{1,6}))?([KMGTP]?)B?", re.IGNORECASE)
_MARKS = (
    (b"\xff\xfe\0\0", "utf-32-le"),
    (b"\0\0\xfe\xff", "utf-32-be"),
    (b"\xef\xbb\xbf", "utf-8"),
    (b"\xff\xfe", "utf-16-le"),
    (b"\xfe\xff", "utf-16-be"),
    (b"\x84\x31\x95\x33", "gb18030"),
)
_AS_WINDOWS_DOES = {
    "ascii": "utf-8",
    "big5": "cp950",
    "euc_kr": "cp949",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "iso8859-1": "cp1252",
    "iso8859-9": "cp1254",
    "shift_jis": "cp932",
    "tis-620": "cp874",
}
"""Python's name of an encoding, and the one that Windows means by it: the same and more."""
_OTHER_NAMES = {"windows-31j": "cp932", "cp943": "cp932", "cp5348": "cp1252"}
_NO_CHARACTER_SETS = {"idna", "punycode", "raw-unicode-escape", "undefined", "unicode-escape"}
"""Encodings of Python for other purposes; some of them are slow, and all would garble a name."""


def _as_windows_1252(error: UnicodeError) -> tuple[str, int]:
    """Read the bytes that are not valid where they stand, and no others."""
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return error.object[error.start : error.end].decode("cp1252", "replace"), error.end


_FALLBACK = "vm_config.windows-1252"
codecs.register_error(_FALLBACK, _as_windows_1252)


def decode(content: bytes, what: str, encoding: str = "utf-8") -> str:
    """The text of a configuration: by its byte order mark or zeros, else in `encoding`.

    Bytes that are not valid there are read as Windows-1252, and only they: a name may look odd.
    Raises ConfigurationError when the content is larger than any configuration; `what` names it.
    """
    if len(content) > MAX_CONTENT:
        raise ConfigurationError(f"the {what} has {len(content)} bytes: none is as large")
    for mark, name in _MARKS:
        if content.startswith(mark):
            return _decode(content[len(mark) :], name)
    return _decode(content, _by_its_zeros(content[:4]) or encoding)


def _by_its_zeros(start: bytes) -> str:
    """UTF-16 without a mark, which shows when the first two characters are Latin."""
    if len(start) == 4 and start[1] == start[3] == 0 < start[0]:
        return "utf-16-le"
    if len(start) == 4 and start[0] == start[2] == 0 < start[1]:
        return "utf-16-be"
    return ""


def _decode(content: bytes, encoding: str) -> str:
    is_wide = encoding.startswith(("utf-16", "utf-32"))
    text = content.decode(encoding, "replace" if is_wide else _FALLBACK)
    return re.sub("[\ud800-\udfff]", "\ufffd", text)  # UTF-7 can spell halves of characters


def declared_encoding(content: bytes) -> str:
    """What a line `encoding = "NAME"` of VMware's says, as Python calls it; UTF-8 when unknown.

    VMware writes the names of ICU: "windows-949-2000" is Python's cp949.
    """
    for line in re.split(rb"[\r\n]+", content[:_DECLARATION_WITHIN]):
        key, equals, value = line.partition(b"=")
        if equals and key.strip().lower().removeprefix(b".") == b"encoding":
            return codec(value.strip().strip(b'"').decode("ascii", "replace"))
    return "utf-8"


def codec(name: str) -> str:
    """Python's name of an encoding that a file names, or UTF-8 when there is none such.

    The name was read as ASCII, so that an encoding without ASCII is not what the file is in.
    """
    plain = name[:64].lower()
    if page := re.match(r"(?:windows|ibm|ms)[-_]?([0-9]{3,5})(?![0-9a-z])", plain):
        plain = f"cp{page[1]}"
    for candidate in (_OTHER_NAMES.get(plain, plain), plain.removeprefix("x-")):
        try:
            found = codecs.lookup(candidate).name
            is_like_ascii = b"encoding = 1".decode(found) == "encoding = 1"
        except (LookupError, ValueError, UnicodeError):
            continue  # no such encoding, or one from bytes to bytes
        if is_like_ascii and found.replace("_", "-") not in _NO_CHARACTER_SETS:
            return _AS_WINDOWS_DOES.get(found, found)
    return "utf-8"


def lines(text: str) -> list[str]:
    """The lines of a text: only CR and LF end one, however many marks Unicode has for it."""
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


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
    digits = re.sub(r"[^0-9a-f]", "", text[:64].lower())
    if len(digits) != 12 or not digits.strip("0"):
        return ""
    return ":".join(digits[at : at + 2] for at in range(0, 12, 2))


def uuid(text: str) -> str:
    """A UUID in lower case with hyphens, or nothing when it is none or all zeros.

    Its digits may be in braces, and in groups of any length with blanks or hyphens between.
    """
    digits = re.sub(r"[ {}-]", "", text[:64].lower())
    if not re.fullmatch(r"[0-9a-f]{32}", digits) or not digits.strip("0"):
        return ""
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def vlan(text: str) -> int | None:
    """A VLAN id; None for none (0 is untagged)."""
    return int(text) if re.fullmatch(r"[0-9]{1,4}", text) and 1 <= int(text) <= 4094 else None


def stem(path: str) -> str:
    """The name of a file without folders (of any system) and without its ending."""
    name = re.split(r"[/\\:]", path)[-1]
    return name.rpartition(".")[0] or name
