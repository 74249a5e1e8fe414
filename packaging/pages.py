"""Print the man page or the bash completion of a program, made from its command line.

usage: pages.py man|bash podheitor-nutanix-backend|podheitor-receiver
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import textwrap
import time
from typing import TYPE_CHECKING

import shtab
from argparse_manpage.manpage import Manpage
from command_line import arguments
from nutanix_backend.settings.table import TABLE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nutanix_backend.settings.table import Parameter

PROGRAMS = {
    "podheitor-nutanix-backend": "nutanix_backend",
    "podheitor-receiver": "replica_receiver",
}
BACKEND = "podheitor-nutanix-backend"
COMPLETE = "_podheitor_parameters"


def man_page(program: str, parser: argparse.ArgumentParser) -> str:
    """Return the source of a man page."""
    about = (parser.description or "").partition(": ")[2] or parser.description
    day = time.gmtime(int(os.environ.get("SOURCE_DATE_EPOCH", time.time())))
    data = {
        "prog": program,
        "project_name": "podheitor",
        "version": importlib.import_module(PROGRAMS[program]).__version__,
        "description": about,
        "date": time.strftime("%Y-%m-%d", day),
    }
    page = Manpage(parser, _data=data)
    page.section, page.manual = "8", "System administration"
    if program == BACKEND:
        page.add_section("parameters", "=", "\n".join(map(_described, TABLE)))
        page.add_section("files", "=", FILES)
    return str(page)


FILES = textwrap.dedent("""\
    .TP
    /etc/podheitor\\-nutanix
    configuration: address and credentials of Prism
    .TP
    /var/lib/podheitor\\-nutanix
    the chains of the VMs, journals and the log
    .TP
    /usr/share/doc/podheitor\\-nutanix
    the guide, and configuration to copy
""")


def _described(row: Parameter) -> str:
    """Return the entry of a parameter; what it says is escaped for roff."""
    about = f"{row.help} ({row.kind.value})"
    if row.choices:
        about += f"; one of {', '.join(row.choices)}"
    if row.default:
        about += f"; default: {row.default}"
    return f".TP\n\\fB{row.name}\\fR=\n{_escaped(about)}"


def _escaped(text: str) -> str:
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{escaped}" if escaped.startswith((".", "'")) else escaped


def completion(program: str, parser: argparse.ArgumentParser) -> str:
    """Return a script for bash: commands, options, and the names and choices of parameters."""
    for action in _actions(parser):
        if action.type is arguments.pair:
            action.complete = {"bash": COMPLETE}  # type: ignore[attr-defined] # read by shtab
    words = " ".join(word for row in TABLE for word in _words(row))
    preamble = f'{COMPLETE}() {{\n  compgen -W "{words}" -- "$1"\n}}'
    parser.prog = program
    made: str = shtab.complete_bash(parser, preamble=preamble)
    function = f"_shtab_{program.replace('-', '_')}"
    return f"{made}\n{NO_SPACE.format(function=function, program=program)}"


NO_SPACE = """
# The value of a parameter follows its name without a blank.
{function}_pairs() {{
  {function}
  [[ ${{#COMPREPLY[@]}} != 1 || ${{COMPREPLY[0]}} != *= ]] || compopt -o nospace
}}
complete -o bashdefault -F {function}_pairs {program}
"""


def _words(row: Parameter) -> list[str]:
    return [f"{row.name}={choice}" for choice in row.choices or ("",)]


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Yield the arguments of a parser and of all its commands."""
    for action in parser._actions:  # noqa: SLF001 - argparse has no other way to look at it
        yield action
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            for child in action.choices.values():
                yield from _actions(child)


def main(kind: str, program: str) -> int:
    """Print one of them."""
    module = importlib.import_module(f"{PROGRAMS[program]}.__main__")
    make = {"man": man_page, "bash": completion}[kind]
    sys.stdout.write(make(program, module.command_line()))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
