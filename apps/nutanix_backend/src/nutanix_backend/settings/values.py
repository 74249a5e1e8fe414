"""The texts of parameters as values: paths are absolute or empty, rates in bytes per second."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import phcbt01

from nutanix_backend.errors import ParameterError
from nutanix_backend.settings.table import Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from nutanix_backend.settings.table import Parameter

YES = {"1", "yes", "true", "on"}
NO = {"0", "no", "false", "off"}
_KEY = re.compile(r"[!-~]*")


def value(parameter: Parameter, texts: Sequence[str]) -> object:
    """What a parameter is, from all texts given for it; of several the last counts, except lists.

    Raises ParameterError, naming the parameter and what it should be.
    """
    if parameter.kind is Kind.LIST:
        return tuple(texts)
    text = texts[-1] if texts else parameter.default
    if parameter.choices and text and text not in parameter.choices:
        raise ParameterError(
            f"{parameter.name}={text} is not one of {', '.join(parameter.choices)}"
        )
    return READERS[parameter.kind](parameter.name, text)


def is_yes(text: str) -> bool:
    """Whether the text of a flag says yes."""
    return text.lower() in YES


def _flag(name: str, text: str) -> bool:
    if is_yes(text):
        return True
    if text.lower() in NO:
        return False
    raise ParameterError(f"{name}={text} is neither yes nor no")


def _seconds(name: str, text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e6:
        raise ParameterError(f"{name}={text} is not a positive number of seconds")
    return seconds


def _count(name: str, text: str) -> int:
    if not (text.isascii() and text.isdecimal() and 1 <= int(text[:9]) <= 64):
        raise ParameterError(f"{name}={text} is not a number from 1 to 64")
    return int(text)


def _port(name: str, text: str) -> int:
    if not text:
        return 0
    if not (text.isascii() and text.isdecimal() and 1 <= int(text[:9]) <= 65535):
        raise ParameterError(f"{name}={text} is not a number from 1 to 65535")
    return int(text)


def _rate(name: str, text: str) -> float:
    if not text:
        return 0.0
    try:
        rate = float(text)
    except ValueError:
        rate = 0.0
    if not 0.05 <= rate <= 1e6:
        raise ParameterError(f"{name}={text} is not a number of MiB per second, at least 0.05")
    return rate * 1024 * 1024


def _share(name: str, text: str) -> float:
    try:
        percent = 100.0 if text == "all" else float(text.removesuffix("%"))
    except ValueError:
        percent = -1.0
    if not 0 <= percent <= 100:
        raise ParameterError(f"{name}={text} is neither a percentage from 0 to 100 nor all")
    return percent / 100


def _path(name: str, text: str) -> Path | None:
    if text and not text.startswith("/"):
        raise ParameterError(f"{name}={text} is not an absolute path")
    return Path(text) if text else None


def _paths(name: str, text: str) -> dict[str, Path]:
    """Read one path, or `number:path` several times with commas between them."""
    found: dict[str, Path] = {}
    for part in re.split(r",(?=[0-9]+:/)", text) if text else ():
        number, _, path = ("", "", part) if part.startswith("/") else part.partition(":")
        if number in found or "" in found or not (number.isdecimal() or path == part):
            raise ParameterError(f"{name}={text} is neither a path nor number:path,...")
        found[number] = _path(name, path) or Path()
    return found


def _layout(name: str, text: str) -> phcbt01.Layout:
    try:
        return phcbt01.Layout.parse(text)
    except phcbt01.UsageError as error:
        raise ParameterError(f"{name}: {error}") from error


def _text(_name: str, text: str) -> str:
    return text


def _secret(name: str, text: str) -> str:
    """Take a secret; a key travels in a header, where only visible ASCII is legal."""
    if name == "api_key" and not _KEY.fullmatch(text):
        raise ParameterError(
            "parameter api_key holds a blank or a character outside of ASCII, which no key has: "
            "copy it again"
        )
    return text


READERS: Mapping[Kind, Callable[[str, str], object]] = {
    Kind.TEXT: _text,
    Kind.SECRET: _secret,
    Kind.FLAG: _flag,
    Kind.SECONDS: _seconds,
    Kind.COUNT: _count,
    Kind.PORT: _port,
    Kind.RATE: _rate,
    Kind.SHARE: _share,
    Kind.PATH: _path,
    Kind.PATHS: _paths,
    Kind.LAYOUT: _layout,
}
