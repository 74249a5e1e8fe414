"""The recovery points that later jobs need."""

from __future__ import annotations
