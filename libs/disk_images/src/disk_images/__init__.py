"""Disk images and packages of other hypervisors, read without trusting them.

`vet` and `convert_to_raw` read VMDK, VHDX and raw images. `TarStream` reads an OVA as it arrives.
`content_of` names what a disk holds already.
"""

from disk_images._images import Limits, convert_to_raw, is_whole_disk, vet
from disk_images.errors import ImageRefused
from disk_images.reading import MAX_SIZE, GuestImage
from disk_images.signatures import content_of
from disk_images.tar_stream import Member, TarStream

__version__ = "0.1.0"

__all__ = [
    "MAX_SIZE",
    "GuestImage",
    "ImageRefused",
    "Limits",
    "Member",
    "TarStream",
    "content_of",
    "convert_to_raw",
    "is_whole_disk",
    "vet",
]
