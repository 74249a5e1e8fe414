"""Command lines of the backend."""

from __future__ import annotations
