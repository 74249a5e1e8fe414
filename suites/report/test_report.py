"""The page as a browser lays it out. `SCREENSHOT=FILE` keeps the picture that the guide shows."""

from __future__ import annotations

import json
import os
import re
import shutil
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from suites.report.conftest import Site

MEASURE = """<!DOCTYPE html><meta charset="utf-8"><iframe src="report.html" style="border: 0;
width: %(width)dpx; height: 3000px"></iframe><pre id="found"></pre><script>
document.querySelector("iframe").onload = event => {
  const page = event.target.contentDocument, visible = element => {
    const box = element.getBoundingClientRect();
    return box.right > 0 && box.width > 0 && box.height > 0;
  };
  const labels = [...page.querySelectorAll("tbody tr:first-child td")].map(
    cell => event.target.contentWindow.getComputedStyle(cell, "::before").content);
  document.getElementById("found").textContent = JSON.stringify({
    width: page.documentElement.scrollWidth, height: page.documentElement.scrollHeight,
    heads: visible(page.querySelector("thead")), labels,
    rows: page.querySelectorAll("tbody tr").length,
    font: parseFloat(event.target.contentWindow.getComputedStyle(page.body).fontSize),
    cells: [...page.querySelectorAll("td, td > div, h1, p")].every(
      cell => cell.scrollWidth <= cell.clientWidth + 1),
  });
};
</script>
"""


def measured(site: Site, width: int) -> dict[str, Any]:
    """How the page is laid out in a window of this width."""
    (site.folder / "measure.html").write_text(MEASURE % {"width": width})
    printed = site.browse("measure.html", "--dump-dom", "--virtual-time-budget=10000")
    (found,) = re.findall(r'<pre id="found">(\{.*?\})</pre>', printed, re.DOTALL)
    answer: dict[str, Any] = json.loads(found)
    return answer


@pytest.mark.parametrize("width", [320, 390, 768])
def test_on_a_phone_it_is_read_without_moving_sideways(site: Site, width: int) -> None:
    found = measured(site, width)
    assert found["width"] <= width
    assert found["cells"], "some text is wider than its place"
    assert not found["heads"], "each cell has its own label"
    assert '"Last drill"' in found["labels"]
    assert found["font"] >= 14


@pytest.mark.parametrize("width", [1280, 1920])
def test_on_a_desk_it_is_a_table(site: Site, width: int) -> None:
    found = measured(site, width)
    assert found["width"] <= width
    assert found["cells"]
    assert found["heads"]
    assert set(found["labels"]) == {"none"}
    assert found["rows"] == 4


def test_the_browser_asks_for_nothing_else(site: Site) -> None:
    printed = site.browse("report.html", "--dump-dom")
    assert "What is proven of the backups" in printed
    assert set(site.asked) <= {"/report.html", "/favicon.ico"}


def test_it_is_printed_on_landscape_pages(site: Site) -> None:
    paper = site.folder / "report.pdf"
    site.browse("report.html", f"--print-to-pdf={paper}", "--no-pdf-header-footer")
    content = paper.read_bytes()
    assert content.startswith(b"%PDF-")
    boxes = re.findall(rb"/MediaBox \[0 0 ([0-9.]+) ([0-9.]+)\]", content)
    assert boxes
    assert all(float(width) > float(height) for width, height in boxes)
    assert len(boxes) == 1, "four rows fit on a page"


def test_the_picture(site: Site) -> None:
    picture = site.folder / "report.png"
    site.browse("report.html", f"--screenshot={picture}", "--window-size=1280,640")
    content = picture.read_bytes()
    assert struct.unpack(">II", content[16:24]) == (1280, 640)
    if wanted := os.environ.get("SCREENSHOT"):
        shutil.copyfile(picture, Path(wanted))
