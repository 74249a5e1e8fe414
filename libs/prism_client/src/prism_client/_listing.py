"""Lists, whatever API they come from: how one proves to be whole, and what becomes of its entries.

An entry is data of its own: one that cannot be understood is reported and left out, and the others
are listed.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from typing import TYPE_CHECKING, TypeVar

import attrs

from prism_client._fields import Fields
from prism_client._text import one_line
from prism_client.errors import BadAnswer
from prism_client.unreadable import Unreadable, described

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from prism_client.unreadable import Unreadables

    Label = Callable[[object], tuple[str, str]]

T = TypeVar("T")

ROUNDS = 5  # readings of a list that changes meanwhile
_LONGEST_NAME = 100


@attrs.frozen
class Entry:
    """One entry of a list as it came. name and ext_id are "" where there is none to be read.

    key: tells it from all other entries of its list. problem: what is wrong with it as a whole.
    """

    value: object
    name: str
    ext_id: str
    key: str
    problem: str = ""

    def described(self, kind: str) -> str:
        """Name it in a message."""
        return described(kind, one_line(self.name, _LONGEST_NAME), one_line(self.ext_id))

    def fields(self, kind: str) -> Fields:
        """Return its fields, whose errors name it. Raises BadAnswer for what has none."""
        if self.problem:
            raise BadAnswer(f"{self.described(kind)}: {self.problem}")
        return Fields.of(self.value, self.described(kind))


def entries(page: Iterable[object], label: Label) -> list[Entry]:
    """Return what is on one page. `label` reads (name, id) of an entry, "" for each it lacks.

    An entry without an id is known by its content. Of two entries of one page with one id, the
    second is an entry of its own, so that the list is whole, but it is not the one that is meant.
    """
    found = []
    seen: Counter[str] = Counter()
    for value in page:
        name, ext_id = label(value)
        known = ext_id or _digest(value)
        again = seen[known]
        seen[known] += 1
        key = f"{known} {again}" if again else known
        problem = "has the id of another entry" if again and ext_id else ""
        found.append(Entry(value, name, ext_id, key, problem))
    return found


def _digest(value: object) -> str:
    try:
        text = json.dumps(value, sort_keys=True)
    except RecursionError:
        text = "nested too deep"
    return hashlib.sha256(text.encode()).hexdigest()


def understood(
    found: Iterable[Entry],
    kind: str,
    read: Callable[[Fields], T | None],
    unreadable: Unreadables,
    *,
    name: str | None = None,
) -> Iterator[T]:
    """Yield the record of each entry that can be read; None is left out, the rest is reported.

    name: the only name that was asked for. An unreadable entry of this name raises BadAnswer.
    """
    for entry in found:
        try:
            record = read(entry.fields(kind))
        except BadAnswer as exc:
            unreadable.add(_report(entry, kind, exc))
            if name is not None and entry.name == name:
                raise
            continue
        if entry.ext_id:
            unreadable.forget(kind, entry.ext_id)
        if record is not None:
            yield record


def _report(entry: Entry, kind: str, exc: BadAnswer) -> Unreadable:
    problem = str(exc).removeprefix(f"{entry.described(kind)}: ")
    return Unreadable(kind, entry.name, entry.ext_id, exc.field, problem)


@attrs.define
class Reading:
    """How far one reading of a list has come, and what the pages say about the whole."""

    keys: set[str] = attrs.field(factory=set)
    totals: set[int | None] = attrs.field(factory=set)
    total: int | None = None

    def add(self, page: Sequence[Entry], total: int | None, where: str) -> None:
        """Take in one page, and the size of the whole list as that page states it."""
        before = len(self.keys)
        self.keys.update(entry.key for entry in page)
        if page and len(self.keys) == before:
            raise BadAnswer(f"{where}: the page repeats what earlier pages listed")
        self.total = total
        self.totals.add(total)

    def is_at_end(self) -> bool:
        """Say whether as many were seen as there are."""
        return self.total is not None and len(self.keys) >= self.total

    def is_whole(self) -> bool:
        """Say whether all pages agree on the size, and that many were seen."""
        return len(self.totals) == 1 and (self.total is None or len(self.keys) == self.total)
