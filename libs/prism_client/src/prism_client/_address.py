"""Where a server listens: names and addresses, as people and servers write them, checked."""

from __future__ import annotations

import ipaddress
import re
from contextlib import suppress

_LABEL = r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"(?=.{{1,254}}$){_LABEL}(\.{_LABEL})*\.?")
_ZONE = re.compile(r"[A-Za-z0-9._-]+")
_PORTS = range(1, 65536)


def host(text: str) -> str:
    """Return a host name or an IP address in its usual form. Raises ValueError.

    An IPv6 address may stand in brackets; it is returned without them. Nothing that means
    something else in a URL gets through: these come from servers, too.
    """
    with suppress(ValueError):
        return _ip(_without_brackets(text))
    name = _ascii(text).lower()
    if not _NAME.fullmatch(name):
        raise ValueError(f"{text!r} is neither a host name nor an IP address")
    return name


def host_and_port(text: str, default_port: int) -> tuple[str, int]:
    """Read HOST, HOST:PORT, [IPV6]:PORT or IPV6; also as a browser shows it. Raises ValueError.

    A text that is an IPv6 address as a whole has no port: a port needs brackets around the address.
    """
    given = text.strip()
    scheme, found, rest = given.partition("://")
    if found and scheme.lower() != "https":
        raise ValueError(f"{text!r}: Prism is spoken to over https, not {scheme}")
    place = re.split(r"[/?#]", rest if found else given, maxsplit=1)[0]
    with suppress(ValueError):
        return _ip(_without_brackets(place)), default_port
    name, colon, port = place.rpartition(":")
    if not colon:
        return host(place), default_port
    number = int(port) if port.isascii() and port.isdigit() and len(port) <= 5 else 0
    if number not in _PORTS:
        raise ValueError(f"{text!r}: the port is a number from 1 to 65535, not {port!r}")
    return host(name), number


def _without_brackets(text: str) -> str:
    return text[1:-1] if text.startswith("[") and text.endswith("]") else text


def _ip(text: str) -> str:
    address = ipaddress.ip_address(text)
    zone = getattr(address, "scope_id", None)
    if zone is not None and not _ZONE.fullmatch(zone):
        raise ValueError(f"{text!r} has a strange zone")
    return str(address)


def _ascii(text: str) -> str:
    if text.isascii():
        return text
    try:
        return text.encode("idna").decode("ascii")
    except UnicodeError as exc:
        raise ValueError(f"{text!r} is not a host name") from exc
