"""The conversation in docs/format.md is the one of the code, line by line."""

from __future__ import annotations

import re
from pathlib import Path

from ptcomm._state import TRANSITIONS, State
from ptcomm.events import Answer, End, EndOfInput, Phase, Role, Severity

PAGE = (Path(__file__).parents[1] / "docs/format.md").read_text("utf-8")
GIVEN_UP_IN = ("BACKUP", "BACKUP_FILE", "BACKUP_DATA", "BACKUP_OBJECT", "LISTING")


def documented() -> dict[str, dict[str, dict[str, str]]]:
    """What either may say in each state, and the state after it."""
    (block,) = re.findall(r"## Conversation.*?```\n(.*?)```", PAGE, re.DOTALL)
    found: dict[str, dict[str, dict[str, str]]] = {}
    for line in re.sub(r"\n +\|", " |", block).splitlines():
        state, _, rest = line.partition(" ")
        found[state] = {"backend": {}, "plugin": {}}
        for turn in filter(None, rest.split(";")):
            speaker, _, moves = turn.strip().partition(" ")
            for move in moves.split("|"):
                names, _, target = move.partition(":")
                for name in names.split(","):
                    found[state][speaker][name.strip()] = target.strip()
    for state in GIVEN_UP_IN:  # "In the states from BACKUP to LISTING ..."
        found[state]["plugin"]["End"] = "GIVEN_UP"
    return found


def coded() -> dict[str, dict[str, dict[str, str]]]:
    """The same of the code; messages and the end of a pipe have rules of their own."""
    return {
        state.name: {
            role.value: {
                said.value if isinstance(said, Phase | Answer) else said.__name__: target.name
                for said, target in TRANSITIONS[state][role].items()
                if said is not EndOfInput and not isinstance(said, Severity)
            }
            for role in Role
        }
        for state in State
        if state is not State.CLOSED
    }


def test_the_table_of_states() -> None:
    assert documented() == coded()


def test_what_is_left_out_of_it() -> None:
    for name in GIVEN_UP_IN:
        assert TRANSITIONS[State[name]][Role.PLUGIN][End] is State.GIVEN_UP
    mute = {state.name for state in State if Severity.INFO not in TRANSITIONS[state][Role.BACKEND]}
    (told,) = re.findall(r"a Message in every state but ([A-Z_, and]+),", PAGE)
    assert mute == set(re.findall(r"[A-Z_]{2,}", told))
