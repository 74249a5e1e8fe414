"""Boot sectors for a BIOS: a guest that lives, and ones that do not. 16-bit code of a few bytes."""

from __future__ import annotations

import struct

ORIGIN = 0x7C00
CONSOLE, TOOLS = 0x3F8, 0x2F8
"""The two serial ports: the second is the channel of the lab's guest tools."""
_BEGIN = b"\xfa\x31\xc0\x8e\xd8\xfc"  # cli; ds = 0; cld
_END = b"\xf4\xeb\xfd"  # hlt, for ever
_RESET = b"\xb0\xfe\xe6\x64"  # the keyboard controller pulls the line
_POWER_OFF = b"\xba\x04\x06\xb8\x00\x20\xef"  # out 604h, 2000h
_LOOP = b"\xac\x84\xc0\x74\x03\xee\xeb\xf8"  # lodsb; end at 0; out dx, al


def _sector(*lines: tuple[int, bytes], then: bytes = b"") -> bytes:
    """Code that writes each line to its port, and then does something."""
    one = 3 + 3 + len(_LOOP)
    text = ORIGIN + len(_BEGIN) + len(lines) * one + len(then) + len(_END)
    code, texts = _BEGIN, b""
    for port, line in lines:
        address = struct.pack("<H", text + len(texts))
        code += b"\xbe" + address + b"\xba" + struct.pack("<H", port) + _LOOP
        texts += line + b"\r\n\0"
    return (code + then + _END + texts).ljust(510, b"\0") + b"\x55\xaa"


BOOTED = "PODHEITOR GUEST BOOTED sector"
BOOTS = _sector((CONSOLE, BOOTED.encode()))
WITH_TOOLS = _sector((CONSOLE, BOOTED.encode()), (TOOLS, b"here"))
HANGS = _sector()
PANICS = _sector((CONSOLE, b"Kernel panic - not syncing: VFS: Unable to mount root fs"))
RESETS = _sector((CONSOLE, b"about to reset"), then=_RESET)
SWITCHES_OFF = _sector((CONSOLE, b"about to switch off"), then=_POWER_OFF)
NOTHING = bytes(512)
