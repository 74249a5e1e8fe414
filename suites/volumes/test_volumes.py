"""A VM with two own disks and two volume groups, one of them shared with another VM."""

from __future__ import annotations

import hashlib
import random
import re
from typing import TYPE_CHECKING

import attrs
import pytest
from nutanix_backend.cluster import inventory
from nutanix_backend.manifest import decode
from nutanix_backend.queries import coverage
from nutanix_backend.references import state
from nutanix_backend.settings.parameters import parse
from prism_lab import Lab
from prism_lab._v4_volumes import client_named
from ptcomm import Level, Severity
from ptcomm import Phase as JobPhase
from ptcomm_runner import jobs
from ptcomm_runner.catalog import Status

from apps.nutanix_backend.tests.conftest import FaultyProduct, Product

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from nutanix_backend.manifest import Manifest
    from ptcomm_runner.jobs import Result

    from apps.nutanix_backend.tests.conftest import Guest

KIB, MIB = 1 << 10, 1 << 20
V3, V4 = ["2023.4"], ["2024.3", "7.3", "7.6", "newest"]


def said(result: Result, *severities: Severity) -> str:
    wanted = severities or tuple(Severity)
    return "\n".join(m.text for m in result.log if m.severity in wanted)


@attrs.define
class Site:
    """The product, the VMs `first` and `second`, and the groups `own` and `shared`."""

    product: Product
    first: Guest
    second: Guest
    own: str
    shared: str
    random: random.Random = attrs.field(factory=lambda: random.Random(4))

    @classmethod
    def of(cls, product: Product) -> Site:
        lab = product.lab
        first, second = product.guest(2 * MIB, MIB, name="a"), product.guest(MIB, name="b")
        own = lab.create_volume_group("data", [3 * MIB, MIB], ["a"])
        lab._world.volume_groups[own].settings["description"] = "the books"
        shared = lab.create_volume_group("quorum", [MIB], ["a", "b"])
        site = cls(product, first, second, own, shared)
        site.write()
        return site

    @property
    def lab(self) -> Lab:
        return self.product.lab

    @property
    def is_v3(self) -> bool:
        """Whether each group has a snapshot of its own."""
        return not self.lab._world.settings.revisions

    @property
    def tracks_changes(self) -> bool:
        return self.is_v3 or self.lab._world.settings.change_tracking

    def points(self) -> set[str]:
        """What is on the cluster, by id: recovery points, or snapshots."""
        there = self.lab.state()
        return {point["ext_id"] for point in (*there["recovery_points"], *there["vm_snapshots"])}

    def recorded(self) -> set[str]:
        """What some chain stands on, by id."""
        return set(state.recorded_points(self.product.root / "state"))

    def volumes(self) -> list[tuple[str, int]]:
        return [(self.own, 0), (self.own, 1), (self.shared, 0)]

    def write(self) -> None:
        """Every guest writes somewhere, and gives something back."""
        for guest, index in ((self.first, 0), (self.first, 1), (self.second, 0)):
            guest.write(index, self.random.randrange(0, MIB - 70 * KIB), 70 * KIB)
        for group, index in self.volumes():
            with self.lab.volume_disk_file(group, index).open("r+b") as disk:
                disk.seek(self.random.randrange(0, MIB - 40 * KIB))
                disk.write(self.random.randbytes(40 * KIB))

    def content(self) -> dict[str, str]:
        """A digest of each disk, by whose and which it is."""
        found = {}
        for guest, count in ((self.first, 2), (self.second, 1)):
            for index in range(count):
                found[f"{guest.ext_id}/{index}"] = digest(guest.disk(index))
        for group, index in self.volumes():
            found[f"{group}/{index}"] = digest(self.lab.volume_disk_file(group, index))
        return found

    def backup(self, level: Level, **parameters: object) -> Result:
        settings = self.product.settings(**{"vm": ["a", "b"], **parameters})
        return jobs.backup(self.product.store, "job", level, settings)

    def manifests(self, result: Result) -> dict[str, Manifest]:
        (job,) = (job for job in self.product.jobs() if job.job_id == result.job_id)
        found = [decode(self.product.store.object_path(job, o).read_bytes()) for o in job.objects]
        return {manifest.vm_id: manifest for manifest in found}

    def restored(self, result: Result, where: Path) -> dict[str, str]:
        """A digest of each disk that a restore to a folder makes."""
        settings = self.product.settings()
        done = jobs.restore(
            self.product.store, "job", settings, where=str(where), job_id=result.job_id
        )
        assert done.status is Status.GOOD, said(done)
        return {
            f"{image.parts[-3]}/{image.name.split('-')[1]}": digest(image)
            for image in where.rglob("disk-*.raw")
        }


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(params=V3 + V4)
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    with Lab.start(tmp_path / "lab", personality=request.param, task_seconds=0) as lab:
        yield Site.of(Product(lab, tmp_path / "host", references=9))


def test_each_point_of_a_chain_is_restored(site: Site, tmp_path: Path) -> None:
    points = []
    levels = [Level.FULL, Level.INCREMENTAL, Level.INCREMENTAL, Level.DIFFERENTIAL]
    for level in [*levels, Level.INCREMENTAL]:
        wanted = site.content()
        result = site.backup(level)
        assert result.status is Status.GOOD, said(result)
        points.append((result, wanted))
        made = site.manifests(result)
        assert set(made) == {site.first.ext_id, site.second.ext_id, site.own, site.shared}
        assert made[site.own].is_group
        assert made[site.shared].attached_to == (site.first.ext_id, site.second.ext_id)
        together = [made[ext_id] for ext_id in (site.first.ext_id, site.own)]
        moments = {manifest.recovery_point or manifest.snapshot_uuid for manifest in together}
        assert len(moments) == (2 if site.is_v3 else 1), "over v4 one moment for all disks"
        kinds = {disk.kind for manifest in made.values() for disk in manifest.disks}
        has_changes = level is not Level.FULL and site.tracks_changes
        assert kinds == ({"phcbt01"} if has_changes else {"raw"})
        site.write()
    for number, (result, wanted) in enumerate(points):
        assert site.restored(result, tmp_path / f"restored-{number}") == wanted
    kept = site.points()
    assert kept == site.recorded(), "what is on the cluster is what some chain needs"
    assert len(kept) <= (12 if site.is_v3 else 6)


def test_a_restore_makes_the_groups_and_attaches_them(site: Site) -> None:
    wanted = site.content()
    backup = site.backup(Level.FULL)
    if site.lab._world.settings.pc_version == "pc.2024.3":
        backup = site.backup(Level.FULL)  # a second one, so that there is a choice
    site.write()
    settings = site.product.settings(restore_powerstate="on")
    result = jobs.restore(site.product.store, "job", settings, where="/", job_id=backup.job_id)
    assert result.status in {Status.GOOD, Status.WARNINGS}, said(result)
    world = site.lab._world
    new = {group.name: group for group in world.volume_groups.values() if "-restore-" in group.name}
    vms = {vm.name: vm for vm in world.vms.values() if "-restore-" in vm.name}
    number = result.job_id
    own, shared = new[f"data-restore-{number}"], new[f"quorum-restore-{number}"]
    assert [digest(disk.file) for disk in own.disks] == [
        wanted[f"{site.own}/0"],
        wanted[f"{site.own}/1"],
    ]
    assert digest(shared.disks[0].file) == wanted[f"{site.shared}/0"]
    first, second = vms[f"a-restore-{number}"], vms[f"b-restore-{number}"]
    assert own.vms == [first.ext_id]
    sharing = [group.settings["sharingStatus"] for group in (own, shared)]
    assert sharing == ["NOT_SHARED", "SHARED"], "several VMs may have it only if it is shared"
    log = said(result)
    assert "volume group data disk 1: whole image and 0 deltas" in log
    assert f"volume group {own.name}: not restored are description" in said(
        result, Severity.WARNING
    )
    assert f"volume group {shared.name}: not restored" not in log
    for name in (first.name, second.name):
        assert log.index(f"is attached to VM {name}") < log.index(f"VM {name} is started")
    assert sorted(shared.vms) == sorted([first.ext_id, second.ext_id])
    assert not own.clients, "this host is kept out"
    state = site.lab.state()
    assert not state["sessions"]
    assert len(state["volume_groups"]) == 4


def test_a_given_group_is_written_over(site: Site) -> None:
    wanted = site.content()
    site.backup(Level.FULL)
    site.write()
    with site.lab.volume_disk_file(site.own, 0).open("r+b") as disk:
        disk.seek(2 * MIB)
        disk.write(b"where the backup has zeros" * 100)

    def restore(**parameters: object) -> Result:
        settings = site.product.settings(restore_volume_group="data", **parameters)
        include = (f"*/{site.own}/*",)
        return jobs.restore(site.product.store, "job", settings, where="/", include=include)

    assert "holds data: give overwrite=yes" in said(restore())
    on = said(restore(overwrite="yes"))
    assert "is attached to VM a, which is switched on" in on
    site.lab._world.vms[site.first.ext_id].power_state = "OFF"
    assert "is attached to VM a and is not shared" in said(restore(overwrite="yes"))
    site.lab._world.volume_groups[site.own].settings["sharingStatus"] = "SHARED"
    other = client_named(site.lab._world, "iqn.2026-01.example:other", None)
    site.lab._world.volume_groups[site.own].clients.append(other.ext_id)
    assert "is attached to 1 iSCSI clients" in said(restore(overwrite="yes"))
    site.lab._world.volume_groups[site.own].clients.clear()
    result = restore(overwrite="yes", verify="yes")
    assert result.status is Status.GOOD, said(result)
    found = site.content()
    for number in (0, 1):
        assert found[f"{site.own}/{number}"] == wanted[f"{site.own}/{number}"]
    assert not site.lab.state()["sessions"]
    assert site.lab._world.volume_groups[site.own].vms == [site.first.ext_id]
    assert not site.lab._world.volume_groups[site.own].clients


def test_no_and_only(site: Site) -> None:
    result = site.backup(Level.FULL, volume_groups="no")
    made = site.manifests(result)
    assert set(made) == {site.first.ext_id, site.second.ext_id}
    named = {group.group_id: group.not_saved for group in made[site.first.ext_id].volume_groups}
    assert named == {site.own: "volume_groups=no", site.shared: "volume_groups=no"}
    assert said(result, Severity.WARNING).count("are NOT in this backup") == 3
    restored = jobs.restore(site.product.store, "job", site.product.settings(), where="/")
    assert "volume group" in said(restored, Severity.WARNING)
    assert "is not in this backup: volume_groups=no" in said(restored, Severity.WARNING)

    only = site.backup(Level.FULL, volume_groups="only")
    assert only.status is Status.GOOD, said(only)
    assert set(site.manifests(only)) == {site.own, site.shared}


def test_estimate_and_coverage_know_the_groups(site: Site) -> None:
    settings = site.product.settings(vm=["a", "b"])
    estimated = jobs.listing("job", settings, JobPhase.ESTIMATE)
    named = [file.name for file in estimated.files]
    assert sum(f"/{site.own}/disks/" in name for name in named) == 2
    assert sum(f"/{site.shared}/" in name for name in named) == 2, "once, with its configuration"

    parameters = parse(site.product.parameters())
    with inventory.connect(parameters) as client:
        before = "; ".join(row.problem for row in coverage.report(client, parameters))
        site.backup(Level.FULL)
        after = "; ".join(row.problem for row in coverage.report(client, parameters))
        old = attrs.evolve(parameters, coverage_days=0)
        later = "; ".join(row.problem for row in coverage.report(client, old))
    assert f"its volume group {site.shared}: never saved by this host" in before
    assert "its volume group" not in after
    assert f"its volume group {site.shared}: not saved for 0 days" in later


def test_a_group_that_fails_does_not_fail_its_vm(site: Site) -> None:
    site.lab.faults.status(f"GET */volume[_-]groups/{site.own}", 403, times=9)
    folder = site.product.root / "metrics"
    folder.mkdir(parents=True)
    result = site.backup(Level.FULL, metrics_dir=folder)
    site.lab.faults.clear()
    (metrics,) = folder.iterdir()
    line = r"^podheitor_nutanix_job_success\{.*\} (.*)$"
    success = re.search(line, metrics.read_text(), re.MULTILINE)
    assert success
    assert float(success[1]) == 0
    made = site.manifests(result)
    assert site.own not in made
    assert {site.first.ext_id, site.second.ext_id, site.shared} <= set(made)
    assert f"volume group {site.own} of VM a is not backed up" in said(result)
    (why,) = (g.not_saved for g in made[site.first.ext_id].volume_groups if g.group_id == site.own)
    assert why
    result = site.backup(Level.INCREMENTAL)
    assert set(site.manifests(result)) >= {site.own}, "it is saved in full now"


def test_a_vm_that_fails_costs_its_groups_one_job_and_no_chain(site: Site) -> None:
    site.backup(Level.FULL)
    site.write()
    snapshots = "vm_snapshots" if site.is_v3 else "recovery-points"
    site.lab.faults.status(f"POST */{snapshots}", 500, times=12)
    failed = site.backup(Level.INCREMENTAL)
    site.lab.faults.clear()
    assert "is not backed up" in said(failed) or failed.status is Status.FAILED
    site.write()
    result = site.backup(Level.INCREMENTAL)
    assert result.status is Status.GOOD, said(result)
    if site.tracks_changes:
        kinds = {d.kind for m in site.manifests(result).values() for d in m.disks}
        assert kinds == {"phcbt01"}


def test_where_prism_takes_no_groups_the_vm_is_saved_alone(site: Site) -> None:
    if site.is_v3:  # a release that does not know them
        why = "is not known here"
        site.lab.faults.status("* */volume_group_snapshots*", 404, times=99, message=why)
    else:
        why = "no groups with VMs here"
        site.lab.faults.status("POST */recovery-points", 403, message=why)
    result = site.backup(Level.FULL, vm="a")
    made = site.manifests(result)
    assert set(made) == {site.first.ext_id}
    log = said(result)
    assert f"volume group {site.own} of VM a is not backed up" in log
    assert why in log
    reasons = [group.not_saved for group in made[site.first.ext_id].volume_groups]
    assert len(reasons) == 2
    assert all(why in reason for reason in reasons)


PLACES = [("prism", number) for number in range(3, 40, 4)] + [("iscsi", n) for n in range(1, 12, 3)]


@pytest.mark.parametrize("act", ["kill", "fail"])
def test_after_a_fault_or_a_kill_the_next_job_is_good_and_nothing_is_left(
    faulty: FaultyProduct, tmp_path: Path, act: str
) -> None:
    site = Site.of(faulty)
    assert site.backup(Level.FULL).status is Status.GOOD
    try_all(site, faulty, act, PLACES, tmp_path / "restored")
    for group in list(site.lab._world.volume_groups.values()):
        site.lab._groups.delete(group)
    for guest in (site.first, site.second):
        del site.lab._world.vms[guest.ext_id]


def test_with_snapshots_of_their_own_a_kill_leaves_nothing_either(
    prepared_door: Path, tmp_path: Path
) -> None:
    with Lab.start(tmp_path / "lab", personality="2023.4", task_seconds=0) as lab:
        faulty = FaultyProduct(lab, tmp_path / "host", door=prepared_door)
        faulty.order()
        site = Site.of(faulty)
        assert site.backup(Level.FULL).status is Status.GOOD
        calls = [("prism", number) for number in range(6, 80, 7)]
        try_all(site, faulty, "kill", calls, tmp_path / "restored")


def try_all(
    site: Site, faulty: FaultyProduct, act: str, places: list[tuple[str, int]], where: Path
) -> None:
    """Let a job go wrong in each of these places: the next one is good, and nothing is left."""
    sprung, wanted = 0, site.content()
    result = site.backup(Level.INCREMENTAL)
    of_other_tests = site.points() - site.recorded()
    for place, number in places:
        site.write()
        faulty.order(act=act, place=place, call=number)
        site.backup(Level.INCREMENTAL)
        sprung += bool(faulty.sprung())
        faulty.order()
        wanted = site.content()
        result = site.backup(Level.INCREMENTAL)
        assert result.status in {Status.GOOD, Status.WARNINGS}, said(result)
        groups = [g["name"] for g in site.lab.state()["volume_groups"]]
        assert [name for name in groups if name.startswith("podheitor")] == []
        assert not site.lab.state()["sessions"]
        assert site.points() - of_other_tests <= site.recorded()
    assert sprung > len(places) // 2
    assert site.restored(result, where) == wanted
