"""Which parts of a view are written, and which become zeros."""

from __future__ import annotations

import pytest
from phcbt01 import is_zero, testing, write_sparse

P = 4096
ZERO, DATA, LATE = bytes(P), b"\x01" * P, bytes(P - 1) + b"\x01"


def calls(offset: int, view: bytes) -> list[tuple[str, int, int]]:
    old = b"\xff" * (1 << 20)
    target = testing.MemoryTarget(old)
    write_sparse(target, offset, view)
    assert target.content == old[:offset] + view + old[offset + len(view) :]
    return target.calls


@pytest.mark.parametrize(
    ("offset", "view", "expected"),
    [
        (0, b"", []),
        (0, ZERO, [("zero", 0, P)]),
        (0, DATA, [("write", 0, P)]),
        (0, LATE, [("write", 0, P)]),
        (0, ZERO * 3, [("zero", 0, 3 * P)]),
        (0, DATA + LATE, [("write", 0, 2 * P)]),
        (P, ZERO + DATA + ZERO, [("zero", P, P), ("write", 2 * P, P), ("zero", 3 * P, P)]),
        (0, DATA + ZERO * 2 + DATA, [("write", 0, P), ("zero", P, 2 * P), ("write", 3 * P, P)]),
        # pages are counted from the beginning of the disk, not of the view
        (1, ZERO + DATA, [("zero", 1, P - 1), ("write", P, P + 1)]),
        (P - 1, b"\x01" + ZERO, [("write", P - 1, 1), ("zero", P, P)]),
        (10, bytes(20), [("zero", 10, 20)]),
        (10, b"\x01" + bytes(20), [("write", 10, 21)]),
        (2 * P, ZERO + b"\0\0\x01", [("zero", 2 * P, P), ("write", 3 * P, 3)]),
    ],
)
def test_runs(offset: int, view: bytes, expected: list[tuple[str, int, int]]) -> None:
    assert calls(offset, view) == expected


@pytest.mark.parametrize("size", [0, 1, 4095, 1 << 20, (1 << 20) + 1, 3 << 20])
def test_is_zero(size: int) -> None:
    assert is_zero(bytes(size))
    if size:
        assert not is_zero(bytes(size - 1) + b"\x01")
        assert not is_zero(b"\x80" + bytes(size - 1))
