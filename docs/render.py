"""Write the parts of these pages that are made from something else: files, transcripts, the table.

    ./run shell python docs/render.py

A part stands between two comments, `<!-- begin KIND WHAT -->` and `<!-- end -->`:

    begin file examples/job.conf             a file of this folder
    begin transcript full.txt                what a console printed, recorded by the tests
    begin transcript full.txt: VM|Term       only the lines in which the expression is found
    begin parameters                         the table of the backend
    begin options                            the restore options that the shim offers
    begin rights                             the rights that an account needs in Prism
    begin vm-fields                          what a restore makes of each field of a VM
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from nutanix_backend.ahv.vm_fields import FIELDS
from nutanix_backend.doctor.rights import RIGHTS
from nutanix_backend.settings.table import TABLE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from nutanix_backend.settings.table import Parameter

DOCS = Path(__file__).parent
SHIM = DOCS.parent / "shim" / "podheitor-nutanix-fd.cpp"
PART = re.compile(r"(<!-- begin (.+?) -->\n).*?(<!-- end -->)", re.DOTALL)
SECTIONS = {
    "prism": "Connection to Prism",
    "dsip": "This host",
    "vm": "What is backed up",
    "fallback_to_full": "Chain",
    "mode": "Replication",
    "restore_to": "Restore",
    "restore_drill": "Restore drill",
    "listing": "What every plugin of Bacula has",
}
"""The first parameter of each section of the table, and how the section is called."""


def render(page: str) -> str:
    """A page with all its made parts made anew."""
    return PART.sub(lambda part: f"{part[1]}{_made(part[2])}{part[3]}", page)


def shim_parameters(source: str) -> list[str]:
    """The parameters that the shim lets pass on a Plugin line, in its order."""
    (found,) = re.findall(r"valid_params\[\] = \{(.*?)NULL", source, re.DOTALL)
    return re.findall(r'"(\w+)"', found)


def shim_options(source: str) -> list[tuple[str, str, str, str]]:
    """Name, reader, help and default of the restore options that the shim offers."""
    (found,) = re.findall(r"plugin_items_dump\[\] = \{(.*?)\{NULL", source, re.DOTALL)
    return re.findall(r'\{"(\w+)", ini_store_(\w+), "(.*?)", \d, "(.*?)"\}', found)


def _made(what: str) -> str:
    kind, _, rest = what.partition(" ")
    if kind == "file":
        return _fenced((DOCS / rest).read_text())
    if kind == "transcript":
        name, _, expression = rest.partition(": ")
        lines = (DOCS / "transcripts" / name).read_text().splitlines(keepends=True)
        return _fenced("".join(line for line in lines if re.search(expression, line)))
    if kind == "parameters":
        return "".join(_parameters(TABLE))
    if kind == "rights":
        return "".join(_rights())
    if kind == "vm-fields":
        return "".join(_vm_fields())
    if kind == "options":
        return "".join(_options())
    raise ValueError(f"nothing is known about {what}")


def _fenced(text: str) -> str:
    return f"```\n{text}```\n"


def _parameters(table: Iterable[Parameter]) -> Iterator[str]:
    for row in table:
        if row.name in SECTIONS:
            yield f"\n## {SECTIONS[row.name]}\n\n"
            yield "| parameter | value | default | meaning |\n|---|---|---|---|\n"
        value = " or ".join(f"`{choice}`" for choice in row.choices) or row.kind.value
        default = f"`{row.default}`" if row.default else ""
        yield f"| `{row.name}` | {value} | {default} | {row.help} |\n"
    yield "\n"


def _options() -> Iterator[str]:
    yield "| option | without it | meaning |\n|---|---|---|\n"
    for name, _, meaning, default in shim_options(SHIM.read_text()):
        shown = default.strip("*") if default.startswith("*") else f"`{default}`"
        yield f"| `{name}` | {shown} | {meaning} |\n"


def _rights() -> Iterator[str]:
    yield "| operation | needed for | what it is used for | in Backup Admin |\n|---|---|---|---|\n"
    for right in RIGHTS:
        has = "yes" if right.backup_admin else "**no**"
        yield f"| {right.operation} | {right.need.value} | {right.why} | {has} |\n"


def _vm_fields() -> Iterator[str]:
    yield "| field of a v4 VM | what a restore does | |\n|---|---|---|\n"
    for field in FIELDS:
        more = field.note or (f"job log: {field.line}" if field.line else "")
        yield f"| `{field.path}` | {field.fate.value} | {more} |\n"


def main() -> None:
    """Bring every page up to date; name those that were not."""
    for path in sorted(DOCS.glob("*.md")):
        page = path.read_text()
        made = render(page)
        if made != page:
            path.write_text(made)
            sys.stdout.write(f"{path.name} is up to date again\n")


if __name__ == "__main__":
    main()
