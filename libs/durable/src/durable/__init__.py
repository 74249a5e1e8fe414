"""Files that survive a power cut.

`durable.records` reads and writes JSON records, `durable.names` makes names of files from any text,
`durable.closable` is the base of what is closed at the end of a block.
"""

from __future__ import annotations

from durable._files import (
    append,
    make_folder,
    open_locked,
    open_new,
    open_or_make,
    remove,
    rename,
    replace,
    sync_folder,
)
from durable._folders import at, open_folder

__version__ = "0.1.0"
__all__ = [
    "append",
    "at",
    "make_folder",
    "open_folder",
    "open_locked",
    "open_new",
    "open_or_make",
    "remove",
    "rename",
    "replace",
    "sync_folder",
]
