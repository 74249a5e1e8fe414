"""What a check finds: one line, and whether a backup could work all the same."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from typing import Self


class State(Enum):
    """How good a finding is; only BAD stands in the way of a backup."""

    OK = "ok"
    NOTE = "note"
    BAD = "FAIL"


@attrs.frozen
class Finding:
    """A line of the doctor: what was looked at, how good it is, what it is or what to do."""

    topic: str
    state: State
    text: str

    @classmethod
    def ok(cls, topic: str, text: str) -> Self:
        """All is well."""
        return cls(topic, State.OK, text)

    @classmethod
    def note(cls, topic: str, text: str) -> Self:
        """Worth knowing, but nothing fails because of it."""
        return cls(topic, State.NOTE, text)

    @classmethod
    def bad(cls, topic: str, text: str) -> Self:
        """Backups fail until somebody does what `text` says."""
        return cls(topic, State.BAD, text)
