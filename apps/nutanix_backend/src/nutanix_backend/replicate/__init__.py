"""The source of replication."""

from __future__ import annotations
