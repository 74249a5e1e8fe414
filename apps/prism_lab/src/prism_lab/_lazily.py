"""A list whose items are made when they are looked at: a page of 5,000 VMs shows 100 of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar, overload

T = TypeVar("T")


class Lazily(Sequence[T]):
    """`make` applied to each record, on demand."""

    def __init__(self, records: Sequence[Any], make: Callable[[Any], T]) -> None:
        self._records = records
        self._make = make

    def __len__(self) -> int:
        return len(self._records)

    @overload
    def __getitem__(self, at: int) -> T: ...
    @overload
    def __getitem__(self, at: slice) -> list[T]: ...
    def __getitem__(self, at: int | slice) -> T | list[T]:
        if isinstance(at, slice):
            return [self._make(record) for record in self._records[at]]
        return self._make(self._records[at])
