"""AHV to AHV: the same or another cluster, another name, other networks, either way in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs
import pytest
from prism_lab import Lab
from ptcomm import Level, Severity
from ptcomm_runner.catalog import Status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ptcomm_runner.jobs import Result

    from apps.nutanix_backend.tests.conftest import Guest, Product

KIB, MIB = 1 << 10, 1 << 20


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Another cluster, under another Prism."""
    root = tmp_path_factory.mktemp("other")
    containers = ("default-container", "fast")
    with Lab.start(root, cluster_name="other-cluster", containers=containers) as running:
        yield running


@attrs.frozen
class Elsewhere:
    """How the product reaches the other cluster."""

    lab: Lab
    config: Path

    def vm(self, name: str) -> Any:
        """A VM of that cluster."""
        (found,) = (vm for vm in self.lab._world.vms.values() if vm.name == name)
        return found

    def assert_nothing_left(self) -> None:
        """That cluster has nothing of ours but VMs."""
        state = self.lab.state()
        assert not any(state[kind] for kind in ("volume_groups", "images", "sessions", "tasks"))


@pytest.fixture
def elsewhere(other: Lab, tmp_path: Path) -> Iterator[Elsewhere]:
    """The other cluster, and the file that tells how to reach it."""
    config = tmp_path / "other.conf"
    config.write_text(
        f"prism={other.pc_host}\nuser={other.user}\npassword={other.password}\n"
        f"ca={other.ca_file}\ntransport=userspace\n"
    )
    config.chmod(0o600)
    yield Elsewhere(other, config)
    assert not other.faults.pending()


def said(result: Result, severity: Severity = Severity.INFO) -> str:
    return "\n".join(m.text for m in result.log if m.severity is severity)


def made(lab: Lab, name: str) -> Any:
    (found,) = (vm for vm in lab._world.vms.values() if vm.name == name)
    return found


def chain(product: Product, guest: Guest) -> Result:
    """A full and an incremental."""
    product.good_backup(Level.FULL, guest)
    guest.write(0, 70 * KIB, 100 * KIB)
    guest.zero(0, 0, 64 * KIB)
    return product.good_backup(Level.INCREMENTAL, guest)


def assert_disks(product: Product, result: Result, guest: Guest, vm: Any) -> None:
    points = product.points(result, guest)
    assert [disk.size for disk in vm.disks] == [point.stat().st_size for point in points]
    for disk, point in zip(vm.disks, points, strict=True):
        assert disk.file.read_bytes() == point.read_bytes()


@pytest.mark.parametrize(
    ("via", "words"),
    [("auto", "through volume groups over iSCSI"), ("image", "through the image service")],
)
def test_both_ways_make_the_same_vm(product: Product, via: str, words: str) -> None:
    guest = product.guest(3 * MIB, MIB)
    source = made(product.lab, guest.name)
    source.categories = product.lab.category_ids()
    result = chain(product, guest)
    name = f"{guest.name}-{via}"
    restored = product.good_restore(restore_via=via, restore_vm_name=name, verify="yes")
    assert words in said(restored)
    vm = made(product.lab, name)
    assert_disks(product, result, guest, vm)
    assert [(d.bus, d.index) for d in vm.disks] == [(d.bus, d.index) for d in source.disks]
    assert vm.categories == source.categories
    assert [nic.subnet for nic in vm.nics] == [nic.subnet for nic in source.nics]
    assert not {nic.mac for nic in vm.nics} & {nic.mac for nic in source.nics}
    assert vm.hardware["biosUuid"] != source.hardware["biosUuid"]
    assert vm.power_state == "OFF"
    assert "gets a new UUID and MAC addresses: the source VM still exists" in said(restored)


def test_the_old_identity_comes_back_when_the_source_is_gone(product: Product) -> None:
    guest = product.guest(MIB)
    product.good_backup(Level.FULL, guest)
    source = made(product.lab, guest.name)
    del product.lab._world.vms[guest.ext_id]
    product.good_restore(restore_vm_name=guest.name)
    vm = made(product.lab, guest.name)
    assert [nic.mac for nic in vm.nics] == [nic.mac for nic in source.nics]
    assert vm.hardware["biosUuid"] == source.hardware["biosUuid"]

    again = product.good_restore(restore_vm_name=f"{guest.name}-2", restore_identity="auto")
    assert f"is in use by VM {guest.name}" in said(again)
    assert not {n.mac for n in made(product.lab, f"{guest.name}-2").nics} & {source.nics[0].mac}
    before = len(product.lab.requests)
    refused = product.restore(restore_vm_name=f"{guest.name}-3", restore_identity="old")
    assert "restore_identity=old is not possible" in said(refused, Severity.FATAL)
    writes = [p for m, p, _ in product.lab.requests[before:] if m not in {"GET", "OPTIONS"}]
    assert not writes, "it is refused before anything is made or sent"


def test_another_cluster_with_its_own_names(product: Product, elsewhere: Elsewhere) -> None:
    guest = product.guest(2 * MIB, MIB)
    source = made(product.lab, guest.name)
    source.categories = product.lab.category_ids()
    result = chain(product, guest)
    where: dict[str, Any] = {"target_config_file": elsewhere.config, "storage_container": "fast"}
    name = f"{guest.name}-moved"
    restored = product.good_restore(
        restore_vm_name=name, network_map="lab-net:lab-net-2,*:lab-net", **where
    )
    vm = elsewhere.vm(name)
    elsewhere.assert_nothing_left()
    assert_disks(product, result, guest, vm)
    subnets = {s.ext_id: s.name for s in elsewhere.lab._world.subnets.values()}
    assert [subnets[nic.subnet] for nic in vm.nics] == ["lab-net-2"]
    assert vm.nics[0].mac != source.nics[0].mac
    assert "gets a new UUID and MAC addresses: the source VM still exists" in said(restored)
    assert vm.categories == elsewhere.lab.category_ids(), "found by key and value"
    containers = elsewhere.lab._world.containers
    assert {containers[disk.container].name for disk in vm.disks} == {"fast"}

    unmapped = product.good_restore(restore_vm_name=f"{name}-unmapped", **where)
    assert "network lab-net has no subnet on cluster other-cluster" in said(
        unmapped, Severity.WARNING
    )
    assert not elsewhere.vm(f"{name}-unmapped").nics[0].connected


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"network_map": "lab-net:nowhere"}, "there is no subnet nowhere on that cluster"),
        ({"network_map": "nonsense"}, "'nonsense' is not source:subnet"),
        ({"storage_container": "nowhere"}, "has no nowhere: it has default-container"),
        ({"target_cluster": "nowhere"}, "cluster nowhere is not known to Prism"),
        ({"restore_vm_name": "{guest}"}, "a VM called {guest} exists"),
        ({"restore_vm_name": "x" * 81}, "is too long for the name of a VM"),
        ({"restore_identity": "old"}, "VM {guest} still exists"),
    ],
)
def test_what_cannot_work_is_refused_before_any_data(
    product: Product, asked: dict[str, Any], words: str
) -> None:
    guest = product.guest(MIB)
    product.good_backup(Level.FULL, guest)
    before = len(product.lab.requests)
    asked = {name: text.format(guest=guest.name) for name, text in asked.items()}
    refused = product.restore(**asked)
    assert refused.status is Status.FAILED
    assert words.format(guest=guest.name) in said(refused, Severity.FATAL)
    methods = {method for method, path, _ in product.lab.requests[before:] if "/vms" in path}
    assert methods <= {"GET", "OPTIONS"}, "nothing was asked to be made"


def test_a_cluster_that_is_full_is_refused(
    make_product: Callable[..., Product], tmp_path: Path
) -> None:
    with Lab.start(tmp_path / "lab", free_bytes=MIB // 4, volume_disk_clones=False) as lab:
        product = make_product(lab, tmp_path / "host")
        guest = product.guest(2 * MIB)
        product.good_backup(Level.FULL, guest)
        refused = product.restore()
        assert "has 256.0 KiB free, the restore needs up to" in said(refused, Severity.FATAL)

        object.__setattr__(lab._world.settings, "free_bytes", 1 << 40)
        fallen_back = product.good_restore(restore_vm_name="by-image")
        assert "creates no VM from volume groups" in said(fallen_back)
        assert "through the image service" in said(fallen_back)
        refused = product.restore(restore_via="volume_group", restore_vm_name="no")
        assert "restore_via=volume_group: cluster" in said(refused, Severity.FATAL)


def test_a_first_revision_goes_by_images(
    make_product: Callable[..., Product], tmp_path: Path
) -> None:
    with Lab.start(tmp_path / "lab", personality="2024.3") as lab:
        product = make_product(lab, tmp_path / "host")
        guest = product.guest(MIB)
        result = product.backup(Level.FULL, guest)
        restored = product.good_restore(restore_vm_name="restored")
        assert "its API is older than v4.1" in said(restored)
        assert_disks(product, result, guest, made(lab, "restored"))


def test_several_disks_to_paths_of_their_own(
    product: Product, loop_device: Callable[[int], Path]
) -> None:
    guest = product.guest(2 * MIB, MIB, 3 * MIB)
    result = chain(product, guest)
    image, device = product.root / "one.img", loop_device(3 * MIB)
    paths = f"0:{image},2:{device}"
    restored = product.good_restore(disk_path=paths, verify="yes")
    points = product.points(result, guest)
    assert image.read_bytes() == points[0].read_bytes()
    assert image.stat().st_blocks * 512 < image.stat().st_size, "holes are kept"
    assert device.read_bytes() == points[2].read_bytes()
    assert "disk 1 is skipped: it was not asked for" in said(restored)
    refused = product.restore(disk_path=f"2:{device}")
    assert "give overwrite=yes" in said(refused, Severity.FATAL)
