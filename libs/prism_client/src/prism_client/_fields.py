"""Reading JSON that nobody vouches for. A missing or wrong field raises BadAnswer with its path."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from prism_client.errors import BadAnswer

if TYPE_CHECKING:
    from collections.abc import Mapping


@attrs.frozen
class Fields:
    """One JSON object, where it came from (a call, or a record), and its path in there."""

    value: Mapping[str, Any]
    where: str
    path: str = ""

    @classmethod
    def of(cls, value: object, where: str, path: str = "") -> Fields:
        """Wrap a JSON value that has to be an object."""
        if not isinstance(value, dict):
            at = f"{where}: {path}" if path else where
            raise BadAnswer(f"{at}: an object is expected, not {_kind(value)}", field=path)
        return cls(value, where, path)

    def at(self, name: str) -> str:
        """Return the path of a field."""
        return f"{self.path}.{name}" if self.path else name

    def fault(self, name: str, problem: str) -> BadAnswer:
        """Return the error that says what is wrong with a field."""
        return BadAnswer(f"{self.where}: {self.at(name)}: {problem}", field=self.at(name))

    def text(self, name: str) -> str:
        """Return a string that must be there."""
        value = self.opt_text(name)
        if value is None:
            raise self.fault(name, "is missing")
        return value

    def opt_text(self, name: str) -> str | None:
        """Return a string, or None when it is absent or null."""
        value = self.value.get(name)
        if value is not None and not isinstance(value, str):
            raise self.fault(name, f"a string is expected, not {_kind(value)}")
        return value

    def integer(self, name: str) -> int:
        """Return a number >= 0 that must be there."""
        value = self.opt_integer(name)
        if value is None:
            raise self.fault(name, "is missing")
        return value

    def opt_integer(self, name: str) -> int | None:
        """Return a number >= 0, or None; decimal digits in a string count as one."""
        value = self.value.get(name)
        if value is None:
            return None
        number = natural(value)
        if number is None:
            raise self.fault(name, f"a whole number is expected, not {_kind(value)}")
        return number

    def flag(self, name: str, *, default: bool = False) -> bool:
        """Return a boolean, or the default when it is absent or null."""
        value = self.value.get(name)
        if value is not None and not isinstance(value, bool):
            raise self.fault(name, f"true or false is expected, not {_kind(value)}")
        return default if value is None else value

    def child(self, *path: str) -> Fields:
        """Return a nested object; where a part of the path is absent or null, an empty one."""
        fields = self
        for name in path:
            value = fields.value.get(name)
            fields = Fields.of({} if value is None else value, fields.where, fields.at(name))
        return fields

    def need(self, name: str) -> Fields:
        """Return a nested object that must be there."""
        if self.value.get(name) is None:
            raise self.fault(name, "is missing")
        return self.child(name)

    def items(self, name: str) -> list[Fields]:
        """Return the objects of a list; absent or null means none."""
        return [
            Fields.of(item, self.where, f"{self.at(name)}[{i}]")
            for i, item in enumerate(self.array(name))
        ]

    def array(self, name: str) -> list[Any]:
        """Return a list as it is; absent or null means none."""
        value = self.value.get(name)
        if value is None:
            return []
        if not isinstance(value, list):
            raise self.fault(name, f"a list is expected, not {_kind(value)}")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        """Return a list of strings; absent or null means none."""
        return tuple(item for item in self.array(name) if isinstance(item, str))


def natural(value: object) -> int | None:
    """Return a JSON number >= 0, also one written as a string; None for anything else."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 20:
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    return None


def text_or_empty(value: object) -> str:
    """Return a string as it is; "" for anything else."""
    return value if isinstance(value, str) else ""


def _kind(value: object) -> str:
    return "null" if value is None else type(value).__name__
