"""proxmox configurations."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nutanix_backend.errors import RestoreRefused

if TYPE_CHECKING:
    from nutanix_backend.restore.machine import Machine


def read(content: bytes) -> Machine:
    """Read the configuration; raise RestoreRefused when no VM can be made from it."""
    raise RestoreRefused(f"configurations of proxmox cannot be read yet ({len(content)} bytes)")
