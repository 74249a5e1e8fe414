"""Every command of the disaster recovery guide is one that the program understands."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from nutanix_backend.__main__ import command_line
from vm_replica.failover.transitions import Event

GUIDE = Path(__file__).parents[3] / "docs" / "disaster-recovery.md"
COMMAND = re.compile(
    r"(?:^\$ |^|`)(?:sudo -u \S+ )?(?:podheitor-nutanix-backend|dr) ([a-z][^`\n]*)", re.MULTILINE
)


def commands() -> list[str]:
    """The commands of the page: in its blocks, and in its sentences."""
    return sorted(set(COMMAND.findall(GUIDE.read_text())))


@pytest.mark.parametrize("text", commands())
def test_every_command_is_understood(text: str) -> None:
    command_line().parse_args(shlex.split(text))


def test_every_event_is_explained() -> None:
    page = GUIDE.read_text()
    shown = {text.split()[1] for text in commands() if text.startswith("failover")}
    assert {event.value for event in Event} <= shown | set(re.findall(r"`failover ([a-z-]+)", page))
