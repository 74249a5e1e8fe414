"""JSON to records and back, strictly.

Unknown, missing or repeated fields, wrong types, and text that has no UTF-8 form are errors.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_origin

from cattrs import BaseValidationError, Converter
from cattrs.errors import StructureHandlerNotFoundError

if TYPE_CHECKING:
    import attrs

T = TypeVar("T")


MOST_VALUES = 2_000_000
"""Lists, objects and their members in one record: Python needs up to 100 bytes for each."""


class RecordError(ValueError):
    """The JSON does not hold the record expected."""


class OtherSchema(RecordError):
    """The JSON says that it follows another `schema`, so its fields mean nothing to us."""

    def __init__(self, schema: int) -> None:
        super().__init__(f"it has schema {schema}")
        self.schema = schema


def _strict(value: object, expected: type[T]) -> T:
    if type(value) is not expected:
        raise TypeError(f"expected {expected.__name__}, got {value!r}")
    if isinstance(value, str):
        value.encode()
    return value


def _sequence(value: object, expected: type[tuple[T, ...]]) -> tuple[T, ...]:
    if not isinstance(value, list):
        raise TypeError(f"expected a list, got {value!r}")
    (kind, _) = get_args(expected)
    return tuple(_converter.structure(item, kind) for item in value)


def _is_tuple(kind: object) -> bool:
    return get_origin(kind) is tuple


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    plain = dict(pairs)
    if len(plain) != len(pairs):
        raise ValueError("a key is there twice")
    return plain


# A field with a default is one that came later: records without it keep their bytes and digests.
_converter = Converter(forbid_extra_keys=True, omit_if_default=True)
for _primitive in (int, str, bool):
    _converter.register_structure_hook(_primitive, _strict)
_converter.register_structure_hook_func(_is_tuple, _sequence)


def dump(record: attrs.AttrsInstance) -> bytes:
    """Write a record as canonical JSON: the same record always gives the same bytes."""
    plain = _converter.unstructure(record)
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def load(data: bytes, expected: type[T], *, schema: int | None = None) -> T:
    """Read a record; raise RecordError when the JSON is broken or does not fit.

    `schema` is the only one that we know, if there are any; for another, OtherSchema is raised.
    """
    try:
        _refuse_too_many(data)
        plain: Any = json.loads(data.decode(), object_pairs_hook=_object)
        found = plain.get("schema") if isinstance(plain, dict) else None
        if schema is None or found == schema or type(found) is not int:
            return _converter.structure(plain, expected)
    except (
        ValueError,
        AttributeError,  # from cattrs, for a list where an object is expected,
        TypeError,  # and for null
        RecursionError,
        BaseValidationError,
        StructureHandlerNotFoundError,
    ) as error:
        raise RecordError(f"not a valid {expected.__name__}: {_first_line(error)}") from error
    raise OtherSchema(found)


def _refuse_too_many(data: bytes) -> None:
    if data.count(b",") + data.count(b"[") + data.count(b"{") > MOST_VALUES:
        raise ValueError(f"it holds more than {MOST_VALUES} values")


def _first_line(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}".partition("\n")[0]
