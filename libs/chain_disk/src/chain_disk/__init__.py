"""A disk of a backup, put together from its chain while it is read at any offset."""

from chain_disk._delta import Delta
from chain_disk._image import ImageFile
from chain_disk._ranges import aligned, steps
from chain_disk.cache import CachedDisk
from chain_disk.chain import ChainDisk, ChainFile
from chain_disk.disk import Disk
from chain_disk.errors import ChainError, DamagedBlock

__version__ = "0.1.0"

__all__ = [
    "CachedDisk",
    "ChainDisk",
    "ChainError",
    "ChainFile",
    "DamagedBlock",
    "Delta",
    "Disk",
    "ImageFile",
    "aligned",
    "steps",
]
