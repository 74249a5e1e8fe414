"""From settings to a connected cluster and the VMs a job is about."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

import attrs
import prism_client
from durable.names import component
from prism_client import capture

from nutanix_backend import names
from nutanix_backend.errors import ParameterError, SelectionError
from nutanix_backend.settings.parameters import prism_endpoint, require_connection

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from nutanix_backend.settings.parameters import Settings


CAPTURE = "PODHEITOR_CAPTURE"
"""Variable of the environment: the file that takes every exchange with Prism, secrets included."""


class NamedEntity(Protocol):
    """Anything with a name and an id."""

    @property
    def name(self) -> str: ...

    @property
    def ext_id(self) -> str: ...


E = TypeVar("E", bound=NamedEntity)


@attrs.frozen
class Source:
    """A VM to back up, and the cluster it runs on."""

    vm: prism_client.Vm
    cluster: prism_client.Cluster

    @property
    def folder(self) -> names.VmFolder:
        """Its folder inside the backup."""
        return names.VmFolder(component(self.cluster.name), self.vm.ext_id)


def connect(
    settings: Settings, warn: Callable[[str], None] | None = None
) -> prism_client.PrismClient:
    """Connect to Prism as the settings say; raise ParameterError or PrismError.

    `warn` gets a line for each record of Prism that cannot be read, once.
    """
    require_connection(settings)
    credentials = (
        prism_client.ApiKey(settings.api_key)
        if settings.api_key
        else prism_client.Basic(settings.user, settings.password)
    )
    trust = prism_client.Trust(
        ca_file=settings.ca,
        ca_pem=settings.ca_pem,
        fingerprint=settings.fingerprint or None,
        insecure=settings.prism_insecure,
    )

    def tell(entry: prism_client.Unreadable) -> None:
        if warn is not None:
            warn(f"{entry}: it is skipped; jobs that need it fail")

    return prism_client.connect(
        prism_endpoint(settings),
        credentials,
        trust,
        timeout=settings.timeout,
        on_unreadable=tell,
        record=_recorder(),
    )


def _recorder() -> capture.Recorder | None:
    """Where the exchanges go; a command that wants them names a private file to its jobs."""
    path = os.environ.get(CAPTURE)
    return capture.Recorder(Path(path)) if path else None


@attrs.frozen
class Missing:
    """A value of `vm=` that selects no VM, or a VM that cannot be used, and why."""

    wanted: str
    reason: str


@attrs.frozen
class SelectedVms:
    """The VMs of a job in the order of their names, and what was asked for in vain."""

    sources: tuple[Source, ...]
    missing: tuple[Missing, ...] = ()


def select(client: prism_client.PrismClient, settings: Settings) -> SelectedVms:
    """Find the VMs that `vm=` and `exclude_vm=` ask for.

    A value that selects nothing costs the others nothing. Raises SelectionError when no VM is left.
    """
    if not settings.vm:
        raise ParameterError("parameter vm is missing: name a VM, or use vm=* for all")
    sources = every_vm(client, settings.cluster)
    vms = [source.vm for source in sources]
    unreadable = client.unreadable.of("VM")
    excluded = {vm.ext_id for value in settings.exclude_vm for vm in matching(value, vms)}
    chosen: set[str] = set()
    missing: list[Missing] = []
    for value in settings.vm:
        found, why = _selected_by(value, vms, unreadable)
        chosen |= found
        missing += why
    kept = [s for s in sources if s.vm.ext_id in chosen - excluded]
    lost = tuple(item for item in missing if not _is_excluded(item, settings.exclude_vm))
    if not kept:
        raise SelectionError(
            "; ".join(item.reason for item in lost)
            or "no VM is left to back up: exclude_vm leaves out all that vm names"
        )
    return SelectedVms(tuple(kept), lost)


def _selected_by(
    value: str,
    vms: Sequence[prism_client.Vm],
    unreadable: Sequence[prism_client.Unreadable],
) -> tuple[set[str], list[Missing]]:
    """The ids of the VMs that one value selects, and what of it cannot be had."""
    found = matching(value, vms)
    lost = matching(value, unreadable)
    if not found and not lost:
        reason = f"no VM is called {value}: check vm= against the names in Prism"
        return set(), [Missing(f"vm={value}", reason)]
    if len(found) > 1 and not is_pattern(value):
        ids = ", ".join(sorted(vm.ext_id for vm in found))
        reason = f"{len(found)} VMs are called {value}: use the UUID, one of {ids}"
        return set(), [Missing(f"vm={value}", reason)]
    return {vm.ext_id for vm in found}, [
        Missing(f"VM {vm.name or vm.ext_id}", f"{vm}; see this VM in Prism") for vm in lost
    ]


def _is_excluded(item: Missing, excluded: Sequence[str]) -> bool:
    """Whether a VM that cannot be read is one that nobody wants."""
    name = item.wanted.removeprefix("VM ")
    return item.wanted.startswith("VM ") and any(_fits(value, name) for value in excluded)


def is_pattern(value: str) -> bool:
    """Whether a value stands for several names: only `*` and `?` are special."""
    return "*" in value or "?" in value


def matching(value: str, entities: Iterable[E]) -> list[E]:
    """The entities of this id or name, or, if there are none, those whose name fits the pattern."""
    listed = list(entities)
    exact = [entity for entity in listed if value in {entity.name, entity.ext_id}]
    return exact or [entity for entity in listed if _fits(value, entity.name)]


def _fits(value: str, name: str) -> bool:
    parts = {"*": ".*", "?": "."}
    expression = "".join(parts.get(letter) or re.escape(letter) for letter in value)
    return re.fullmatch(expression, name, re.DOTALL) is not None


def every_vm(client: prism_client.PrismClient, wanted_cluster: str = "") -> list[Source]:
    """The VMs of all clusters, or of the one of that name or id, in the order of their names."""
    clusters = data_clusters(client, wanted_cluster)
    everywhere = list(client.vms.list())
    _note_lost_clusters(client, everywhere)
    vms = [vm for vm in everywhere if vm.cluster_ext_id in clusters]
    vms.sort(key=lambda vm: (vm.name, vm.ext_id))
    return [Source(vm, clusters[vm.cluster_ext_id]) for vm in vms]


def _note_lost_clusters(client: prism_client.PrismClient, vms: list[prism_client.Vm]) -> None:
    """Count the VMs of a cluster that cannot be read as unreadable themselves."""
    lost = {cluster.ext_id for cluster in client.unreadable.of("cluster")}
    for vm in vms:
        if vm.cluster_ext_id in lost:
            problem = f"its cluster {vm.cluster_ext_id} cannot be read"
            client.unreadable.add(
                prism_client.Unreadable("VM", vm.name, vm.ext_id, "cluster", problem)
            )


def data_clusters(
    client: prism_client.PrismClient, wanted: str = ""
) -> dict[str, prism_client.Cluster]:
    """The clusters that hold VMs, by id; only the one of that name or id when `wanted` is given."""
    clusters = [cluster for cluster in client.clusters.list() if not cluster.is_prism_central]
    chosen = {c.ext_id: c for c in clusters if not wanted or wanted in {c.name, c.ext_id}}
    if not chosen:
        for odd in client.unreadable.of("cluster"):
            if not wanted or wanted in {odd.name, odd.ext_id}:
                odd.refuse()
        seen = ", ".join(sorted(cluster.name for cluster in clusters)) or "none"
        raise SelectionError(f"cluster {wanted or '(any)'} is not known to Prism: it has {seen}")
    return chosen


def names_by_id(client: prism_client.PrismClient) -> dict[str, str]:
    """The names of subnets and categories ("key/value"), by id."""
    subnets = {subnet.ext_id: subnet.name for subnet in client.subnets.list()}
    return subnets | {c.ext_id: f"{c.key}/{c.value}" for c in client.categories.list()}
