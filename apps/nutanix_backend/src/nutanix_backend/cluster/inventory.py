"""From settings to a connected cluster and the VMs a job is about."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import attrs
import prism_client
from durable.names import component

from nutanix_backend import names
from nutanix_backend.errors import ParameterError, SelectionError
from nutanix_backend.settings.parameters import prism_endpoint, require_connection

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from nutanix_backend.settings.parameters import Settings


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
        fingerprint=settings.fingerprint or None,
        insecure=settings.prism_insecure,
    )

    def tell(entry: prism_client.Unreadable) -> None:
        if warn is not None:
            warn(f"{entry}: it is left out, and what needs it fails")

    return prism_client.connect(
        prism_endpoint(settings),
        credentials,
        trust,
        timeout=settings.timeout,
        on_unreadable=tell,
    )


def select(client: prism_client.PrismClient, settings: Settings) -> list[Source]:
    """The VMs that `vm=` and `exclude_vm=` ask for, by name; see also unreadable_vms().

    Raises SelectionError for one that is not there, or for a plain name that two VMs share;
    BadAnswer when none of them can be read.
    """
    if not settings.vm:
        raise ParameterError("parameter vm is missing: name a VM, or use vm=* for all")
    sources = every_vm(client, settings.cluster)
    vms = [source.vm for source in sources]
    odd = client.unreadable.of("VM")
    chosen = {vm.ext_id for wanted in settings.vm for vm in _matching(wanted, vms, odd)}
    named = [source for source in sources if source.vm.ext_id in chosen]
    kept = [source for source in named if not _is_any_of(source.vm, settings.exclude_vm)]
    if not kept:
        for vm in unreadable_vms(client, settings):
            vm.refuse()
        raise SelectionError("no VM is left to back up: exclude_vm leaves out all that vm names")
    return kept


def unreadable_vms(
    client: prism_client.PrismClient, settings: Settings
) -> list[prism_client.Unreadable]:
    """The VMs that are asked for, but whose record select() could not read."""
    return [
        vm
        for vm in client.unreadable.of("VM")
        if _is_any_of(vm, settings.vm) and not _is_any_of(vm, settings.exclude_vm)
    ]


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


def _matching(
    wanted: str, vms: Iterable[prism_client.Vm], odd: Iterable[prism_client.Unreadable]
) -> list[prism_client.Vm]:
    found = [vm for vm in vms if _is_any_of(vm, (wanted,))]
    if not found and not any(_is_any_of(vm, (wanted,)) for vm in odd):
        raise SelectionError(f"no VM is called {wanted}: check vm= against the names in Prism")
    is_name = not any(mark in wanted for mark in "*?[")
    if is_name and len(found) > 1:
        ids = ", ".join(sorted(vm.ext_id for vm in found))
        raise SelectionError(f"{len(found)} VMs are called {wanted}: use the UUID, one of {ids}")
    return found


def _is_any_of(vm: prism_client.Vm | prism_client.Unreadable, wanted: Iterable[str]) -> bool:
    return any(w in {vm.name, vm.ext_id} or fnmatchcase(vm.name, w) for w in wanted)
