"""AHV virtual machines of v4."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from prism_client import vm_settings
from prism_client._v4 import wire
from prism_client._v4.api import equals, segment
from prism_client.errors import Unsupported

if TYPE_CHECKING:
    import builtins
    from collections.abc import Iterable, Iterator, Sequence
    from uuid import UUID

    from prism_client._v4.api import Api, Writes
    from prism_client.model import DiskSpec, FileTransfer, Vm, VmSpec, VolumeDiskRef

_PATH = "ahv/config/vms"
_KIND = "vmm:ahv:config:vm"


@attrs.frozen
class Vms:
    """services.Vms over v4."""

    api: Api
    writes: Writes

    @property
    def takes_volume_disks(self) -> bool:
        return self.api.revision != "v4.0"  # its models have no reference to such a disk

    @property
    def transfers_files(self) -> bool:
        return self.api.revision not in {"v4.0", "v4.1", "v4.2"}

    def not_taken(self, settings: Iterable[str]) -> tuple[str, ...]:
        return vm_settings.not_known(settings, self.api.revision)

    def list(self) -> Iterator[Vm]:
        return self.api.records("VM", _PATH, wire.vm)

    def get(self, ext_id: str) -> Vm:
        return wire.vm(self.api.get(_entity(ext_id)))

    def find(self, name: str) -> builtins.list[Vm]:
        filter_ = equals("name", name)
        vms = self.api.records("VM", _PATH, wire.vm, filter_=filter_, name=name)
        return [vm for vm in vms if vm.name == name]

    def create(self, spec: VmSpec, *, request_id: UUID | None = None) -> Vm:
        return self.get(self.writes.create(_PATH, wire.vm_body(spec), _KIND, request_id))

    def add_disk(self, ext_id: str, disk: DiskSpec, *, request_id: UUID | None = None) -> None:
        self.writes.add(_entity(ext_id), "disks", wire.disk_body(disk), request_id)

    def remove_disk(self, ext_id: str, disk_ext_id: str) -> bool:
        return self.writes.delete(f"{_entity(ext_id)}/disks/{segment(disk_ext_id)}")

    def refit(self, ext_id: str, spec: VmSpec) -> Vm:
        entity = _entity(ext_id)
        vm = self.get(ext_id)
        self._categorise(entity, "disassociate", vm.category_ext_ids)
        for disk in vm.disks:
            self.remove_disk(ext_id, disk.ext_id)
        for nic in vm.nics:
            self.writes.delete(f"{entity}/nics/{segment(nic.ext_id)}")
        for new in spec.disks:
            self.add_disk(ext_id, new)
        for card in spec.nics:
            self.writes.add(entity, "nics", wire.nic_body(card))
        self.writes.update(entity, lambda raw: wire.refit_body(raw, spec))
        self._categorise(entity, "associate", spec.category_ext_ids)
        return self.get(ext_id)

    def _categorise(self, entity: str, action: str, ext_ids: Iterable[str]) -> None:
        if categories := [{"extId": ext_id} for ext_id in sorted(ext_ids)]:
            self.writes.act(entity, f"{action}-categories", {"categories": categories})

    def power_on(self, ext_id: str) -> None:
        if self.get(ext_id).power_state != "ON":
            self.writes.act(_entity(ext_id), "power-on")

    def power_off(self, ext_id: str) -> None:
        if self.get(ext_id).power_state != "OFF":
            self.writes.act(_entity(ext_id), "power-off")

    def shut_down(self, ext_id: str) -> None:
        if self.get(ext_id).power_state != "OFF":
            self.writes.act(_entity(ext_id), "shutdown")

    def transfer_files(
        self,
        ext_id: str,
        disk: VolumeDiskRef,
        files: Sequence[FileTransfer],
        *,
        user: str,
        password: str,
    ) -> None:
        if not self.transfers_files:
            raise Unsupported("vmm copies no files into guests before v4.3")
        body = wire.transfer_body(disk, files, user, password)
        self.writes.act(_entity(ext_id), "transfer-files-to-guest", body)

    def delete(self, ext_id: str) -> bool:
        return self.writes.delete(_entity(ext_id))


def _entity(ext_id: str) -> str:
    return f"{_PATH}/{segment(ext_id)}"
