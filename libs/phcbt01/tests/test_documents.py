"""The documents are tested against the code: byte tables, error table, hex dump, examples."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from phcbt01 import _layout, testing
from phcbt01.errors import Code

if TYPE_CHECKING:
    import construct

ROOT = Path(__file__).parents[1]
FORMAT = (ROOT / "docs" / "format.md").read_text()
README = (ROOT / "README.md").read_text()


def rows(title: str) -> list[list[str]]:
    """Return the cells of the table in a section."""
    section = FORMAT.split(f"\n## {title}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")][2:]
    return [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in lines]


@pytest.mark.parametrize(
    ("title", "layout"), [("Header", _layout.OURS.header), ("Region", _layout.OURS.region)]
)
def test_byte_tables_match_the_layout(title: str, layout: construct.Struct) -> None:
    declared, offset = [], 0
    for field in layout.subcons:
        declared.append([str(offset), str(field.sizeof()), field.name])
        offset += field.sizeof()
    assert [row[:3] for row in rows(title)] == declared
    assert f"{offset} bytes" in FORMAT.split(f"\n## {title}\n")[1].split("\n## ")[0]


def test_the_magic_is_the_one_in_the_table() -> None:
    text = rows("Header")[0][3].split("`")[0]
    assert bytes.fromhex(text) == _layout.MAGIC


def test_every_error_code_is_listed() -> None:
    assert [row[0] for row in rows("Errors")] == list(Code)


def hex_dump(data: bytes) -> str:
    lines = []
    for at in range(0, len(data), 16):
        piece = data[at : at + 16]
        columns = f"{piece[:8].hex(' '):23}  {piece[8:].hex(' '):23}"
        text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in piece)
        lines.append(f"{at:08x}  {columns}  |{text}|")
    return "\n".join(lines) + "\n"


def test_the_worked_example() -> None:
    dump = FORMAT.split("```hexdump\n")[1].split("```")[0]
    stream = testing.encode(1 << 20, [(4096, b"\xde\xad\xbe\xef"), (8192, bytes(2))])
    assert dump == hex_dump(stream)
    by_hand = "".join(line[10:58] for line in dump.splitlines())
    found = testing.check_input(bytes.fromhex(by_hand), cuts=range(len(stream)))
    assert found.fault is None
    spans = [tuple(map(int, row[0].split(" - "))) for row in rows("Example")]
    assert [first for first, _ in spans] == [0, *(last + 1 for _, last in spans[:-1])]
    assert spans[-1][1] == len(stream) - 1


def test_the_readme_examples_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 3
    exec(compile("".join(blocks), "README.md", "exec"), {})
    assert (tmp_path / "both").exists()
