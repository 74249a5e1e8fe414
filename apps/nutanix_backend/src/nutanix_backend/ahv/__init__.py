"""Making a VM on AHV."""

from __future__ import annotations
