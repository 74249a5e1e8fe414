"""Messages, channels and keys between a source and a receiver."""

from __future__ import annotations
