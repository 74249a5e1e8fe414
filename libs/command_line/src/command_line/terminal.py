"""Writing to a terminal, a file or another program, whatever their encoding.

Names and messages come from outside: they are written as plain text, never as mark-up or as control
codes, and a character that the encoding does not have is written as an escape such as \\xfc.
"""

from __future__ import annotations

import io
import json
import sys
from enum import Enum
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from command_line.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

PIPED_WIDTH = 200
"""Columns of output that goes into a file or another program."""


def accept_any_text() -> None:
    """Let standard output and standard error take any text; call it when the program starts."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def say(text: str) -> None:
    """Write a line, or several, to standard output."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def complain(text: str) -> None:
    """Write one line to standard error."""
    sys.stderr.write(f"{printable(text)}\n")
    sys.stderr.flush()


def console(*, stderr: bool = False) -> Console:
    """A console without mark-up. Where it is not a terminal it is wide enough not to fold lines."""
    screen = Console(stderr=stderr, highlight=False, markup=False, emoji=False)
    return screen if screen.is_terminal else Console(file=screen.file, width=PIPED_WIDTH)


def plain(text: str) -> str:
    """The text as standard output can show it: printable, and in its encoding."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return printable(text).encode(encoding, "backslashreplace").decode(encoding)


def show_json(rows: Iterable[Mapping[str, object]]) -> None:
    """Write a list of objects as JSON to standard output; of an enumeration its value."""
    say(json.dumps(list(rows), indent=1, default=_value))


def _value(item: object) -> object:
    if isinstance(item, Enum):
        return item.value
    raise TypeError(f"{type(item).__name__} is nothing that JSON knows")


def show_table(headings: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    """Write a table to standard output; a cell may have several lines."""
    table = Table()
    for heading in headings:
        table.add_column(heading)
    for row in rows:
        table.add_row(*(Text("\n".join(map(plain, cell.split("\n")))) for cell in row))
    console().print(table)
