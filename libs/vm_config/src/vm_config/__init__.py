"""One hypervisor-neutral VM configuration, its readers, and a writer for libvirt."""

from __future__ import annotations

__version__ = "0.1.0"
