"""The cluster that receives a VM: what it answers before anything is made on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import prism_client
from command_line.text import size

from nutanix_backend.ahv import networks
from nutanix_backend.cluster import inventory
from nutanix_backend.cluster.guards import DiskPlace
from nutanix_backend.errors import RestoreRefused, SelectionError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vm_config.machine import Machine

    from nutanix_backend.ahv.creation import Origin
    from nutanix_backend.ahv.networks import NetworkMap
    from nutanix_backend.settings.parameters import Settings

DEFAULT_CONTAINER = "default-container"
"""So begins the name of the container that every cluster is set up with."""


@attrs.frozen
class Site:
    """A cluster as it was found. `container` is where new disks go, None when nobody chose one.

    `owners` says by MAC address, in lower case, which VM has it.
    """

    client: prism_client.PrismClient
    cluster: prism_client.Cluster
    containers: tuple[prism_client.StorageContainer, ...]
    container: prism_client.StorageContainer | None
    networks: NetworkMap
    vm_ids: frozenset[str]
    names: frozenset[str]
    owners: Mapping[str, str]

    def place(self) -> DiskPlace:
        """Where new disks of a volume group go; raise RestoreRefused when that is not clear."""
        chosen = self.container or self._usual_container()
        if chosen is None:
            raise RestoreRefused(
                f"cluster {self.cluster.name} has several storage containers: choose one with "
                f"storage_container=, of {_known(self.containers)}"
            )
        return DiskPlace(self.client, self.cluster.ext_id, chosen.ext_id)

    def refuse_full(self, needed: int) -> None:
        """Raise RestoreRefused when the disks do not fit; what Prism does not say is let pass."""
        chosen = self.container or self._usual_container()
        if chosen is None:
            return
        free = self.client.storage_containers.free_bytes(chosen.ext_id)
        if free is not None and free < needed:
            raise RestoreRefused(
                f"storage container {chosen.name} of cluster {self.cluster.name} has {size(free)} "
                f"free, the restore needs up to {size(needed)}: check_space=no restores without "
                "this check"
            )

    def categories_of(self, machine: Machine) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The ids of a machine's categories here, and those that are not known here."""
        if not machine.categories:
            return (), ()
        known = self.client.categories.list()
        by_name = {f"{c.key}/{c.value}": c.ext_id for c in known}
        by_name |= {c.ext_id: c.ext_id for c in known}
        found = tuple(by_name[name] for name in machine.categories if name in by_name)
        return found, tuple(name for name in machine.categories if name not in by_name)

    def has_project(self, ext_id: str) -> bool:
        """Whether a project is known here."""
        try:
            return any(project.ext_id == ext_id for project in self.client.projects.list())
        except prism_client.ApiError:
            return False

    def _usual_container(self) -> prism_client.StorageContainer | None:
        usual = [c for c in self.containers if c.name.startswith(DEFAULT_CONTAINER)]
        found = usual or list(self.containers)
        return found[0] if len(found) == 1 else None


def inspect_target(
    client: prism_client.PrismClient, settings: Settings, origin: Origin, *, named_by_user: bool
) -> Site:
    """Find the cluster that receives a VM and read its state; raise RestoreRefused.

    That is the one that `target_cluster` names, else the one that the VM was on, else the only one
    of a Prism that was `named_by_user` for the purpose.
    """
    chosen = _cluster(client, settings, origin, named_by_user=named_by_user)
    here = (None, chosen.ext_id)
    containers = [c for c in client.storage_containers.list() if c.cluster_ext_id in here]
    subnets = [s for s in client.subnets.list() if s.cluster_ext_id in here]
    vms = list(client.vms.list())
    odd = client.unreadable.of("VM")
    return Site(
        client=client,
        cluster=chosen,
        containers=tuple(containers),
        container=_container(settings.storage_container, chosen, containers),
        networks=networks.read(settings.network_map, subnets),
        vm_ids=frozenset(vm.ext_id for vm in vms) | {vm.ext_id for vm in odd},
        names=frozenset(vm.name for vm in vms) | {vm.name for vm in odd},
        owners={nic.mac.lower(): vm.name for vm in vms for nic in vm.nics},
    )


def _cluster(
    client: prism_client.PrismClient, settings: Settings, origin: Origin, *, named_by_user: bool
) -> prism_client.Cluster:
    try:
        clusters = inventory.data_clusters(client, settings.target_cluster)
    except SelectionError as error:
        raise RestoreRefused(f"target_cluster: {error}") from error
    if settings.target_cluster:
        if len(clusters) > 1:
            raise RestoreRefused(
                f"target_cluster: {len(clusters)} clusters are called {settings.target_cluster}: "
                "use the UUID"
            )
        return next(iter(clusters.values()))
    if origin.cluster_id in clusters:
        return clusters[origin.cluster_id]
    is_meant = named_by_user or not origin.cluster_id
    if is_meant and len(clusters) == 1:
        return next(iter(clusters.values()))
    if is_meant:
        names = ", ".join(sorted(c.name for c in clusters.values()))
        raise RestoreRefused(f"target_cluster is needed to choose between {names}")
    raise RestoreRefused(
        f"VM {origin.vm_name} was backed up from cluster {origin.cluster}, which "
        "this Prism does not manage: name another with target_cluster=, or restore its disks with "
        "where=/a/folder"
    )


def _container(
    wanted: str,
    chosen: prism_client.Cluster,
    containers: Sequence[prism_client.StorageContainer],
) -> prism_client.StorageContainer | None:
    if not wanted:
        return None
    found = [c for c in containers if wanted in {c.name, c.ext_id}]
    if len(found) != 1:
        raise RestoreRefused(
            f"storage_container: cluster {chosen.name} has no {wanted}: it has {_known(containers)}"
        )
    return found[0]


def _known(containers: Sequence[prism_client.StorageContainer]) -> str:
    return ", ".join(sorted(c.name for c in containers)) or "none"
