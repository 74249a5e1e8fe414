"""AHV as a target and a source of failovers, out of parameters as on a Plugin line."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from nutanix_backend.cluster import inventory
from nutanix_backend.replicate.activator import Ahv
from nutanix_backend.replicate.source_vm import PrismSource
from nutanix_backend.settings.parameters import parse, refuse_secrets
from nutanix_backend.settings.table import BY_NAME

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from vm_replica.failover.entry_points import Say, SourceOptions, TargetOptions

    from nutanix_backend.settings.parameters import Settings


@contextmanager
def target(parameters: Mapping[str, str], options: TargetOptions, say: Say, /) -> Iterator[Ahv]:
    """A cluster, by the parameters of its Prism. Raises BackendError, PrismError.

    Its journal is kept in `state` of the options unless the parameters name a state_dir: the
    default one belongs to another user.
    """
    settings = _settings(parameters)
    if settings.state_dir == Path(BY_NAME["state_dir"].default):
        settings = attrs.evolve(settings, state_dir=options.state)
    with inventory.connect(settings) as client:
        yield Ahv(
            client, settings, options.staging, options.networks, options.power_on, _Lines(say)
        )


def _settings(parameters: Mapping[str, str]) -> Settings:
    """The parameters were words of a command line."""
    refuse_secrets(f"{name}={text}" for name, text in parameters.items())
    return parse(parameters.items())


@attrs.frozen
class _Lines:
    """A Report as lines of progress."""

    _say: Say

    def say(self, text: str) -> None:
        self._say(text)

    def warn(self, text: str) -> None:
        self._say(f"warning: {text}")

    def report(self, text: str) -> None:
        self._say(f"error: {text}")


@contextmanager
def source(
    parameters: Mapping[str, str], options: SourceOptions, say: Say, /
) -> Iterator[PrismSource]:
    """The VM on its cluster, by the parameters of its Prism. Raises BackendError, PrismError."""
    with inventory.connect(_settings(parameters)) as client:
        yield PrismSource(
            client,
            options.vm_id,
            options.taken,
            say,
            grace=options.grace,
            patience=options.patience,
            force=options.force,
            groups=options.groups,
        )
