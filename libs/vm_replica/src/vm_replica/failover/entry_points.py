"""Where failovers can go, and which sources can be shut down: entry points of installed packages.

A package for a hypervisor registers, in its pyproject.toml, by a word that administrators type:

    [project.entry-points."podheitor.failover_targets"]
    ahv = "nutanix_backend.replicate.entry_points:target"
    [project.entry-points."podheitor.failover_sources"]
    ahv = "nutanix_backend.replicate.entry_points:source"

Each names a factory, a TargetFactory or a SourceFactory. What it connects to is closed when its
context ends.
"""

from __future__ import annotations

from importlib import metadata
from typing import TYPE_CHECKING, Any, Protocol

import attrs

from vm_replica.failover.errors import FailoverRefused

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path
    from typing import TypeAlias

    from vm_replica.failover.conductor import Source
    from vm_replica.failover.point import Activator

    Say: TypeAlias = Callable[[str], None]

TARGETS = "podheitor.failover_targets"
SOURCES = "podheitor.failover_sources"


@attrs.frozen
class TargetOptions:
    """What a target is told besides its own parameters.

    `state` is a folder for its own records, `staging` one for images until they are uploaded;
    `networks` gives for a MAC address, a network of the source or `*` a network of the target;
    `power_on`: start a copy when it is complete.
    """

    state: Path
    staging: Path
    networks: Mapping[str, str] = attrs.field(factory=dict)
    power_on: bool = True


@attrs.frozen
class SourceOptions:
    """What a source is told besides its own parameters; times in seconds.

    `vm_id` is the VM; `taken` tells when the newest generation was taken (seconds of the epoch);
    `grace` is how long its guest may take to shut down, `patience` how long its last cycle may
    take; with `force` a guest that does not shut down is switched off. `groups` tells which volume
    groups come with the cycles that `taken` is about: no other may be attached to the VM.
    """

    vm_id: str
    taken: Callable[[], int]
    grace: float = 300.0
    patience: float = 3600.0
    force: bool = False
    groups: Callable[[], Collection[str]] = frozenset


class TargetFactory(Protocol):
    """Makes an Activator out of the KEY=VALUE parameters that an administrator typed.

    It raises FailoverRefused, or an error of its package, when a parameter is wrong or the target
    cannot be reached. `say` takes a line of progress.
    """

    def __call__(
        self, parameters: Mapping[str, str], options: TargetOptions, say: Say, /
    ) -> AbstractContextManager[Activator]:
        """Connect to the target for the time of the context."""
        ...


class SourceFactory(Protocol):
    """Makes a Source, like TargetFactory."""

    def __call__(
        self, parameters: Mapping[str, str], options: SourceOptions, say: Say, /
    ) -> AbstractContextManager[Source]:
        """Connect to the source for the time of the context."""
        ...


def target(kind: str) -> TargetFactory:
    """The factory of a kind of target; raise FailoverRefused when it is not installed."""
    factory: TargetFactory = _load(TARGETS, kind, "target")
    return factory


def source(kind: str) -> SourceFactory:
    """The factory of a kind of source; raise FailoverRefused when it is not installed."""
    factory: SourceFactory = _load(SOURCES, kind, "source")
    return factory


def kinds(group: str) -> list[str]:
    """The kinds that are installed, in the order of their names."""
    return sorted({point.name for point in metadata.entry_points(group=group)})


def _load(group: str, kind: str, what: str) -> Any:  # noqa: ANN401 - the package says what it is
    for point in metadata.entry_points(group=group, name=kind):
        try:
            return point.load()
        except ImportError as error:
            raise FailoverRefused(
                f"the failover {what} {kind} ({point.value}) cannot be loaded: {error}"
            ) from error
    known = ", ".join(kinds(group)) or "none"
    raise FailoverRefused(
        f"no failover {what} {kind} is installed (there is: {known}); "
        "install the package of that hypervisor on this host"
    )
