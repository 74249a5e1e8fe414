"""The targets: where each lives, what it covers, and what its corpus begins with."""

from __future__ import annotations

import importlib.util
import itertools
import json
import struct
import tarfile
from typing import TYPE_CHECKING, Any, TypeAlias

import attrs
from vectortool import vectors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import ModuleType

Json: TypeAlias = Any
MEMBERS = vectors.ROOT.parent
_READY = 4  # the place of READY among the states of a session of replication
LARGEST_SEED = 1024  # bytes; every end is also fed byte by byte


@attrs.frozen
class Target:
    """A file with a function ``check(data)``, the packages it is about, and its first inputs."""

    path: str
    packages: tuple[str, ...]
    seeds: Callable[[], Iterator[bytes]]

    def load(self) -> ModuleType:
        """Import the file."""
        path = MEMBERS / self.path
        spec = importlib.util.spec_from_file_location(f"fuzz_{path.stem}", path)
        if spec is None or spec.loader is None:
            raise ImportError(f"{path} cannot be imported")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module


def inputs(suite: str) -> Iterator[bytes]:
    """The inputs of a suite that are small enough to be changed byte by byte."""
    for case in vectors.cases(suite):
        data = bytes.fromhex(case.body.get("input", ""))
        if data and len(data) <= LARGEST_SEED:
            yield data


def conversations() -> Iterator[bytes]:
    """What one end said in each conversation, after a byte for role and phase."""
    phases = ["BackupStart", "EstimateStart", "ListingStart", "QueryStart", "RestoreStart"]
    for case in vectors.cases("ptcomm-sessions"):
        text = json.dumps(case.body)
        phase = next((n for n, name in enumerate(phases) if name in text), 0)
        for role, number in (("backend", 0), ("plugin", 1)):
            wire = b"".join(_heard(case.body, role))
            if wire and len(wire) <= LARGEST_SEED:
                yield bytes([number | phase << 1]) + wire


def _heard(body: Json, role: str) -> Iterator[bytes]:
    if "script" in body:
        yield from (bytes.fromhex(s["bytes"]) for s in body["script"] if s["who"] != role)
    elif body["role"] == role:
        yield from (bytes.fromhex(step.get("receive", "")) for step in body["steps"])


def streams_on_bases() -> Iterator[bytes]:
    """Streams after two bytes that make a base."""
    for suite in ("phcbt01-apply", "phcbt01-streams"):
        yield from (bytes([0, len(data) % 7]) + data for data in inputs(suite))


def pairs_of_streams() -> Iterator[bytes]:
    """Every applicable stream before the next one."""
    streams = [*inputs("phcbt01-apply"), *list(inputs("phcbt01-streams"))[:12]]
    for one, other in itertools.pairwise(streams):
        yield len(one).to_bytes(2, "little") + one + other
        yield len(one).to_bytes(2, "little") + one + one


def bodies_v4() -> Iterator[bytes]:
    """Answers in the shape of v4, with most of the names that the readers look for."""
    item = {"extId": "1", "name": "n", "index": 0, "diskSizeBytes": "5", "status": "SUCCEEDED"}
    disk = {
        "diskAddress": {"busType": "SCSI", "index": 0},
        "backingInfo": item | {"diskExtId": "d"},
    }
    vm = {"cluster": item, "numSockets": 1, "numCoresPerSocket": 1, "memorySizeBytes": 1}
    point = {"creationTime": "2026-11-23T07:00:00Z", "vmRecoveryPoints": [item | {"vmExtId": "v"}]}
    extra = [{"name": "nextOffset", "value": 0}, {"name": "fileSize", "value": (1 << 20) + 512}]
    metadata = {"extraInfo": extra, "flags": [{"name": "isTruncated", "value": False}]}
    regions = [{"offset": at, "length": 65536, "regionType": "REGULAR"} for at in (0, 1 << 20)]
    task = item | {"entitiesAffected": [item], "completionDetails": [{"name": "n", "value": 1}]}
    for data in (item | vm | {"disks": [disk | item]}, item | point, task, [item], regions):
        yield json.dumps({"data": data, "metadata": metadata}).encode()
    error = {"$objectType": "ErrorResponse", "error": [{"message": "m", "code": "c"}]}
    flags = {"flags": [{"name": "hasError", "value": True}]}
    yield json.dumps({"data": error, "metadata": flags}).encode()


def bodies_v3() -> Iterator[bytes]:
    """Answers in the shape of v3 and v2, one a line: an upload, changed regions, entities."""
    created = {"metadata": {"uuid": "1"}, "status": {"execution_context": {"task_uuid": "2"}}}
    task = {"status": "SUCCEEDED", "entity_reference_list": [{"kind": "vm", "uuid": "3"}]}
    whole = {"status": {"state": "COMPLETE", "resources": {"size_bytes": 5}}}
    error = {"status": {"state": "ERROR", "message_list": [{"message": "m"}]}}
    yield _lines(created, task, {}, whole)
    yield _lines(created, task, {}, error)
    yield _lines({"metadata": {"uuid": "1"}} | error)
    cluster = _entity({"network": {"external_ip": "h"}, "config": {"service_list": ["AOS"]}})
    regions = [{"offset": at, "length": 65536, "type": "REGULAR"} for at in (0, 1 << 20)]
    page = {"region_list": regions, "next_offset": 0, "file_size": (1 << 20) + 512}
    yield _lines(_page(cluster), {}, page)
    container = {"storage_container_uuid": "1", "name": "c", "cluster_uuid": "2"}
    yield _lines({"entities": [container]})
    for resources in _resources_v3():
        yield _lines(_page(_entity(resources)))


def _resources_v3() -> Iterator[Json]:
    """What an entity of each kind consists of, small enough for the largest seed."""
    properties = {"disk_address": {"adapter_type": "SCSI", "device_index": 0}}
    disk = {"uuid": "1", "device_properties": properties, "disk_size_mib": 1, "index": 0}
    vm = {"num_sockets": 1, "memory_size_mib": 1, "boot_config": {"boot_type": "UEFI"}}
    yield vm | {"disk_list": [disk], "nic_list": [{"mac_address": "m", "is_connected": True}]}
    yield {"iscsi_target_name": "t", "disk_list": [disk | {"disk_size_bytes": 5}]}
    yield {"entity_uuid": "v", "subnet_type": "VLAN", "vlan_id": 7}


def _entity(resources: Json) -> Json:
    files = [{"file_path": "/a/b", "snapshot_file_path": "/c"}]
    status = {"name": "n", "resources": resources, "cluster_reference": {"uuid": "2"}}
    snapshot = {"snapshot_file_list": files, "expiration_time_msecs": 1}
    metadata = {"uuid": "1", "creation_time": "2026-11-23T07:00:00Z", "categories": {"k": "v"}}
    return {"status": status | snapshot, "metadata": metadata}


def _page(entity: Json) -> Json:
    return {"entities": [entity], "metadata": {"total_matches": 1}}


def _lines(*bodies: Json) -> bytes:
    return "\n".join(json.dumps(body) for body in bodies).encode()


def damages() -> Iterator[bytes]:
    """One harm to each of the lists."""
    yield from (bytes([number, 3, 0]) for number in range(17))


def replications() -> Iterator[bytes]:
    """Every message of a script, to both ends in every state."""
    scripts = (test.body.get("script", ()) for test in vectors.cases("replication-sessions"))
    said = {line["bytes"] for script in scripts for line in script}
    for place in range(22):
        for message in sorted(said):
            yield bytes((place % 2, place // 2)) + bytes.fromhex(message)
    for test in vectors.cases("replication-manifests"):
        manifest = bytes.fromhex(test.body["input"]) + b"\n"
        line = b"Cycle seed -\n"
        block = b"C%06d\n%sC%06d\n%sF000000\n" % (len(line), line, len(manifest), manifest)
        yield bytes((1, _READY)) + block  # to a receiver that waits for a cycle


def plugin_lines() -> Iterator[bytes]:
    """Parameters as they are used, and a file behind them."""
    yield b"prism=p\nuser=u\npassword=s3cr3t\nvm=a*\nvm=b\ntimeout=3\nchap=yes"
    yield b"config_file=/c\n\n# a comment\nprism = p\napi_key=k\nconsistency=app\n"
    yield b"prism=p\nuser=u\npassword_file=/p\nrestore_to=disk\ndisk_path=/d\n\nsecret\n"
    yield b"Accurate=1\ndebug=maybe\nstate_dir=rel\nfingerprint=00\nexclude_vm=x\ndisk=0"


def configurations() -> Iterator[bytes]:
    """The small ones of the sample configurations, after a byte for their kind."""
    folder = MEMBERS / "libs/vm_config/tests/samples"
    for number, kind in enumerate(("proxmox", "vsphere", "hyperv")):
        for path in sorted((folder / kind).iterdir()):
            data = path.read_bytes()
            if path.suffix != ".json" and len(data) < LARGEST_SEED:
                yield bytes([number]) + data
    item = b"<Item><InstanceID>%d</InstanceID><ResourceType>%d</ResourceType>%b</Item>"
    memory = item % (2, 4, b"<VirtualQuantity>9</VirtualQuantity>")
    disk = item % (3, 17, b"<HostResource>ovf:/disk/d</HostResource>")
    yield b"\1" + (
        b'<Envelope><References><File id="f" href="a.vmdk"/></References><DiskSection>'
        b'<Disk diskId="d" fileRef="f" capacity="1"/></DiskSection><VirtualSystem><Name>n</Name>'
        b"<VirtualHardwareSection>%b</VirtualHardwareSection></VirtualSystem></Envelope>"
    ) % (memory + disk)


def packages() -> Iterator[bytes]:
    """An archive of one file, whole and cut off, after the length of its first piece."""
    info = tarfile.TarInfo("box.ovf")
    info.size = 200
    whole = b"\x64\0" + info.tobuf(tarfile.USTAR_FORMAT) + b"<" * info.size
    yield whole + bytes(300)
    yield whole[:-50]


def source_names() -> Iterator[bytes]:
    """The names of the vectors, and what siblings write beside them."""
    yield from inputs("names")
    yield b"/r/@vsphere/web/@vsphere/web/disks/web-flat.vmdk"
    yield b"@proxmox/100/disks/scsi0.raw.20261123T070102Z.phcbt01"
    yield b"@hyperv/v/v.vmcx"


def images() -> Iterator[bytes]:
    """A sparse vmdk of one grain, and a descriptor."""
    descriptor = b'# Disk DescriptorFile\nparentCID=ffffffff\ncreateType="vmfs"\n'
    extent = b'RW 8 FLAT "f.vmdk" 0\n'
    yield descriptor + extent
    inside = descriptor.replace(b"vmfs", b"monolithicSparse")
    numbers = (8, 8, 1, 1, 512, 0, 2, 8)  # capacity, grain, descriptor, its length, entries, ..
    header = struct.pack("<4sII4QI3Q7x", b"KDMV", 1, 1, *numbers).ljust(512, b"\0")
    yield header + inside.ljust(512, b"\0") + struct.pack("<I", 3).ljust(512, b"\0") + bytes(2048)


_APP = "apps/nutanix_backend/fuzz"
TARGETS = {
    "packets": Target("libs/ptcomm/fuzz/packets.py", ("ptcomm",), lambda: inputs("ptcomm-packets")),
    "sessions": Target("libs/ptcomm/fuzz/sessions.py", ("ptcomm",), conversations),
    "decode": Target(
        "libs/phcbt01/fuzz/decode.py", ("phcbt01",), lambda: inputs("phcbt01-streams")
    ),
    "index": Target("libs/phcbt01/fuzz/index.py", ("phcbt01",), lambda: inputs("phcbt01-streams")),
    "apply": Target("libs/phcbt01/fuzz/apply.py", ("phcbt01",), streams_on_bases),
    "merge": Target("libs/phcbt01/fuzz/merge.py", ("phcbt01",), pairs_of_streams),
    "lists": Target("libs/digests/fuzz/decode.py", ("digests",), lambda: inputs("digest-lists")),
    "prism_v4": Target("libs/prism_client/fuzz/prism_v4.py", ("prism_client",), bodies_v4),
    "prism_v3": Target("libs/prism_client/fuzz/prism_v3.py", ("prism_client",), bodies_v3),
    "prism_lists": Target("libs/prism_client/fuzz/prism_lists.py", ("prism_client",), damages),
    "manifest": Target(f"{_APP}/manifest.py", ("nutanix_backend",), lambda: inputs("manifests")),
    "state": Target(f"{_APP}/state.py", ("nutanix_backend",), lambda: inputs("states")),
    "names": Target(f"{_APP}/names.py", ("nutanix_backend",), lambda: inputs("names")),
    "readers": Target("libs/vm_config/fuzz/readers.py", ("vm_config",), configurations),
    "sources": Target(f"{_APP}/sources.py", ("nutanix_backend",), source_names),
    "images": Target("libs/disk_images/fuzz/images.py", ("disk_images",), images),
    "packages": Target("libs/disk_images/fuzz/tar_streams.py", ("disk_images",), packages),
    "parameters": Target(f"{_APP}/parameters.py", ("nutanix_backend",), plugin_lines),
    "replication": Target("libs/vm_replica/fuzz/replication.py", ("vm_replica",), replications),
}
