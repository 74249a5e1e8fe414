"""From settings to a connected cluster and the VMs a job is about."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import attrs
import prism_client
from durable.names import component

from nutanix_backend import names
from nutanix_backend.errors import ParameterError, SelectionError
from nutanix_backend.settings.parameters import require_connection

if TYPE_CHECKING:
    from collections.abc import Iterable

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


def connect(settings: Settings) -> prism_client.PrismClient:
    """Connect to Prism as the settings say; raise ParameterError or PrismError."""
    require_connection(settings)
    host, _, port = settings.prism.partition(":")
    if port and not port.isdecimal():
        raise ParameterError(f"prism={settings.prism} is not host or host:port")
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
    endpoint = prism_client.Endpoint(host, int(port or 9440))
    return prism_client.connect(endpoint, credentials, trust, timeout=settings.timeout)


def select(client: prism_client.PrismClient, settings: Settings) -> list[Source]:
    """The VMs that `vm=` and `exclude_vm=` ask for, by name.

    Raises SelectionError for one that is not there, or for a plain name that two VMs share.
    """
    if not settings.vm:
        raise ParameterError("parameter vm is missing: name a VM, or use vm=* for all")
    sources = every_vm(client, settings.cluster)
    vms = [source.vm for source in sources]
    chosen = {vm.ext_id for wanted in settings.vm for vm in _matching(wanted, vms)}
    named = [source for source in sources if source.vm.ext_id in chosen]
    kept = [source for source in named if not _is_any_of(source.vm, settings.exclude_vm)]
    if not kept:
        raise SelectionError("no VM is left to back up: exclude_vm leaves out all that vm names")
    return kept


def every_vm(client: prism_client.PrismClient, wanted_cluster: str = "") -> list[Source]:
    """The VMs of all clusters, or of the one of that name or id, in the order of their names."""
    clusters = data_clusters(client, wanted_cluster)
    vms = [vm for vm in client.vms.list() if vm.cluster_ext_id in clusters]
    vms.sort(key=lambda vm: (vm.name, vm.ext_id))
    return [Source(vm, clusters[vm.cluster_ext_id]) for vm in vms]


def data_clusters(
    client: prism_client.PrismClient, wanted: str = ""
) -> dict[str, prism_client.Cluster]:
    """The clusters that hold VMs, by id; only the one of that name or id when `wanted` is given."""
    clusters = [cluster for cluster in client.clusters.list() if not cluster.is_prism_central]
    chosen = {c.ext_id: c for c in clusters if not wanted or wanted in {c.name, c.ext_id}}
    if not chosen:
        seen = ", ".join(sorted(cluster.name for cluster in clusters)) or "none"
        raise SelectionError(f"cluster {wanted or '(any)'} is not known to Prism: it has {seen}")
    return chosen


def names_by_id(client: prism_client.PrismClient) -> dict[str, str]:
    """The names of subnets and categories ("key/value"), by id."""
    subnets = {subnet.ext_id: subnet.name for subnet in client.subnets.list()}
    return subnets | {c.ext_id: f"{c.key}/{c.value}" for c in client.categories.list()}


def _matching(wanted: str, vms: Iterable[prism_client.Vm]) -> list[prism_client.Vm]:
    found = [vm for vm in vms if _is_any_of(vm, (wanted,))]
    if not found:
        raise SelectionError(f"no VM is called {wanted}: check vm= against the names in Prism")
    is_name = not any(mark in wanted for mark in "*?[")
    if is_name and len(found) > 1:
        ids = ", ".join(sorted(vm.ext_id for vm in found))
        raise SelectionError(f"{len(found)} VMs are called {wanted}: use the UUID, one of {ids}")
    return found


def _is_any_of(vm: prism_client.Vm, wanted: Iterable[str]) -> bool:
    return any(w in {vm.name, vm.ext_id} or fnmatchcase(vm.name, w) for w in wanted)
