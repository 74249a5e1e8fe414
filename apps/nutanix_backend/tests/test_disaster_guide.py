"""Every command of the disaster recovery guide is one that its program understands."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from nutanix_backend import __main__ as backend
from replica_receiver import __main__ as receiver
from vm_replica.failover.transitions import Event

GUIDE = Path(__file__).parents[3] / "docs" / "disaster-recovery.md"
COMMAND = re.compile(
    r"(?:^\$ |^|`)(?:sudo -u \S+ )?(podheitor-nutanix-backend|podheitor-receiver|dr) "
    r"([a-z][^`\n]*)",
    re.MULTILINE,
)
PARSERS = {
    "podheitor-nutanix-backend": backend.command_line,
    "podheitor-receiver": receiver.command_line,
    "dr": receiver.command_line,
}


def commands() -> list[tuple[str, str]]:
    """The commands of the page: in its blocks, and in its sentences."""
    return sorted(set(COMMAND.findall(GUIDE.read_text())))


@pytest.mark.parametrize(("program", "text"), commands())
def test_every_command_is_understood(program: str, text: str) -> None:
    args = PARSERS[program]().parse_args(shlex.split(text))
    assert callable(args.run)


def test_both_programs_are_shown() -> None:
    assert {program for program, _ in commands()} == set(PARSERS)


def test_every_event_is_explained() -> None:
    page = GUIDE.read_text()
    shown = {text.split()[1] for _, text in commands() if text.startswith("failover")}
    assert {event.value for event in Event} <= shown | set(re.findall(r"`failover ([a-z-]+)", page))
