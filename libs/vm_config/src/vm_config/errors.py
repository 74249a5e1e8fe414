"""What can be wrong with a VM configuration, as one line for the administrator."""

from __future__ import annotations


class ConfigurationError(Exception):
    """No VM can be made from this configuration; the text says why."""
