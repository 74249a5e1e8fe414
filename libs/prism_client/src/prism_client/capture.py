"""Exchanges with a Prism in a file that can be shared: no names, addresses, ids or secrets.

`Recorder` writes what `connect(record=...)` gives it, as it is, to a private file. `anonymised`
replaces in it, each value always by the same one:

* ids (UUIDs), IPv4 and MAC addresses, host names in URLs;
* secrets, by the name of their field, and tokens in headers;
* every text that is not known to belong to the API: names, descriptions, owners, targets.

What belongs to the API stays: paths, types, states in capitals, numbers, times, versions, and the
words of error messages, in which known texts are replaced.
"""

from __future__ import annotations

import base64
import json
import os
import re
import threading
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from prism_client._http import Exchange

SCHEMA = 1
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.IGNORECASE)
_IPV4 = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w.])")
_MAC = re.compile(r"(?<![\w:])(?:[0-9a-f]{2}:){5}[0-9a-f]{2}(?![\w:])", re.IGNORECASE)
_JWT = re.compile(r"eyJ[\w-]+\.eyJ[\w-]+\.[\w-]*")
_SECRET = re.compile(r"password|secret|token|cookie|credential|private", re.IGNORECASE)
_NAME = re.compile(
    r"(^|_)name$|Name$|description|host|label|owner|user|target|initiator|serial|email|domain",
    re.IGNORECASE,
)
_ARE_NAMES = re.compile(r"^categories")
"""Fields of v3 whose objects have names as their keys."""
_MESSAGE = re.compile(r"message|reason|detail", re.IGNORECASE)
_OF_THE_API = re.compile(
    r"^\$|^rel$|^kind$|^type$|version|operation|^code$|^errorGroup$|^method$|status|state$",
    re.IGNORECASE,
)
_PLAIN = re.compile(
    r"[A-Z][A-Z0-9_]*|v?[0-9.+-]*|true|false"  # states, numbers, versions
    r"|\d{4}-\d\d-\d\dT[0-9:.+Z-]+"  # times
    r"|(?:scsi|ide|sata|pci)[.:]\d+"  # addresses of disks
)
_SHORTEST = 3
"""Characters of the shortest text that is looked for inside other texts."""


class Recorder:
    """Appends exchanges to a private file, one JSON object in each line. Several may share it."""

    def __init__(self, path: Path) -> None:
        """Write to `path`, which is made with mode 0600. Raises OSError."""
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._lock = threading.Lock()

    def __call__(self, exchange: Exchange) -> None:
        """Keep one exchange. Raises OSError."""
        line = json.dumps({
            "method": exchange.method,
            "url": exchange.url,
            "sent": exchange.sent,
            "status": exchange.status,
            "headers": dict(exchange.headers),
            "body": _decoded(exchange.body),
        })  # fmt: skip
        with self._lock:
            os.write(self._fd, f"{line}\n".encode())


def _decoded(body: bytes) -> object:
    """The JSON of a body, or its text."""
    try:
        return json.loads(body)
    except ValueError:
        return body.decode(errors="replace")


def read_recorded(path: Path) -> Iterator[dict[str, Any]]:
    """Read what a Recorder wrote. Raises OSError; a line that was cut off is left out."""
    for line in path.read_bytes().splitlines():
        try:
            yield json.loads(line)
        except ValueError:
            continue


class Disguise:
    """The replacements of one capture."""

    def __init__(self) -> None:
        """Know nothing yet."""
        self._texts: dict[str, str] = {}
        self._kinds: dict[str, dict[str, str]] = {}
        self._inside: re.Pattern[str] | None = None

    def learn(self, value: object, key: str = "") -> None:
        """Find the texts in a JSON value that must be replaced wherever they occur."""
        match value:
            case dict():
                for name, item in value.items():
                    if _ARE_NAMES.search(key):
                        self._learn_text(name, "name")
                    if not (name == "name" and _is_of_the_api(value)):
                        self.learn(item, name)
            case list():
                for item in value:
                    self.learn(item, key)
            case str() if value:
                self._learn_text(value, key)
            case _:
                pass

    def _learn_text(self, text: str, key: str) -> None:
        if _JWT.fullmatch(text):
            self._texts.setdefault(text, self._jwt(text))
        elif _SECRET.search(key):
            self._texts.setdefault(text, f"secret-{len(self._texts)}")
        elif _is_free(text, key):
            self._texts.setdefault(text, f"text-{len(self._texts)}")
        self._inside = None

    def json(self, value: Any, key: str = "") -> Any:  # noqa: ANN401 - any JSON value
        """Return a JSON value with everything replaced. Numbers and keys stay."""
        match value:
            case dict() if _is_of_the_api(value):
                return {name: self.json(item) for name, item in value.items()} | {
                    "name": value["name"]
                }
            case dict():
                names = _ARE_NAMES.search(key)
                return {
                    self.text(name) if names else name: self.json(item, name)
                    for name, item in value.items()
                }
            case list():
                return [self.json(item, key) for item in value]
            case str():
                return self._value(value, key)
            case _:
                return value

    def _value(self, text: str, key: str) -> str:
        if key.lower().find("version") >= 0:
            return text  # it looks like an address
        return self._texts.get(text) or self.text(text)

    def text(self, text: str) -> str:
        """Replace what is known, ids and addresses inside a text."""
        return self.ids(self._known().sub(lambda found: self._texts[found[0]], text))

    def ids(self, text: str) -> str:
        """Replace ids and addresses inside a text, and nothing else."""
        text = _UUID.sub(lambda found: self._numbered("id", found[0].lower()), text)
        text = _MAC.sub(lambda found: self._numbered("mac", found[0].lower()), text)
        return _IPV4.sub(lambda found: self._numbered("ip", found[0]), text)

    def _jwt(self, token: str) -> str:
        """A token with the same claims, in which everything is replaced, and no valid signature."""
        head, payload, _ = token.split(".")
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        self.learn(claims)
        replaced = base64.urlsafe_b64encode(json.dumps(self.json(claims)).encode())
        return f"{head}.{replaced.decode().rstrip('=')}.bm9uZQ"

    def host(self, name: str) -> str:
        """Replace a host of a URL: an address as everywhere, a name by an address too."""
        return self._numbered("ip", name)

    def _known(self) -> re.Pattern[str]:
        if self._inside is None:
            known = sorted((t for t in self._texts if len(t) >= _SHORTEST), key=len, reverse=True)
            words = "|".join(rf"(?<![A-Za-z0-9]){re.escape(t)}(?![A-Za-z0-9])" for t in known)
            self._inside = re.compile(words or r"(?!)")
        return self._inside

    def _numbered(self, kind: str, value: str) -> str:
        seen = self._kinds.setdefault(kind, {})
        if value not in seen:
            seen[value] = _FORMS[kind](len(seen) + 1)
        return seen[value]


_FORMS = {
    "id": lambda n: f"00000000-0000-4000-8000-{n:012x}",
    "mac": lambda n: f"02:00:00:{n >> 16 & 255:02x}:{n >> 8 & 255:02x}:{n & 255:02x}",
    "ip": lambda n: f"198.18.{n >> 8 & 255}.{n & 255}",  # the range for tests of RFC 2544
}


def _is_of_the_api(value: dict[str, Any]) -> bool:
    """Tell whether an object's name is a word of the API: a flag, or a pair of metadata."""
    kind = str(value.get("$objectType", ""))
    return "name" in value and kind.endswith((".config.Flag", ".config.KVPair"))


def _is_free(text: str, key: str) -> bool:
    """Tell whether a text was given by somebody and does not belong to the API."""
    if _UUID.fullmatch(text) or _IPV4.fullmatch(text) or _MAC.fullmatch(text):
        return False
    if _NAME.search(key):
        return True
    if _OF_THE_API.search(key) or _MESSAGE.search(key) or key.lower() == "href":
        return False
    if text.startswith("/") and (_UUID.search(text) or text.startswith("/api/")):
        return False  # a path: its ids and the names that are known are replaced
    return _PLAIN.fullmatch(text) is None and "://" not in text and ":" not in text


def anonymised(exchanges: Iterable[dict[str, Any]], disguise: Disguise) -> dict[str, Any]:
    """Return the content of a capture, ready to be written as JSON."""
    recorded = list(exchanges)
    for exchange in recorded:
        disguise.learn(exchange["sent"])
        disguise.learn(exchange["body"])
    found = [_exchange(exchange, disguise) for exchange in recorded]
    return {"schema": SCHEMA, "hosts": sorted({e["host"] for e in found}), "exchanges": found}


def _exchange(exchange: dict[str, Any], disguise: Disguise) -> dict[str, Any]:
    url = urlsplit(exchange["url"])
    query = {name: disguise.text(text) for name, text in parse_qsl(url.query)}
    return {
        "host": disguise.host(url.hostname or ""),
        "method": exchange["method"],
        "path": disguise.ids(unquote(url.path)),
        "query": query,
        "sent": disguise.json(exchange["sent"]),
        "status": exchange["status"],
        "headers": {name: _header(name, t, disguise) for name, t in exchange["headers"].items()},
        "body": disguise.json(exchange["body"]),
    }


def _header(name: str, text: str, disguise: Disguise) -> str:
    if "token" in name.lower():
        return "token"
    if name == "Location":
        url = urlsplit(text)
        query = f"?{quote(disguise.text(url.query), safe='=&')}" if url.query else ""
        at = (
            f"{url.scheme}://{disguise.host(url.hostname or '')}:{url.port}" if url.hostname else ""
        )
        return f"{at}{disguise.ids(url.path)}{query}"
    return disguise.text(text)
