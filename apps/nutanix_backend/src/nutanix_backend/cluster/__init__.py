"""What the backend does on a cluster: select, create with guards, sweep."""

from __future__ import annotations
