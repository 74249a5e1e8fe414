"""Any bytes: a manifest or ManifestError; its canonical form is read as the same one."""

from __future__ import annotations

from nutanix_backend import manifest
from nutanix_backend.errors import ManifestError


def check(data: bytes) -> None:
    """Read the bytes as a manifest."""
    try:
        found = manifest.decode(data)
    except ManifestError:
        return
    again = manifest.decode(found.encode())
    if again != found or again.encode() != found.encode() or again.digest() != found.digest():
        raise AssertionError("a manifest is not what its canonical form says")
