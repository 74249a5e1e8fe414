"""The digest lists of the disks of a VM on this host, by their roots.

An incremental brings the list of its base up to date. As the state beside them, lists may be lost:
then the disk is read as a whole once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import durable
from digests import BadList, ImageDigests

from nutanix_backend.errors import StateError

if TYPE_CHECKING:
    from pathlib import Path


class ListStore:
    """A folder of digest lists, each in a file that is called by its root."""

    def __init__(self, folder: Path) -> None:
        """Keep lists in `folder`, which is made when the first is saved."""
        self._folder = folder

    def load(self, root: str) -> ImageDigests | None:
        """The list with this root; None when it is not here, or not what its name says."""
        try:
            image = ImageDigests.decode(self._path(root).read_bytes())
        except (OSError, BadList):
            return None
        return image if image.root() == root else None

    def save(self, image: ImageDigests) -> None:
        """Keep a list, durable before this returns; raise StateError."""
        try:
            durable.make_folder(self._folder)
            durable.replace(self._path(image.root()), image.encode())
        except OSError as error:
            raise StateError(
                f"the digest list of a disk cannot be saved: {error}: check free space"
            ) from error

    def keep_only(self, roots: set[str]) -> None:
        """Remove all lists but those with these roots; raise OSError."""
        kept = {self._path(root) for root in roots if root}
        for path in set(self._folder.glob("*")) - kept:
            path.unlink()
        if not kept and self._folder.is_dir():
            self._folder.rmdir()

    def _path(self, root: str) -> Path:
        return self._folder / f"{root.rpartition(':')[2]}.digests"
