"""Reading the values of a command line. What cannot be used raises ArgumentTypeError.

argparse prints the text of that error, and of no other.
"""

from __future__ import annotations

import argparse
import os
import re
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable


class Subparsers(Protocol):
    """What argparse's add_subparsers() returns, as far as commands need it."""

    def add_parser(self, name: str, *, help: str) -> argparse.ArgumentParser:  # noqa: A002 - the name of argparse
        """Add a command and return its parser."""
        ...


_SIZES = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_TIMES = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}


def typed(text: str) -> str:
    """Text that was typed, such as the name of a VM, also where the locale is not UTF-8.

    Bytes that are valid UTF-8 are read as UTF-8; others as the locale says.
    """
    try:
        return os.fsencode(text).decode()
    except UnicodeError:
        return text


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add --json, for what a program prints with `terminal.show_json`."""
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")


def pair(text: str) -> tuple[str, str]:
    """Read KEY=VALUE. The value may be empty."""
    key, equals, value = typed(text).partition("=")
    if not key or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    return key, value


def size(text: str) -> int:
    """Read a number of bytes, such as 1048576, 512M or 2T."""
    match = re.fullmatch(r"([0-9]{1,15})([KMGT]?)", text.upper(), re.ASCII)
    if not match:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a size: write a number of bytes, or a number with K, M, G or T"
        )
    return int(match[1]) * _SIZES[match[2]]


def seconds(*, least: float = 0, most: float = 10 * 365 * 86_400) -> Callable[[str], float]:
    """Make a reader of time spans, in seconds, from `least` to `most`: 90, 1.5, 10m, 36h or 7d."""

    def read(text: str) -> float:
        match = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]{1,9})?)([smhd]?)", text.lower(), re.ASCII)
        if not match:
            raise argparse.ArgumentTypeError(
                f"{text!r} is not a time: write a number of seconds, or a number with s, m, h or d"
            )
        value = float(match[1]) * _TIMES[match[2]]
        _refuse_outside(text, value, least, most)
        return value

    return read


def number(*, least: int, most: int = 1_000_000_000) -> Callable[[str], int]:
    """Make a reader of whole numbers from `least` to `most`."""

    def read(text: str) -> int:
        if not re.fullmatch(r"-?[0-9]{1,15}", text, re.ASCII):
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
        _refuse_outside(text, int(text), least, most)
        return int(text)

    return read


def _refuse_outside(text: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:
        raise argparse.ArgumentTypeError(f"{text!r} is not from {least} to {most}")
