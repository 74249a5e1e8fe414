"""Request parity: for every operation that our client uses, it asks what the official SDK asks."""

from __future__ import annotations

import functools
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import pytest
from prism_client import (
    Boot,
    Consistency,
    DiskSnapshotRef,
    DiskSpec,
    EmptyDisk,
    FileTransfer,
    NicSpec,
    TaskFailed,
    VmSpec,
    VolumeDiskRef,
)

from apps.prism_lab.sdk import full_vm, parity

if TYPE_CHECKING:
    from collections.abc import Callable

    from apps.prism_lab.sdk.conftest import Stage, Verdict

NAMESPACES = (
    "clustermgmt", "datapolicies", "dataprotection", "networking", "prism", "vmm", "volumes",
)  # fmt: skip
DOCUMENT = Path(__file__).parents[1] / "docs" / "parity.md"


@attrs.frozen
class Operation:
    """A call of our client, and the calls of the SDK that ask for the same."""

    name: str
    sdk: tuple[str, ...]


class Run:
    """Our client doing everything it can; each operation's requests are kept under its name."""

    def __init__(self, stage: Stage, initiator: str, secret: str) -> None:
        self.stage = stage
        self.client = stage.client
        self.initiator = initiator
        self.secret = secret
        versions = tuple(f"version of {namespace}" for namespace in NAMESPACES)
        self.operations = [(Operation("connect", versions), stage.connecting)]

    def do(self, name: str, sdk: str, call: Callable[[], Any]) -> Any:
        log = self.stage.lab.exchanges
        before = len(log)
        value = call()
        operation = Operation(name, tuple(filter(None, sdk.split(" + "))))
        self.operations.append((operation, log[before:]))
        return value

    def everything(self) -> None:
        self.inventory()
        self.vms()
        point = self.recovery_points()
        self.volume_groups(point)
        self.do(
            "recovery_points.delete",
            "etag for delete_recovery_point_by_id + delete_recovery_point_by_id",
            lambda: self.client.recovery_points.delete(point.ext_id),
        )
        self.images()

    def inventory(self) -> None:
        client, cluster = self.client, self.stage.lab.cluster_ext_id
        self.do("clusters.list", "list_clusters", client.clusters.list)
        self.do("clusters.get", "get_cluster_by_id", lambda: client.clusters.get(cluster))
        self.do(
            "clusters.gpus",
            "list_physical_gpu_profiles + list_virtual_gpu_profiles",
            lambda: client.clusters.gpus(cluster),
        )
        self.do(
            "storage_containers.list", "list_storage_containers", client.storage_containers.list
        )
        self.do("subnets.list", "list_subnets", client.subnets.list)
        self.do("categories.list", "list_categories", client.categories.list)
        self.do(
            "storage_containers.free_bytes",
            "get_storage_container_stats",
            lambda: client.storage_containers.free_bytes(self.stage.container),
        )

    def vms(self) -> None:
        client, stage = self.client, self.stage
        self.do("vms.list", "list_vms", lambda: list(client.vms.list()))
        self.do("vms.find", "list_vms by name", lambda: client.vms.find("guest"))
        vm = self.do("vms.get", "get_vm_by_id", lambda: client.vms.get(stage.vm))
        self.do(
            "protection_policies.of_vm",
            "list_protection_policies",
            lambda: client.protection_policies.of_vm(vm),
        )
        spec = VmSpec(
            name="parity",
            description="made twice",
            cluster_ext_id=stage.lab.cluster_ext_id,
            sockets=2,
            cores_per_socket=1,
            threads_per_core=1,
            memory=1 << 30,
            machine_type="Q35",
            boot=Boot(firmware="uefi", secure=True),
            disks=(DiskSpec(stage.image, "SCSI", 0),),
            nics=(NicSpec(stage.subnet, "50:6b:8d:00:00:01", connected=True),),
        )
        made = self.do(
            "vms.create",
            "create_vm + get_task_by_id + get_vm_by_id",
            lambda: client.vms.create(spec),
        )
        for name, call in (("power_on", client.vms.power_on), ("power_off", client.vms.power_off)):
            sdk = f"etag for {name}_vm + {name}_vm"
            self.do(f"vms.{name}", sdk, functools.partial(call, made.ext_id))
        self.do(
            "vms.delete",
            "etag for delete_vm_by_id + delete_vm_by_id",
            lambda: client.vms.delete(made.ext_id),
        )

        self.full_vm()

    def full_vm(self) -> None:
        client, stage = self.client, self.stage
        spec = VmSpec(
            name="full",
            cluster_ext_id=stage.lab.cluster_ext_id,
            sockets=1,
            cores_per_socket=1,
            threads_per_core=1,
            memory=1 << 30,
            machine_type="Q35",
            boot=Boot(firmware="uefi"),
            disks=(),
            nics=(NicSpec(stage.subnet, None, connected=True, settings=full_vm.CARD),),
            settings=full_vm.SETTINGS,
        )
        made = self.do(
            "vms.create, with every setting",
            "create_vm with every setting",
            lambda: client.vms.create(spec),
        )
        client.vms.delete(made.ext_id)

    def recovery_points(self) -> Any:
        client, stage = self.client, self.stage
        points, expires = client.recovery_points, stage.expires

        def create(consistency: Consistency) -> Any:
            return points.create(stage.vm, name="parity", expires=expires, consistency=consistency)

        reading = "get_recovery_point_by_id + get_vm_recovery_point_by_id"
        point = self.do(
            "recovery_points.create",
            f"create_recovery_point + get_task_by_id + {reading}",
            lambda: create(Consistency.CRASH),
        )
        consistent = self.do(
            "recovery_points.create, application-consistent",
            "create_recovery_point, application-consistent",
            lambda: create(Consistency.APP),
        )
        points.delete(consistent.ext_id)
        self.do(
            "recovery_points.list",
            "list_recovery_points",
            lambda: list(points.list(vm_ext_id=stage.vm, name="parity")),
        )
        self.do("recovery_points.get", reading, lambda: points.get(point.ext_id))
        self.do(
            "recovery_points.set_expiration",
            "etag for set_recovery_point_expiration_time + set_recovery_point_expiration_time",
            lambda: points.set_expiration(point.ext_id, stage.later),
        )
        self.changed_regions(point)
        restored = self.do(
            "recovery_points.restore",
            "etag for restore_recovery_point + restore_recovery_point",
            lambda: points.restore(
                point.ext_id,
                point.vm_recovery_point_ext_id,
                cluster_ext_id=stage.lab.cluster_ext_id,
                name="sdk-restored",
            ),
        )
        client.vms.delete(restored.vm_ext_id)
        return point

    def changed_regions(self, point: Any) -> None:
        def ref(one: Any) -> DiskSnapshotRef:
            ids = self.stage.ids(one)
            return DiskSnapshotRef(ids["rp"], ids["part"], ids["disk"])

        new, old = ref(point), ref(self.stage.reference)
        size = self.stage.lab.disk_file(self.stage.vm, 0).stat().st_size
        self.do(
            "changed_regions.open",
            "discover_cluster_for_recovery_point_id + vm_recovery_point_compute_changed_regions",
            lambda: list(self.client.changed_regions.open(new, old, disk_size=size)),
        )

    def volume_groups(self, point: Any) -> None:
        groups, stage = self.client.volume_groups, self.stage
        disk = stage.ids(point)["disk"]
        reading = "get_volume_group_by_id + list_volume_disks_by_volume_group_id"
        group = self.do(
            "volume_groups.create",
            f"create_volume_group + get_task_by_id + {reading}",
            lambda: groups.create(
                "parity", stage.lab.cluster_ext_id, [disk], chap_secret=self.secret
            ),
        ).ext_id
        self.do(
            "volume_groups.list", "list_volume_groups", lambda: list(groups.list(name="parity"))
        )
        self.do("volume_groups.get", reading, lambda: groups.get(group))
        self.do(
            "volume_groups.attach_client",
            "etag for attach_iscsi_client + attach_iscsi_client",
            lambda: groups.attach_client(group, self.initiator, chap_secret=self.secret),
        )
        self.do(
            "volume_groups.detach_client",
            "list_iscsi_clients + etag for detach_iscsi_client + detach_iscsi_client",
            lambda: groups.detach_client(group, self.initiator),
        )
        self.group_snapshot(group)
        self.do(
            "volume_groups.attach_vm",
            "etag for attach_vm + attach_vm",
            lambda: groups.attach_vm(group, stage.vm),
        )
        self.do(
            "volume_groups.delete",
            "etag for delete_volume_group_by_id + delete_volume_group_by_id",
            lambda: groups.delete(group),
        )

        self.blank_group()

    def group_snapshot(self, group: str) -> None:
        """A recovery point of a VM and of a group, and what is allocated on the group's disk."""
        client, stage = self.client, self.stage
        point = self.do(
            "recovery_points.create, with a volume group",
            "create_recovery_point of a volume group",
            lambda: client.recovery_points.create(
                stage.vm,
                name="parity group",
                expires=stage.expires,
                consistency=Consistency.CRASH,
                volume_group_ext_ids=[group],
            ),
        )
        part = point.of_the_group(group)
        assert part is not None
        self.do(
            "changed_regions.open, of a volume group",
            "volume_group_recovery_point_compute_changed_regions",
            lambda: list(
                client.changed_regions.open(
                    part.disk_ref(part.disks[0]), None, disk_size=2 * 1024 * 1024
                )
            ),
        )
        client.recovery_points.delete(point.ext_id)

    def blank_group(self) -> None:
        """A group of new disks, and a VM whose disk is cloned from its first."""
        client, stage = self.client, self.stage
        group = self.do(
            "volume_groups.create_blank",
            "create_volume_group of new disks",
            lambda: client.volume_groups.create_blank(
                "parity blank",
                stage.lab.cluster_ext_id,
                [1 << 20],
                stage.container,
                chap_secret=self.secret,
            ),
        )
        source = VolumeDiskRef(group.ext_id, group.disks[0].ext_id)
        spec = VmSpec(
            name="parity of a volume",
            cluster_ext_id=stage.lab.cluster_ext_id,
            sockets=1,
            cores_per_socket=1,
            threads_per_core=1,
            memory=1 << 30,
            machine_type=None,
            boot=Boot(order=("DISK", "CDROM")),
            disks=(
                DiskSpec(source, "SATA", 1, stage.container),
                DiskSpec(EmptyDisk(1 << 20), "SCSI", 5, stage.container),
            ),
            nics=(),
            category_ext_ids=(stage.category,),
            bios_uuid=stage.bios_uuid,
        )
        made = self.do(
            "vms.create, of a volume disk",
            "create_vm of a volume disk",
            lambda: client.vms.create(spec),
        )
        self.do(
            "vms.remove_disk",
            "etag for delete_disk_by_id + delete_disk_by_id",
            lambda: client.vms.remove_disk(made.ext_id, made.disks[0].ext_id),
        )
        self.do(
            "vms.add_disk, of a volume disk",
            "etag for create_disk of a volume disk + create_disk of a volume disk",
            lambda: client.vms.add_disk(made.ext_id, DiskSpec(source, "SCSI", 2, stage.container)),
        )
        self.refit(made.ext_id, source)
        if client.vms.transfers_files:
            self.do(
                "vms.transfer_files",
                "etag for transfer_files_to_guest + transfer_files_to_guest",
                lambda: self.refused_transfer(made.ext_id, source),
            )
        client.vms.delete(made.ext_id)
        client.volume_groups.delete(group.ext_id)

    def refit(self, vm: str, source: VolumeDiskRef) -> None:
        """The same disks, another card, no category, and another name."""
        client, stage = self.client, self.stage
        spec = VmSpec(
            name="parity refitted",
            description="made twice",
            cluster_ext_id=stage.lab.cluster_ext_id,
            sockets=1,
            cores_per_socket=1,
            threads_per_core=1,
            memory=1 << 30,
            machine_type=None,
            boot=Boot(order=("DISK", "CDROM")),
            disks=(
                DiskSpec(EmptyDisk(1 << 20), "SCSI", 5, stage.container),
                DiskSpec(source, "SCSI", 2, stage.container),
            ),
            nics=(NicSpec(stage.subnet, "50:6b:8d:00:00:02", connected=True),),
        )
        parts = [
            f"etag for {name} + {name}"
            for name in ("disassociate_categories", "create_nic", "update_vm_by_id")
        ]
        self.do("vms.refit", " + ".join(parts), lambda: client.vms.refit(vm, spec))
        self.do(
            "vms.refit, of a VM with a card",
            "etag for delete_nic_by_id + delete_nic_by_id",
            lambda: client.vms.refit(vm, spec),
        )

    def refused_transfer(self, vm: str, source: VolumeDiskRef) -> None:
        """The VM is off, so that the task fails; the request is what counts here."""
        files = [FileTransfer("/etc/motd", "/etc/motd", overwrite=True)]
        with pytest.raises(TaskFailed):
            self.client.vms.transfer_files(vm, source, files, user="root", password="of the guest")

    def images(self) -> None:
        images = self.client.images
        image = self.do(
            "images.upload", "", lambda: images.upload("parity", self.stage.upload)
        ).ext_id
        url, digest = self.stage.upload_url, self.stage.upload_sha256
        self.do(
            "images.create_from_url",
            "create_image of a url",
            lambda: images.create_from_url("fetched", url, sha256=digest),
        )
        self.do("images.list", "list_images", lambda: list(images.list(name="parity")))
        self.do("images.get", "get_image_by_id", lambda: images.get(image))
        self.do("images.delete", "delete_image_by_id", lambda: images.delete(image))


@attrs.frozen
class Line:
    """One row of the table: two requests for the same, and what they do not say alike."""

    operation: str
    sdk: str
    method: str
    path: str
    gaps: list[parity.Gap]

    def show(self) -> str:
        """Write the row; a gap that is not explained is for the tests to tell."""
        marks = {found.mark: None for gap in self.gaps if (found := parity.explain(gap))}
        cells = (self.operation, f"`{self.method} {self.path}`", f"`{self.sdk}`", ", ".join(marks))
        return f"| {' | '.join(cells)} |"


@attrs.frozen
class Parity:
    """The table, and what our client asked without the SDK having a word for it."""

    lines: list[Line]
    alone: list[str]
    versions: dict[str, str]


@pytest.fixture(scope="module")
def table(newest: tuple[Stage, Verdict]) -> Parity:
    """Let our client do what the SDK did on the same cluster, and compare request by request."""
    played, verdict = newest
    known = played.known()
    run = Run(played, *played.login)
    run.everything()
    theirs = parity.roles(verdict.requests.values(), known)
    ours = parity.roles([exchange for _, log in run.operations for exchange in log], known)
    sdk = {name: parity.read(exchange, theirs) for name, exchange in verdict.requests.items()}
    lines = []
    asked: dict[str, None] = {}
    for operation, log in run.operations:
        requests = [parity.read(exchange, ours) for exchange in log]
        asked |= {f"{request.method} {request.path}": None for request in requests}
        lines += [compare(operation.name, call, requests, sdk[call]) for call in operation.sdk]
    served = {f"{request.method} {request.path}" for request in sdk.values()}
    return Parity(lines, [each for each in asked if each not in served], verdict.versions)


def compare(operation: str, call: str, requests: list[parity.Request], sdk: parity.Request) -> Line:
    same = [each for each in requests if (each.method, each.path) == (sdk.method, sdk.path)]
    assert same, f"{operation} does not ask {sdk.method} {sdk.path}: {requests}"
    return Line(operation, call, sdk.method, sdk.path, parity.gaps(same[0], sdk))


def test_every_difference_is_written_down(table: Parity) -> None:
    unexplained = [
        f"{line.operation} / {line.sdk}: {gap.where}: ours {gap.ours!r}, the SDK's {gap.sdk!r}"
        for line in table.lines
        for gap in line.gaps
        if parity.explain(gap) is None
    ]
    assert not unexplained, "\n".join(unexplained)


def test_every_written_difference_is_still_there(table: Parity) -> None:
    seen = {
        found.mark for line in table.lines for gap in line.gaps if (found := parity.explain(gap))
    }
    assert seen == {difference.mark for difference in parity.DIFFERENCES}


def test_a_wrong_request_would_be_told() -> None:
    """The comparison itself: a wrong id, header, type or field is not explained by anything."""
    sdk = parity.Request(
        "POST", "/x", {"$page": "0"}, {"If-Match": "<etag>"},
        {"spec": {"$objectType": "a.B", "id": "<vms>", "on": True}}, "/x?%24page=0",
    )  # fmt: skip
    wrong = [
        attrs.evolve(sdk, path="/y"),
        attrs.evolve(sdk, query={"$page": "1"}),
        attrs.evolve(sdk, wire="/x?$page=0"),
        attrs.evolve(sdk, headers={"If-Match": parity.MISSING}),
        attrs.evolve(sdk, body={"spec": {"id": "<vms>", "on": True}}),
        attrs.evolve(sdk, body={"spec": {"$objectType": "a.C", "id": "<vms>", "on": True}}),
        attrs.evolve(sdk, body={"spec": {"$objectType": "a.B", "id": "<images>", "on": True}}),
        attrs.evolve(sdk, body={"spec": {"$objectType": "a.B", "id": "<vms>"}}),
    ]
    assert parity.gaps(sdk, sdk) == []
    for ours in wrong:
        [gap] = parity.gaps(ours, sdk)
        assert parity.explain(gap) is None, gap


def test_the_document_is_current(table: Parity) -> None:
    """With PARITY_WRITE=1 the document is written anew."""
    wanted = document(table)
    if os.environ.get("PARITY_WRITE"):
        DOCUMENT.parent.mkdir(exist_ok=True)
        DOCUMENT.write_text(wanted)
    assert DOCUMENT.read_text() == wanted, f"{DOCUMENT.name}: PARITY_WRITE=1 ./run test sdk"


def test_count(table: Parity, capsys: pytest.CaptureFixture[str]) -> None:
    operations = {line.operation for line in table.lines}
    with capsys.disabled():
        sys.stdout.write(
            f"\nparity: {len(operations)} operations, {len(table.lines)} requests compared, "
            f"{len(parity.DIFFERENCES)} written differences\n"
        )
    assert len(table.lines) >= len(operations) > 20


def document(table: Parity) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in table.versions.items())
    differences = [f"* **{found.mark}**: {found.what} {found.why}" for found in parity.DIFFERENCES]
    return "\n".join(
        [
            "# What our client asks, and what the official SDK asks for the same",
            "",
            "Made by `PARITY_WRITE=1 ./run test sdk` and kept current by `./run test sdk`.",
            "Both clients did the same on one lab cluster, and each request was compared: method,",
            "path, query and its encoding, body, and the headers "
            + ", ".join(f"`{name}`" for name in parity.HEADERS)
            + ".",
            "Ids are shown as what they stand for. An empty last column means: equal.",
            "",
            f"SDK: {versions}.",
            "",
            "| our call | request | SDK call | differences |",
            "|---|---|---|---|",
            *(line.show() for line in table.lines),
            "",
            "## The differences, and why",
            "",
            *differences,
            "",
            "## What the SDK has no call for",
            "",
            "v4 takes no bytes for an image: the upload is v3, for which there is no SDK.",
            "",
            *(f"* `{each}`" for each in table.alone),
            "",
        ]
    )
