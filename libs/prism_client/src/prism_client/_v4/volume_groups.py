"""Volume groups of v4 and their iSCSI clients."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import attrs

from prism_client._v4 import wire
from prism_client._v4.api import equals, segment
from prism_client.errors import ApiError, BadAnswer, NotFound, TaskFailed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from uuid import UUID

    from prism_client._fields import Fields
    from prism_client._v4.api import Api, Writes
    from prism_client.model import VolumeGroup

log = logging.getLogger(__name__)

_PATH = "config/volume-groups"
_KIND = "volumes:config:volume-group"
_CLIENT_KIND = "volumes:config:iscsi-client"


@attrs.frozen
class VolumeGroups:
    """services.VolumeGroups over v4."""

    api: Api
    writes: Writes

    def create(
        self,
        name: str,
        cluster_ext_id: str,
        sources: Sequence[str],
        *,
        chap_secret: str | None,
        request_id: UUID | None = None,
    ) -> VolumeGroup:
        body = wire.volume_group_body(name, cluster_ext_id, sources, chap_secret)
        return self.get(self.writes.create(_PATH, body, _KIND, request_id))

    def create_blank(
        self,
        name: str,
        cluster_ext_id: str,
        sizes: Sequence[int],
        storage_container_ext_id: str,
        *,
        chap_secret: str | None,
        shared: bool = False,
        request_id: UUID | None = None,
    ) -> VolumeGroup:
        body = wire.blank_volume_group_body(
            name, cluster_ext_id, sizes, storage_container_ext_id, chap_secret
        )
        body["sharingStatus"] = "SHARED" if shared else "NOT_SHARED"
        return self.get(self.writes.create(_PATH, body, _KIND, request_id))

    def get(self, ext_id: str) -> VolumeGroup:
        data = self.api.get(_entity(ext_id))
        disks = self.api.list(f"{_entity(ext_id)}/disks")
        return wire.volume_group(data, [disk.fields("volume disk") for disk in disks])

    def list(self, *, name: str | None = None) -> Iterator[VolumeGroup]:
        filter_ = None if name is None else equals("name", name)
        groups = self.api.records(
            "volume group", _PATH, wire.volume_group, filter_=filter_, name=name
        )
        for group in groups:
            if name in (None, group.name):
                yield group

    def delete(self, ext_id: str) -> bool:
        return self.writes.delete(_entity(ext_id))

    def attach_vm(self, vg_ext_id: str, vm_ext_id: str) -> None:
        self.writes.act(_entity(vg_ext_id), "attach-vm", {"extId": vm_ext_id})

    def attach_client(
        self,
        vg_ext_id: str,
        initiator_iqn: str,
        *,
        chap_secret: str | None,
        request_id: UUID | None = None,
    ) -> str:
        body = wire.iscsi_client_body(initiator_iqn, chap_secret)
        task = self.writes.act(_entity(vg_ext_id), "attach-iscsi-client", body, request_id)
        client = next(iter(task.affected.get(_CLIENT_KIND, ())), None)
        client = client or self._client(initiator_iqn)
        if client is None:
            raise BadAnswer(f"{initiator_iqn} is attached, but Prism lists no such iSCSI client")
        return client

    def detach_client(self, vg_ext_id: str, initiator_iqn: str) -> bool:
        client = self._client(initiator_iqn)
        if client is None:
            return False
        try:
            self.writes.act(_entity(vg_ext_id), "detach-iscsi-client", {"extId": client})
        except (ApiError, TaskFailed) as exc:
            if self._is_attached(vg_ext_id, client):
                raise
            log.info("%s was not attached: %s", initiator_iqn, exc)
            return False
        return True

    def _client(self, initiator_iqn: str) -> str | None:
        """Return the id under which Prism knows an initiator. IQNs do not differ by case."""
        filter_ = equals("iscsiInitiatorName", initiator_iqn)

        def ours(data: Fields) -> str | None:
            name = data.opt_text("iscsiInitiatorName") or ""
            return data.text("extId") if name.lower() == initiator_iqn.lower() else None

        path = "config/iscsi-clients"
        return next(self.api.records("iSCSI client", path, ours, filter_=filter_), None)

    def clients(self, ext_id: str) -> tuple[str, ...]:
        path = f"{_entity(ext_id)}/external-iscsi-attachments"
        attached = [entry.fields("iSCSI client") for entry in self.api.list(path)]
        return tuple(item.text("extId") for item in attached)

    def _is_attached(self, vg_ext_id: str, client: str) -> bool:
        try:
            return client in self.clients(vg_ext_id)
        except NotFound:
            return False  # the group is gone, and with it what was attached


def _entity(ext_id: str) -> str:
    return f"{_PATH}/{segment(ext_id)}"
