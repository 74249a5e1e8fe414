"""Which VMs `vm=` and `exclude_vm=` select."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import pytest
from nutanix_backend.cluster.inventory import is_pattern, matching
from ptcomm import Level, Severity

if TYPE_CHECKING:
    from apps.nutanix_backend.tests.conftest import Product


@attrs.frozen
class Thing:
    """An entity with a name."""

    name: str
    ext_id: str = ""


@pytest.mark.parametrize(
    ("value", "names", "found"),
    [
        ("web1", ["web1", "web2"], ["web1"]),
        ("web*", ["web1", "db", "web"], ["web1", "web"]),
        ("web?", ["web1", "web12"], ["web1"]),
        ("web[1]", ["web1", "web[1]"], ["web[1]"]),
        ("web[1]*", ["web1x", "web[1]x"], ["web[1]x"]),
        ("a*", ["a*", "ab"], ["a*"]),
        ("Web*", ["web1"], []),
        ("a.b", ["a.b", "axb"], ["a.b"]),
        ("two*", ["two\nlines"], ["two\nlines"]),
    ],
)
def test_only_star_and_question_mark_are_special(
    value: str, names: list[str], found: list[str]
) -> None:
    assert [thing.name for thing in matching(value, [Thing(name) for name in names])] == found


def test_an_id_is_a_name_too() -> None:
    assert matching("0a-1", [Thing("web", "0a-1"), Thing("db", "0a-2")])[0].name == "web"
    assert not is_pattern("web[1]")
    assert is_pattern("web?")


def test_what_selects_nothing_costs_the_others_nothing(product: Product) -> None:
    guest = product.guest(1 << 20)
    result = product.backup(Level.FULL, guest, vm=[guest.name, "no-such-vm", "nothing-*"])
    assert result.status.good
    said = [m.text for m in result.log if m.severity is Severity.NONFATAL]
    assert len(said) == 2
    assert "no VM is called no-such-vm" in said[0]
    assert "no VM is called nothing-*" in said[1]


def test_with_abort_on_error_one_value_ends_the_job(product: Product) -> None:
    guest = product.guest(1 << 20)
    result = product.backup(Level.FULL, vm=[guest.name, "no-such-vm"], abort_on_error="yes")
    assert not result.status.good


def test_a_job_of_which_nothing_is_left_fails(product: Product) -> None:
    product.guest(1 << 20)
    result = product.backup(Level.FULL, vm="no-such-vm")
    assert not result.status.good
    assert "no VM is called no-such-vm" in result.log[-1].text
