"""Which paths are meant: `*`, `?` and `[...]` in one component, `**` for any number of them."""

from __future__ import annotations

import fnmatch
import re
from typing import TYPE_CHECKING

from guest_files.errors import FilesError

if TYPE_CHECKING:
    from collections.abc import Iterable

ANY_DEPTH = "**"
MOST_PARTS = 100
_SPECIAL = re.compile(r"([*?[])")


def literal(path: str) -> str:
    """A pattern that means this path and nothing else."""
    return _SPECIAL.sub(r"[\1]", path)


def as_pattern(path: str) -> str:
    """A path with signs of a pattern as it is; any other as one that means it alone."""
    return path if _SPECIAL.search(path) else literal(path)


def selection(paths: Iterable[str]) -> list[str]:
    """Patterns for what paths and patterns mean, and for all that is below it."""
    return [
        pattern
        for path in paths
        for pattern in (as_pattern(path), f"{as_pattern(path).rstrip('/')}/{ANY_DEPTH}")
    ]


class Pattern:
    """A pattern, followed from the root on. A state is the set of positions that are possible."""

    def __init__(self, text: str, *, folds_case: bool = False) -> None:
        """Read it; raise FilesError when it cannot be used."""
        self._parts = [part for part in text.split("/") if part not in {"", "."}]
        if ".." in self._parts or len(self._parts) > MOST_PARTS or "\0" in text:
            raise FilesError(f"{text!r} cannot be a path: write it from the root on, without ..")
        flags = re.IGNORECASE if folds_case else 0
        self._tests = [re.compile(fnmatch.translate(part), flags) for part in self._parts]

    @property
    def start(self) -> frozenset[int]:
        """The state at the root."""
        return self._closed({0})

    def follow(self, state: frozenset[int], name: str) -> frozenset[int]:
        """The state below an entry of this name."""
        found = set()
        for at in state:
            if at < len(self._parts):
                if self._parts[at] == ANY_DEPTH:
                    found.add(at)
                elif self._tests[at].match(name):
                    found.add(at + 1)
        return self._closed(found)

    def accepts(self, state: frozenset[int]) -> bool:
        """Whether the entry that led here is meant."""
        return len(self._parts) in state

    def goes_on(self, state: frozenset[int]) -> bool:
        """Whether something below can be meant."""
        return any(at < len(self._parts) for at in state)

    def _closed(self, state: Iterable[int]) -> frozenset[int]:
        """`**` may stand for nothing."""
        found = set(state)
        for at in sorted(found):
            position = at
            while position < len(self._parts) and self._parts[position] == ANY_DEPTH:
                position += 1
                found.add(position)
        return frozenset(found)
