"""What the command lines share: `arguments`, `terminal`, `text`, and `program` with exit codes."""

from __future__ import annotations

__version__ = "0.1.0"
