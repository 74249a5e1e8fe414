"""The part of OData that v4 lists understand: $filter, $orderby and $select over JSON objects."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

Json = dict[str, Any]
Test = Callable[[Mapping[str, Any]], Any]

_TOKEN = re.compile(
    r"\s*(?:(?P<text>(?:[A-Za-z.]+)?'(?:[^']|'')*')|(?P<punct>[(),:])"
    r"|(?P<word>[A-Za-z_$][\w$]*(?:/[A-Za-z_$][\w$]*)*|-?\d[\w:.+-]*))"
)
_COMPARE: Mapping[str, Callable[[Any, Any], bool]] = {
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
    "gt": lambda a, b: a is not None and a > b,
    "ge": lambda a, b: a is not None and a >= b,
    "lt": lambda a, b: a is not None and a < b,
    "le": lambda a, b: a is not None and a <= b,
}
_FUNCTIONS: Mapping[str, Callable[[str, str], bool]] = {
    "startswith": lambda a, b: str(a).startswith(b),
    "endswith": lambda a, b: str(a).endswith(b),
    "contains": lambda a, b: b in str(a),
}
_MAX_DEPTH = 32


class FilterError(ValueError):
    """The expression is not OData as we know it."""


def compile_filter(text: str) -> Test:
    """Turn a $filter expression into a test of one object; FilterError if it is malformed."""
    return _Parser(text).parse()


def order(items: list[Json], text: str) -> list[Json]:
    """Sort by "field [asc|desc], …"; objects without the field come first."""
    for part in reversed(text.split(",")):
        field, _, direction = part.strip().partition(" ")
        if direction.strip() not in {"", "asc", "desc"} or not field:
            raise FilterError(f"cannot order by {part.strip()!r}")
        items = _sorted(items, field, descending=direction.strip() == "desc")
    return items


def _sorted(items: list[Json], field: str, *, descending: bool) -> list[Json]:
    def key(item: Json) -> tuple[bool, Any]:
        value = _lookup(item, field)
        return value is not None, value

    return sorted(items, key=key, reverse=descending)


def select(item: Json, text: str) -> Json:
    """Keep the named fields, and what every object carries."""
    wanted = {field.strip() for field in text.split(",")} | {"extId"}
    return {key: value for key, value in item.items() if key in wanted or key.startswith("$")}


def _lookup(item: Any, path: str) -> Any:  # noqa: ANN401 - JSON values
    for part in path.split("/"):
        item = item.get(part) if isinstance(item, Mapping) else None
    return item


class _Parser:
    """Recursive descent; names bound by any(x: …) are looked up in the scope."""

    def __init__(self, text: str) -> None:
        self._tokens = _tokenize(text)
        self._at = 0
        self._depth = 0

    def parse(self) -> Test:
        test = self._or()
        if self._at != len(self._tokens):
            raise FilterError(f"unexpected {self._tokens[self._at]!r}")
        return test

    def _peek(self) -> str:
        return self._tokens[self._at] if self._at < len(self._tokens) else ""

    def _next(self, expected: str | None = None) -> str:
        token = self._peek()
        if not token or (expected is not None and token != expected):
            raise FilterError(f"expected {expected or 'more'}, found {token or 'the end'!r}")
        self._at += 1
        return token

    def _or(self) -> Test:
        left = self._and()
        while self._peek() == "or":
            self._next()
            left = _either(left, self._and())
        return left

    def _and(self) -> Test:
        left = self._not()
        while self._peek() == "and":
            self._next()
            left = _both(left, self._not())
        return left

    def _not(self) -> Test:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise FilterError("the expression is nested too deeply")
        try:
            if self._peek() == "not":
                self._next()
                inner = self._not()
                return lambda item: not inner(item)
            if self._peek() == "(":
                self._next()
                inner = self._or()
                self._next(")")
                return inner
            return self._comparison()
        finally:
            self._depth -= 1

    def _comparison(self) -> Test:
        name = self._next()
        if name in _FUNCTIONS and self._peek() == "(":
            return self._function(name)
        if name.endswith("/any") and self._peek() == "(":
            return self._any(name.removesuffix("/any"))
        operator = self._next()
        if operator == "in":
            values = self._list()
            return lambda item: _lookup(item, name) in values
        compare = _COMPARE.get(operator)
        if compare is None:
            raise FilterError(f"{operator!r} is not an operator")
        value = _literal(self._next())
        return lambda item: compare(_lookup(item, name), value)

    def _function(self, name: str) -> Test:
        self._next("(")
        field = self._next()
        self._next(",")
        value = str(_literal(self._next()))
        self._next(")")
        return lambda item: _FUNCTIONS[name](_lookup(item, field) or "", value)

    def _any(self, field: str) -> Test:
        self._next("(")
        variable = self._next()
        self._next(":")
        inner = self._or()
        self._next(")")
        return lambda item: any(
            inner({**item, variable: element}) for element in _lookup(item, field) or []
        )

    def _list(self) -> list[Any]:
        self._next("(")
        values = [_literal(self._next())]
        while self._peek() == ",":
            self._next()
            values.append(_literal(self._next()))
        self._next(")")
        return values


def _either(left: Test, right: Test) -> Test:
    return lambda item: left(item) or right(item)


def _both(left: Test, right: Test) -> Test:
    return lambda item: left(item) and right(item)


def _tokenize(text: str) -> list[str]:
    tokens = []
    at = 0
    while text[at:].strip():
        match = _TOKEN.match(text, at)
        if match is None:
            raise FilterError(f"cannot read {text[at:]!r}")
        tokens.append(match[0].strip())
        at = match.end()
    return tokens


def _literal(token: str) -> Any:  # noqa: ANN401 - a JSON value
    """Read 'text', Some.Enum'TEXT', a number, true, false, null, or a bare time or uuid."""
    if token.endswith("'"):
        return token[token.index("'") + 1 : -1].replace("''", "'")
    if token in {"true", "false", "null"}:
        return {"true": True, "false": False, "null": None}[token]
    try:
        return int(token)
    except ValueError:
        return token
