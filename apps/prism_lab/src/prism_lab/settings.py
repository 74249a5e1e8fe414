"""What kind of cluster the lab plays."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

import attrs

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
    """Newest v4 revision of each namespace; every older one down to v4.0 is served too."""
    content_revision: int = 2
    """The dataprotection revision that the JWT's scope names and that the PE checks."""
    change_tracking: bool = True
    """Does the PE have the content API at all? Without it, it answers 404."""
    regions_per_page: int = 1000
    block_size: int = 65536
    """Granularity in bytes of changed regions when the caller names none."""
    jwt_seconds: float = 900.0
    task_seconds: float = 0.02
    """How long every task stays queued before it runs."""
    pc_version: str = "pc.7.6"
    aos_version: str = "7.6"
