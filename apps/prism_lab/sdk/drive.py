"""Drives a lab with the official Nutanix SDK; runs inside an environment that has nothing else.

stdin: one JSON object, what the lab is and what is on it. stdout: one JSON object, the SDK's
versions and one entry a call: its name, whether it did what its name says, and what it said if not.
Each request carries the name of its call in X-Lab-Call, so that the lab's log tells them apart.
"""

from __future__ import annotations

import datetime as dt
import functools
import importlib
import importlib.metadata
import json
import logging
import sys
import tempfile
import time
import traceback
from pathlib import Path

import full_vm

NAMESPACES = (
    "clustermgmt", "datapolicies", "dataprotection", "networking", "prism", "vmm", "volumes",
)  # fmt: skip
TASK_SECONDS = 20.0


class Sdk:
    """The packages of one family: their classes by name, and a client for each."""

    def __init__(self, about, host):
        self.about = about
        self.host = host
        self._clients = {}

    def client(self, namespace):
        if namespace not in self._clients:
            self._clients[namespace] = self.new_client(namespace, self.host)
        return self._clients[namespace]

    def new_client(self, namespace, host, *, login=True):
        package = importlib.import_module(f"ntnx_{namespace}_py_client")
        configuration = package.Configuration()
        configuration.host = host
        configuration.port = self.about["port"]
        if login:
            configuration.username = self.about["user"]
            configuration.password = self.about["password"]
        configuration.verify_ssl = True
        configuration.root_ca_certificate_file = self.about["ca"]
        configuration.backoff_factor = 0.01
        configuration.max_retry_attempts = 2
        configuration.download_directory = tempfile.gettempdir()
        return package.ApiClient(configuration=configuration)

    def api(self, namespace, name, client=None):
        package = importlib.import_module(f"ntnx_{namespace}_py_client")
        return getattr(package, name)(api_client=client or self.client(namespace))

    def model(self, namespace, path, **fields):
        """Make an object of models.<namespace>.<path>, whose last part is a class."""
        module, _, name = path.rpartition(".")
        base = f"ntnx_{namespace}_py_client.models.{module}.{name}"
        return getattr(importlib.import_module(base), name)(**fields)

    def call(self, name, namespace, api, method, *positional, client=None, **keywords):
        """Call the SDK with the call's name in a header of each request."""
        chosen = client or self.client(namespace)
        chosen.add_default_header("X-Lab-Call", name)
        return getattr(self.api(namespace, api, chosen), method)(*positional, **keywords)

    def etag(self, namespace, answer):
        package = importlib.import_module(f"ntnx_{namespace}_py_client")
        return package.ApiClient.get_etag(answer)


class Drive:
    """Every call, in an order in which each finds what it needs."""

    def __init__(self, about):
        self.about = about
        self.sdk = Sdk(about, about["pc"])
        self.calls = []
        self.skipped = []

    def call(self, label, namespace, api, method, *positional, **keywords):
        return self.sdk.call(label, namespace, api, method, *positional, **keywords)

    def check(self, label, run):
        """Run one call and note how it went; its value, or None."""
        try:
            value = run()
        except Exception as exc:  # the judge reads it
            where = traceback.extract_tb(exc.__traceback__)[-1]
            words = f"{type(exc).__name__}: {exc} ({Path(where.filename).name}:{where.lineno})"
            self.calls.append({"call": label, "ok": False, "words": words[:600]})
            return None
        self.calls.append({"call": label, "ok": True, "words": ""})
        return value

    def read(self, label, namespace, api, method, *positional, kind, **keywords):
        """A call whose data must be an object, or a list of objects, of this class."""

        def run():
            answer = self.call(label, namespace, api, method, *positional, **keywords)
            data = answer.data
            for item in data if isinstance(data, list) else [data]:
                if type(item).__name__ not in {kind, kind + "Projection"}:
                    raise AssertionError(f"{type(item).__name__} instead of {kind}: {item}")
            return answer

        return self.check(label, run)

    def write(self, label, namespace, api, method, *positional, rel=None, fails=False, **keywords):
        """A call that starts a task; returns the id of what the task affected."""

        def run():
            answer = self.call(label, namespace, api, method, *positional, **keywords)
            if type(answer.data).__name__ != "TaskReference":
                raise AssertionError(f"no task: {answer.data}")
            task = self.wait(answer.data.ext_id)
            if (task.status == "FAILED") != fails:
                raise AssertionError(f"{task.status}: {task.error_messages}")
            affected = {entity.rel: entity.ext_id for entity in task.entities_affected or []}
            if rel is not None and rel not in affected:
                raise AssertionError(f"the task affected {affected}, no {rel}")
            return affected.get(rel)

        return self.check(label, run)

    def wait(self, ext_id):
        deadline = time.monotonic() + TASK_SECONDS
        while time.monotonic() < deadline:
            answer = self.call("get_task_by_id", "prism", "TasksApi", "get_task_by_id", ext_id)
            if answer.data.status in {"SUCCEEDED", "FAILED", "CANCELED"}:
                return answer.data
            time.sleep(0.02)
        raise AssertionError(f"task {ext_id} does not end")

    def fresh(self, label, namespace, api, method, *positional):
        """Return the ETag of an entity, which a write to it has to name."""
        answer = self.call(f"etag for {label}", namespace, api, method, *positional)
        etag = self.sdk.etag(namespace, answer)
        if not etag:
            raise AssertionError(f"{method} gives no ETag")
        return etag

    # ---- the calls -------------------------------------------------------------------------

    def everything(self):
        self.inventory()
        self.vms()
        point = self.recovery_points()
        if point:
            self.changed_regions(point)
            self.volume_groups(point)
            self.restores(point)
        self.vm_recovery_points()
        self.images()
        self.tasks()

    def inventory(self):
        about = self.about
        self.read(
            "list_clusters",
            "clustermgmt",
            "ClustersApi",
            "list_clusters",
            _page=0,
            _limit=100,
            kind="Cluster",
        )
        self.read(
            "get_cluster_by_id",
            "clustermgmt",
            "ClustersApi",
            "get_cluster_by_id",
            about["cluster"],
            kind="Cluster",
        )
        for kind in ("Physical", "Virtual"):
            method = f"list_{kind.lower()}_gpu_profiles"
            pages = {"_page": 0, "_limit": 100}
            profile, cluster = f"{kind}GpuProfile", about["cluster"]
            self.read(method, "clustermgmt", "ClustersApi", method, cluster, kind=profile, **pages)
        self.read(
            "list_storage_containers",
            "clustermgmt",
            "StorageContainersApi",
            "list_storage_containers",
            _page=0,
            _limit=100,
            kind="StorageContainer",
        )
        self.read(
            "list_subnets",
            "networking",
            "SubnetsApi",
            "list_subnets",
            _page=0,
            _limit=100,
            kind="Subnet",
        )
        self.read(
            "list_categories",
            "prism",
            "CategoriesApi",
            "list_categories",
            _page=0,
            _limit=100,
            kind="Category",
        )
        self.read(
            "get_storage_container_stats",
            "clustermgmt",
            "StorageContainersApi",
            "get_storage_container_stats",
            about["container"],
            dt.datetime.now(dt.UTC) - dt.timedelta(minutes=15),
            dt.datetime.now(dt.UTC),
            _select="storageFreeBytes",
            kind="StorageContainerStats",
        )
        self.read(
            "list_domain_managers",
            "prism",
            "DomainManagerApi",
            "list_domain_managers",
            kind="DomainManager",
        )
        self.read(
            "list_protection_policies",
            "datapolicies",
            "ProtectionPoliciesApi",
            "list_protection_policies",
            _page=0,
            _limit=100,
            kind="ProtectionPolicy",
        )
        self.read(
            "get_protected_resource_by_id",
            "dataprotection",
            "ProtectedResourcesApi",
            "get_protected_resource_by_id",
            about["vm"],
            kind="ProtectedResource",
        )

    def vms(self):
        vm = self.about["vm"]
        self.read("list_vms", "vmm", "VmApi", "list_vms", _page=0, _limit=100, kind="Vm")
        self.read(
            "list_vms by name",
            "vmm",
            "VmApi",
            "list_vms",
            _page=0,
            _limit=100,
            _filter=f"name eq '{self.about['vm_name']}'",
            kind="Vm",
        )
        self.read(
            "list_vms selected",
            "vmm",
            "VmApi",
            "list_vms",
            _orderby="name desc",
            _select="name,extId",
            kind="Vm",
        )
        self.read("get_vm_by_id", "vmm", "VmApi", "get_vm_by_id", vm, kind="Vm")
        self.read("list_disks_by_vm_id", "vmm", "VmApi", "list_disks_by_vm_id", vm, kind="Disk")
        made = self.write(
            "create_vm", "vmm", "VmApi", "create_vm", self.vm_body(), rel="vmm:ahv:config:vm"
        )
        if made is None:
            return
        self.vm_write("power_on_vm", made)
        self.vm_write("power_off_vm", made)
        self.vm_write("create_disk", made, self.blank_disk())
        category = self.call("a category", "prism", "CategoriesApi", "list_categories").data[0]
        reference = self.sdk.model(
            "vmm", "vmm.v4.ahv.config.CategoryReference", ext_id=category.ext_id
        )
        self.vm_write(
            "associate_categories",
            made,
            self.sdk.model(
                "vmm", "vmm.v4.ahv.config.AssociateVmCategoriesParams", categories=[reference]
            ),
        )
        clone = self.vm_write(
            "clone_vm",
            made,
            self.sdk.model("vmm", "vmm.v4.ahv.config.CloneOverrideParams", name="sdk-clone"),
        )
        self.vm_write("delete_vm_by_id", made)
        self.full_vm()
        if clone:
            etag = self.fresh("clean up", "vmm", "VmApi", "get_vm_by_id", clone)
            task = self.call("clean up", "vmm", "VmApi", "delete_vm_by_id", clone, if_match=etag)
            self.wait(task.data.ext_id)

    def vm_write(self, method, vm, *body):
        def run():
            etag = self.fresh(method, "vmm", "VmApi", "get_vm_by_id", vm)
            answer = self.call(method, "vmm", "VmApi", method, vm, *body, if_match=etag)
            task = self.wait(answer.data.ext_id)
            if task.status != "SUCCEEDED":
                raise AssertionError(f"{task.status}: {task.error_messages}")
            return task.entities_affected[0].ext_id

        return self.check(method, run)

    def full_vm(self):
        label = "create_vm with every setting"
        body = full_vm.of_sdk(self.sdk, self.about)
        made = self.write(label, "vmm", "VmApi", "create_vm", body, rel="vmm:ahv:config:vm")
        if made is None:
            return
        answer = self.read(
            "get_vm of every setting", "vmm", "VmApi", "get_vm_by_id", made, kind="Vm"
        )
        if answer is not None:
            self.check("the VM has its parts", lambda: self.has_parts(answer.data))
        self.clean_up("vmm", "VmApi", "vm_by_id", made)

    def has_parts(self, vm):
        self.expect(type(vm.gpus[0]).__name__, "Gpu")
        self.expect(type(vm.serial_ports[0]).__name__, "SerialPort")
        self.expect(vm.nics[0].network_info.trunked_vlans, [10, 20])
        self.expect(vm.nics[0].backing_info.model, "E1000")
        self.expect(vm.hardware_clock_timezone, "Europe/Vienna")
        self.expect(vm.cd_roms[0].disk_address.index, 3)

    def card(self, mac):
        """A network card with this address in the subnet of the lab."""
        model, ahv = self.sdk.model, "vmm.v4.ahv.config"
        return model(
            "vmm",
            f"{ahv}.Nic",
            backing_info=model("vmm", f"{ahv}.EmulatedNic", is_connected=True, mac_address=mac),
            network_info=model(
                "vmm",
                f"{ahv}.NicNetworkInfo",
                nic_type="NORMAL_NIC",
                subnet=model("vmm", f"{ahv}.SubnetReference", ext_id=self.about["subnet"]),
            ),
        )

    def vm_body(self):
        """The VM that our own client makes too: the two requests are compared."""
        model, about = self.sdk.model, self.about
        ahv = "vmm.v4.ahv.config"
        image = model("vmm", f"{ahv}.ImageReference", image_ext_id=about["image"])
        backing = model(
            "vmm", f"{ahv}.VmDisk", data_source=model("vmm", f"{ahv}.DataSource", reference=image)
        )
        disk = model(
            "vmm",
            f"{ahv}.Disk",
            backing_info=backing,
            disk_address=model("vmm", f"{ahv}.DiskAddress", bus_type="SCSI", index=0),
        )
        nic = self.card("50:6b:8d:00:00:01")
        return model(
            "vmm",
            f"{ahv}.Vm",
            name="parity",
            description="made twice",
            cluster=model("vmm", f"{ahv}.ClusterReference", ext_id=about["cluster"]),
            num_sockets=2,
            num_cores_per_socket=1,
            num_threads_per_core=1,
            memory_size_bytes=1 << 30,
            machine_type="Q35",
            boot_config=model("vmm", f"{ahv}.UefiBoot", is_secure_boot_enabled=True),
            disks=[disk],
            nics=[nic],
        )

    def blank_disk(self, **where):
        model, ahv = self.sdk.model, "vmm.v4.ahv.config"
        return model(
            "vmm",
            f"{ahv}.Disk",
            backing_info=model("vmm", f"{ahv}.VmDisk", disk_size_bytes=1 << 20, **where),
            disk_address=model("vmm", f"{ahv}.DiskAddress", bus_type="SCSI", index=5),
        )

    def recovery_points(self):
        model, vm = self.sdk.model, self.about["vm"]
        part = model("dataprotection", "dataprotection.v4.config.VmRecoveryPoint", vm_ext_id=vm)
        self.expires = dt.datetime.fromisoformat(self.about["expires"])
        body = model(
            "dataprotection",
            "dataprotection.v4.config.RecoveryPoint",
            name="parity",
            recovery_point_type="CRASH_CONSISTENT",
            expiration_time=self.expires,
            vm_recovery_points=[part],
        )
        api = "RecoveryPointsApi"
        made = self.write(
            "create_recovery_point",
            "dataprotection",
            api,
            "create_recovery_point",
            body,
            rel="dataprotection:config:recovery-point",
        )
        if made is None:
            return None
        self.application_consistent(vm)
        by_vm = f"name eq 'parity' and vmRecoveryPoints/any(a:a/vmExtId eq '{vm}')"
        self.read(
            "list_recovery_points",
            "dataprotection",
            api,
            "list_recovery_points",
            _page=0,
            _limit=100,
            _filter=by_vm,
            kind="RecoveryPoint",
        )
        point = self.read(
            "get_recovery_point_by_id",
            "dataprotection",
            api,
            "get_recovery_point_by_id",
            made,
            kind="RecoveryPoint",
        )
        part_id = point.data.vm_recovery_points[0].ext_id
        part = self.read(
            "get_vm_recovery_point_by_id",
            "dataprotection",
            api,
            "get_vm_recovery_point_by_id",
            made,
            part_id,
            kind="VmRecoveryPoint",
        )
        later = model(
            "dataprotection",
            "dataprotection.v4.config.ExpirationTimeSpec",
            expiration_time=dt.datetime.fromisoformat(self.about["later"]),
        )
        self.point_write("set_recovery_point_expiration_time", made, later)
        elsewhere = model(
            "dataprotection",
            "dataprotection.v4.config.RecoveryPointReplicationSpec",
            pc_ext_id=self.about["cluster"],
            cluster_ext_id=self.about["cluster"],
        )
        self.point_write("replicate_recovery_point", made, elsewhere, fails=True)
        disks = [d for d in part.data.disk_recovery_points if d.disk_ext_id]
        return {"rp": made, "part": part_id, "disk": disks[0].disk_recovery_point_ext_id}

    def point_write(self, method, point, *body, **more):
        etag = self.check(
            f"etag for {method}",
            lambda: self.fresh(
                method, "dataprotection", "RecoveryPointsApi", "get_recovery_point_by_id", point
            ),
        )
        self.calls.pop()  # looking for the ETag is not a call of its own
        return self.write(
            method,
            "dataprotection",
            "RecoveryPointsApi",
            method,
            point,
            *body,
            if_match=etag,
            **more,
        )

    def application_consistent(self, vm):
        """Another recovery point, for the properties that its body has, and VSS metadata."""
        model = self.sdk.model
        vss = model(
            "dataprotection",
            "dataprotection.v4.common.VssProperties",
            backup_type="COPY_BACKUP",
            should_include_writers=False,
            should_store_vss_metadata=False,
        )
        part = model(
            "dataprotection",
            "dataprotection.v4.config.VmRecoveryPoint",
            vm_ext_id=vm,
            application_consistent_properties=vss,
        )
        body = model(
            "dataprotection",
            "dataprotection.v4.config.RecoveryPoint",
            name="parity",
            recovery_point_type="APPLICATION_CONSISTENT",
            expiration_time=self.expires,
            vm_recovery_points=[part],
        )
        api = "RecoveryPointsApi"
        made = self.write(
            "create_recovery_point, application-consistent",
            "dataprotection",
            api,
            "create_recovery_point",
            body,
            rel="dataprotection:config:recovery-point",
        )
        if made is None:
            return
        point = self.call("a point", "dataprotection", api, "get_recovery_point_by_id", made).data
        part_id = point.vm_recovery_points[0].ext_id
        content = self.about["content"]
        if content == 200:
            spec = model(
                "dataprotection",
                "dataprotection.v4.content.GetVssMetadataClusterDiscoverSpec",
                vm_recovery_point_ext_id=part_id,
            )
            element = self.element("a token", made, "GET_VSS_METADATA", spec)
            self.check(
                "get_vss_metadata_by_vm_recovery_point_id",
                lambda: self.bytes_of(
                    self.call(
                        "get_vss_metadata_by_vm_recovery_point_id",
                        "dataprotection",
                        api,
                        "get_vss_metadata_by_vm_recovery_point_id",
                        made,
                        part_id,
                        client=element,
                    )
                ),
            )
        self.point_write("delete_recovery_point_by_id", made)

    @staticmethod
    def bytes_of(answer):
        path = answer.data["path"] if isinstance(answer.data, dict) else answer.data.get_path()
        content = Path(path).read_bytes()
        Path(path).unlink()
        if not content:
            raise AssertionError("an empty file")
        return content

    def element(self, label, point, operation, spec):
        """Ask for the cluster and its token; return a client for it."""
        body = self.sdk.model(
            "dataprotection",
            "dataprotection.v4.content.ClusterDiscoverSpec",
            operation=operation,
            spec=spec,
        )
        answer = self.call(
            label,
            "dataprotection",
            "RecoveryPointsApi",
            "discover_cluster_for_recovery_point_id",
            point,
            body,
        )
        if type(answer.data).__name__ != "ClusterInfo":
            raise AssertionError(f"no ClusterInfo: {answer.data}")
        client = self.sdk.new_client(
            "dataprotection", answer.data.cluster_ip.ipv4.value, login=False
        )
        client.add_default_header("cookie", f"NTNX_IGW_SESSION={answer.data.jwt_token}")
        return client

    def disk_reference(self, ids, kind="VmDiskRecoveryPointReference", part="vm"):
        return self.sdk.model(
            "dataprotection",
            f"dataprotection.v4.content.{kind}",
            recovery_point_ext_id=ids["rp"],
            disk_recovery_point_ext_id=ids["disk"],
            **{f"{part}_recovery_point_ext_id": ids["part"]},
        )

    def changed_regions(self, point):
        reference = self.about["reference"]
        spec = self.sdk.model(
            "dataprotection",
            "dataprotection.v4.content.ComputeChangedRegionsClusterDiscoverSpec",
            disk_recovery_point=self.disk_reference(point),
            reference_disk_recovery_point=self.disk_reference(reference),
        )
        label = "discover_cluster_for_recovery_point_id"
        element = self.check(
            label, lambda: self.element(label, point["rp"], "COMPUTE_CHANGED_REGIONS", spec)
        )
        if element is None:
            return
        body = self.sdk.model(
            "dataprotection",
            "dataprotection.v4.content.VmRecoveryPointChangedRegionsComputeSpec",
            offset=0,
            reference_recovery_point_ext_id=reference["rp"],
            reference_vm_recovery_point_ext_id=reference["part"],
            reference_disk_recovery_point_ext_id=reference["disk"],
        )
        label = "vm_recovery_point_compute_changed_regions"
        ids = (point["rp"], point["part"], point["disk"])
        if self.about["content"] != 200:
            self.not_served(label, ids, body, element)
            return
        answer = self.read(
            label,
            "dataprotection",
            "RecoveryPointsApi",
            label,
            *ids,
            body,
            client=element,
            kind="ChangedRegion",
        )
        if answer is not None:
            extra = [(pair.name, pair.value) for pair in answer.metadata.extra_info]
            self.check("nextOffset first", lambda: self.expect(extra[0][0], "nextOffset"))
            self.check(
                "changed regions",
                lambda: self.expect(
                    [(r.offset, r.length, r.region_type) for r in answer.data],
                    [(0, 65536, "REGULAR")],
                ),
            )

    @staticmethod
    def expect(found, wanted):
        if found != wanted:
            raise AssertionError(f"{found} instead of {wanted}")

    def not_served(self, label, ids, body, element):
        """404: the cluster has no change tracking; 401: it serves another revision than ours."""

        def run():
            try:
                self.call(
                    label, "dataprotection", "RecoveryPointsApi", label, *ids, body, client=element
                )
            except Exception as exc:
                self.expect(getattr(exc, "status", None), self.about["content"])
            else:
                raise AssertionError("the cluster answers")

        self.check(f"{label}: {self.about['content']}", run)

    def volume_groups(self, point):
        made = self.write(
            "create_volume_group",
            "volumes",
            "VolumeGroupsApi",
            "create_volume_group",
            self.group_body(self.snapshot_disk(point["disk"])),
            rel="volumes:config:volume-group",
        )
        if made is None:
            return
        api, model = "VolumeGroupsApi", self.sdk.model
        self.read(
            "list_volume_groups",
            "volumes",
            api,
            "list_volume_groups",
            _page=0,
            _limit=100,
            _filter="name eq 'parity'",
            kind="VolumeGroup",
        )
        self.read(
            "get_volume_group_by_id",
            "volumes",
            api,
            "get_volume_group_by_id",
            made,
            kind="VolumeGroup",
        )
        self.read(
            "list_volume_disks_by_volume_group_id",
            "volumes",
            api,
            "list_volume_disks_by_volume_group_id",
            made,
            _page=0,
            _limit=100,
            kind="VolumeDisk",
        )
        client = model(
            "volumes",
            "volumes.v4.config.IscsiClient",
            iscsi_initiator_name=self.about["initiator"],
            num_virtual_targets=1,
            enabled_authentications="CHAP",
            client_secret=self.about["secret"],
        )
        client_id = self.group_write(
            "attach_iscsi_client", made, client, rel="volumes:config:iscsi-client"
        )
        initiator = self.about["initiator"]
        self.read(
            "list_iscsi_clients",
            "volumes",
            "IscsiClientsApi",
            "list_iscsi_clients",
            _page=0,
            _limit=100,
            _filter=f"iscsiInitiatorName eq '{initiator}'",
            kind="IscsiClient",
        )
        self.read(
            "list_external_iscsi_attachments_by_volume_group_id",
            "volumes",
            api,
            "list_external_iscsi_attachments_by_volume_group_id",
            made,
            _page=0,
            _limit=100,
            kind="IscsiClientAttachment",
        )
        self.group_write(
            "detach_iscsi_client",
            made,
            model("volumes", "volumes.v4.config.IscsiClientAttachment", ext_id=client_id),
        )
        self.volume_disks(made)
        self.group_snapshots(made)
        self.group_write("delete_volume_group_by_id", made)
        self.blank_group()

    def snapshot_disk(self, disk):
        source = self.sdk.model(
            "volumes",
            "common.v1.config.EntityReference",
            ext_id=disk,
            entity_type="DISK_RECOVERY_POINT",
        )
        return self.sdk.model(
            "volumes",
            "volumes.v4.config.VolumeDisk",
            index=0,
            disk_data_source_reference=source,
        )

    def group_body(self, disk, name="parity"):
        model = self.sdk.model
        features = model(
            "volumes",
            "volumes.v4.config.IscsiFeatures",
            enabled_authentications="CHAP",
            target_secret=self.about["secret"],
        )
        return model(
            "volumes",
            "volumes.v4.config.VolumeGroup",
            name=name,
            cluster_reference=self.about["cluster"],
            sharing_status="NOT_SHARED",
            iscsi_features=features,
            disks=[disk],
        )

    def group_write(self, method, group, *body, rel="volumes:config:volume-group"):
        etag = self.fresh(method, "volumes", "VolumeGroupsApi", "get_volume_group_by_id", group)
        return self.write(
            method, "volumes", "VolumeGroupsApi", method, group, *body, if_match=etag, rel=rel
        )

    def blank_group(self):
        """A group of new disks, and a VM whose disk is cloned from its first."""
        model = self.sdk.model
        source = model(
            "volumes",
            "common.v1.config.EntityReference",
            ext_id=self.about["container"],
            entity_type="STORAGE_CONTAINER",
        )
        blank = model(
            "volumes",
            "volumes.v4.config.VolumeDisk",
            index=0,
            disk_size_bytes=1 << 20,
            disk_data_source_reference=source,
        )
        body = self.group_body(blank, name="parity blank")
        label = "create_volume_group of new disks"
        api = "VolumeGroupsApi"
        made = self.write(
            label, "volumes", api, "create_volume_group", body, rel="volumes:config:volume-group"
        )
        if made is None:
            return
        method = "list_volume_disks_by_volume_group_id"
        answer = self.call("disks of the blank group", "volumes", api, method, made)
        self.vm_of_a_volume_disk(made, answer.data[0].ext_id)
        self.clean_up("volumes", api, "volume_group_by_id", made)

    def vm_of_a_volume_disk(self, group, disk):
        model, config = self.sdk.model, "vmm.v4.ahv.config"
        try:
            reference = model(
                "vmm", f"{config}.VolumeDiskReference", disk_ext_id=disk, volume_group_ext_id=group
            )
        except ModuleNotFoundError:
            self.skipped.append("VolumeDiskReference: not in the v4.0 family")
            return
        container = model(
            "vmm", f"{config}.VmDiskContainerReference", ext_id=self.about["container"]
        )
        backing = model(
            "vmm",
            f"{config}.VmDisk",
            data_source=model("vmm", f"{config}.DataSource", reference=reference),
            storage_container=container,
        )
        address = model("vmm", f"{config}.DiskAddress", bus_type="SATA", index=1)
        category = model("vmm", f"{config}.CategoryReference", ext_id=self.about["category"])
        body = model(
            "vmm",
            f"{config}.Vm",
            name="parity of a volume",
            cluster=model("vmm", f"{config}.ClusterReference", ext_id=self.about["cluster"]),
            num_sockets=1,
            num_cores_per_socket=1,
            num_threads_per_core=1,
            memory_size_bytes=1 << 30,
            boot_config=model("vmm", f"{config}.LegacyBoot", boot_order=["DISK", "CDROM"]),
            bios_uuid=self.about["bios_uuid"],
            categories=[category],
            disks=[
                model("vmm", f"{config}.Disk", disk_address=address, backing_info=backing),
                self.blank_disk(storage_container=container),
            ],
        )
        label = "create_vm of a volume disk"
        made = self.write(label, "vmm", "VmApi", "create_vm", body, rel="vmm:ahv:config:vm")
        if made is not None:
            self.disk_of_a_volume_disk(made, backing)
            self.refit(made)
            self.files_into_a_guest(made, reference)
            self.clean_up("vmm", "VmApi", "vm_by_id", made)

    def files_into_a_guest(self, vm, reference):
        """A request that the lab accepts, and whose task fails: this VM is off."""
        model, config = self.sdk.model, "vmm.v4.ahv.config"
        paths = {"source_path": "/etc/motd", "destination_path": "/etc/motd"}
        try:
            file = model("vmm", f"{config}.TransferFileAttributes", should_overwrite=True, **paths)
        except ModuleNotFoundError:
            self.skipped.append("TransferFileAttributes: since v4.3")
            return
        files = model(
            "vmm",
            f"{config}.TransferFilesFromVolumeDisk",
            volume_disk_reference=reference,
            files_to_transfer=[file],
        )
        login = model("vmm", f"{config}.Credential", username="root", password="of the guest")
        body = model(
            "vmm",
            f"{config}.TransferFilesToGuestSpec",
            transfer_files_spec=files,
            guest_authentication=login,
        )
        label = "transfer_files_to_guest"
        etag = self.fresh(label, "vmm", "VmApi", "get_vm_by_id", vm)

        def run():
            try:
                answer = self.call(label, "vmm", "VmApi", label, vm, body, if_match=etag)
            except Exception as exc:
                if getattr(exc, "status", None) != 404:
                    raise
                self.skipped.append("transfer_files_to_guest: this server has no v4.3")
                return
            self.expect(self.wait(answer.data.ext_id).status, "FAILED")

        self.check(label, run)

    def disk_of_a_volume_disk(self, vm, backing):
        """A disk of a VM goes, and another comes: a restore in place."""
        model, config = self.sdk.model, "vmm.v4.ahv.config"
        old = self.call("a disk", "vmm", "VmApi", "list_disks_by_vm_id", vm).data[0].ext_id
        etag = self.fresh("delete_disk_by_id", "vmm", "VmApi", "get_disk_by_id", vm, old)
        label = "delete_disk_by_id"
        self.write(label, "vmm", "VmApi", label, vm, old, if_match=etag)
        address = model("vmm", f"{config}.DiskAddress", bus_type="SCSI", index=2)
        body = model("vmm", f"{config}.Disk", disk_address=address, backing_info=backing)
        label = "create_disk of a volume disk"
        etag = self.fresh(label, "vmm", "VmApi", "get_vm_by_id", vm)
        self.write(label, "vmm", "VmApi", "create_disk", vm, body, if_match=etag)

    def refit(self, vm):
        """A VM gets another card, loses its category, and is called otherwise."""
        model, config = self.sdk.model, "vmm.v4.ahv.config"
        card = self.card("50:6b:8d:00:00:02")
        self.vm_write("create_nic", vm, card)
        category = model("vmm", f"{config}.CategoryReference", ext_id=self.about["category"])
        kind = f"{config}.DisassociateVmCategoriesParams"
        self.vm_write("disassociate_categories", vm, model("vmm", kind, categories=[category]))
        body = self.call("a VM", "vmm", "VmApi", "get_vm_by_id", vm).data
        nic = body.nics[0].ext_id
        body.name, body.description = "parity refitted", "made twice"
        self.vm_write("update_vm_by_id", vm, body)
        label = "delete_nic_by_id"
        etag = self.fresh(label, "vmm", "VmApi", "get_nic_by_id", vm, nic)
        self.write(label, "vmm", "VmApi", label, vm, nic, if_match=etag)
        for number, disk in enumerate(body.disks):
            label = f"delete_disk_by_id, {number}"
            etag = self.fresh(label, "vmm", "VmApi", "get_disk_by_id", vm, disk.ext_id)
            self.write(label, "vmm", "VmApi", "delete_disk_by_id", vm, disk.ext_id, if_match=etag)

    def clean_up(self, namespace, api, entity, ext_id):
        etag = self.fresh("clean up", namespace, api, f"get_{entity}", ext_id)
        task = self.call("clean up", namespace, api, f"delete_{entity}", ext_id, if_match=etag)
        self.wait(task.data.ext_id)

    def vm_attachments(self, group):
        """A VM gets the disks of the group, which its record names; then they go again."""
        model, api, vm = self.sdk.model, "VolumeGroupsApi", self.about["second"]
        body = model("volumes", "volumes.v4.config.VmAttachment", ext_id=vm)
        for method in ("attach_vm", "detach_vm"):
            etag = self.fresh(method, "volumes", api, "get_volume_group_by_id", group)
            self.write(method, "volumes", api, method, group, body, if_match=etag)
            if method == "attach_vm":
                self.read(
                    "list_vm_attachments",
                    "volumes",
                    api,
                    "list_vm_attachments_by_volume_group_id",
                    group,
                    kind="VmAttachment",
                )
                answer = self.call("a VM with a group", "vmm", "VmApi", "get_vm_by_id", vm)
                backing = {type(disk.backing_info).__name__ for disk in answer.data.disks}
                names_it = "ADSFVolumeGroupReference" in backing
                self.check("the VM names its group", functools.partial(self.expect, names_it, True))

    def volume_disks(self, group):
        blank = self.sdk.model(
            "volumes", "volumes.v4.config.VolumeDisk", index=3, disk_size_bytes=1 << 20
        )
        api = "VolumeGroupsApi"
        disk = self.write(
            "create_volume_disk",
            "volumes",
            api,
            "create_volume_disk",
            group,
            blank,
            rel="volumes:config:volume-group:disk",
        )
        etag = self.fresh(
            "delete_volume_disk_by_id", "volumes", api, "get_volume_disk_by_id", group, disk
        )
        self.write(
            "delete_volume_disk_by_id",
            "volumes",
            api,
            "delete_volume_disk_by_id",
            group,
            disk,
            if_match=etag,
        )

    def group_snapshots(self, group):
        """A recovery point of the group and a VM: changed regions of its disk, and back to it."""
        model = self.sdk.model
        part = model(
            "dataprotection",
            "dataprotection.v4.config.VolumeGroupRecoveryPoint",
            volume_group_ext_id=group,
        )
        body = model(
            "dataprotection",
            "dataprotection.v4.config.RecoveryPoint",
            name="parity group",
            recovery_point_type="CRASH_CONSISTENT",
            expiration_time=self.expires,
            vm_recovery_points=[
                model(
                    "dataprotection",
                    "dataprotection.v4.config.VmRecoveryPoint",
                    vm_ext_id=self.about["vm"],
                )
            ],
            volume_group_recovery_points=[part],
        )
        api = "RecoveryPointsApi"
        made = self.write(
            "create_recovery_point of a volume group",
            "dataprotection",
            api,
            "create_recovery_point",
            body,
            rel="dataprotection:config:recovery-point",
        )
        point = self.call("a point", "dataprotection", api, "get_recovery_point_by_id", made).data
        part = point.volume_group_recovery_points[0]
        ids = {
            "rp": made,
            "part": part.ext_id,
            "disk": part.disk_recovery_points[0].disk_recovery_point_ext_id,
        }
        self.vm_attachments(group)
        if self.about["content"] == 200:
            spec = model(
                "dataprotection",
                "dataprotection.v4.content.ComputeChangedRegionsClusterDiscoverSpec",
                disk_recovery_point=self.disk_reference(
                    ids, "VolumeGroupDiskRecoveryPointReference", "volume_group"
                ),
            )
            element = self.element("a token", made, "COMPUTE_CHANGED_REGIONS", spec)
            wanted = model(
                "dataprotection",
                "dataprotection.v4.content.VolumeGroupRecoveryPointChangedRegionsComputeSpec",
                offset=0,
            )
            label = "volume_group_recovery_point_compute_changed_regions"
            self.read(
                label,
                "dataprotection",
                api,
                label,
                made,
                part.ext_id,
                ids["disk"],
                wanted,
                client=element,
                kind="ChangedRegion",
            )
        self.group_write(
            "revert_volume_group",
            group,
            model(
                "volumes",
                "volumes.v4.config.RevertSpec",
                volume_group_recovery_point_ext_id=part.ext_id,
            ),
        )
        task = self.call("clean up", "dataprotection", api, "delete_recovery_point_by_id", made)
        self.wait(task.data.ext_id)

    def restores(self, point):
        model = self.sdk.model
        override = model(
            "dataprotection",
            "dataprotection.v4.config.VmRecoveryPointRestoreOverride",
            vm_recovery_point_ext_id=point["part"],
            vm_override_spec=model(
                "dataprotection", "dataprotection.v4.config.AhvVmOverrideSpec", name="sdk-restored"
            ),
        )
        spec = model(
            "dataprotection",
            "dataprotection.v4.config.RecoveryPointRestorationSpec",
            cluster_ext_id=self.about["cluster"],
            vm_recovery_point_restore_overrides=[override],
        )
        self.point_write("restore_recovery_point", point["rp"], spec, rel="vmm:ahv:config:vm")
        self.revert()
        self.point_write("delete_recovery_point_by_id", point["rp"])

    def revert(self):
        """A VM of its own goes back: the other one is still to be compared."""
        model, second, api = self.sdk.model, self.about["second"], "RecoveryPointsApi"
        part = model("dataprotection", "dataprotection.v4.config.VmRecoveryPoint", vm_ext_id=second)
        body = model(
            "dataprotection",
            "dataprotection.v4.config.RecoveryPoint",
            name="revert",
            expiration_time=self.expires,
            vm_recovery_points=[part],
        )
        made = self.write(
            "create_recovery_point, least body",
            "dataprotection",
            api,
            "create_recovery_point",
            body,
            rel="dataprotection:config:recovery-point",
        )
        point = self.call("a point", "dataprotection", api, "get_recovery_point_by_id", made).data
        self.vm_write(
            "revert_vm",
            second,
            model(
                "vmm",
                "vmm.v4.ahv.config.RevertParams",
                vm_recovery_point_ext_id=point.vm_recovery_points[0].ext_id,
            ),
        )

    def vm_recovery_points(self):
        """The flat list of VM recovery points came with v4.1."""
        try:
            self.sdk.api("vmm", "VmRecoveryPointsApi")
        except AttributeError:
            self.skipped.append("VmRecoveryPointsApi: not in the v4.0 family")
            return
        model, api = self.sdk.model, "VmRecoveryPointsApi"
        body = model(
            "vmm",
            "vmm.v4.ahv.config.VmRecoveryPoint",
            name="flat",
            vm_ext_id=self.about["vm"],
            expiration_time=self.expires,
        )
        made = self.write(
            "create_vm_recovery_point",
            "vmm",
            api,
            "create_vm_recovery_point",
            body,
            rel="dataprotection:config:vm-recovery-point",
        )
        if made is None:
            return
        self.read(
            "list_vm_recovery_points", "vmm", api, "list_vm_recovery_points", kind="VmRecoveryPoint"
        )
        found = self.read(
            "get_vm_recovery_point_by_ext_id",
            "vmm",
            api,
            "get_vm_recovery_point_by_ext_id",
            made,
            kind="VmRecoveryPoint",
        )
        if found is not None:
            self.check("it carries the VM", lambda: self.expect(type(found.data.vm).__name__, "Vm"))
        override = model("vmm", "vmm.v4.ahv.config.RestoreVmRecoveryPointParams")
        self.write(
            "restore_vm_recovery_point",
            "vmm",
            api,
            "restore_vm_recovery_point",
            made,
            override,
            rel="vmm:ahv:config:vm",
        )
        self.write(
            "delete_vm_recovery_point_by_ext_id",
            "vmm",
            api,
            "delete_vm_recovery_point_by_ext_id",
            made,
        )

    def images(self):
        model = self.sdk.model
        disk = self.call("a disk", "vmm", "VmApi", "list_disks_by_vm_id", self.about["vm"]).data[0]
        source = model("vmm", "vmm.v4.content.VmDiskSource", ext_id=disk.ext_id)
        body = model("vmm", "vmm.v4.content.Image", name="parity", type="DISK_IMAGE", source=source)
        made = self.write(
            "create_image", "vmm", "ImagesApi", "create_image", body, rel="vmm:content:image"
        )
        if made is None:
            return
        url = model(
            "vmm",
            "vmm.v4.content.UrlSource",
            url=self.about["upload_url"],
            should_allow_insecure_url=True,
        )
        checksum = model(
            "vmm", "vmm.v4.content.ImageSha256Checksum", hex_digest=self.about["upload_sha256"]
        )
        body = model(
            "vmm",
            "vmm.v4.content.Image",
            name="fetched",
            type="DISK_IMAGE",
            source=url,
            checksum=checksum,
        )
        self.write(
            "create_image of a url",
            "vmm",
            "ImagesApi",
            "create_image",
            body,
            rel="vmm:content:image",
        )
        self.read(
            "list_images",
            "vmm",
            "ImagesApi",
            "list_images",
            _page=0,
            _limit=100,
            _filter="name eq 'parity'",
            kind="Image",
        )
        found = self.read(
            "get_image_by_id", "vmm", "ImagesApi", "get_image_by_id", made, kind="Image"
        )
        self.check(
            "get_file_by_image_id",
            lambda: self.expect(
                len(
                    self.bytes_of(
                        self.call(
                            "get_file_by_image_id", "vmm", "ImagesApi", "get_file_by_image_id", made
                        )
                    )
                ),
                found.data.size_bytes,
            ),
        )
        etag = self.sdk.etag("vmm", found)
        self.write(
            "delete_image_by_id", "vmm", "ImagesApi", "delete_image_by_id", made, if_match=etag
        )

    def tasks(self):
        self.read("list_tasks", "prism", "TasksApi", "list_tasks", kind="Task")
        task = self.call("list", "prism", "TasksApi", "list_tasks").data[0]
        self.read("get_task_by_id", "prism", "TasksApi", "get_task_by_id", task.ext_id, kind="Task")

        def too_late():
            try:
                self.call("cancel_task", "prism", "TasksApi", "cancel_task", task.ext_id)
            except Exception as exc:
                self.expect(getattr(exc, "status", None), 409)
            else:
                raise AssertionError("a task that has ended was canceled")

        self.check("cancel_task", too_late)


def main():
    logging.disable(logging.CRITICAL)
    about = json.load(sys.stdin)
    drive = Drive(about)
    broken = ""
    try:
        drive.everything()
    except Exception:  # the judge prints it
        broken = traceback.format_exc()
    versions = {name: importlib.metadata.version(f"ntnx-{name}-py-client") for name in NAMESPACES}
    result = {
        "versions": versions, "calls": drive.calls, "skipped": drive.skipped, "broken": broken,
    }  # fmt: skip
    json.dump(result, sys.stdout)


if __name__ == "__main__":
    main()
