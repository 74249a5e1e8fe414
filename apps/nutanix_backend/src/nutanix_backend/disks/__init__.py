"""The disks of a VM: what to read, and the streams that carry it."""

from __future__ import annotations
