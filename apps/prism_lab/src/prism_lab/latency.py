"""How long calls and tasks take: nothing by default, or as on a real cluster."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

import attrs

from prism_lab.errors import LabError

if TYPE_CHECKING:
    from collections.abc import Mapping


@attrs.frozen
class Latency:
    """Seconds for each call, and for each task by what it does.

    A task that is none of these takes `other` seconds.
    """

    call: float = 0.0
    snapshot: float = 0.0
    volume_group: float = 0.0
    attach: float = 0.0
    delete: float = 0.0
    other: float = 0.0

    @classmethod
    def parse(cls, text: str) -> Latency:
        """Read the name of a profile, FIELD=SECONDS, or several of both with commas between them.

        What comes later counts: "prism,snapshot=5" is the profile with slower snapshots. Raises
        LabError.
        """
        found = cls()
        for word in filter(None, text.split(",")):
            name, equals, value = word.partition("=")
            if not equals and name in PROFILES:
                found = PROFILES[name]
                continue
            if name not in attrs.fields_dict(cls) or not _is_seconds(value):
                known = ", ".join((*PROFILES, *(f"{field}=SECONDS" for field in FIELDS)))
                raise LabError(f"latency {word!r} is none of {known}")
            found = attrs.evolve(found, **{name: float(value)})
        return found

    def of_task(self, operation: str) -> float:
        """Return the seconds that a task takes, by the name that v4, v3 or v2 gives to it."""
        name = operation.lower().replace("_", "")
        if "delete" in name:
            return self.delete
        if "attach" in name or "detach" in name or name == "updatevolumegroup":
            return self.attach
        if "create" in name and ("snapshot" in name or "recoverypoint" in name):
            return self.snapshot
        if "create" in name and "volumegroup" in name:
            return self.volume_group
        return self.other


def _is_seconds(text: str) -> bool:
    try:
        return 0 <= float(text) < 3600
    except ValueError:
        return False


FIELDS = tuple(attrs.fields_dict(Latency))
PROFILES: Mapping[str, Latency] = MappingProxyType(
    {
        "none": Latency(),
        "prism": Latency(
            call=0.08, snapshot=2.0, volume_group=3.0, attach=1.0, delete=2.0, other=1.0
        ),
    }
)
"""By name: "prism" has the times of a cluster that is not busy."""
