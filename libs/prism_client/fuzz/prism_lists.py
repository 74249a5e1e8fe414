"""Any damage to one entry of any list, of v4, v3 and v2: the others are listed all the same.

The damaged entry is listed, or it is among the unreadable ones.
"""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any, cast

import attrs
from prism_client._clock import SystemClock
from prism_client._http import Answer
from prism_client._v3 import inventory as v3_inventory
from prism_client._v3.api import Api as V3Api
from prism_client._v3.clusters import Clusters as V3Clusters
from prism_client._v3.elements import Elements
from prism_client._v3.images import Images as V3Images
from prism_client._v3.snapshots import RecoveryPoints as V3RecoveryPoints
from prism_client._v3.vms import Vms as V3Vms
from prism_client._v3.volume_groups import VolumeGroups as V3VolumeGroups
from prism_client._v4 import inventory as v4_inventory
from prism_client._v4.api import Api as V4Api
from prism_client._v4.images import Images as V4Images
from prism_client._v4.recovery_points import RecoveryPoints as V4RecoveryPoints
from prism_client._v4.vms import Vms as V4Vms
from prism_client._v4.volume_groups import VolumeGroups as V4VolumeGroups

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from prism_client import Unreadables
    from prism_client._http import Call, Http

    Path = tuple[str | int, ...]
    Entry = dict[str, Any]

HARM: list[Any] = [None, "x", "", 7, -1, 1.5, True, [], {}, [None], [{}], {"extId": None}]
"""What a field is replaced by; to remove it is one harm more."""
REMOVED = object()
MOST_HARM = 4  # in one input
NOTHING: Any = None  # what reading a list does not need


@attrs.frozen
class Site:
    """The lists of a Prism, by the end of their path. Only one has the damage."""

    lists: dict[str, list[Any]]

    def send(self, call: Call) -> Answer:
        """The page that is asked for: each list fits on the first."""
        path = call.path.removesuffix("/list")
        found = next(items for end, items in self.lists.items() if path.endswith(end))
        body = (
            {"entities": found, "metadata": {"total_matches": len(found)}}
            if "/nutanix/" in path
            else {"data": found, "metadata": {"totalAvailableResults": len(found)}}
        )
        return Answer(f"{call.method} {call.path}", 200, {}, json.dumps(body).encode())


@attrs.frozen
class List:
    """One kind of list: an entry of it, where it is asked for, and how."""

    path: str
    entry: Entry
    read: Callable[[Site], tuple[Iterable[Any], Unreadables]]


def _v4(read: Callable[[V4Api], Iterable[Any]]) -> Callable[[Site], Any]:
    def listed(site: Site) -> tuple[Iterable[Any], Unreadables]:
        api = V4Api(cast("Http", site), "fuzz", "v4.0")
        return read(api), api.unreadable

    return listed


def _v3(read: Callable[[V3Api, Elements], Iterable[Any]]) -> Callable[[Site], Any]:
    def listed(site: Site) -> tuple[Iterable[Any], Unreadables]:
        api = V3Api(cast("Http", site), SystemClock(), 5.0)
        return read(api, Elements(api, lambda _: api)), api.unreadable

    return listed


_V4_VM = {
    "$objectType": "vmm.v4.ahv.config.Vm",
    "name": "web",
    "description": "d",
    "cluster": {"extId": "c"},
    "powerState": "ON",
    "numSockets": 1,
    "numCoresPerSocket": 1,
    "numThreadsPerCore": 1,
    "memorySizeBytes": 1 << 30,
    "machineType": "PC",
    "bootConfig": {"$objectType": "vmm.v4.ahv.config.UefiBoot", "bootOrder": ["DISK"]},
    "disks": [
        {
            "extId": "d0",
            "diskAddress": {"busType": "SCSI", "index": 0},
            "backingInfo": {
                "diskExtId": "v0",
                "diskSizeBytes": 1 << 20,
                "storageContainer": {"extId": "s"},
            },
        },
        {"extId": "d1", "backingInfo": {"volumeGroupExtId": "g"}},
    ],
    "nics": [
        {
            "extId": "n0",
            "backingInfo": {"macAddress": "m", "isConnected": True, "model": "VIRTIO"},
            "networkInfo": {"subnet": {"extId": "s"}},
        },
        {"nicBackingInfo": {"macAddress": "m"}, "nicNetworkInfo": {"subnet": {"extId": "s"}}},
    ],
    "categories": [{"extId": "k"}],
    "protectionType": "UNPROTECTED",
}
_V4_CLUSTER = {
    "name": "lab",
    "config": {"clusterFunction": ["AOS"], "buildInfo": {"version": "7.3"}},
    "network": {
        "externalAddress": {"ipv4": {"value": "a"}},
        "externalDataServiceIp": {"ipv6": {"value": "b"}},
    },
}
_V4_POINT = {
    "name": "p",
    "creationTime": "2026-11-23T07:10:31Z",
    "expirationTime": "2026-11-24T07:10:31Z",
    "recoveryPointType": "CRASH_CONSISTENT",
    "vmRecoveryPoints": [{"extId": "part", "vmExtId": "v"}],
}
_V3_DISK = {
    "uuid": "d0",
    "device_properties": {
        "device_type": "DISK",
        "disk_address": {"adapter_type": "SCSI", "device_index": 0},
    },
    "disk_size_bytes": 1 << 20,
    "disk_size_mib": 1,
    "storage_config": {"storage_container_reference": {"uuid": "s"}},
}
_V3_VM = {
    "num_sockets": 1,
    "num_vcpus_per_socket": 1,
    "memory_size_mib": 1024,
    "power_state": "ON",
    "boot_config": {"boot_type": "UEFI", "boot_device_order_list": ["DISK"]},
    "disk_list": [
        _V3_DISK,
        {
            "device_properties": {"device_type": "VOLUME_GROUP"},
            "volume_group_reference": {"uuid": "g"},
        },
    ],
    "nic_list": [{"uuid": "n", "mac_address": "m", "subnet_reference": {"uuid": "s"}}],
}
_V3_CLUSTER = {
    "network": {"external_ip": "a", "external_data_services_ip": "b"},
    "config": {"service_list": ["AOS"], "build": {"version": "6.5"}},
}


def _entity(resources: Entry, **status: object) -> Entry:
    cluster = {"cluster_reference": {"uuid": "c"}}
    return {
        "metadata": {"creation_time": "2026-11-23T07:10:31Z", "categories": {"k": "v"}},
        "status": {"name": "n", "resources": resources} | cluster | status,
        "spec": {"name": "n", "description": "d"},
    }


_SNAPSHOT = _entity({"entity_uuid": "v"}, snapshot_type="CRASH_CONSISTENT", expiration_time_msecs=1)
_GROUP_SNAPSHOT = _entity(
    {
        "volume_group_reference": {"uuid": "g"},
        "snapshot_file_list": [{"snapshot_file_path": "/p", "volume_group_disk_uuid": "d"}],
        "expiration_time_msecs": 1,
    }
)
_V3_GROUP = {"iscsi_target_name": "t", "disk_list": [{"uuid": "d", "index": 0} | _V3_DISK]}
_NAMED = {"name": "n"}
_SUBNET = {"name": "n", "subnetType": "VLAN", "networkId": 7, "clusterReference": "c"}
_CONTAINER = {"name": "n", "containerExtId": None, "clusterExtId": "c"}
_V2_CONTAINER = {
    "storage_container_uuid": "s",
    "name": "n",
    "cluster_uuid": "c",
    "usage_stats": {"storage.user_free_bytes": "7"},
}
LISTS = [
    List("/ahv/config/vms", _V4_VM, _v4(lambda api: V4Vms(api, NOTHING).list())),
    List("/config/clusters", _V4_CLUSTER, _v4(lambda api: v4_inventory.Clusters(api).list())),
    List("/config/subnets", _SUBNET, _v4(lambda api: v4_inventory.Subnets(api).list())),
    List(
        "/config/storage-containers",
        _CONTAINER,
        _v4(lambda api: v4_inventory.StorageContainers(api, NOTHING).list()),
    ),
    List(
        "/config/categories",
        {"key": "k", "value": "v"},
        _v4(lambda api: v4_inventory.Categories(api).list()),
    ),
    List(
        "/config/recovery-points",
        _V4_POINT,
        _v4(lambda api: V4RecoveryPoints(api, NOTHING).list()),
    ),
    List(
        "/config/volume-groups",
        _NAMED | {"clusterReference": "c", "targetName": "t"},
        _v4(lambda api: V4VolumeGroups(api, NOTHING).list()),
    ),
    List(
        "/content/images",
        _NAMED | {"sizeBytes": 7},
        _v4(lambda api: V4Images(api, NOTHING, NOTHING).list()),
    ),
    List("/v3/vms", _entity(_V3_VM), _v3(lambda api, elements: V3Vms(api, elements).list())),
    List("/v3/clusters", _entity(_V3_CLUSTER), _v3(lambda api, _: V3Clusters(api).list())),
    List(
        "/v3/subnets",
        _entity({"subnet_type": "VLAN", "vlan_id": 7}),
        _v3(lambda api, _: v3_inventory.Subnets(api).list()),
    ),
    List("/v3/projects", _entity({}), _v3(lambda api, _: v3_inventory.Projects(api).list())),
    List("/v3/images", _entity({"size_bytes": 7}), _v3(lambda api, _: V3Images(api).list())),
    List(
        "/v3/vm_snapshots",
        _SNAPSHOT,
        _v3(lambda api, elements: V3RecoveryPoints(api, elements).list()),
    ),
    List(
        "/v3/volume_group_snapshots",
        _GROUP_SNAPSHOT,
        _v3(lambda api, elements: V3RecoveryPoints(api, elements).list()),
    ),
    List(
        "/v3/volume_groups",
        _entity(_V3_GROUP),
        _v3(lambda _, elements: V3VolumeGroups(elements).list()),
    ),
    List(
        "/v2.0/storage_containers",
        _V2_CONTAINER,
        _v3(lambda _, elements: v3_inventory.StorageContainers(elements).list()),
    ),
]


def three(kind: List) -> list[Entry]:
    """Three entries of a kind, with the ids "1", "2" and "3"."""
    made = []
    for ext_id in ("1", "2", "3"):
        entry = copy.deepcopy(kind.entry)
        if "/v2.0/" in kind.path:
            entry["storage_container_uuid"] = ext_id
        elif "/v3/" in kind.path:
            entry["metadata"]["uuid"] = ext_id
        else:
            entry["extId"] = ext_id
        made.append(entry)
    return made


_READ_BESIDES: dict[str, list[Any]] = {
    "/v3/clusters": three(List("/v3/clusters", _entity(_V3_CLUSTER), NOTHING))[:1],
    "/v3/vm_snapshots": [],
    "/v3/volume_group_snapshots": [],
}
"""The lists that reading another one of v3 asks for."""


def paths(value: Any, at: Path = ()) -> Iterator[Path]:  # noqa: ANN401 - any JSON
    """Every place inside of a JSON value, its own first."""
    yield at
    inner: Iterable[tuple[str | int, Any]] = ()
    if isinstance(value, dict):
        inner = value.items()
    elif isinstance(value, list):
        inner = enumerate(value)
    for name, child in inner:
        yield from paths(child, (*at, name))


def harmed(value: Any, at: Path, harm: Any) -> Any:  # noqa: ANN401 - any JSON
    """A copy in which one place is replaced or, for REMOVED, gone."""
    if not at:
        return None if harm is REMOVED else harm
    changed = copy.deepcopy(value)
    holder = changed
    for name in at[:-1]:
        holder = holder[name]
    if harm is REMOVED:
        del holder[at[-1]]
    else:
        holder[at[-1]] = harm
    return changed


def check_list(kind: List, damaged: Any) -> None:  # noqa: ANN401 - any JSON
    """Read the list with a damaged entry in its middle."""
    first, _, last = three(kind)
    found, unreadable = kind.read(Site(_READ_BESIDES | {kind.path: [first, damaged, last]}))
    ids = [record.ext_id for record in found]
    if not {"1", "3"} <= set(ids):
        raise AssertionError(f"{kind.path} lost entries: {ids} of 1 and 3, with {damaged}")
    if len(ids) + len(unreadable.of()) < 3 and not _is_of_several(damaged):
        raise AssertionError(f"{kind.path} does not report {damaged}")


def _is_of_several(entry: Any) -> bool:  # noqa: ANN401 - any JSON
    """Say whether it is a recovery point of several VMs or of none: they are left out."""
    parts = entry.get("vmRecoveryPoints", ()) if isinstance(entry, dict) else ()
    return parts is None or (isinstance(parts, list | tuple) and len(parts) != 1)


def check(data: bytes) -> None:
    """Damage an entry as the bytes say: in a list, for each harm a place and what is there now."""
    if not data:
        return
    kind = LISTS[data[0] % len(LISTS)]
    damaged: Any = three(kind)[1]
    for at in range(1, min(len(data) - 1, 2 * MOST_HARM), 2):
        places = list(paths(damaged))
        harms = [REMOVED, *HARM]
        damaged = harmed(damaged, places[data[at] % len(places)], harms[data[at + 1] % len(harms)])
    check_list(kind, damaged)
