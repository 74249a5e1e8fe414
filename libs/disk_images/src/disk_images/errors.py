"""What can go wrong, as one line for the administrator."""

from __future__ import annotations


class ImageRefused(Exception):
    """An image or an archive is damaged, is of an unknown kind, or cannot be trusted."""
