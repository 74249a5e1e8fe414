"""The log of the backend: a file of its own, which is replaced when it is large."""

from __future__ import annotations

import os
from logging.handlers import RotatingFileHandler
from typing import TYPE_CHECKING

import durable

if TYPE_CHECKING:
    from io import TextIOWrapper
    from pathlib import Path

LARGEST = 10_000_000
"""Bytes of a file; three older ones are kept."""


class LogFile(RotatingFileHandler):
    """Appends to a file of the state folder, whose owner may be another user than we are."""

    def __init__(self, path: Path) -> None:
        """Open it, made if need be. Raises OSError."""
        durable.make_folder(path.parent)
        self._path = path
        super().__init__(path, maxBytes=LARGEST, backupCount=3, encoding="utf-8")

    def take_stderr(self) -> None:
        """Let what is written to standard error go here too."""
        os.dup2(self._descriptor, 2)

    def _open(self) -> TextIOWrapper:
        self._descriptor = durable.open_or_make(self._path, os.O_WRONLY | os.O_APPEND)
        return os.fdopen(self._descriptor, "a", encoding="utf-8")
