"""The manifest of a cycle: its forms, and the configuration of the VM that it carries."""

from __future__ import annotations

import hashlib
import json

import attrs
import phcbt01
import pytest
from vm_replica.errors import Code, CycleRefused
from vm_replica.protocol import manifest as manifests
from vm_replica.protocol.manifest import Configuration, CycleDisk, CycleManifest

EMPTY = phcbt01.encoded_size(0, 0)
DISK = CycleDisk("scsi0", 0, 0, True, EMPTY, 0)
PROXMOX = "name: web\ncores: 1\nscsi0: local:vm-100-disk-0,size=1G\n"
FIRST = {
    "schema": 1, "cluster": "c", "vm_id": "v", "vm_name": "web", "base": "", "taken": 1,
    "rpo": 0, "consistency": "crash", "recovery_point": "p", "metadata": "{}",
    "disks": [
        {"disk_id": "d", "index": 0, "size": 0, "whole": True, "stream_bytes": EMPTY, "regions": 0}
    ],
}  # fmt: skip


def manifest(kind: str = "@proxmox", text: str = PROXMOX, disk_id: str = "scsi0") -> CycleManifest:
    return CycleManifest(
        manifests.SCHEMA, "c", "v", "web", "", 1, 0, "crash", "p", Configuration(kind, text),
        (attrs.evolve(DISK, disk_id=disk_id),),
    )  # fmt: skip


def canonical(plain: object) -> bytes:
    return json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()


def test_the_first_form_is_read_and_keeps_its_digest() -> None:
    """A replica of an older receiver goes on: its newest manifest is the base of the next cycle."""
    content = canonical(FIRST)
    found = manifests.decode(content)
    assert found.configuration == Configuration("@nutanix", "{}")
    assert found.encode() == content
    assert found.digest() == f"sha256:{hashlib.sha256(content).hexdigest()}"


def test_the_form_of_today_comes_back() -> None:
    made = manifest()
    plain = json.loads(made.encode())
    assert plain["configuration"] == {"kind": "@proxmox", "text": PROXMOX}
    assert plain["schema"] == 2
    assert manifests.decode(made.encode()) == made
    assert made.configuration.read().name == "web"
    manifests.refuse_unusable(made)


@pytest.mark.parametrize("change", [{"schema": 3}, {"schema": 2}, {"configuration": {}}])
def test_a_mixed_or_newer_form_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(CycleRefused) as caught:
        manifests.decode(canonical(FIRST | change))
    assert caught.value.code is Code.BAD_MANIFEST


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (manifest("@nutanix", "{}"), "the configuration of the VM cannot be read: "),
        (manifest("@proxmox", "hello"), "the configuration of the VM cannot be read: "),
        (manifest("@xen", PROXMOX), "configurations of @xen are not known"),
        (manifest(text=PROXMOX + "scsi1: a:b,size=1G\n", disk_id="d"), "has no disk d"),
    ],
)
def test_what_could_not_be_failed_over_to_is_refused(made: CycleManifest, says: str) -> None:
    assert manifests.decode(made.encode()) == made, "what is stored stays readable"
    with pytest.raises(CycleRefused, match=says) as caught:
        manifests.refuse_unusable(made)
    assert caught.value.code is Code.BAD_MANIFEST
