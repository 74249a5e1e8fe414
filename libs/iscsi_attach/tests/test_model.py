"""The records: addresses, secrets, extents."""

from __future__ import annotations

import pytest
from iscsi_attach import Chap, Extent, Portal, Target


@pytest.mark.parametrize(
    ("text", "portal", "shown"),
    [
        ("10.0.0.1", Portal("10.0.0.1"), "10.0.0.1:3260"),
        ("10.0.0.1:860,1", Portal("10.0.0.1", 860), "10.0.0.1:860"),
        ("dsip.example", Portal("dsip.example"), "dsip.example:3260"),
        ("[fd00::1]:3261,2", Portal("fd00::1", 3261), "[fd00::1]:3261"),
        ("[fd00::1]", Portal("fd00::1"), "[fd00::1]:3260"),
        ("fd00::1", Portal("fd00::1"), "[fd00::1]:3260"),
    ],
)
def test_portals(text: str, portal: Portal, shown: str) -> None:
    assert Portal.parse(text) == portal
    assert str(portal) == shown


def test_a_port_is_a_number() -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        Portal.parse("10.0.0.1:iscsi")


def test_the_secret_shows_nowhere() -> None:
    target = Target(Portal("10.0.0.1"), "iqn.x", Chap("user", "hush-hush-hush"))
    assert "hush" not in f"{target} {target!r}"


@pytest.mark.parametrize(("offset", "length"), [(-1, 1), (0, -1)])
def test_extents_are_not_negative(offset: int, length: int) -> None:
    with pytest.raises(ValueError, match="must be >= 0"):
        Extent(offset, length)
