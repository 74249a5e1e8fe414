"""The lab: starts and stops all parts, and gives tests and the command line a hold on them."""

from __future__ import annotations

import contextlib
import random
import secrets
import ssl
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import trustme

from prism_lab import _apps, _snapshots, _storage, _vms
from prism_lab._auth import Auth
from prism_lab._guests import Guests
from prism_lab._images import Images
from prism_lab._model import Addresses, Named, RecoveryPoint, Vm, World
from prism_lab._server import PORT, Exchange, HttpsServer, RequestLog, listen
from prism_lab._tasks import TaskRunner
from prism_lab._tgt import PORT as ISCSI_PORT
from prism_lab._tgt import TargetServer
from prism_lab._volume_groups import VolumeGroups
from prism_lab.errors import NotInLab, StartFailed
from prism_lab.faults import Faults
from prism_lab.latency import Latency
from prism_lab.settings import PERSONALITIES, Settings

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence
    from types import TracebackType

    from prism_lab._model import Protection
    from prism_lab._regions import Spoil

_ADDRESS_TRIES = 50


class Lab:
    """A running cluster. Use it as a context manager or call `stop`."""

    port = PORT
    user = "admin"

    def __init__(self, root: Path, settings: Settings, stack: contextlib.ExitStack) -> None:
        """Use `Lab.start`."""
        self._stack = stack
        self.faults = Faults()
        self._log = RequestLog()
        self.password = secrets.token_urlsafe(12)
        self.api_key = secrets.token_urlsafe(24)
        self.cluster_name = settings.cluster_name
        self.ca_file = root / "ca.pem"
        self._auth = Auth(self.user, self.password, self.api_key, settings.jwt_seconds)
        self._addresses, listeners = _claim_network(stack)
        self._world = _new_world(root, settings, self._addresses)
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="prism-lab-"))
        self.run_dir = Path(folder)  # sockets: their paths must be short
        if settings.run_guests:
            guests = Guests(self.run_dir)
            stack.callback(guests.stop)
            self._world.guests = guests
        portal = self._addresses.data_services if settings.data_services else None
        targets = TargetServer(portal, self._addresses.targets(), self.run_dir)
        stack.callback(targets.stop)
        self._groups = VolumeGroups(self._world, targets)
        self._images = Images(self._world)
        self._tasks = TaskRunner(self._world)
        stack.callback(self._tasks.stop)
        self._authority = trustme.CA()
        self._authority.cert_pem.write_to_path(str(self.ca_file))
        self._listeners = listeners
        self._servers = stack.enter_context(contextlib.ExitStack())
        self._serve()

    def _serve(self) -> None:
        common = (self._log, self.faults)
        central = _apps.prism_central(
            self._world, self._auth, self._tasks, self._groups, self._images, *common
        )
        element = _apps.prism_element(
            self._world, self._auth, self._tasks, self._groups, self._images, *common
        )
        for app, listener in zip((central, element), self._listeners, strict=True):
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._authority.issue_cert(listener.getsockname()[0]).configure_cert(context)
            self._servers.callback(HttpsServer(app, listener, context).stop)

    @classmethod
    def start(
        cls,
        root: Path,
        *,
        personality: str = "7.6",
        cluster_name: str = "lab-cluster",
        data_services: bool = True,
        **settings: Any,  # noqa: ANN401 - the fields of Settings, which checks them
    ) -> Self:
        """Start a cluster that keeps its disks below `root`; StartFailed if a part cannot.

        `personality` is one of `prism_lab.PERSONALITIES`; further keywords, those of
        `prism_lab.Settings`, go before it. `latency` may also be text, see Latency.parse().
        """
        chosen = _settings(
            personality, cluster_name=cluster_name, data_services=data_services, **settings
        )
        root.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            lab = cls(root, chosen, stack)
            lab._stack = stack.pop_all()
            return lab

    def upgrade(self, personality: str, *, ranged_reads: str = "no") -> None:
        """Become another release, as after an upgrade: what is on the cluster stays."""
        had = self._world.settings
        self._servers.close()
        self._world.settings = _settings(
            personality,
            cluster_name=had.cluster_name,
            data_services=had.data_services,
            task_seconds=had.task_seconds,
            latency=had.latency,
            ranged_reads=ranged_reads,
        )
        self.answer_ranges(ranged_reads)
        self._serve()

    def stop(self) -> None:
        """End all servers, daemons and tasks. The disks stay below the root."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def pc_host(self) -> str:
        """Address of Prism Central."""
        return self._addresses.pc

    @property
    def pe_host(self) -> str:
        """Address of Prism Element."""
        return self._addresses.pe

    @property
    def consoles(self) -> Path:
        """Folder where the VMs that run write their serial consoles, ID.console each."""
        return self.run_dir

    @property
    def data_services_ip(self) -> str:
        """Address of the iSCSI portal."""
        return self._addresses.data_services

    @property
    def cluster_ext_id(self) -> str:
        """Id of the cluster (not of Prism Central)."""
        return self._world.ext_id

    @property
    def requests(self) -> list[tuple[str, str, int]]:
        """Every request so far: (method, path, status), status 0 for an answer that was dropped."""
        return self._log.entries

    @property
    def exchanges(self) -> list[Exchange]:
        """The same requests in full: query, headers and JSON body."""
        return self._log.exchanges

    def create_vm(self, name: str, disk_sizes: Sequence[int], **hardware: object) -> str:
        """Add a VM with empty SCSI disks (bytes each), a CD-ROM drive and one NIC; return its id.

        `hardware` are fields of a v4 VM, such as numSockets, memorySizeBytes or bootConfig.
        """
        return _vms.blank(self._world, name, disk_sizes, hardware).ext_id

    def create_vms(self, prefix: str, count: int, disk_sizes: Sequence[int]) -> list[str]:
        """Add many such VMs, named PREFIX-00001 and so on; return their ids.

        A disk has no file before it is read or written: 5,000 VMs cost some megabytes.
        """
        names = [f"{prefix}-{number:05}" for number in range(1, count + 1)]
        return [_vms.blank(self._world, name, disk_sizes, {}, lazy=True).ext_id for name in names]

    def create_volume_group(self, name: str, disk_sizes: Sequence[int], vms: Sequence[str]) -> str:
        """Add a volume group with empty disks (bytes each), attached to VMs; return its id.

        It is shared when there are several VMs.
        """
        disks = [{"index": i, "diskSizeBytes": size} for i, size in enumerate(disk_sizes)]
        group = self._groups.create({"name": name, "disks": disks})
        group.settings["sharingStatus"] = "SHARED" if len(vms) > 1 else "NOT_SHARED"
        group.vms = [self._vm(vm).ext_id for vm in vms]
        return group.ext_id

    def category_ids(self) -> list[str]:
        """Return the ids of the categories that a VM may have."""
        return list(self._world.categories)

    def grow_disk(self, vm: str, index: int, size: int) -> None:
        """Enlarge a disk to `size` bytes."""
        _storage.grow(self.disk_file(vm, index), size)

    def disk_file(self, vm: str, index: int) -> Path:
        """Return the live sparse file of a VM's disk; the VM is named by id or name."""
        disks = self._vm(vm).disks
        if not 0 <= index < len(disks):
            raise NotInLab(f"VM {vm} has {len(disks)} disks, there is no disk {index}")
        return disks[index].file

    def set_guest_login(self, vm: str, user: str, password: str) -> None:
        """Let a guest take files from a user with this password, while its VM is on."""
        self._vm(vm).guest_login = (user, password)

    def guest_files(self, vm: str) -> dict[str, bytes]:
        """Return the files that were copied into a guest, by their paths there."""
        return dict(self._vm(vm).guest_files)

    def volume_disk_file(self, volume_group: str, index: int) -> Path:
        """Return the live sparse file of a disk of a volume group, which is named by its id."""
        with self._world.lock:
            group = self._world.volume_groups.get(volume_group)
            files = [d.file for d in group.disks if d.index == index] if group else []
        if not files:
            raise NotInLab(f"there is no disk {index} of volume group {volume_group}")
        return files[0]

    def _vm(self, name: str) -> Vm:
        with self._world.lock:
            for vm in self._world.vms.values():
                if name in {vm.ext_id, vm.name}:
                    return vm
        raise NotInLab(f"there is no VM {name}")

    def spoil_changes(self, spoil: Spoil | None) -> None:
        """Let every list of changes relative to a reference be wrong from now on; None ends it.

        What may be wrong is in `tracking`.
        """
        self._world.spoil_changes = spoil

    def answer_ranges(self, offer: str, *, after: int = 0) -> None:
        """Answer reads of ranges otherwise, after so many more: see Settings.ranged_reads."""
        self._world.ranged_reads.change(offer, after=after)

    def recovery_point_file(self, rp_ext_id: str, disk_ext_id: str) -> Path:
        """Return the bytes of one disk of a recovery point.

        The disk is named by its id, the id of its backing vdisk or its disk recovery point's id.
        A v3 snapshot is named by its uuid.
        """
        _snapshots.purge_expired(self._world)
        with self._world.lock:
            point = self._world.recovery_points.get(rp_ext_id)
            point = point or self._world.vm_snapshots.get(rp_ext_id)
            disks = point.disks() if point else []
            aliases = {d.ext_id: d.disk_ext_id for vm in self._world.vms.values() for d in vm.disks}
        wanted = {disk_ext_id, aliases.get(disk_ext_id, disk_ext_id)}
        for disk in disks:
            if disk.file is not None and {disk.ext_id, disk.disk_ext_id} & wanted:
                return disk.file
        raise NotInLab(f"recovery point {rp_ext_id} is gone or has no disk {disk_ext_id}")

    def protect_vm(
        self, vm: str, protection: Protection = "RULE_PROTECTED", *, policy: str = "gold"
    ) -> None:
        """Put a VM under a protection policy, or into a legacy protection domain, of that name."""
        chosen = self._vm(vm)
        with self._world.lock:
            known = [p for p in self._world.policies.values() if p.name == policy]
            named = known[0] if known else Named(policy)
            self._world.policies[named.ext_id] = named
            chosen.protection, chosen.policy = protection, named.ext_id

    def expire_sessions(self) -> None:
        """Let every session cookie be refused from now on."""
        self._auth.expire_sessions()

    def put_on_array(self, vm: str, index: int, volume: str) -> None:
        """Let a disk of a VM live on a storage array of another maker, as that volume."""
        self._vm(vm).disks[index].external_volume = volume

    def kill_target(self, volume_group: str) -> None:
        """Let the iSCSI target of a volume group die at once."""
        with self._world.lock:
            group = self._world.volume_groups.get(volume_group)
        if group is None:
            raise NotInLab(f"there is no volume group {volume_group}")
        self._groups.kill_target(group)

    def made(self) -> dict[str, list[str]]:
        """Name everything that was ever on the cluster, by kind as in `state`, in order."""
        world = self._world
        with world.lock:
            return {
                "vms": list(world.vms.history),
                "recovery_points": list(world.recovery_points.history),
                "vm_snapshots": list(world.vm_snapshots.history),
                "volume_groups": list(world.volume_groups.history),
                "images": list(world.images.history),
            }

    def state(self) -> dict[str, list[dict[str, Any]]]:
        """List what is on the cluster now; tasks are those that have not ended."""
        _snapshots.purge_expired(self._world)
        sessions = self._groups.sessions()
        world = self._world
        with world.lock:
            return {
                "vms": [_vm_state(vm) for vm in world.vms.values()],
                "recovery_points": [_point_state(p) for p in world.recovery_points.values()],
                "vm_snapshots": [_point_state(p) for p in world.vm_snapshots.values()],
                "volume_groups": [
                    {
                        "ext_id": group.ext_id,
                        "name": group.name,
                        "target": group.target.iqn if group.target else "",
                        "clients": [world.iscsi_clients[c].initiator for c in group.clients],
                    }
                    for group in world.volume_groups.values()
                ],
                "images": [
                    {"ext_id": image.ext_id, "name": image.name, "size": image.size}
                    for image in world.images.values()
                ],
                "sessions": [
                    {"target": s.target, "initiator": s.initiator, "address": s.address}
                    for s in sessions
                ],
                "tasks": [
                    {"ext_id": task.ext_id, "operation": task.operation, "status": task.status}
                    for task in world.tasks.values()
                    if not task.finished
                ],
            }


def _settings(personality: str, **chosen: Any) -> Settings:  # noqa: ANN401 - see Lab.start
    if personality not in PERSONALITIES:
        raise StartFailed(f"{personality} is none of {', '.join(PERSONALITIES)}")
    latency = chosen.get("latency")
    if isinstance(latency, str):
        chosen["latency"] = Latency.parse(latency)
    return Settings(**{**PERSONALITIES[personality], **chosen})


def _vm_state(vm: Vm) -> dict[str, Any]:
    disks = [
        {
            "ext_id": d.ext_id,
            "size": d.size,
            "file": str(d.path),
            "address": f"{d.bus}.{d.index}",
            "container": d.container,
        }
        for d in vm.disks
    ]
    return {"ext_id": vm.ext_id, "name": vm.name, "power": vm.power_state, "disks": disks}


def _point_state(point: RecoveryPoint) -> dict[str, Any]:
    return {
        "ext_id": point.ext_id,
        "name": point.name,
        "expires": point.expires.isoformat(),
        "vms": [part.entity_ext_id for part in point.vms],
    }


def _new_world(root: Path, settings: Settings, addresses: Addresses) -> World:
    world = World(root, settings.cluster_name, addresses, settings)
    for shelf, records in (
        (world.subnets, [Named("lab-net"), Named("lab-net-2")]),
        (world.containers, [Named(name) for name in settings.containers]),
        (world.categories, [Named("Environment", value="Lab")]),
    ):
        shelf.update({record.ext_id: record for record in records})
    return world


def _claim_network(stack: contextlib.ExitStack) -> tuple[Addresses, list[socket.socket]]:
    """Take a free loopback network: who listens on its .1 and .2 owns it."""
    reason: StartFailed | None = None
    for _ in range(_ADDRESS_TRIES):
        chosen = Addresses(f"127.{random.randint(64, 254)}.{random.randint(0, 254)}")  # noqa: S311 - not a secret
        with contextlib.ExitStack() as claim:
            try:
                listeners = [claim.enter_context(listen(host)) for host in (chosen.pc, chosen.pe)]
                listen(
                    chosen.data_services, ISCSI_PORT
                ).close()  # tgtd would not say that it is taken
            except StartFailed as exc:
                reason = exc
                continue
            stack.push(claim.pop_all())
            return chosen, listeners
    raise StartFailed(f"no free loopback network in {_ADDRESS_TRIES} tries: {reason}") from reason
