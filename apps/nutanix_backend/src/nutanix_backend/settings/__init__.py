"""Parameters and settings."""

from __future__ import annotations
