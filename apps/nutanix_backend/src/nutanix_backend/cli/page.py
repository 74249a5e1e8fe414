"""The report as one HTML page: no script, nothing from elsewhere, for a phone and for paper."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from command_line.text import duration, utc

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nutanix_backend.queries.protection import Protection, Tried
    from nutanix_backend.references.known import Blocks

NEVER = "never"
_STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.45 system-ui, sans-serif; margin: 1.5rem auto; max-width: 90rem;
  padding: 0 1rem; color: #1b1f24; background: #fff; }
h1 { font-size: 1.5rem; margin: 0 0 .25rem; }
p { margin: .25rem 0 1rem; color: #444c56; }
table { border-collapse: collapse; width: 100%; table-layout: fixed; }
th:nth-child(3) { width: 5.5rem; }
th:nth-child(7) { width: 20%; }
time { white-space: nowrap; }
th, td { text-align: left; vertical-align: top; padding: .5rem .6rem;
  border-bottom: 1px solid #d0d7de; overflow-wrap: anywhere; }
th { font-weight: 600; background: #f6f8fa; }
small { color: #57606a; display: block; }
tr.good { border-left: 4px solid #1a7f37; }
tr.unproven { border-left: 4px solid #bf8700; }
tr.bad { border-left: 4px solid #b3261e; }
.fault { color: #b3261e; }
.unknown { color: #8a5a00; }
@media screen and (max-width: 60rem) {
  thead { position: absolute; left: -100rem; }
  tbody tr { display: block; margin: 0 0 1rem; }
  td { display: flex; gap: .5rem; border-bottom: 1px solid #eaeef2; }
  td::before { content: attr(data-label); flex: 0 0 6rem; color: #57606a; }
  td > div { flex: 1; min-width: 0; }
}
@media print {
  @page { size: A4 landscape; margin: 12mm; }
  body { font-size: 10px; margin: 0; max-width: none; padding: 0; }
  tr { break-inside: avoid; }
  thead { display: table-header-group; }
}
"""
HEADINGS = (
    "VM",
    "Last good point",
    "Its age (RPO)",
    "Last proven reconstruction",
    "Last drill",
    "Oldest unproven block",
    "Problems",
)


def render(rows: Sequence[Protection], *, host: str, now: int) -> str:
    """The page; `now` is when it is made, in seconds of the epoch."""
    bad = sum(bool(row.problems) for row in rows)
    heads = "".join(f'<th scope="col">{escape(text)}</th>' for text in HEADINGS)
    return (
        "<!DOCTYPE html>\n"
        '<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>What is proven of the backups</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        "<h1>What is proven of the backups</h1>\n"
        f"<p>Made {utc(now)} UTC on {escape(host)}. "
        f"{len(rows)} VMs and replicas, {bad} with problems. All times are in UTC.</p>\n"
        f"<table>\n<thead><tr>{heads}</tr></thead>\n<tbody>\n"
        f"{''.join(map(_row, rows))}</tbody>\n</table>\n</body>\n</html>\n"
    )


def _row(row: Protection) -> str:
    where = f"{row.kind}, cluster {row.cluster}" if row.cluster else row.kind
    cells = (
        "".join((escape(row.name), _small(where), _small(row.uuid))),
        _when(row.taken, row.point),
        duration(row.age) if row.taken else _unknown(NEVER),
        _tried(row.proof),
        _tried(row.drill),
        _blocks(row.blocks),
        "".join(f'<div class="fault">{escape(problem)}</div>' for problem in row.problems)
        or "none",
    )
    found = "".join(
        f'<td data-label="{escape(label)}"><div>{cell}</div></td>'
        for label, cell in zip(HEADINGS, cells, strict=True)
    )
    return f'<tr class="{_kind(row)}">{found}</tr>\n'


def _kind(row: Protection) -> str:
    """How a row is marked: with a problem, never proven and tried as a whole, or well."""
    if row.problems:
        return "bad"
    return "good" if row.proof.good and row.drill.good else "unproven"


def _when(seconds: int, what: str) -> str:
    return f"{_time(seconds)}{_small(what)}" if seconds else _unknown(NEVER)


def _time(seconds: int) -> str:
    """A moment, to the minute."""
    return f"<time>{utc(seconds)[:16]}</time>"


def _tried(tried: Tried) -> str:
    good = f"{tried.good.point}: {tried.good.text}" if tried.good and tried.good.text else ""
    if tried.good and not good:
        good = tried.good.point
    shown = _when(tried.good.when if tried.good else 0, good)
    if tried.failed:
        shown += f'<div class="fault">failed {_time(tried.failed.when)}</div>'
    return shown


def _blocks(blocks: Blocks | None) -> str:
    if blocks is None:
        return _unknown("no digest list")
    never = f"{blocks.never} of {blocks.total} blocks of 1 MiB never read"
    if not blocks.never:
        never = f"all {blocks.total} blocks of 1 MiB read"
    if not blocks.oldest:
        return _unknown(never)
    return f"read {_time(blocks.oldest)}{_small(never)}"


def _unknown(text: str) -> str:
    return f'<span class="unknown">{escape(text)}</span>'


def _small(text: str) -> str:
    return f"<small>{escape(text)}</small>"
