"""The filters of lists."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prism_lab import _odata

ITEM: dict[str, Any] = {
    "extId": "1",
    "name": "it's a web server",
    "size": 10,
    "status": "RUNNING",
    "cluster": {"extId": "c1"},
    "parts": [{"vmExtId": "v1"}, {"vmExtId": "v2"}],
    "flag": True,
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name eq 'it''s a web server'", True),
        ("name eq 'web'", False),
        ("name ne 'web'", True),
        ("size gt 9 and size le 10", True),
        ("size lt 10 or size ge 11", False),
        ("not (size eq 10)", False),
        ("not size eq 9 and flag eq true", True),
        ("cluster/extId eq 'c1'", True),
        ("missing eq null", True),
        ("missing gt 3", False),
        ("status eq Prism.Config.TaskStatus'RUNNING'", True),
        ("status in ('QUEUED', 'RUNNING')", True),
        ("startswith(name, 'it') and contains(name,'web') and endswith(name,'server')", True),
        ("startswith(missing,'x')", False),
        ("parts/any(p:p/vmExtId eq 'v2')", True),
        ("parts/any(p: p/vmExtId eq 'v3' or size eq 9)", False),
        ("missing/any(p:p/vmExtId eq 'v3')", False),
    ],
)
def test_filter(text: str, *, expected: bool) -> None:
    assert bool(_odata.compile_filter(text)(ITEM)) is expected


@pytest.mark.parametrize(
    "text",
    [
        "name",
        "name eq",
        "name like 'x'",
        "(name eq 'x'",
        "name eq 'x' or",
        "parts/any(p",
        "'",
        "a in ()",
        "(" * 50 + "name eq 'x'" + ")" * 50,
        "name eq 'x' name",
    ],
)
def test_malformed_filter(text: str) -> None:
    with pytest.raises(_odata.FilterError):
        _odata.compile_filter(text)


@given(st.text(alphabet="abc 'eqandornot()/,:$0.", max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        test = _odata.compile_filter(text)
    except _odata.FilterError:
        return
    test({"a": "a", "b": [{"c": 1}]})


def test_order_and_select() -> None:
    items: list[dict[str, Any]] = [{"n": 2, "m": 1}, {"n": 1, "m": 1}, {"m": 0}]
    assert [i.get("n") for i in _odata.order(items, "n desc")] == [2, 1, None]
    assert [i.get("n") for i in _odata.order(items, "m desc, n")] == [1, 2, None]
    with pytest.raises(_odata.FilterError):
        _odata.order(items, "n sideways")
    assert _odata.select({"extId": 1, "$objectType": "x", "a": 2, "b": 3}, "a") == {
        "extId": 1,
        "$objectType": "x",
        "a": 2,
    }
