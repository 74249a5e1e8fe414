"""Plans of restores: whole image first, then every delta in order, or a refusal before any data."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nutanix_backend import group_record, manifest
from nutanix_backend.errors import ManifestError, RestoreRefused
from nutanix_backend.names import FileKind
from nutanix_backend.restore.plan import PlannedFile, plan_vm

if TYPE_CHECKING:
    from collections.abc import Callable

    from nutanix_backend.manifest import Manifest
    from nutanix_backend.restore.plan import VmPlan

    from apps.nutanix_backend.tests.conftest import MadeUp

KIB = 1 << 10
CHANGE = [(KIB, b"changed")]


@pytest.fixture
def backup(made_up: Callable[[], MadeUp]) -> MadeUp:
    """Two disks in a full and two incrementals."""
    backup = made_up()
    backup.full(bytes(4 * KIB), bytes(8 * KIB))
    backup.incremental(CHANGE, [])
    backup.incremental([], CHANGE)
    return backup


def kinds(plan: VmPlan) -> list[list[str]]:
    """What each disk is made of."""
    return [[file.kind.value for file in chain.files] for chain in plan.disks]


def test_a_full_alone_is_its_images(backup: MadeUp) -> None:
    plan = plan_vm(backup.manifests[:1])
    assert plan.manifest == backup.manifests[0]
    assert kinds(plan) == [["raw"], ["raw"]]


def test_deltas_follow_their_image_oldest_first(backup: MadeUp) -> None:
    plan = plan_vm(backup.manifests)
    assert kinds(plan) == [["raw", "phcbt01", "phcbt01"]] * 2
    for index, chain in enumerate(plan.disks):
        entries = [manifest.disks[index] for manifest in backup.manifests]
        assert list(chain.files) == [PlannedFile.of(entry) for entry in entries]
        assert (chain.index, chain.disk_id) == (index, entries[-1].disk_id)
        assert chain.size == entries[-1].size


def test_a_job_that_nothing_stands_on_is_left_out(backup: MadeUp) -> None:
    """A differential, or an incremental after one that failed: it stands on the full."""
    skipping = backup.entry(0, b"delta", size=4 * KIB, base=backup.manifests[0].digest())
    backup.job("D", [skipping])
    (chain,) = plan_vm(backup.manifests).disks
    assert list(chain.files) == [
        PlannedFile.of(entry) for entry in (backup.manifests[0].disks[0], skipping)
    ]


def test_a_newer_whole_image_ends_the_search(backup: MadeUp) -> None:
    backup.job("I", [backup.entry(0, bytes(4 * KIB))])
    assert kinds(plan_vm(backup.manifests)) == [["raw"]]


def test_a_disk_that_came_later_and_one_that_went(backup: MadeUp) -> None:
    new = backup.entry(2, bytes(KIB))
    backup.job("I", [new])
    last = backup.entry(2, b"delta", size=KIB, base=backup.manifests[-1].digest())
    backup.job("I", [last])
    (chain,) = plan_vm(backup.manifests).disks
    assert list(chain.files) == [PlannedFile.of(new), PlannedFile.of(last)]


def test_only_the_disks_asked_for(backup: MadeUp) -> None:
    (chain,) = plan_vm(backup.manifests, ["1"]).disks
    assert chain.index == 1
    with pytest.raises(RestoreRefused, match=r"VM web01 has no disk 7, x in job made-up\.3"):
        plan_vm(backup.manifests, ["7", "0", "x"])


REFUSED = (
    r"disk 0 of VM web01: the changes saved by job made-up\.\d are based on a backup that "
    r"is not part "
    "of this restore: select all since the full"
)


@pytest.mark.parametrize("missing", [0, 1])
def test_a_gap_in_the_chain_is_refused(backup: MadeUp, missing: int) -> None:
    del backup.manifests[missing]
    with pytest.raises(RestoreRefused, match=REFUSED):
        plan_vm(backup.manifests)


@pytest.mark.parametrize(
    "change",
    [
        {"recovery_point": "another"},
        {"job": "another"},
        {"vm_id": "another-vm"},
        {"disks": ()},
    ],
)
def test_a_base_that_is_not_exactly_the_one_it_stood_on_is_refused(
    backup: MadeUp, change: dict[str, Any]
) -> None:
    backup.manifests[0] = attrs.evolve(backup.manifests[0], **change)
    with pytest.raises(RestoreRefused, match=REFUSED):
        plan_vm(backup.manifests)


def test_a_base_without_the_disk_is_refused(backup: MadeUp) -> None:
    orphan = backup.entry(5, b"delta", size=KIB, base=backup.manifests[-1].digest())
    backup.job("I", [orphan])
    with pytest.raises(RestoreRefused, match=r"disk 5 of VM web01: .* not part of this restore"):
        plan_vm(backup.manifests)


def test_a_disk_that_shrinks_is_refused(backup: MadeUp) -> None:
    small = backup.entry(0, b"delta", size=KIB, base=backup.manifests[-1].digest())
    backup.job("I", [small])
    with pytest.raises(RestoreRefused, match=r"disk 0 of VM web01 shrinks in job made-up\.4"):
        plan_vm(backup.manifests)


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 5)), max_size=8))
def test_every_plan_is_an_unbroken_chain(
    made_up: Callable[[], MadeUp], jobs: list[tuple[bool, int]]
) -> None:
    """Whatever each job stood on: the plan begins whole, and each delta follows its base."""
    backup = made_up()
    backup.full(bytes(KIB))
    for is_whole, back in jobs:
        base = backup.manifests[max(0, len(backup.manifests) - back)].digest()
        backup.job("I", [backup.entry(0, bytes(KIB), base="" if is_whole else base)])
    (chain,) = plan_vm(backup.manifests).disks
    saved_by = {manifest.digest(): manifest.disks[0] for manifest in backup.manifests}
    entries = {manifest.disks[0].file: manifest.disks[0] for manifest in backup.manifests}
    assert chain.files[0].kind is FileKind.RAW
    assert chain.files[-1] == PlannedFile.of(backup.manifests[-1].disks[0])
    for older, newer in zip(chain.files, chain.files[1:], strict=False):
        assert older == PlannedFile.of(saved_by[entries[newer.name].base])


def test_no_disk_needs_more_space_than_its_size(backup: MadeUp) -> None:
    """However much was written again and again."""
    for _ in range(5):
        backup.incremental([(0, bytes(4 * KIB))], [])
    first, second = plan_vm(backup.manifests).disks
    assert sum(file.data_bytes for file in first.files) > 20 * KIB
    assert first.data_bytes == 4 * KIB
    assert second.data_bytes == 8 * KIB


# --- manifests -----------------------------------------------------------------------------------


def test_a_manifest_comes_back_as_it_was(backup: MadeUp) -> None:
    for saved in backup.manifests:
        found = manifest.decode(saved.encode())
        assert found == saved
        assert found.digest() == saved.digest()
        assert found.object_name == f"podheitor-nutanix-manifest/lab/{found.vm_id}"


def altered(saved: Manifest, **disk: object) -> bytes:
    """A manifest whose first disk says something else."""
    plain = json.loads(saved.encode())
    plain["disks"][0] |= disk
    return json.dumps(plain).encode()


@pytest.mark.parametrize(
    "lie",
    [
        {"kind": "qcow2"},
        {"kind": "phcbt01"},
        {"base": "sha256:0"},
        {"stream_bytes": 1},
        {"size": -1, "stream_bytes": -1},
        {"size": 2**63, "stream_bytes": 2**63},
        {"data_bytes": -1},
        {"regions": -1},
        {"disk_id": "another"},
        {"disk_id": "../../../etc/x"},
        {"disk_id": "disk-of-11111111-1"},
        {"file": "/etc/passwd"},
        {"file": "@nutanix/lab/another-vm/disks/disk-0-disk-of-11111111-0.raw"},
        {"file": "/x/@nutanix/lab/11111111-1111-4111-8111-111111111111/disks/disk-0-a.raw"},
        {"file": "@nutanix/lab/11111111-1111-4111-8111-111111111111/vm-metadata.json"},
    ],
)
def test_a_manifest_that_contradicts_itself_is_not_ours(
    backup: MadeUp, lie: dict[str, object]
) -> None:
    words = r"VM web01 in job made-up\.1 is inconsistent about disk \d: it was not written by this"
    with pytest.raises(ManifestError, match=words):
        manifest.decode(altered(backup.manifests[0], **lie))


def test_a_disk_that_occurs_twice_is_not_ours(backup: MadeUp) -> None:
    saved = backup.manifests[0]
    twice = attrs.evolve(saved, disks=(saved.disks[0], saved.disks[0]))
    with pytest.raises(ManifestError, match="inconsistent about disk 0"):
        manifest.decode(twice.encode())


def test_a_delta_without_a_base_is_not_ours(backup: MadeUp) -> None:
    with pytest.raises(ManifestError, match="inconsistent about disk 0"):
        manifest.decode(altered(backup.manifests[1], base=""))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b"{}",
        b'{"schema":1}',
        b'{"schema":true}',
        b"[" * 99999,
    ],
)
def test_what_is_no_manifest_is_damaged(content: bytes) -> None:
    with pytest.raises(ManifestError, match=r"^a manifest in the backup is damaged: ") as caught:
        manifest.decode(content)
    assert "\n" not in str(caught.value)


@given(st.data())
def test_a_truncated_manifest_is_damaged(
    made_up: Callable[[], MadeUp], data: st.DataObject
) -> None:
    saved = made_up().full(bytes(KIB)).encode()
    with pytest.raises(ManifestError, match="damaged"):
        manifest.decode(saved[: data.draw(st.integers(0, len(saved) - 1))])


def test_a_newer_manifest_asks_for_a_newer_plugin(backup: MadeUp) -> None:
    """Although its fields mean nothing to us."""
    plain = {**json.loads(backup.manifests[0].encode()), "schema": 2, "compression": "zstd"}
    words = "has schema 2, this plugin knows 1: restore with a newer plugin"
    with pytest.raises(ManifestError, match=words):
        manifest.decode(json.dumps(plain).encode())


@pytest.mark.parametrize(
    ("prism", "attached", "shared", "others"),
    [
        ({"sharingStatus": "NOT_SHARED", "isHidden": False}, 1, False, []),
        ({"sharingStatus": "SHARED", "enabledAuthentications": "CHAP"}, 1, True, ["CHAP"]),
        ({}, 2, True, []),
        ({"spec": {"resources": {"sharing_status": "SHARED"}}}, 0, True, []),
        (
            {"spec": {"description": "d", "resources": {"flash_mode": True}}},
            1,
            False,
            ["description", "flash mode"],
        ),
        ({"storageFeatures": {"flashMode": {"isEnabled": True}}}, 0, False, ["flash mode"]),
        ({"storageFeatures": {"flashMode": {"isEnabled": False}}}, 0, False, []),
    ],
)
def test_what_a_volume_group_had_is_known_of_both_apis(
    prism: dict[str, Any], attached: int, others: list[str], *, shared: bool
) -> None:
    vms = tuple(str(number) for number in range(attached))
    config = group_record.GroupConfig(1, "g", "data", "c", (), vms, prism)
    assert group_record.is_shared(config) is shared
    assert group_record.other_settings(config) == others
