"""The replicas of a receiver on disk."""

from __future__ import annotations
