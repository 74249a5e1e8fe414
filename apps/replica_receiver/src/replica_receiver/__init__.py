"""The receiver of replicas: it stores them, proves them, and fails over to them."""

from __future__ import annotations

__version__ = "0.1.0"
