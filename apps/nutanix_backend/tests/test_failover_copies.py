"""Copies of restore points on a cluster, and the source on its own."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import attrs
import phcbt01
import pytest
from nutanix_backend.cluster import inventory, journal, sweep
from nutanix_backend.cluster.journal import ObjectKind
from nutanix_backend.replicate import copied_groups
from nutanix_backend.replicate.activator import Ahv
from nutanix_backend.replicate.copied_groups import MarkedGroup
from nutanix_backend.replicate.source_vm import PrismSource
from nutanix_backend.settings.parameters import parse
from prism_client import PrismError
from vm_config.ahv_record import ConfigDisk, ConfigNic, VmConfig
from vm_replica.failover import transitions
from vm_replica.failover.errors import FailoverFailed, FailoverRefused
from vm_replica.failover.point import Point, PointDisk, PointGroup, SiblingCopy
from vm_replica.protocol.manifest import Configuration

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from prism_client import PrismClient
    from prism_lab import Lab

MIB = 1 << 20
MAC = "50:6b:8d:00:00:01"


def config(**changes: Any) -> VmConfig:
    """A VM with three disks on two buses and two cards."""
    plain = VmConfig(
        schema=1,
        vm_id="11111111-1111-4111-8111-111111111111",
        name="web01",
        description="",
        cluster_id="cluster-1",
        sockets=2,
        cores_per_socket=2,
        threads_per_core=1,
        memory=1 << 30,
        machine_type="PC",
        firmware="legacy",
        secure_boot=False,
        boot_order=("DISK",),
        disks=(
            ConfigDisk("disk-a", "SCSI", 0, 8 * MIB),
            ConfigDisk("disk-b", "SCSI", 1, 4 * MIB),
            ConfigDisk("disk-c", "IDE", 0, MIB),
        ),
        nics=(ConfigNic(MAC, "subnet-1", True), ConfigNic("50:6b:8d:00:00:02", "subnet-2", True)),
        prism={},
    )
    return attrs.evolve(plain, **changes)


def content(size: int, seed: int) -> bytes:
    """Bytes of a disk: some data, then a hole."""
    return bytes([seed]) * (size // 4) + bytes(size - size // 4)


def writer(data: bytes) -> Callable[[Path | phcbt01.Target], object]:
    """Write a disk with this content."""

    def write(target: Path | phcbt01.Target) -> None:
        if isinstance(target, Path):
            target.write_bytes(data)
        else:
            phcbt01.write_sparse(target, 0, data)
            target.flush()

    return write


@pytest.fixture
def point() -> Point:
    """Generation 7 of the VM."""
    disks = tuple(
        PointDisk(d.disk_id, n, d.size, d.size, writer(content(d.size, n + 1)))
        for n, d in enumerate(config().disks)
    )
    configuration = Configuration("@nutanix", config().encode().decode())
    return Point(7, config().vm_id, configuration, configuration.read(), disks)


@pytest.fixture
def with_group(point: Point) -> Point:
    """The same with a volume group of two disks."""
    sizes = (2 * MIB, MIB)
    disks = tuple(
        PointDisk(f"group-disk-{n}", n + 3, size, size, writer(content(size, n + 7)))
        for n, size in enumerate(sizes)
    )
    group_id = "99999999-9999-4999-8999-999999999999"
    group = PointGroup(group_id, "data", disks, 1_700_000_000, is_shared=True)
    return attrs.evolve(point, groups=(group,), missing=("volume group x is not in this copy",))


def copy_at(place: str, kind: str, name: str = "web01-test-7") -> transitions.Copy:
    return transitions.Copy(str(uuid4()), name, kind, place, 7)


# --- another cluster -----------------------------------------------------------------------------


@attrs.define
class Site:
    """A cluster to fail over to."""

    lab: Lab
    client: PrismClient
    ahv: Ahv
    said: list[str]

    def vm(self, name: str) -> dict[str, Any]:
        (found,) = (vm for vm in self.lab.state()["vms"] if vm["name"] == name)
        return found

    def assert_clean(self) -> None:
        """No VM, image, or staging file is left."""
        state = self.lab.state()
        assert not state["vms"]
        assert not state["images"]
        assert not state["volume_groups"]
        assert not list(self.ahv.staging.iterdir())


@pytest.fixture(scope="module")
def one_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A cluster whose tasks do not wait."""
    from prism_lab import Lab  # noqa: PLC0415 - only here

    with Lab.start(tmp_path_factory.mktemp("target"), task_seconds=0) as running:
        yield running


@attrs.frozen
class Lines:
    """A report that is kept as lines."""

    lines: list[str]

    def say(self, text: str) -> None:
        """Keep a line."""
        self.lines.append(text)

    def warn(self, text: str) -> None:
        """Keep a line."""
        self.lines.append(f"warning: {text}")

    def report(self, text: str) -> None:
        """Keep a line."""
        self.lines.append(f"error: {text}")


@pytest.fixture(params=["image", "volume_group"])
def site(request: pytest.FixtureRequest, one_lab: Lab, tmp_path: Path) -> Iterator[Site]:
    lab, said = one_lab, list[str]()
    settings = parse(
        [
            ("prism", lab.pc_host),
            ("user", lab.user),
            ("password", lab.password),
            ("ca", str(lab.ca_file)),
            ("state_dir", str(tmp_path / "state")),
            ("timeout", "5"),
            ("transport", "userspace"),
            ("restore_via", request.param),
        ]
    )
    staging = tmp_path / "staging"
    staging.mkdir()
    with inventory.connect(settings) as client:
        ahv = Ahv(client, settings, staging, {"*": "lab-net-2"}, True, Lines(said))
        yield Site(lab, client, ahv, said)
        for vm in lab.state()["vms"]:
            client.vms.delete(vm["ext_id"])


def test_a_copy_on_a_cluster(site: Site, point: Point) -> None:
    copy = copy_at(site.ahv.place, site.ahv.kind, "web01-failover-7")
    site.ahv.refuse_unfit(copy.name, point, test=False)
    said = site.ahv.make(copy, point, test=False)
    vm = site.vm(copy.name)
    assert vm["ext_id"] in said
    assert vm["power"] == "ON"
    by_size = {disk["size"]: disk for disk in vm["disks"]}
    for disk in point.disks:
        bytes_there = Path(by_size[disk.size]["file"]).read_bytes()
        assert bytes_there == content(disk.size, disk.index + 1)
    made = site.client.vms.get(vm["ext_id"])
    assert [nic.mac for nic in made.nics] == [nic.mac for nic in point.machine.nics]
    names = {subnet.ext_id: subnet.name for subnet in site.client.subnets.list()}
    assert {names[nic.subnet_ext_id or ""] for nic in made.nics} == {"lab-net-2"}
    with pytest.raises(FailoverRefused, match="exists: choose"):
        site.ahv.refuse_unfit(copy.name, point, test=False)
    site.ahv.remove(copy)
    site.ahv.remove(copy)
    site.assert_clean()


def test_a_test_copy_has_no_cards(site: Site, point: Point) -> None:
    copy = copy_at(site.ahv.place, site.ahv.kind)
    site.ahv.make(copy, point, test=True)
    assert not site.client.vms.get(site.vm(copy.name)["ext_id"]).nics
    site.ahv.remove(copy)


def test_a_vm_of_somebody_else_is_not_removed(site: Site, point: Point) -> None:
    copy = copy_at(site.ahv.place, site.ahv.kind)
    site.ahv.make(copy, point, test=True)
    site.ahv.remove(attrs.evolve(copy, key=str(uuid4())))
    assert site.vm(copy.name)
    site.ahv.remove(copy)
    site.assert_clean()


@pytest.mark.parametrize(
    ("via", "call"),
    [
        ("image", "POST */images"),
        ("image", "PUT */images/*/file"),
        ("image", "POST */vms"),
        ("volume_group", "POST */volume-groups"),
        ("volume_group", "POST */vms"),
    ],
)
def test_what_fails_leaves_nothing(site: Site, point: Point, via: str, call: str) -> None:
    if site.ahv.settings.restore_via != via:
        return
    copy = copy_at(site.ahv.place, site.ahv.kind)
    site.lab.faults.status(call, 400, times=20)  # a connection that breaks is tried again
    if call.startswith("PUT "):  # what is done when Prism cannot fetch the image
        site.lab.faults.fail_task("POST */content/images", message="it cannot be fetched")
    with pytest.raises(FailoverFailed):
        site.ahv.make(copy, point, test=True)
    site.lab.faults.clear()
    site.ahv.remove(copy)
    site.assert_clean()


def test_a_copy_has_its_volume_groups(site: Site, with_group: Point) -> None:
    copy = copy_at(site.ahv.place, site.ahv.kind)
    site.ahv.refuse_unfit(copy.name, with_group, test=True)
    site.ahv.make(copy, with_group, test=True)
    (group,) = site.lab._world.volume_groups.values()
    vm = site.vm(copy.name)
    assert (group.vms, group.clients, vm["power"]) == ([vm["ext_id"]], [], "ON")
    assert group.name == f"{copy.name} data [{copy.key[:8]}-99999999-20231114T221320Z]"
    assert [disk.file.read_bytes() for disk in group.disks] == [
        content(2 * MIB, 7),
        content(MIB, 8),
    ]
    assert "warning: volume group x is not in this copy" in site.said
    site.ahv.remove(copy)
    site.assert_clean()


CALLS_OF_GROUPS = (
    "POST */volume-groups", "POST */$actions/attach-iscsi-client", "POST */$actions/attach-vm",
    "POST */$actions/detach-iscsi-client", "POST */vms",
)  # fmt: skip


@pytest.mark.parametrize("call", CALLS_OF_GROUPS)
def test_what_fails_with_a_group_leaves_nothing(site: Site, with_group: Point, call: str) -> None:
    if site.ahv.settings.restore_via == "image":  # groups are made in one way only
        return
    copy = copy_at(site.ahv.place, site.ahv.kind)
    site.lab.faults.status(call, 400, times=20)
    with pytest.raises(FailoverFailed):
        site.ahv.make(copy, with_group, test=True)
    site.lab.faults.clear()
    site.ahv.remove(copy)
    site.assert_clean()


def test_without_its_groups_a_copy_says_so(site: Site, with_group: Point) -> None:
    nowhere = attrs.evolve(site.ahv, settings=attrs.evolve(site.ahv.settings, dsip="host:no"))
    with pytest.raises(FailoverRefused, match="dsip=host:no is not host"):
        nowhere.refuse_unfit("x", with_group, test=False)
    only = attrs.evolve(site.ahv, settings=attrs.evolve(site.ahv.settings, volume_groups="only"))
    with pytest.raises(FailoverRefused, match="volume_groups=only is for backups only"):
        only.refuse_unfit("x", with_group, test=False)
    settings = attrs.evolve(site.ahv.settings, volume_groups="no")
    without = attrs.evolve(site.ahv, settings=settings)
    copy = copy_at(site.ahv.place, site.ahv.kind)
    without.refuse_unfit(copy.name, with_group, test=True)
    without.make(copy, with_group, test=True)
    assert "warning: volume group data is not in this copy: volume_groups=no" in site.said
    without.remove(copy)
    site.assert_clean()


def sharing(point: Point, *siblings: SiblingCopy, later: int = 0, exact: bool = False) -> Point:
    """The point of another VM that shares the group: its replica is younger by `later` seconds."""
    (group,) = point.groups
    changed = attrs.evolve(group, siblings=siblings, taken=group.taken + later, exact=exact)
    return attrs.evolve(point, groups=(changed,))


@pytest.mark.parametrize("doing", ["planned", "unplanned", "undo"])
def test_a_group_that_is_half_written_or_half_removed_is_not_taken(
    site: Site, with_group: Point, doing: str
) -> None:
    first = copy_at(site.ahv.place, site.ahv.kind, "first")
    site.ahv.make(first, with_group, test=False)
    point = sharing(with_group, SiblingCopy("web02", first.key, site.ahv.place, doing))
    second = copy_at(site.ahv.place, site.ahv.kind, "second")
    with pytest.raises(FailoverRefused, match=rf"\({doing}\) is under .*failover recover web02"):
        site.ahv.refuse_unfit(second.name, point, test=False)
    with pytest.raises(FailoverFailed, match="failover recover web02"):
        site.ahv.make(second, point, test=False)
    site.ahv.remove(second)
    site.ahv.refuse_unfit(second.name, point, test=True)
    elsewhere = sharing(with_group, SiblingCopy("web02", first.key, "another", doing))
    site.ahv.refuse_unfit(second.name, elsewhere, test=False)
    site.ahv.remove(first)
    site.assert_clean()


def test_an_older_copy_of_a_group_is_named_or_refused(site: Site, with_group: Point) -> None:
    first = copy_at(site.ahv.place, site.ahv.kind, "first")
    site.ahv.make(first, with_group, test=False)
    second = copy_at(site.ahv.place, site.ahv.kind, "second")
    sibling = SiblingCopy("web02", first.key, site.ahv.place)
    moments = "as of 2023-11-14 22:13:20.*as of 2023-11-14 22:14:20.*would be lost"
    moved = sharing(with_group, sibling, later=60, exact=True)
    with pytest.raises(FailoverRefused, match=moments):
        site.ahv.refuse_unfit(second.name, moved, test=False)
    with pytest.raises(FailoverFailed, match=moments):
        site.ahv.make(second, moved, test=False)
    site.ahv.remove(second)

    site.ahv.make(second, sharing(with_group, sibling, later=60), test=False)
    (warning,) = (
        line for line in site.said if line.startswith("warning") and "is attached" in line
    )
    assert "as of 2023-11-14 22:13:20" in warning
    assert "as of 2023-11-14 22:14:20 (UTC): what the source wrote to it in between" in warning
    assert warning.endswith("is not in it")
    site.said.clear()
    third = copy_at(site.ahv.place, site.ahv.kind, "third")
    site.ahv.make(third, sharing(with_group, sibling), test=False)
    assert not any("wrote to it" in line for line in site.said)
    older = sharing(with_group, sibling, later=-60)
    fourth = copy_at(site.ahv.place, site.ahv.kind, "fourth")
    site.ahv.make(fourth, older, test=False)
    assert any(line.endswith("it has what the source wrote to it in between") for line in site.said)
    (of_point,) = older.groups
    chosen = attrs.evolve(older, groups=(attrs.evolve(of_point, chosen=True),))
    with pytest.raises(FailoverRefused, match="would get what was written after it"):
        site.ahv.refuse_unfit("fifth", chosen, test=False)
    (group,) = site.lab._world.volume_groups.values()
    assert {vm["ext_id"] for vm in site.lab.state()["vms"]} <= set(group.vms)
    for copy in (first, second, third, fourth):
        site.ahv.remove(copy)
    site.assert_clean()


def test_a_group_on_another_cluster_of_the_prism_is_not_taken(
    site: Site, with_group: Point, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (copy_at(site.ahv.place, site.ahv.kind, name) for name in ("first", "second"))
    site.ahv.make(first, with_group, test=False)
    listed = copied_groups._marked

    def elsewhere(client: PrismClient) -> list[MarkedGroup]:
        groups = [(attrs.evolve(k.group, cluster_ext_id="other"), k.mark) for k in listed(client)]
        return [MarkedGroup(group, mark) for group, mark in groups]

    with monkeypatch.context() as patch:
        patch.setattr(copied_groups, "_marked", elsewhere)
        sibling = SiblingCopy("web02", first.key, site.ahv.place)
        site.ahv.make(second, sharing(with_group, sibling), test=False)
    assert len(site.lab._world.volume_groups) == 2
    for copy in (first, second):
        site.ahv.remove(copy)
    site.assert_clean()


def test_a_group_is_shared_and_removed_though_its_bringer_was_undone(
    site: Site, with_group: Point
) -> None:
    names = ("first", "second", "third")
    first, second, third = (copy_at(site.ahv.place, site.ahv.kind, name) for name in names)
    site.ahv.make(first, with_group, test=False)
    point = sharing(with_group, SiblingCopy("web01", first.key, site.ahv.place))
    site.ahv.make(second, point, test=False)
    site.ahv.remove(first)
    assert any("stays: VM second uses it" in line for line in site.said)
    point = sharing(with_group, SiblingCopy("web02", second.key, site.ahv.place))
    site.ahv.make(third, point, test=False)
    (group,) = site.lab._world.volume_groups.values()
    assert {vm["ext_id"] for vm in site.lab.state()["vms"]} < set(group.vms), "still the same"
    site.ahv.remove(second)
    site.ahv.remove(third)
    site.assert_clean()


def test_an_undo_that_is_killed_removes_a_group_that_it_shared_later(
    site: Site, with_group: Point
) -> None:
    first, second = (copy_at(site.ahv.place, site.ahv.kind, name) for name in ("first", "second"))
    site.ahv.make(first, with_group, test=False)
    point = sharing(with_group, SiblingCopy("web01", first.key, site.ahv.place))
    site.ahv.make(second, point, test=False)
    site.ahv.remove(first)
    site.lab.faults.status("DELETE */volume-groups/*", 403, times=20)
    with pytest.raises(PrismError):
        site.ahv.remove(second)
    site.lab.faults.clear()
    assert not site.lab.state()["vms"]
    site.ahv.remove(second)
    site.assert_clean()


def test_a_group_that_hosts_use_over_iscsi_is_not_removed(site: Site, with_group: Point) -> None:
    copy = copy_at(site.ahv.place, site.ahv.kind)
    site.ahv.make(copy, with_group, test=False)
    (group,) = site.lab._world.volume_groups.values()
    group.clients.append("iqn.2026-01.example:host")
    site.ahv.remove(copy)
    (said,) = (line for line in site.said if "stays" in line)
    assert f"volume group {group.name} stays: it is attached to hosts over iSCSI" in said
    assert list(site.lab._world.volume_groups.values()) == [group]
    group.clients.clear()
    site.ahv.remove(copy)
    site.assert_clean()


def test_a_group_that_another_vm_gets_during_an_undo_is_not_removed(
    site: Site, with_group: Point
) -> None:
    first, second = (copy_at(site.ahv.place, site.ahv.kind, name) for name in ("first", "second"))
    site.ahv.make(first, with_group, test=False)
    site.ahv.make(second, attrs.evolve(with_group, groups=()), test=False)
    (group,) = site.lab._world.volume_groups.values()
    site.lab.faults.delay("DELETE */vms/*", 2.0)
    undo = threading.Thread(target=site.ahv.remove, args=(first,))
    undo.start()
    while site.lab.faults.pending():
        assert undo.is_alive()
        time.sleep(0.02)
    site.client.volume_groups.attach_vm(group.ext_id, site.vm("second")["ext_id"])
    undo.join()
    assert f"volume group {group.name} stays: VM second uses it" in site.said
    assert list(site.lab._world.volume_groups.values()) == [group]
    site.ahv.remove(second)
    site.assert_clean()


def test_a_sweep_leaves_a_group_that_a_vm_uses(site: Site, with_group: Point) -> None:
    copy = copy_at(site.ahv.place, site.ahv.kind)
    site.ahv.make(copy, with_group, test=False)
    (group,) = site.lab._world.volume_groups.values()
    settings = site.ahv.settings
    with journal.opened(settings.state_dir, "killed", site.ahv.place) as intents:
        intents.intend(ObjectKind.VOLUME_GROUP, group.name).made(group.ext_id)
    (swept,) = sweep.sweep(site.client, settings)
    assert str(swept).startswith(f"left: volume group {group.name} of job killed")
    assert str(swept).endswith(f"VM {copy.name} uses it")
    assert list(site.lab._world.volume_groups.values()) == [group]
    site.ahv.remove(copy)
    site.assert_clean()


def test_a_vm_that_cannot_be_switched_on_stays_and_is_reported(
    site: Site, point: Point, with_group: Point
) -> None:
    for wanted in (point, with_group):
        copy = copy_at(site.ahv.place, site.ahv.kind)
        site.lab.faults.status("POST */$actions/power-on", 400)
        assert "power off" in site.ahv.make(copy, wanted, test=True)
        assert any("a step after its creation failed" in line for line in site.said)
        site.said.clear()
        site.ahv.remove(copy)
    site.assert_clean()


def test_an_image_that_stays_does_not_cost_the_failover(site: Site, point: Point) -> None:
    copy = copy_at(site.ahv.place, site.ahv.kind)
    site.lab.faults.status("DELETE */images/*", 400)
    site.lab.faults.status("DELETE */volume-groups/*", 400, skip=1)
    site.ahv.make(copy, point, test=True)
    assert site.vm(copy.name)
    assert any("a step after its creation failed" in line for line in site.said)
    site.lab.faults.clear()
    site.ahv.remove(copy)
    site.assert_clean()


def test_an_unknown_network_is_refused_before(site: Site, point: Point) -> None:
    unfit = attrs.evolve(site.ahv, networks={"*": "no-such-net"})
    with pytest.raises(FailoverRefused, match="no subnet no-such-net on that"):
        unfit.refuse_unfit("x", point, test=False)


# --- the source ----------------------------------------------------------------------------------


@pytest.fixture
def guest(site: Site) -> str:
    """A VM that runs."""
    return site.lab.create_vm("web01", [MIB])


def source(site: Site, vm: str, taken: Callable[[], int], **changes: Any) -> PrismSource:
    """The VM as a source; nothing takes long."""
    plain = PrismSource(site.client, vm, taken, site.said.append, grace=0.5, patience=1.5)
    return attrs.evolve(plain, **changes)


def test_the_last_cycle_is_younger_than_the_shutdown(site: Site, guest: str) -> None:
    now = [int(time.time()) - 3600]
    times = iter([*now * 2, int(time.time()) + 5])
    vm = source(site, guest, lambda: next(times), patience=30.0)
    vm.refuse_unfit()
    assert vm.is_on()
    vm.shut_down()
    assert not vm.is_on()
    vm.last_cycle()
    assert not list(times)
    assert not site.lab.state()["recovery_points"]
    vm.power_on()
    assert vm.is_on()


def test_a_cycle_from_before_is_not_the_last(site: Site, guest: str) -> None:
    """A snapshot of the second in which the mark was taken may show the guest alive."""
    began = int(time.time()) - 1
    vm = source(site, guest, lambda: began)
    vm.shut_down()
    with pytest.raises(FailoverFailed, match="no cycle came within"):
        vm.last_cycle()


def test_a_source_that_came_back_has_newer_data(site: Site, guest: str) -> None:
    vm = source(site, guest, lambda: 1 << 40)
    with pytest.raises(FailoverFailed, match="switched on meanwhile"):
        vm.last_cycle()


def test_a_guest_that_does_not_heed(
    site: Site, guest: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(site.client.vms), "shut_down", lambda _self, _vm: None)
    with pytest.raises(FailoverFailed, match=r"not shut down within 0 s: .*--force"):
        source(site, guest, lambda: 0, grace=0.2).shut_down()
    source(site, guest, lambda: 0, grace=0.2, force=True).shut_down()
    assert site.client.vms.get(guest).power_state == "OFF"


def test_a_guest_that_goes_down_late_is_switched_on_again(site: Site, guest: str) -> None:
    """It was told to shut down, and does so while the failover is taken back."""
    vm = source(site, guest, lambda: 0, grace=10.0)
    late = threading.Timer(1.5, lambda: site.client.vms.power_off(guest))
    late.start()
    vm.power_on()
    late.join()
    assert vm.is_on()


def test_a_group_without_disks_leaves_nothing_behind(site: Site, guest: str) -> None:
    vm = site.client.vms.get(guest)
    empty = site.lab.create_volume_group("empty", [], [vm.name])
    source(site, guest, lambda: 0).refuse_unfit()
    site.lab._groups.delete(site.lab._world.volume_groups[empty])


def test_an_unknown_source_is_refused_before(site: Site) -> None:
    with pytest.raises(FailoverRefused, match="Prism does not know VM"):
        source(site, str(uuid4()), lambda: 0).refuse_unfit()
    with pytest.raises(FailoverRefused, match="Prism does not know VM"):
        source(site, str(uuid4()), lambda: 0).refuse_unknown()
