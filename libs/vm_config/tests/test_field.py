"""Files as people have them: each was read wrongly once, and the JSON beside it says what is right.

Only what the JSON names is compared. `disks` are their keys, `saved` those that a backup holds,
`addresses` bus and index, `left_out` words of which each is in a line (none: nothing is left out),
`refused` words of the refusal.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import pytest
from vm_config import readers
from vm_config.errors import ConfigurationError

if TYPE_CHECKING:
    from vm_config.machine import Machine

FIELD = Path(__file__).parent / "field"
EXPECTED = sorted(FIELD.glob("*/*.json"))
WAYS = {"ovf": "@vsphere"}


def name_of(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


def shown(machine: Machine) -> dict[str, Any]:
    """A machine as the JSON speaks of it."""
    return attrs.asdict(machine, recurse=False) | {
        "disks": [disk.key for disk in machine.disks],
        "saved": [disk.key for disk in machine.disks if disk.is_saved],
        "addresses": [[disk.bus, disk.index] for disk in machine.disks],
        "sizes": [disk.size for disk in machine.disks],
        "networks": [nic.network for nic in machine.nics],
        "macs": [nic.mac for nic in machine.nics],
        "connected": [nic.connected for nic in machine.nics],
        "boot_order": list(machine.boot_order),
    }


def assert_left_out(lines: tuple[str, ...], expected: list[str]) -> None:
    assert bool(lines) == bool(expected), lines
    for words in expected:
        assert any(words in line for line in lines), (words, lines)


@pytest.mark.parametrize("path", EXPECTED, ids=name_of)
def test_a_configuration_reads_as_it_is_meant(path: Path) -> None:
    expected = json.loads(path.read_text(encoding="utf-8"))
    kind = path.parent.name
    content = path.with_suffix("").read_bytes()
    if words := expected.get("refused"):
        with pytest.raises(ConfigurationError) as refused:
            readers.read(WAYS.get(kind, f"@{kind}"), content)
        assert words in str(refused.value)
        return
    machine = readers.read(WAYS.get(kind, f"@{kind}"), content)
    if "left_out" in expected:
        assert_left_out(machine.left_out, expected.pop("left_out"))
    found = shown(machine)
    assert {field: found[field] for field in expected} == expected


def test_no_input_of_the_field_is_without_its_right_value() -> None:
    inputs = {p for p in FIELD.glob("*/*") if p.suffix != ".json"}
    assert inputs == {path.with_suffix("") for path in EXPECTED}
    assert len(inputs) >= 16
