"""Full, incremental and differential backups."""

from __future__ import annotations
