"""Clients over time and beside each other: an upgrade between two jobs, a second client."""

from __future__ import annotations

from suites.install.conftest import client, lab

__all__ = ["client", "lab"]
