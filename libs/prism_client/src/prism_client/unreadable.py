"""Records of a list that cannot be understood: kept beside the list, so that they stop nobody else.

A list gives every record that can be read. What cannot be read is logged as a warning and kept
here, by kind and id, until it is read well. Who asks for such a record by its id or name gets
BadAnswer.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NoReturn

import attrs

from prism_client._text import one_line
from prism_client.errors import BadAnswer

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger(__name__)


@attrs.frozen
class Unreadable:
    """A record that cannot be understood.

    kind: "VM", "cluster", "subnet", "storage container", "category", "project", "image",
    "recovery point", "volume group", "iSCSI client" or "protection policy".
    name, ext_id: "" where these cannot be read either. field: path of the field inside the record.
    """

    kind: str
    name: str
    ext_id: str
    field: str
    problem: str

    def __str__(self) -> str:
        """One line: which record, which field, and what is wrong with it."""
        which = described(self.kind, self.name, self.ext_id)
        return one_line(f"{which} cannot be read: {self.problem}")

    def refuse(self) -> NoReturn:
        """Raise BadAnswer: this record was asked for."""
        raise BadAnswer(str(self), field=self.field)


@attrs.frozen
class Unreadables:
    """The unreadable records that the lists of one client met, each once.

    listener: called with each when it is met first, in the thread that reads the list.
    """

    _listener: Callable[[Unreadable], None] | None = None
    _found: dict[tuple[str, str], Unreadable] = attrs.field(factory=dict, init=False)

    def of(self, kind: str = "") -> tuple[Unreadable, ...]:
        """Return the records of one kind, or all."""
        return tuple(entry for entry in list(self._found.values()) if kind in ("", entry.kind))

    def refuse(self, kind: str, ext_id: str) -> None:
        """Raise BadAnswer when the record of this id is among them."""
        found = self._found.get((kind, ext_id))
        if found is not None:
            found.refuse()

    def add(self, entry: Unreadable) -> None:
        """Take one in; what is known already is not logged again."""
        key = entry.kind, entry.ext_id or entry.name or entry.problem
        if self._found.get(key) != entry:
            log.warning("%s", entry)
            self._found[key] = entry
            if self._listener is not None:
                self._listener(entry)

    def forget(self, kind: str, ext_id: str) -> None:
        """Drop one that can be read now."""
        self._found.pop((kind, ext_id), None)


def described(kind: str, name: str, ext_id: str) -> str:
    """Name a record as far as it can be: by kind, name and id."""
    named = f"{kind} {name}" if name else f"a {kind} without a name"
    return f"{named} ({ext_id})" if ext_id else named
