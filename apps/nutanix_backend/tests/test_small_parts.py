"""Small parts that a job passes by only when something is odd."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import attrs
import phcbt01
import pytest
from iscsi_attach import UNIT
from nutanix_backend import vm_record
from nutanix_backend.backup.job import Shared, VmBackup, doubts
from nutanix_backend.cluster import transport
from nutanix_backend.cluster.inventory import Source
from nutanix_backend.cluster.range_offer import RangeOffers
from nutanix_backend.disks.exclusion import DiskExclusion
from nutanix_backend.disks.streams import SMALL, StreamSender, _take
from nutanix_backend.errors import SourceError, StateError, as_line
from prism_client import Cluster, GuestTools, Nic, ServerError, Vm, VmDisk
from vm_config import ahv_record
from vm_config.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ptcomm import Data

    from apps.nutanix_backend.tests.conftest import FakePrism, JobByHand

# --- the configuration of a VM -------------------------------------------------------------------


def test_a_configuration_comes_back_as_it_was(vm: Vm) -> None:
    full = attrs.evolve(
        vm,
        disks=(VmDisk("slot", "disk", "SCSI", 0, 512, None),),
        nics=(Nic("nic", "50:6b:8d:00:00:01", None, connected=True, model="VIRTIO"),),
        raw={"name": "web01", "nested": {"a": [1, None, True, 1.5, "ü"]}},
    )
    config = vm_record.from_vm(full)
    assert ahv_record.decode(config.encode()) == config
    assert json.loads(config.encode())["prism"] == full.raw


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda content: content[:-3], "the VM configuration in the backup is damaged: "),
        (lambda content: b"[]", "the VM configuration in the backup is damaged: "),
        (lambda content: content.replace(b'"schema":1', b'"schema":9'), "has schema 9, this plu"),
    ],
)
def test_a_configuration_that_cannot_be_used_says_so(
    vm: Vm, damage: Callable[[bytes], bytes], words: str
) -> None:
    with pytest.raises(ConfigurationError, match=words):
        ahv_record.decode(damage(vm_record.from_vm(vm).encode()))


# --- doubts --------------------------------------------------------------------------------------


def test_doubts_are_told_before_the_snapshot(vm: Vm) -> None:
    tools = GuestTools(is_enabled=True, is_reachable=False, can_quiesce=False)
    disk = VmDisk("d", "d", "SCSI", 1, 4096, None, external_volume="volume-17")
    doubtful = attrs.evolve(vm, guest_tools=tools, disks=(disk,))
    first, second = doubts(doubtful, "app")
    assert "its guest tools do not answer and Prism does not call them capable" in first
    assert "disk SCSI.1 is on volume volume-17 of a storage array of another maker" in second
    assert list(doubts(doubtful, "crash")) == [second]
    assert list(doubts(vm, "app")) == []


def test_a_volume_group_that_is_not_saved_is_named(vm: Vm) -> None:
    (line,) = doubts(attrs.evolve(vm, volume_group_ext_ids=("vg-1",)), "crash")
    assert "the disks of the attached volume group vg-1 are NOT in this backup" in line
    saved = attrs.evolve(vm, volume_group_ext_ids=("vg-1", "vg-2"))
    (line,) = doubts(saved, "crash", {"vg-1"})
    assert "vg-2" in line
    assert ["vg-1 are NOT in its replica" in line for line in vm_record.not_replicated(saved)] == [
        True,
        False,
    ]


# --- errors as lines -----------------------------------------------------------------------------


def noted(error: Exception) -> Exception:
    """An error after which something else went wrong."""
    error.add_note("then: more")
    return error


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (StateError("ours"), "ours"),
        (noted(StateError("ours")), "ours; then: more"),
        (noted(ServerError("theirs", status=500)), "theirs; then: more"),
        (phcbt01.ApplyError("cannot write"), "cannot write"),
        (PermissionError(13, "Permission denied", "/x"), "/x: Permission denied"),
        (noted(PermissionError(13, "Denied", "/x")), "/x: Denied; then: more"),
        (
            KeyError("x"),
            "internal error, please report with the log: KeyError: 'x'",
        ),
        (
            OSError("no name"),
            "internal error, please report with the log: OSError: no name",
        ),
    ],
)
def test_every_error_becomes_a_line(error: Exception, line: str) -> None:
    assert as_line(error) == line


# --- streams -------------------------------------------------------------------------------------


def test_small_pieces_travel_together() -> None:
    sent: list[Data] = []
    sender = StreamSender(sent.append)
    pieces = 3 * UNIT // 1000
    for _ in range(pieces):
        sender.put(bytes(1000))
    sender.finish()
    assert sum(len(data) for data in sent) == pieces * 1000
    assert all(UNIT - SMALL <= len(data) <= UNIT for data in sent[:-1])


def test_pieces_that_do_not_end_where_regions_end_are_a_defect_and_never_data() -> None:
    for pieces in ([b"abc"], [b"a"], []):
        views = iter([memoryview(piece) for piece in pieces])
        with pytest.raises(SourceError, match="was not read as planned"):
            list(_take(views, 2))


class NoPolicies:
    """No VM is under a policy."""

    def of_vm(self, vm: Vm) -> str | None:
        """No policy."""


def test_a_file_that_is_shorter_than_announced_fails_the_job(
    job_by_hand: Callable[..., JobByHand], prism: FakePrism, vm: Vm, tmp_path: Path
) -> None:
    cluster = Cluster("cluster-1", "lab", "7", False, None, None)
    job = job_by_hand(parameters=(("state_dir", str(tmp_path)),)).context
    aside = job.held()
    reach = transport.choose("userspace")
    ranges = RangeOffers(job.settings, aside.warn)
    nothing = DiskExclusion([], {})
    shared = Shared(aside, prism.client, reach, None, {}, NoPolicies(), nothing, ranges)
    backup = VmBackup(job, shared, Source(vm, cluster))
    assert not backup.spoils_the_job
    with pytest.raises(SourceError, match="5 bytes were read where 10 were announced"):
        backup._send_stream("name", 10, (piece for piece in (b"short",)))
    assert backup.spoils_the_job
