"""Copies on a Nutanix cluster: the disks as images, and a VM made of them, through Prism.

A VM is ours by the key in its description. What a killed process left of the images and staging
files is found through the journal, as after a killed restore.
"""

from __future__ import annotations

import hashlib
import shutil
from contextlib import ExitStack
from typing import TYPE_CHECKING

import attrs
import prism_client
import qemu_img
from command_line.text import size
from vm_replica.failover.errors import FailoverRefused

from nutanix_backend.cluster import inventory, journal, sweep
from nutanix_backend.cluster.guards import FolderGuard, ImageGuard, VmGuard
from nutanix_backend.names import OURS, STAGING
from nutanix_backend.progress import Progress
from nutanix_backend.settings.parameters import prism_address

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path

    from prism_client import PrismClient
    from vm_config.ahv_record import ConfigNic
    from vm_replica.failover.point import Point, PointDisk
    from vm_replica.failover.transitions import Copy

    from nutanix_backend.cluster.journal import Journal
    from nutanix_backend.settings.parameters import Settings

KIND = "ahv"


@attrs.frozen
class Ahv:
    """Makes copies on the cluster that `settings` name, from staging files below `staging`.

    `networks` gives for a MAC address, a subnet of the source or `*` a subnet of this cluster, by
    name or id. With `power_on` a copy is switched on when it is complete.
    """

    client: PrismClient
    settings: Settings
    staging: Path
    networks: Mapping[str, str]
    power_on: bool
    say: Callable[[str], None]

    @property
    def kind(self) -> str:
        """Nutanix AHV."""
        return KIND

    @property
    def place(self) -> str:
        """The address of its Prism."""
        return prism_address(self.settings)

    def refuse_unfit(self, name: str, point: Point, *, test: bool) -> None:
        """Raise FailoverRefused for a name that is taken, unknown networks or too little space."""
        self._cluster()
        if self.client.vms.find(name):
            raise FailoverRefused(f"a VM called {name} exists on {self.place}: give another name")
        if not test:
            self._subnets()
        free = shutil.disk_usage(self.staging).free
        needed = 2 * max(disk.allocated for disk in point.disks)  # raw and qcow2 of one at a time
        if free < needed:
            raise FailoverRefused(
                f"{self.staging} has {size(free)} free, the copy needs {size(needed)} on its way"
            )

    def make(self, copy: Copy, point: Point, *, test: bool) -> str:
        """Upload the disks, make the VM, switch it on. A test copy has no network cards."""
        target = self._cluster()
        guard = None
        try:
            with self._journal(copy) as intents, ExitStack() as stack:
                folder = stack.enter_context(FolderGuard(intents, self._folder(copy))).path
                images = {
                    disk.disk_id: stack.enter_context(
                        self._image(intents, copy, disk, folder)
                    ).image.ext_id
                    for disk in point.disks
                }
                nics = () if test else self._nics(point, target)
                spec = _specification(copy, point, target.ext_id, images, nics)
                made = stack.enter_context(VmGuard(self.client, intents, spec))
                if self.power_on:
                    self.client.vms.power_on(made.vm.ext_id)
                made.keep()
                guard = made
        except (prism_client.PrismError, OSError) as error:
            if guard is None:
                raise
            self.say(f"VM {copy.name} is complete, but something is left of its way: {error}")
        state = "on" if self.power_on else "off"
        return f"VM {copy.name} ({guard.vm.ext_id}) is on cluster {target.name}, switched {state}"

    def remove(self, copy: Copy) -> None:
        """Switch the VM off and delete it, with what a killed process left on the way to it."""
        for removed in sweep.sweep(self.client, self.settings):
            self.say(str(removed))
        vms = self.client.vms
        for vm in vms.find(copy.name):
            if copy.key in vm.description:
                vms.power_off(vm.ext_id)
                vms.delete(vm.ext_id)

    def _journal(self, copy: Copy) -> AbstractContextManager[Journal]:
        return journal.opened(self.settings.state_dir, f"failover {copy.key}", self.place)

    def _folder(self, copy: Copy) -> Path:
        return self.staging / f"{STAGING}{copy.key}"

    def _cluster(self) -> prism_client.Cluster:
        """The only cluster of this Prism, or the one that `cluster=` names."""
        found = list(inventory.data_clusters(self.client, self.settings.cluster).values())
        if len(found) > 1:
            known = ", ".join(sorted(item.name for item in found))
            raise FailoverRefused(f"{self.place} has several clusters: say cluster= one of {known}")
        return found[0]

    def _subnets(self) -> dict[str, str]:
        """The ids of the subnets that the network map names."""
        known = self.client.subnets.list()
        ids = {subnet.name: subnet.ext_id for subnet in known} | {s.ext_id: s.ext_id for s in known}
        unknown = sorted(set(self.networks.values()) - set(ids))
        if unknown:
            seen = ", ".join(sorted(subnet.name for subnet in known)) or "none"
            raise FailoverRefused(f"{self.place} has no subnet {unknown[0]}: it has {seen}")
        return {source: ids[name] for source, name in self.networks.items()}

    def _nics(self, point: Point, target: prism_client.Cluster) -> tuple[prism_client.NicSpec, ...]:
        """The cards on the networks they are mapped to; MACs stay when the cluster is another."""
        subnets = self._subnets()
        keeps_mac = target.ext_id != point.config.cluster_id
        return tuple(self._nic(nic, subnets, keeps_mac=keeps_mac) for nic in point.config.nics)

    def _nic(
        self, nic: ConfigNic, subnets: Mapping[str, str], *, keeps_mac: bool
    ) -> prism_client.NicSpec:
        subnet = next(
            (subnets[k] for k in (nic.mac.lower(), nic.subnet, "*") if k in subnets), None
        )
        if subnet is None:
            self.say(f"network card {nic.mac} is not connected: no --network is for it")
        mac = nic.mac if keeps_mac and nic.mac else None
        return prism_client.NicSpec(subnet, mac, nic.connected and subnet is not None)

    def _image(self, intents: Journal, copy: Copy, disk: PointDisk, folder: Path) -> ImageGuard:
        """A disk as an image; of its files here none is left."""
        raw, qcow2 = folder / f"disk-{disk.index}.raw", folder / f"disk-{disk.index}.qcow2"

        def upload(name: str) -> prism_client.Image:
            disk.write(raw)
            qemu_img.convert_to_qcow2(raw, qcow2)
            raw.unlink()
            progress = Progress(self.say, f"disk {disk.index} upload", qcow2.stat().st_size)
            with qcow2.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            image = self.client.images.upload(name, qcow2, sha256=digest, progress=progress.advance)
            qcow2.unlink()
            return image

        return ImageGuard(self.client, intents, f"{OURS}{copy.key} disk {disk.index}", upload)


def _specification(
    copy: Copy,
    point: Point,
    cluster_id: str,
    images: Mapping[str, str],
    nics: tuple[prism_client.NicSpec, ...],
) -> prism_client.VmSpec:
    config = point.config
    return prism_client.VmSpec(
        name=copy.name,
        description=f"generation {copy.generation} of {config.name}, podheitor copy {copy.key}",
        cluster_ext_id=cluster_id,
        sockets=config.sockets,
        cores_per_socket=config.cores_per_socket,
        threads_per_core=config.threads_per_core,
        memory=config.memory,
        machine_type=config.machine_type or None,
        boot=prism_client.Boot(config.firmware, config.secure_boot, config.boot_order),
        disks=tuple(
            prism_client.DiskSpec(images[disk.disk_id], disk.bus, disk.index)
            for disk in config.disks
            if disk.disk_id in images
        ),
        nics=nics,
    )
