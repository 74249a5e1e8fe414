"""The files inside the disks of a VM, read without mounting anything and without trusting them."""

from guest_files.errors import FilesError, LimitReached, NotThere, NotWhole, ReaderDied
from guest_files.model import Entry, Limits, Volume
from guest_files.patterns import as_pattern, literal, selection
from guest_files.reader import FoundFile, GuestFiles
from guest_files.targets import FolderTarget, TarTarget

__version__ = "0.1.0"

__all__ = [
    "Entry",
    "FilesError",
    "FolderTarget",
    "FoundFile",
    "GuestFiles",
    "LimitReached",
    "Limits",
    "NotThere",
    "NotWhole",
    "ReaderDied",
    "TarTarget",
    "Volume",
    "as_pattern",
    "literal",
    "selection",
]
