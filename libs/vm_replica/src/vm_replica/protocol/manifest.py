"""The manifest of a cycle: which disks come, and what they are relative to.

Its digest is the name of the generation that the cycle makes: the next cycle names it as its base.
It comes from the other side of the network, so everything in it is checked before it is used.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING

import attrs
import phcbt01
from durable import records
from vm_config import readers
from vm_config.errors import ConfigurationError
from vm_config.machine import match_disks

from vm_replica.errors import Code, CycleRefused

if TYPE_CHECKING:
    from vm_config.machine import Machine

SCHEMA = 2
GROUPS_SCHEMA = 3
"""Of manifests that name volume groups: a receiver that does not know them refuses the cycle."""
FIRST_SCHEMA = 1
"""Of manifests that only carry a configuration of AHV; they are read, and keep their digest."""
AHV = "@nutanix"
MAX_BYTES = 524_288
"""Longest manifest in bytes: 256 disks and the configuration of a VM fit many times."""
MAX_DISKS = 256
DISK_ID = re.compile(r"[0-9A-Za-z][0-9A-Za-z_-]{0,63}")
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_MAX_TIME = 253_402_300_799  # the last second of the year 9999


@attrs.frozen
class CycleDisk:
    """A disk of a cycle. Sizes in bytes.

    `whole`: the stream is relative to zeros, as for a seed or a new disk; otherwise to the base.
    `stream_bytes` is the length of its PHCBT01 stream, `regions` their number.
    """

    disk_id: str
    index: int
    size: int
    whole: bool
    stream_bytes: int
    regions: int


@attrs.frozen
class Configuration:
    """The configuration file of the VM, as its hypervisor writes it.

    `kind` is the namespace of the hypervisor's backups ("@nutanix", "@proxmox", "@vsphere",
    "@hyperv"): it says which reader of vm_config reads the text.
    """

    kind: str
    text: str

    def read(self) -> Machine:
        """The machine that it describes; raise ConfigurationError."""
        return readers.read(self.kind, self.text.encode())


@attrs.frozen
class ReplicaGroup:
    """A volume group that is attached to the VM, and where its disks are.

    `disks` are ids of disks of the same manifest, in the order of the group. Where another VM that
    shares the group has them in its replica, there are none, and `replica` is the id of that VM. It
    is the id of the VM itself for a group that has no disks at all.
    """

    group_id: str
    name: str
    disks: tuple[str, ...]
    replica: str = ""


@attrs.frozen
class CycleManifest:
    """One cycle. Times in seconds of the epoch: `taken` is the moment that the disks show.

    `base` is the digest of the manifest that deltas are relative to, empty for a seed; `rpo` the
    seconds of lag that were promised, 0 for none. `disks` are those of the VM and of its volume
    `groups`. `schema` is SCHEMA, GROUPS_SCHEMA with groups, or FIRST_SCHEMA for a manifest that was
    written in that form.
    """

    schema: int
    cluster: str
    vm_id: str
    vm_name: str
    base: str
    taken: int
    rpo: int
    consistency: str
    recovery_point: str
    configuration: Configuration
    disks: tuple[CycleDisk, ...]
    groups: tuple[ReplicaGroup, ...] = ()

    @property
    def is_seed(self) -> bool:
        """Whether it stands on nothing."""
        return not self.base

    @property
    def stream_bytes(self) -> int:
        """Bytes of all its streams."""
        return sum(disk.stream_bytes for disk in self.disks)

    def disk(self, disk_id: str) -> CycleDisk | None:
        """The disk of that id."""
        return next((disk for disk in self.disks if disk.disk_id == disk_id), None)

    def group(self, group_id: str) -> ReplicaGroup | None:
        """The volume group of that id, if its disks are in this manifest."""
        return next((g for g in self.groups if g.group_id == group_id and g.disks), None)

    @property
    def groups_with_disks(self) -> tuple[ReplicaGroup, ...]:
        """Its volume groups whose disks a copy needs, here or in another replica."""
        return tuple(group for group in self.groups if group.replica != self.vm_id)

    @property
    def left_out(self) -> tuple[str, ...]:
        """The ids of volume groups that were attached to the VM, and that no cycle brings."""
        named = {group.group_id for group in self.groups}
        try:
            attached = self.configuration.read().volume_groups
        except ConfigurationError:  # a failover is refused for it
            return ()
        return tuple(group for group in attached if group not in named)

    @property
    def in_groups(self) -> frozenset[str]:
        """The ids of the disks that are in volume groups."""
        return frozenset(disk_id for group in self.groups for disk_id in group.disks)

    def encode(self) -> bytes:
        """The manifest as canonical JSON, in the form of its schema."""
        return records.dump(_first_form(self) if self.schema == FIRST_SCHEMA else self)

    def digest(self) -> str:
        """`sha256:` and the digest of the canonical JSON."""
        return f"sha256:{hashlib.sha256(self.encode()).hexdigest()}"


@attrs.frozen
class _FirstForm:
    """A manifest of FIRST_SCHEMA: `metadata` is a configuration of AHV."""

    schema: int
    cluster: str
    vm_id: str
    vm_name: str
    base: str
    taken: int
    rpo: int
    consistency: str
    recovery_point: str
    metadata: str
    disks: tuple[CycleDisk, ...]


def _first_form(manifest: CycleManifest) -> _FirstForm:
    fields = attrs.asdict(manifest, recurse=False)
    fields.pop("groups")
    configuration: Configuration = fields.pop("configuration")
    return _FirstForm(**fields, metadata=configuration.text)


def _from_first_form(first: _FirstForm) -> CycleManifest:
    fields = attrs.asdict(first, recurse=False)
    configuration = Configuration(AHV, fields.pop("metadata"))
    return CycleManifest(**fields, configuration=configuration)


def decode(data: bytes) -> CycleManifest:
    """Read a manifest from the wire or the store; raise CycleRefused(BAD_MANIFEST).

    Its configuration is not read here: `refuse_unusable` does so when a cycle is offered.
    """
    if len(data) > MAX_BYTES:
        raise _bad(f"it has {len(data)} bytes, more than {MAX_BYTES}")
    try:
        manifest = _load(data)
    except records.OtherSchema as error:
        known = f"{FIRST_SCHEMA} to {GROUPS_SCHEMA}"
        raise _bad(f"it has schema {error.schema}, this side knows {known}") from error
    except records.RecordError as error:
        raise _bad(str(error)) from error
    if reason := _fault(manifest):
        raise _bad(reason)
    return manifest


def _load(data: bytes) -> CycleManifest:
    try:
        return records.load(data, CycleManifest, schema=SCHEMA)
    except records.OtherSchema as error:
        if error.schema == GROUPS_SCHEMA:
            return records.load(data, CycleManifest, schema=GROUPS_SCHEMA)
        if error.schema != FIRST_SCHEMA:
            raise
        return _from_first_form(records.load(data, _FirstForm, schema=FIRST_SCHEMA))


def refuse_unusable(manifest: CycleManifest) -> None:
    """Raise CycleRefused(BAD_MANIFEST) when no VM could be made from the configuration.

    That is so too when a disk of the VM is not in it: a failover would lose that disk.
    """
    try:
        machine = manifest.configuration.read()
    except ConfigurationError as error:
        raise _bad(f"the configuration of the VM cannot be read: {error}") from error
    in_groups = manifest.in_groups
    ids = [disk.disk_id for disk in manifest.disks if disk.disk_id not in in_groups]
    found = match_disks(machine.disks, ids)
    if missing := [disk_id for disk_id in ids if disk_id not in found]:
        raise _bad(f"the configuration of the VM has no disk {missing[0]}")


def _fault(manifest: CycleManifest) -> str:
    if manifest.base and not DIGEST.fullmatch(manifest.base):
        return "its base is not a digest"
    if not is_vm_id(manifest.vm_id) or not is_cluster(manifest.cluster):
        return "the name of its cluster or the id of its VM is malformed"
    if not (0 <= manifest.taken <= _MAX_TIME and 0 <= manifest.rpo <= _MAX_TIME):
        return "a time is out of range"
    if not 1 <= len(manifest.disks) <= MAX_DISKS:
        return f"it has {len(manifest.disks)} disks, not 1 to {MAX_DISKS}"
    different = min(
        len({d.disk_id for d in manifest.disks}), len({d.index for d in manifest.disks})
    )
    if different < len(manifest.disks):
        return "two disks have the same id or the same index"
    faults = (_disk_fault(disk, manifest) for disk in manifest.disks)
    return next(filter(None, faults), "") or _groups_fault(manifest)


def _groups_fault(manifest: CycleManifest) -> str:
    groups = manifest.groups
    if bool(groups) != (manifest.schema == GROUPS_SCHEMA):
        return f"it has {len(groups)} volume groups and schema {manifest.schema}"
    if len(groups) > MAX_DISKS:
        return f"it has {len(groups)} volume groups, more than {MAX_DISKS}"
    if len({group.group_id for group in groups}) < len(groups):
        return "two volume groups have the same id"
    return next(filter(None, (_group_fault(group, manifest) for group in groups)), "")


def _group_fault(group: ReplicaGroup, manifest: CycleManifest) -> str:
    if not DISK_ID.fullmatch(group.group_id) or (group.replica and not is_vm_id(group.replica)):
        return "the id of a volume group, or of the VM that has its disks, is malformed"
    if bool(group.disks) == bool(group.replica):
        return f"volume group {group.group_id} has its disks here and elsewhere, or nowhere"
    known = {disk.disk_id for disk in manifest.disks}
    others = {d for g in manifest.groups if g is not group for d in g.disks}
    if len(set(group.disks)) < len(group.disks) or not set(group.disks) <= known - others:
        return f"a disk of volume group {group.group_id} is not there, or is there twice"
    return ""


def _disk_fault(disk: CycleDisk, manifest: CycleManifest) -> str:
    if not DISK_ID.fullmatch(disk.disk_id):
        return f"the id of disk {disk.index} is malformed"
    if manifest.is_seed and not disk.whole:
        return f"disk {disk.index} is a delta, but the cycle is a seed"
    if not (0 <= disk.size <= phcbt01.MAX_SIZE and 0 <= disk.index <= 9999):
        return f"the size or number of disk {disk.disk_id} is out of range"
    least = phcbt01.encoded_size(disk.regions, disk.regions) if disk.regions >= 0 else 0
    most = phcbt01.encoded_size(max(disk.regions, 0), disk.size)
    if disk.regions < 0 or not least <= disk.stream_bytes <= most:
        return f"disk {disk.index}: {disk.regions} regions cannot have {disk.stream_bytes} bytes"
    return ""


def is_vm_id(text: str) -> bool:
    """Whether a text may be the id of a VM."""
    return DISK_ID.fullmatch(text) is not None


def is_cluster(text: str) -> bool:
    """Whether a text may be the name of a cluster: short enough for a folder when quoted."""
    return 0 < len(text.encode()) <= 80 and text.isprintable()


def _bad(reason: str) -> CycleRefused:
    return CycleRefused(Code.BAD_MANIFEST, f"the manifest of the cycle cannot be used: {reason}")
