"""Digests of backup streams, and of the images that they make."""

from __future__ import annotations

from digests.image import BLOCK, BadList, ImageDigests, blocks_of, encoded_size
from digests.stream import StreamDigest

__version__ = "0.1.0"
__all__ = ["BLOCK", "BadList", "ImageDigests", "StreamDigest", "blocks_of", "encoded_size"]
