"""Golden vectors of PTCOMM, PHCBT01 and the files of a backup. Data only: no types, no runner."""

from __future__ import annotations

from pathlib import Path
from typing import IO, Any

_PACKED = Path(__file__).parent / "data"
_ROOT = _PACKED if _PACKED.exists() else Path(__file__).parents[2]  # a checkout has them outside

__all__ = ["open_vector_file"]


def open_vector_file(name: str, mode: str = "r") -> IO[Any]:
    """Open a file of the set by its name in MANIFEST.json, for reading ("r" or "rb")."""
    if mode not in {"r", "rb"}:
        raise ValueError("vectors are only read")
    return (_ROOT / name).open(mode, encoding=None if "b" in mode else "utf-8")
