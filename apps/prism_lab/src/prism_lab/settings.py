"""What kind of cluster the lab plays."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import attrs

from prism_lab.latency import Latency

if TYPE_CHECKING:
    from collections.abc import Mapping

NEWEST_REVISIONS: Mapping[str, int] = MappingProxyType(
    {
        "clustermgmt": 2,
        "datapolicies": 2,
        "dataprotection": 3,
        "networking": 3,
        "prism": 3,
        "vmm": 2,
        "volumes": 2,
    }
)


@attrs.frozen
class Settings:
    """Everything about the cluster that a test may choose; the defaults play a pc.7.6."""

    cluster_name: str = "lab-cluster"
    data_services: bool = True
    """Has the cluster a data services IP? Without one there is no portal."""
    revisions: Mapping[str, int] = NEWEST_REVISIONS
    """Newest v4 revision of each namespace; every older one down to v4.0 is served too.

    Without any there is no v4 at all.
    """
    version_info: bool = True
    """Does `unversioned/info` answer? Where it does not, a client has to probe."""
    content_revision: int = 2
    """The dataprotection revision that the JWT's scope names and that the PE checks."""
    change_tracking: bool = True
    """Does the PE have the content API of v4 at all? Without it, it answers 404."""
    ranged_reads: str = "no"
    """Does the PE give bytes of a snapshot by HTTP ranges ("yes")? No public release is known to.

    The path is the lab's own assumption: `GET .../disk-recovery-points/ID/data` beside the content
    calls, where "no" is a 404. Any other value offers them and answers badly: "whole" is 200 with
    all of the disk, "shifted" a 206 with other bytes than asked for, as its Content-Range says,
    "short" a 206 with half of them, "wrong" a 206 that is right in its head, with wrong bytes.
    """
    volume_disk_clones: bool = True
    """Does the cluster make a VM's disk from a disk of a volume group (v4.1 and newer can ask)?"""
    restores_every_group: bool = False
    """Does a restore of one VM of a recovery point make copies of its volume groups too?

    By the official documentation it makes only what is named, and everything if nothing is.
    """
    containers: tuple[str, ...] = ("default-container",)
    gpus: tuple[int, ...] = (4318,)
    """Device ids of the graphics cards that VMs may have."""
    virtual_gpus: tuple[int, ...] = (470,)
    """Device ids of the kinds of shares of a graphics card that VMs may have."""
    free_bytes: int = 1 << 44
    """How much each storage container says it can still take."""
    v3_lists_holes: bool = False
    """May v3 changed regions without a reference list sparse parts, as ZEROED?

    Both readings are in the official swagger.
    """
    regions_per_page: int = 1000
    block_size: int = 65536
    """Granularity in bytes of changed regions when the caller names none."""
    jwt_seconds: float = 900.0
    task_seconds: float = 0.02
    """How long every task stays queued before it runs; with 0 it has ended when it is named."""
    latency: Latency = attrs.field(factory=Latency)
    """How long calls and tasks take besides that: `Latency.parse("prism")` is as on a cluster."""
    run_guests: bool = False
    """Does a VM that is powered on run, in qemu? Needs qemu-system-x86, and ovmf for UEFI."""
    pc_version: str = "pc.7.6"
    aos_version: str = "7.6"


def _all_at(revision: int) -> Mapping[str, int]:
    return MappingProxyType(dict.fromkeys(NEWEST_REVISIONS, revision))


PERSONALITIES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "2023.4": {
            "pc_version": "pc.2023.4",
            "aos_version": "6.5.2",
            "revisions": MappingProxyType({}),
            "version_info": False,
            "change_tracking": False,
        },
        "2024.3": {
            "pc_version": "pc.2024.3",
            "aos_version": "7.0",
            "revisions": _all_at(0),
            "version_info": False,
            "content_revision": 0,
            "change_tracking": False,
        },
        "7.3": {
            "pc_version": "pc.7.3.1.9",
            "aos_version": "7.3",
            "revisions": _all_at(1),
            "content_revision": 0,
        },
        "7.6": {},
        "newest": {
            "revisions": MappingProxyType(
                {**_all_at(3), "dataprotection": 4, "networking": 4, "prism": 4, "multidomain": 3}
            ),
            "content_revision": 4,
        },
    }
)
"""Releases that the lab can play, by name: what differs from the defaults of Settings.

"newest" serves the newest revisions that the official clients know, whichever release has them.
"""
