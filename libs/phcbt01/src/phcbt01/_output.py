"""Output files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Iterator


def refuse_existing(path: Path, *, overwrite: bool) -> None:
    """Raise FileExistsError if there is something at `path` that may not be overwritten."""
    if not overwrite and os.path.lexists(path):
        raise FileExistsError(errno.EEXIST, "exists already (--overwrite replaces it)", str(path))


@contextlib.contextmanager
def replacing(path: Path, *, overwrite: bool) -> Iterator[Path]:
    """Yield a path to create and to make durable; when all went well, it is renamed to `path`."""
    refuse_existing(path, overwrite=overwrite)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        partial = Path(folder, path.name)
        yield partial
        refuse_existing(path, overwrite=overwrite)
        partial.replace(path)
    _flush_folder(path.parent)


@contextlib.contextmanager
def writing(path: Path, *, overwrite: bool) -> Iterator[BinaryIO]:
    """Yield a file that becomes `path` when it is complete and durable. Its mode is 0600."""
    with replacing(path, overwrite=overwrite) as partial:
        partial.touch(mode=0o600)
        with partial.open("wb") as out:
            yield out
            out.flush()
            os.fsync(out.fileno())


def _flush_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
