"""Any bytes as a vmdk: an image within its own bounds, or ImageRefused. qemu-img is not asked."""

from __future__ import annotations

import tempfile
from pathlib import Path

import disk_images as images
from disk_images.errors import ImageRefused

KEPT = tempfile.TemporaryDirectory(prefix="fuzz-images-")
FOLDER = Path(KEPT.name)
FLAT = FOLDER / "f.vmdk"
FLAT.write_bytes(bytes(4096))


def check(data: bytes) -> None:
    """Vet the bytes alone, and as the descriptor of a flat extent `f.vmdk` of 8 sectors."""
    path = FOLDER / "d.vmdk"
    path.write_bytes(data)
    for files in ([path], [path, FLAT]):
        try:
            image = images.vet(files)
        except ImageRefused:
            continue
        if not 0 < image.size <= images.MAX_SIZE or not 0 <= image.data_bytes <= image.size:
            raise AssertionError(f"{image} cannot be")
        if image.data_bytes > 4096 + 1032 * len(data):
            raise AssertionError(f"{image} grows out of {len(data)} bytes")
