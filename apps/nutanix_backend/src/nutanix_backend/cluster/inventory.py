"""From settings to a connected cluster and the VMs a job is about."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

import attrs
import prism_client
from command_line import progress
from durable.names import component
from prism_client import capture

from nutanix_backend import names
from nutanix_backend.errors import SelectionError
from nutanix_backend.settings.parameters import prism_endpoint, require_connection

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

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


def is_pattern(value: str) -> bool:
    """Whether a value stands for several names: only `*` and `?` are special."""
    return "*" in value or "?" in value


def matching(value: str, entities: Iterable[E]) -> list[E]:
    """The entities of this id or name, or, if there are none, those whose name fits the pattern."""
    listed = list(entities)
    exact = [entity for entity in listed if value in {entity.name, entity.ext_id}]
    return exact or [entity for entity in listed if fits(value, entity.name)]


def fits(value: str, name: str) -> bool:
    """Whether a name is one that a pattern stands for."""
    parts = {"*": ".*", "?": "."}
    expression = "".join(parts.get(letter) or re.escape(letter) for letter in value)
    return re.fullmatch(expression, name, re.DOTALL) is not None


def every_vm(
    client: prism_client.PrismClient,
    wanted_cluster: str = "",
    *,
    say: Callable[[str], None] | None = None,
    whole: bool = False,
) -> list[Source]:
    """The VMs of all clusters, or of the one of that name or id, in the order of their names.

    They have no `raw`, which is the most of a VM in memory, unless `whole`. `say` hears every half
    minute how many there are so far.
    """
    clusters = data_clusters(client, wanted_cluster)
    everywhere = list(_listed(client, say, whole=whole))
    _note_lost_clusters(client, everywhere)
    vms = [vm for vm in everywhere if vm.cluster_ext_id in clusters]
    vms.sort(key=lambda vm: (vm.name, vm.ext_id))
    return [Source(vm, clusters[vm.cluster_ext_id]) for vm in vms]


def _listed(
    client: prism_client.PrismClient, say: Callable[[str], None] | None, *, whole: bool
) -> Iterator[prism_client.Vm]:
    said = time.monotonic()
    for number, vm in enumerate(client.vms.list(), start=1):
        yield vm if whole else attrs.evolve(vm, raw={})
        if say and time.monotonic() - said >= progress.INTERVAL:
            said = time.monotonic()
            say(f"{number} VMs are listed so far")


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
    return subnets | category_names(client)


def category_names(client: prism_client.PrismClient) -> dict[str, str]:
    """The names of categories ("key/value"), by id."""
    return {c.ext_id: f"{c.key}/{c.value}" for c in client.categories.list()}
