"""Every command of the pages about disasters and security is one that its program understands."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from nutanix_backend import __main__ as backend
from replica_receiver import __main__ as receiver
from replica_receiver import second_user
from vm_replica.failover.transitions import Event

DOCS = Path(__file__).parents[3] / "docs"
GUIDE = DOCS / "disaster-recovery.md"
COMMAND = re.compile(
    r"(?:^(?:\s*\S*\$\s+)?|`)(?:sudo (?:-u \S+ )?)?"
    r"(podheitor-nutanix-backend|podheitor-receiver|podheitor-failover|dr) ([a-z][^`\n]*)",
    re.MULTILINE,
)
PARSERS = {
    "podheitor-nutanix-backend": backend.command_line,
    "podheitor-receiver": receiver.command_line,
    "podheitor-failover": second_user.command_line,
    "dr": receiver.command_line,
}


def commands() -> list[tuple[str, str]]:
    """The commands of the pages: in their blocks, and in their sentences."""
    pages = (GUIDE, DOCS / "security.md")
    return sorted({found for page in pages for found in COMMAND.findall(page.read_text())})


@pytest.mark.parametrize(("program", "text"), commands())
def test_every_command_is_understood(program: str, text: str) -> None:
    args = PARSERS[program]().parse_args(shlex.split(text))
    assert callable(args.run)


def test_both_programs_are_shown() -> None:
    assert {program for program, _ in commands()} == set(PARSERS)


def test_every_event_is_explained() -> None:
    page = GUIDE.read_text()
    shown = {text.split()[1] for _, text in commands() if text.startswith("failover")}
    shown |= {text.split()[0] for program, text in commands() if program == "podheitor-failover"}
    assert {event.value for event in Event} <= shown | set(re.findall(r"`failover ([a-z-]+)", page))
