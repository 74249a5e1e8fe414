"""What the command lines share: `text`, `arguments`, `terminal` and `exit_codes`."""

from __future__ import annotations

__version__ = "0.1.0"
