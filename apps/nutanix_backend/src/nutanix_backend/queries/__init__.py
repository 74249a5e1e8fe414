"""Listings, estimates and queries."""

from __future__ import annotations
