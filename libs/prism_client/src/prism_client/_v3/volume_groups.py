"""Volume groups of v3, on each cluster. v2 makes them: only it clones a file of a snapshot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import uuid4

import attrs

from prism_client._v3 import wire
from prism_client._v3.api import segment
from prism_client.errors import BadAnswer, NotFound, TransportError

if TYPE_CHECKING:
    import builtins
    from collections.abc import Callable, Iterator, Sequence
    from uuid import UUID

    from prism_client._v3.api import Api
    from prism_client._v3.elements import Elements
    from prism_client.model import Task, VolumeGroup

_LOOKS = 5  # for a group whose making was asked for, and whose answer was lost
_PAUSE = 1.0  # seconds between two looks


@attrs.frozen
class VolumeGroups:
    """services.VolumeGroups over v3; an iSCSI client has no id but its name."""

    elements: Elements
    _made: dict[UUID, str] = attrs.field(factory=dict, init=False, repr=False)

    def create(
        self,
        name: str,
        cluster_ext_id: str,
        sources: Sequence[str],
        *,
        chap_secret: str | None,  # noqa: ARG002 - v2 takes it with the client only
        request_id: UUID | None = None,
    ) -> VolumeGroup:
        disks = [
            {"index": index, "clone_config": {"disk_address": {"ndfs_filepath": source}}}
            for index, source in enumerate(sources)
        ]
        body = {"name": name, "is_shared": False, "disk_list": disks}
        return self._create(cluster_ext_id, body, request_id)

    def create_blank(
        self,
        name: str,
        cluster_ext_id: str,
        sizes: Sequence[int],
        storage_container_ext_id: str,
        *,
        chap_secret: str | None,  # noqa: ARG002 - v2 takes it with the client only
        shared: bool = False,
        request_id: UUID | None = None,
    ) -> VolumeGroup:
        disks = [
            {
                "index": index,
                "create_config": {
                    "size": size,
                    "storage_container_uuid": storage_container_ext_id,
                },
            }
            for index, size in enumerate(sizes)
        ]
        body = {"name": name, "is_shared": shared, "disk_list": disks}
        return self._create(cluster_ext_id, body, request_id)

    def _create(
        self, cluster_ext_id: str, body: dict[str, Any], request_id: UUID | None
    ) -> VolumeGroup:
        element = self.elements.of(cluster_ext_id)
        key = request_id or uuid4()
        if key not in self._made:
            self._made[key] = self._make(element, body, key)
        return wire.volume_group(element.get(_entity(self._made[key])))

    def _make(self, element: Api, body: dict[str, Any], key: UUID) -> str:
        """Ask v2 for a group, once a key: asked again it would make a second one."""
        name = body["name"]
        try:
            with element.once(key, f"volume group {name}"):
                task = element.post_v2("volume_groups", body)
                made = _made_by(task) if task else None
        except (TransportError, BadAnswer):
            made = _appeared(element, name)
            if made is None:
                raise
        if made is None:
            raise BadAnswer(f"volume group {name} was made, but its task does not name it")
        return made

    def get(self, ext_id: str) -> VolumeGroup:
        return wire.volume_group(self.elements.holder(_entity(ext_id)).get(_entity(ext_id)))

    def list(self, *, name: str | None = None) -> Iterator[VolumeGroup]:
        for _, element in self.elements.each():
            groups = element.records("volume group", "volume_groups", wire.volume_group, name=name)
            for group in groups:
                if name in (None, group.name):
                    yield attrs.evolve(group, disks=())

    def delete(self, ext_id: str) -> bool:
        return self.elements.delete(_entity(ext_id))

    def clients(self, ext_id: str) -> tuple[str, ...]:
        entity = self.elements.holder(_entity(ext_id)).get(_entity(ext_id))
        return wire.initiators(entity)

    def attach_vm(self, vg_ext_id: str, vm_ext_id: str) -> None:
        attachment = {"vm_reference": {"kind": "vm", "uuid": vm_ext_id}}

        def attach(spec: dict[str, Any]) -> bool:
            resources = spec["resources"] = dict(spec.get("resources") or {})
            attachments = list(resources.get("attachment_list") or [])
            resources["attachment_list"] = [*attachments, attachment]
            known = [(item.get("vm_reference") or {}).get("uuid") for item in attachments]
            return vm_ext_id not in known

        self.elements.holder(_entity(vg_ext_id)).update(_entity(vg_ext_id), attach)

    def attach_client(
        self,
        vg_ext_id: str,
        initiator_iqn: str,
        *,
        chap_secret: str | None,
        request_id: UUID | None = None,  # noqa: ARG002 - attaching twice is attaching once
    ) -> str:
        client = {"iscsi_initiator_name": initiator_iqn}
        secret = {} if chap_secret is None else {"client_secret": chap_secret}

        def attach(resources: dict[str, Any], others: builtins.list[Any], attached: int) -> bool:
            resources["attachment_list"] = [*others, client | secret]
            if chap_secret is not None:
                resources["target_secret"] = chap_secret
            return not attached

        self._change(vg_ext_id, initiator_iqn, attach)
        return initiator_iqn

    def detach_client(self, vg_ext_id: str, initiator_iqn: str) -> bool:
        found = False

        def detach(resources: dict[str, Any], others: builtins.list[Any], attached: int) -> bool:
            nonlocal found
            found = found or attached > 0
            resources["attachment_list"] = others
            return attached > 0

        try:
            self._change(vg_ext_id, initiator_iqn, detach)
        except NotFound:
            if self._exists(vg_ext_id):
                raise
            return False
        return found

    def _exists(self, ext_id: str) -> bool:
        try:
            self.elements.holder(_entity(ext_id))
        except NotFound:
            return False
        return True

    def _change(
        self,
        vg_ext_id: str,
        initiator_iqn: str,
        change: Callable[[dict[str, Any], builtins.list[Any], int], bool],
    ) -> None:
        """Change a group's resources, given its other attachments and how often ours is there."""

        def alter(spec: dict[str, Any]) -> bool:
            resources = dict(spec.get("resources") or {})
            attachments = list(resources.get("attachment_list") or [])
            others = [item for item in attachments if not _is_of(item, initiator_iqn)]
            spec["resources"] = resources
            return change(resources, others, len(attachments) - len(others))

        self.elements.holder(_entity(vg_ext_id)).update(_entity(vg_ext_id), alter)


def _made_by(task: Task) -> str | None:
    """Return the group that a task names; v2 calls its kind by other names than v3."""
    for kind, uuids in task.affected.items():
        if kind.replace("_", "").lower() == "volumegroup":
            return uuids[0]
    return None


def _appeared(element: Api, name: str) -> str | None:
    """Return the only group of a name, which the caller made unique, once it is there."""
    for _ in range(_LOOKS):
        found = [entry.ext_id for entry in element.list("volume_groups") if entry.name == name]
        if len(found) == 1:
            return found[0]
        element.clock.sleep(_PAUSE)
    return None


def _is_of(attachment: object, initiator_iqn: str) -> bool:
    """Say whether an attachment is an initiator's. IQNs do not differ by case."""
    name = attachment.get("iscsi_initiator_name") if isinstance(attachment, dict) else None
    return isinstance(name, str) and name.lower() == initiator_iqn.lower()


def _entity(ext_id: str) -> str:
    return f"volume_groups/{segment(ext_id)}"
