"""Disks that no backup reads: how they are named, what becomes of them, and how they come back."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import attrs
import pytest
from nutanix_backend import manifest
from nutanix_backend.cli import verify
from nutanix_backend.disks import exclusion
from nutanix_backend.disks.exclusion import DiskExclusion
from nutanix_backend.errors import ManifestError, ParameterError, SelectionError
from nutanix_backend.manifest import ExcludedDisk
from prism_client import VmDisk
from prism_lab import Lab
from prism_lab._model import Named
from ptcomm import Level, Phase, Severity
from ptcomm_runner import jobs
from ptcomm_runner.catalog import Status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from prism_client import Vm
    from ptcomm_runner.jobs import Result

    from apps.nutanix_backend.tests.conftest import Guest, MadeUp, Product

pytestmark = pytest.mark.quick
MIB, TIB = 1 << 20, 1 << 40
FULL, INCREMENTAL = Level.FULL, Level.INCREMENTAL
DISKS = (
    VmDisk("a", "disk-a", "SCSI", 0, 20 * MIB, None),
    VmDisk("b", "disk-b", "SCSI", 1, 3 * TIB, None),
    VmDisk("c", "disk-c", "SATA", 0, 2 * TIB, None),
)
"""By number: the one of SATA, then those of SCSI."""


def texts(result: Result, severity: Severity) -> list[str]:
    """The messages of one kind."""
    return [message.text for message in result.log if message.severity is severity]


# --- the values ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("scsi:1", "b"),
        ("SCSI.1", "b"),
        ("sata:0", "c"),
        ("0", "c"),
        ("1", "a"),
        (" 2 ", "b"),
        (">2T", "b"),
        ("over-2t", "b"),
        (">1.5T", "cb"),
        ("> 20M", "cb"),
        (">19.5m", "cab"),
        (">20971519", "cab"),
        ("scsi:7", ""),
        ("3", ""),
        (">3T", ""),
    ],
)
def test_a_value_names_disks(value: str, expected: str) -> None:
    rule = exclusion.parse("it", value)
    found = exclusion._excluded(DISKS, [rule])
    assert "".join(disk.disk_id.removeprefix("disk-") for disk in found) == expected
    assert rule.fits_any(DISKS) is bool(expected)


@pytest.mark.parametrize("value", ["", "scsi", "scsi:", ":1", "scsi:x", "-1", ">", ">2X", "<2T"])
def test_what_names_no_disk_is_refused(value: str) -> None:
    with pytest.raises(ParameterError, match=r"exclude_disk=.* names no disk: write its bus"):
        DiskExclusion([value], {})


@pytest.fixture
def asking(vm: Vm) -> Callable[..., Vm]:
    """A VM with these disks, and what it asks for."""

    def make(*categories: str, attributes: tuple[str, ...] = ()) -> Vm:
        return attrs.evolve(
            vm, disks=DISKS, category_ext_ids=categories, custom_attributes=attributes
        )

    return make


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"categories": ["id-1"]}, "category Podheitor-Exclude-Disk:scsi.1"),
        ({"categories": ["PODHEITOR-exclude-disk/scsi.1"]}, "category Podheitor-Exclude-Disk"),
        ({"attributes": ("podheitor-exclude-disk:scsi:1",)}, "custom attribute Podheitor-Exclude"),
    ],
)
def test_a_vm_asks_for_it(
    asking: Callable[..., Vm], given: dict[str, tuple[str, ...]], reason: str
) -> None:
    vm = asking(*given.get("categories", ()), attributes=given.get("attributes", ()))
    said: list[str] = []
    found = DiskExclusion([], {"id-1": "Podheitor-Exclude-Disk/scsi.1"}).of(vm, said.append)
    assert [disk.disk_id for disk in found] == ["disk-b"]
    assert found[0].reason.startswith(reason)
    assert (found[0].index, found[0].size) == (2, 3 * TIB)
    assert not said


def test_a_request_that_cannot_be_followed_costs_no_disk_its_backup(
    asking: Callable[..., Vm],
) -> None:
    said: list[str] = []
    vm = asking("Podheitor-Exclude-Disk/scratch", "Podheitor-Exclude-Disk/scsi.9", "Other/scsi.1")
    assert not DiskExclusion([], {}).of(vm, said.append)
    scratch, nine = said
    assert "all of its disks are saved: category Podheitor-Exclude-Disk:scratch names no" in scratch
    assert "category Podheitor-Exclude-Disk:scsi.9 leaves out nothing: it has no such" in nine


def test_a_vm_of_which_nothing_is_left_is_refused(asking: Callable[..., Vm]) -> None:
    with pytest.raises(SelectionError, match="all of its 3 disks are left out") as error:
        DiskExclusion([">1", "scsi:0"], {}).of(asking(), print)
    assert "use exclude_vm" in str(error.value)


# --- on both generations -------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["7.6", "2023.4"], ids=["v4", "v3"])
def cluster(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Lab]:
    """A cluster of each generation."""
    root = tmp_path_factory.mktemp("lab")
    with Lab.start(root, personality=request.param, task_seconds=0) as lab:
        yield lab


@pytest.fixture
def site(
    cluster: Lab, tmp_path: Path, make_product: Callable[[Lab, Path], Product]
) -> Iterator[Product]:
    """The product with it; no VM of another test."""
    yield make_product(cluster, tmp_path / "host")
    cluster._world.vms.clear()


def disks_of(site: Product, result: Result, guest: Guest) -> tuple[list[int], list[int]]:
    """The numbers of the disks that a job saved of a VM, and of those that it left out."""
    found = site.manifest(result, guest)
    return [disk.index for disk in found.disks], [disk.index for disk in found.excluded]


def is_read(lab: Lab, guest: Guest, index: int, since: int) -> bool:
    """Whether anybody asked since then what of a disk is allocated or changed, or exposed it."""
    disk = lab._vm(guest.ext_id).disks[index]
    points = [
        found.ext_id
        for point in (*lab._world.recovery_points.values(), *lab._world.vm_snapshots.values())
        for found in point.disks()
        if found.disk_ext_id == disk.disk_ext_id
    ]
    paths = [path for _, path, _ in lab.requests[since:]]
    return any(point in path for point in points for path in paths)


@pytest.mark.parametrize("value", ["scsi:1", "1", ">2M"])
def test_a_disk_is_not_read_and_a_restore_makes_an_empty_one(site: Product, value: str) -> None:
    guest = site.guest(2 * MIB, 3 * MIB, MIB)
    since = len(site.lab.requests)
    full = site.good_backup(FULL, guest, exclude_disk=value)
    assert disks_of(site, full, guest) == ([0, 2], [1])
    assert not is_read(site.lab, guest, 1, since)
    assert f"VM {guest.name} disk 1 (3.0 MiB) is NOT in this backup: exclude_disk={value}" in texts(
        full, Severity.INFO
    )
    guest.write(0, 0, 1000)
    guest.write(1, 0, 1000)
    last = site.good_backup(INCREMENTAL, guest, exclude_disk=value)
    assert site.files(last, guest).keys() == {"0-phcbt01", "2-phcbt01"}
    assert any(", 1 left out, " in text for text in texts(last, Severity.INFO))

    for via in ("auto", "image"):
        name = f"{guest.name}-{via}"
        restored = site.good_restore(restore_vm_name=name, restore_via=via)
        (warned,) = [t for t in texts(restored, Severity.WARNING) if "missing" in t]
        assert warned == (
            f"VM {guest.name} disk 1 (3.0 MiB) is missing: it is not in the backup, "
            f"exclude_disk={value} left it out; the VM gets an empty disk of its size in its place"
        )
        assert any(
            "with 2 of 3 disks and 1 empty ones" in t for t in texts(restored, Severity.INFO)
        )
        (made,) = (vm for vm in site.lab._world.vms.values() if vm.name == name)
        found = {(disk.bus, disk.index): disk.file.read_bytes() for disk in made.disks}
        source = site.lab._vm(guest.ext_id).disks
        assert found.keys() == {(disk.bus, disk.index) for disk in source}
        points = site.points(last, guest)
        contents = [points[0].read_bytes(), bytes(3 * MIB), points[2].read_bytes()]
        assert [found[disk.bus, disk.index] for disk in source] == contents


def test_a_disk_that_is_not_left_out_any_more_is_saved_whole(site: Product) -> None:
    guest = site.guest(2 * MIB, MIB)
    site.good_backup(FULL, guest, exclude_disk="scsi:1")
    guest.write(0, 0, 1000)
    whole = site.good_backup(INCREMENTAL, guest)
    assert disks_of(site, whole, guest) == ([0, 1], [])
    assert site.files(whole, guest).keys() == {"0-phcbt01", "1-raw"}
    site.assert_restores(whole, guest)
    guest.write(1, 0, 1000)
    without = site.good_backup(INCREMENTAL, guest, exclude_disk="scsi:1")
    guest.write(1, 5000, 1000)
    last = site.good_backup(INCREMENTAL, guest)
    assert site.files(without, guest).keys() == {"0-phcbt01"}
    assert site.files(last, guest).keys() == {"0-phcbt01", "1-raw"}
    site.assert_restores(last, guest)


def test_disks_alone_are_restored_without_it(
    site: Product, capsys: pytest.CaptureFixture[str]
) -> None:
    guest = site.guest(2 * MIB, MIB)
    full = site.good_backup(FULL, guest, exclude_disk="scsi:1")
    where = site.root / "out"
    restored = site.good_restore(where)
    (warned,) = texts(restored, Severity.WARNING)
    assert warned.endswith("exclude_disk=scsi:1 left it out; nothing is restored of it")
    assert [path.name.split("-")[1] for path in where.rglob("*.raw")] == ["0"]
    refused = site.restore(where, disk="1")
    assert not refused.status.good
    reason = f"disk 1 of VM {guest.name} is not in job {full.job_name}: exclude_disk=scsi:1 left it"
    assert reason in refused.log[-1].text
    assert texts(site.good_restore(restore_to="verify"), Severity.WARNING) == [warned]
    proof = verify.StoreProof(site.store)
    assert [str(v).partition(f" VM {guest.name} ")[2] for v in proof.verdicts()] == [
        "disk 1: not in the backup: exclude_disk=scsi:1 left it out",
        "disk 0: proven",
    ]
    (whose, trials) = proof.trials[site.manifest(full, guest).folder.path]
    assert whose.vm_name == guest.name
    assert [one.good for one in trials] == [True], "as restore_to=verify has recorded"


def test_a_category_of_a_vm_leaves_a_disk_out(site: Product) -> None:
    asked = Named(exclusion.KEY, value="scsi.1")
    site.lab._world.categories[asked.ext_id] = asked
    guest, other = site.guest(MIB, MIB), site.guest(MIB, MIB)
    site.lab._vm(guest.ext_id).categories = [asked.ext_id]
    full = site.good_backup(FULL, guest, other)
    assert disks_of(site, full, guest) == ([0], [1])
    assert disks_of(site, full, other) == ([0, 1], [])
    (excluded,) = site.manifest(full, guest).excluded
    assert excluded.reason == "category Podheitor-Exclude-Disk:scsi.1"
    estimate = jobs.listing("job", site.settings(vm=guest.name), Phase.ESTIMATE)
    assert [file.name.rpartition("/")[2][:6] for file in estimate.files] == ["vm-met", "disk-0"]


def test_a_value_for_one_vm_of_several_is_no_error(site: Product) -> None:
    one, two = site.guest(MIB), site.guest(MIB, MIB)
    full = site.good_backup(FULL, one, two, exclude_disk="scsi:1")
    assert disks_of(site, full, one) == ([0], [])
    assert disks_of(site, full, two) == ([0], [1])


def test_a_value_in_vain_is_an_error(site: Product) -> None:
    guest = site.guest(MIB)
    result = site.backup(FULL, guest, exclude_disk="scsi:5")
    assert result.status is Status.WARNINGS
    (line,) = texts(result, Severity.NONFATAL)
    assert line.startswith("exclude_disk=scsi:5 leaves out nothing: no VM of this job has such a")
    site.assert_restores(result, guest)
    strict = site.backup(FULL, guest, exclude_disk="scsi:5", abort_on_error="yes")
    assert not strict.status.good
    estimate = jobs.listing(
        "job", site.settings(vm=guest.name, exclude_disk="scsi:5"), Phase.ESTIMATE
    )
    assert texts(estimate, Severity.NONFATAL) == [line]
    assert len(estimate.files) == 2


def test_a_vm_of_which_nothing_is_left_fails_alone(site: Product) -> None:
    one, two = site.guest(MIB), site.guest(MIB, MIB)
    result = site.backup(FULL, one, two, exclude_disk="scsi:0")
    assert result.status is Status.WARNINGS
    (line,) = texts(result, Severity.NONFATAL)
    assert line.startswith(f"VM {one.name} is not backed up: all of its 1 disks are left out")
    assert disks_of(site, result, two) == ([1], [0])
    settings = site.settings(vm=one.name, exclude_disk="scsi:0")
    estimate = jobs.listing("job", settings, Phase.ESTIMATE)
    assert "would not be backed up: all of its 1 disks" in texts(estimate, Severity.NONFATAL)[0]


def test_a_replica_has_all_disks(site: Product) -> None:
    guest = site.guest(MIB, MIB)
    result = site.backup(FULL, guest, exclude_disk="scsi:1", mode="replicate", replicate_to="h:1")
    assert not result.status.good
    assert "exclude_disk is for backups only: a replica has all disks" in result.log[-1].text


def test_categories_that_cannot_be_listed_leave_out_nothing(product: Product) -> None:
    guest = product.guest(MIB, MIB)
    product.lab._vm(guest.ext_id).hardware["customAttributes"] = [f"{exclusion.KEY}:scsi:1"]
    product.lab.faults.status("GET */config/categories", 403, times=2)
    result = product.backup(FULL, guest)
    assert any("no category can leave out a disk" in t for t in texts(result, Severity.WARNING))
    assert [d.reason for d in product.manifest(result, guest).excluded] == [
        "custom attribute Podheitor-Exclude-Disk:scsi:1"
    ]
    estimate = jobs.listing("job", product.settings(vm=guest.name), Phase.ESTIMATE)
    assert any("no category can leave out a disk" in t for t in texts(estimate, Severity.WARNING))
    shutil.rmtree(product.root / "store")


# --- a manifest that was altered -----------------------------------------------------------------


@pytest.mark.parametrize(
    "altered",
    [
        ExcludedDisk(1, "../../etc/passwd", MIB, "it"),
        ExcludedDisk(1, "disk-of-elsewhere", 0, "it"),
        ExcludedDisk(1, "disk-of-11111111-0", MIB, "it"),
    ],
)
def test_a_manifest_with_an_impossible_disk_is_refused(
    made_up: Callable[..., MadeUp], altered: ExcludedDisk
) -> None:
    backup = made_up("11111111-1111-4111-8111-111111111111")
    saved = backup.full(b"x" * 4096)
    assert manifest.decode(saved.encode()) == saved
    with pytest.raises(ManifestError, match="inconsistent about disk"):
        manifest.decode(attrs.evolve(saved, excluded=(altered,)).encode())
