"""AHV virtual machines of v3."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from prism_client import vm_settings
from prism_client._v3 import wire
from prism_client._v3.api import segment
from prism_client.errors import BadRequest, Unsupported
from prism_client.model import VolumeDiskRef

if TYPE_CHECKING:
    import builtins
    from collections.abc import Iterable, Iterator, Sequence
    from uuid import UUID

    from prism_client._v3.api import Api
    from prism_client._v3.elements import Elements
    from prism_client.model import DiskSpec, FileTransfer, Vm, VmSpec


@attrs.frozen
class Vms:
    """services.Vms over v3."""

    api: Api
    elements: Elements

    @property
    def takes_volume_disks(self) -> bool:
        return False

    @property
    def transfers_files(self) -> bool:
        return False

    def not_taken(self, settings: Iterable[str]) -> tuple[str, ...]:
        return vm_settings.not_known(settings, None)

    def list(self) -> Iterator[Vm]:
        return self.api.records("VM", "vms", wire.vm)

    def get(self, ext_id: str) -> Vm:
        return wire.vm(self.api.get(_entity(ext_id)))

    def find(self, name: str) -> builtins.list[Vm]:
        """A name may hold what a v3 filter cannot express, so all are looked at."""
        return [vm for vm in self.api.records("VM", "vms", wire.vm, name=name) if vm.name == name]

    def create(self, spec: VmSpec, *, request_id: UUID | None = None) -> Vm:
        if any(isinstance(disk.source, VolumeDiskRef) for disk in spec.disks):
            raise Unsupported("v3 makes no disk of a VM from a disk of a volume group: use images")
        return self.get(self.api.create("vms", "vm", wire.vm_body(spec), request_id))

    def add_disk(self, ext_id: str, disk: DiskSpec, *, request_id: UUID | None = None) -> None:  # noqa: ARG002 - nothing is asked
        raise Unsupported("v3 gives a VM no disk from one of a volume group")

    def remove_disk(self, ext_id: str, disk_ext_id: str) -> bool:  # noqa: ARG002 - nothing is asked
        raise Unsupported("disks are taken from a VM over v4 only")

    def refit(self, ext_id: str, spec: VmSpec) -> Vm:  # noqa: ARG002 - nothing is asked
        raise Unsupported("disks are taken from a VM over v4 only")

    def transfer_files(
        self,
        ext_id: str,  # noqa: ARG002 - nothing is asked
        disk: VolumeDiskRef,  # noqa: ARG002
        files: Sequence[FileTransfer],  # noqa: ARG002
        *,
        user: str,  # noqa: ARG002
        password: str,  # noqa: ARG002
    ) -> None:
        raise Unsupported("v3 copies no files into guests")

    def power_on(self, ext_id: str) -> None:
        self._power(ext_id, "ON")

    def power_off(self, ext_id: str) -> None:
        self._power(ext_id, "OFF")

    def shut_down(self, ext_id: str) -> None:
        self._power(ext_id, "OFF", mechanism="ACPI")

    def delete(self, ext_id: str) -> bool:
        return self.api.delete(_entity(ext_id))

    def _power(self, ext_id: str, wanted: str, *, mechanism: str = "HARD") -> None:
        vm = self.get(ext_id)
        if vm.power_state == wanted:
            return

        def switch(spec: dict[str, Any]) -> bool:
            resources = dict(spec.get("resources") or {})
            if resources.get("power_state") == wanted:
                return False
            if wanted == "OFF":
                resources["power_state_mechanism"] = {"mechanism": mechanism}
            spec["resources"] = resources | {"power_state": wanted}
            return True

        try:
            self.api.update(_entity(ext_id), switch)
        except BadRequest as exc:
            if exc.status != 405:  # some clusters do not take a change of power this way
                raise
            element = self.elements.of(vm.cluster_ext_id)
            transition = wanted if mechanism == "HARD" else "ACPI_SHUTDOWN"
            element.post_v2(f"{_entity(ext_id)}/set_power_state", {"transition": transition})


def _entity(ext_id: str) -> str:
    return f"vms/{segment(ext_id)}"
