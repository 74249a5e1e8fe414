"""Files with parameters and passwords: read only when nobody else can read or change them."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from nutanix_backend.errors import ParameterError
from nutanix_backend.settings.table import BY_NAME, Kind

if TYPE_CHECKING:
    from pathlib import Path

LARGEST = 1 << 20
"""Bytes of the largest file that is read."""
_BY_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_WRITTEN_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def config_lines(parameter: str, path: Path) -> list[tuple[str, str]]:
    """Name and value of each line; raises ParameterError, which shows nothing of the file."""
    text, mode = _read(parameter, path)
    items = []
    for number, line in enumerate(text.split("\n"), start=1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        name, equals, value = (part.strip() for part in stripped.partition("="))
        if not equals:
            raise ParameterError(f"{parameter} {path} line {number}: expected name=value")
        if name not in BY_NAME:
            raise ParameterError(
                f"{parameter} {path} line {number}: the word before = is no parameter:"
                f"{_nearest(name)} parameters.md lists all"
            )
        items.append((name, value))
    if mode & _BY_OTHERS and any(BY_NAME[name].kind is Kind.SECRET for name, _ in items):
        raise ParameterError(_open_to_others(parameter, path))
    return items


def first_line(parameter: str, path: Path) -> str:
    """The first line of a file that holds a secret."""
    text, mode = _read(parameter, path)
    if mode & _BY_OTHERS:
        raise ParameterError(_open_to_others(parameter, path))
    return text.partition("\n")[0].rstrip("\r")


def whole(parameter: str, path: Path) -> str:
    """The text of a file that everybody may read."""
    return _read(parameter, path)[0]


def unknown(name: str) -> str:
    """What to say of a parameter that we do not know."""
    return f"unknown parameter {name}:{_nearest(name)} parameters.md lists all"


def _nearest(name: str) -> str:
    from difflib import get_close_matches  # noqa: PLC0415 - only for a mistake

    found = get_close_matches(name.lower()[:64], BY_NAME, 1)
    return f" did you mean {found[0]}?" if found else ""


def _read(parameter: str, path: Path) -> tuple[str, int]:
    """Text and mode of a file of ours; a byte order mark, as Windows writes it, is left out."""
    try:
        descriptor = os.open(
            os.path.realpath(path), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        )
        with open(descriptor, "rb") as file:  # noqa: PTH123 - a descriptor, not a path
            found = os.fstat(descriptor)
            _refuse_foreign(parameter, path, found)
            return file.read(LARGEST + 1).decode("utf-8-sig"), found.st_mode
    except OSError as error:
        raise ParameterError(f"{parameter} {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise ParameterError(
            f"{parameter} {path} cannot be read: it is not UTF-8 text: save it as UTF-8"
        ) from None  # the error shows bytes of the file


def _refuse_foreign(parameter: str, path: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode) or found.st_size > LARGEST:
        raise ParameterError(f"{parameter} {path} cannot be read: it is no small file of text")
    if found.st_uid not in {0, os.geteuid()}:
        raise ParameterError(
            f"{parameter} {path} belongs to user {found.st_uid}, who could change it: "
            f"chown root {path}"
        )
    if found.st_mode & _WRITTEN_BY_OTHERS:
        raise ParameterError(
            f"{parameter} {path} can be changed by others than its owner: chmod 600 {path}"
        )


def _open_to_others(parameter: str, path: Path) -> str:
    return f"{parameter} {path} holds a secret and is open to others: chmod 600 {path}"
