"""Replication of VMs of any hypervisor: protocol, store, receiver and failover rules."""

from __future__ import annotations

__version__ = "0.1.0"
