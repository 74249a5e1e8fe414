"""The administrator's guide and the shim say what the program does."""

from __future__ import annotations

import ast
import re
import runpy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from nutanix_backend.settings.parameters import parse
from nutanix_backend.settings.table import BY_NAME, TABLE, Kind
from ptcomm import Level

if TYPE_CHECKING:
    from apps.nutanix_backend.tests.conftest import Product

ROOT = Path(__file__).parents[3]
DOCS = ROOT / "docs"
SHIM = ROOT / "shim" / "podheitor-nutanix-fd.cpp"
SOURCES = (*ROOT.glob("libs/*/src"), *ROOT.glob("apps/*/src"))
READERS = {Kind.FLAG: "bool", Kind.SECONDS: "int64"}
"""The readers of bacula-fd that hand a value on; all other kinds travel as str."""


@pytest.fixture(scope="module")
def tools() -> dict[str, Any]:
    """The functions that make the pages."""
    return runpy.run_path(str(DOCS / "render.py"))


@pytest.mark.parametrize("path", sorted(DOCS.glob("*.md")), ids=lambda path: path.name)
def test_made_parts_are_up_to_date(path: Path, tools: dict[str, Any]) -> None:
    page = path.read_text()
    assert page == tools["render"](page), "run ./run shell python docs/render.py"


@pytest.mark.parametrize("path", sorted(DOCS.glob("*.md")), ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text()):
        assert (DOCS / target).exists(), target


def test_the_shim_lets_pass_what_the_table_has(tools: dict[str, Any]) -> None:
    assert tools["shim_parameters"](SHIM.read_text()) == [row.name for row in TABLE]


def test_the_shim_offers_restore_options_as_the_table_has_them(tools: dict[str, Any]) -> None:
    options = tools["shim_options"](SHIM.read_text())
    assert {"restore_to", "disk", "disk_path", "restore_vm_name", "overwrite"} <= {
        name for name, *_ in options
    }
    for name, reader, meaning, default in options:
        row = BY_NAME[name]
        assert reader == READERS.get(row.kind, "str"), name
        assert meaning == row.help, name
        assert default == (row.default or default), name
        assert row.kind is not Kind.SECRET, "the catalog keeps restore options in clear text"


def test_the_examples_can_be_read() -> None:
    for name in ("prism.conf", "adapter.conf"):
        lines = (DOCS / "examples" / name).read_text().splitlines()
        known = {line.partition("=")[0].strip() for line in lines if "=" in line and line[0] != "#"}
        assert known <= set(BY_NAME)
    for example in DOCS.glob("examples/fileset-*.conf"):
        plugin_lines = re.findall(r'Plugin = "podheitor-nutanix: (.*)"', example.read_text())
        assert plugin_lines
        for line in plugin_lines:
            pairs = [tuple(word.split("=", 1)) for word in line.split()]
            parse((name, value) for name, value in pairs if name != "config_file")


def test_a_restore_to_a_folder_needs_neither_prism_nor_the_state_of_the_backup(
    product: Product,
) -> None:
    """The guide promises it: any client with the plugin will do."""
    guest = product.guest(1 << 20)
    full = product.good_backup(Level.FULL, guest)
    empty = product.root / "empty.conf"
    empty.touch()
    nowhere = dict.fromkeys(("prism", "user", "password", "ca"))
    where = product.root / "elsewhere"
    product.good_restore(
        where, config_file=empty, state_dir=product.root / "another client", **nowhere
    )
    image = product.restored(where, guest, 0)
    assert image.read_bytes() == product.points(full, guest)[0].read_bytes()


# --- messages ------------------------------------------------------------------------------------


def test_the_messages_explained_are_messages_of_the_program() -> None:
    """Each heading of troubleshooting.md; what varies in a message is an ellipsis."""
    page = (DOCS / "troubleshooting.md").read_text()
    ours = page.partition("## Said by Bacula")[0]
    headings = re.findall(r"^### `(.*)`$", ours, re.MULTILINE)
    assert len(headings) > 20
    texts = set(program_texts())
    missing = [text for text in headings if not any(text in known for known in texts)]
    assert not missing


def program_texts() -> list[str]:
    """Every string of the program, with an ellipsis for what is filled in."""
    found = []
    for source in SOURCES:
        for path in source.rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.JoinedStr):
                    parts = (v.value if isinstance(v, ast.Constant) else "…" for v in node.values)
                    found.append("".join(map(str, parts)))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.append(node.value)
    return found
