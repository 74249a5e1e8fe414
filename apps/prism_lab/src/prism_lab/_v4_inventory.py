"""Clusters, containers, subnets, categories, policies and tasks of v4."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flask import request

from prism_lab._api import (
    Answer,
    ApiError,
    Entity,
    InvalidRequest,
    Json,
    Listing,
    Result,
    V4Api,
    app_message,
    ip,
    not_found,
    obj,
    pairs,
    stamp,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from prism_lab._model import Named, Task, World
    from prism_lab._tasks import TaskRunner

CLUSTER = "clustermgmt.v4.config"
PRISM = "prism.v4.config"


def register(api: V4Api) -> None:
    """Add the calls of Prism Central."""
    _register_clusters(api)
    _register_lists(api)
    _register_tasks(api)
    _register_cancel(api, api.tasks)


def _register_clusters(api: V4Api) -> None:
    world = api.world

    @api.get("clustermgmt", "config/clusters", f"{CLUSTER}.ListClustersApiResponse")
    def list_clusters() -> Result:
        return Listing([_show_central(world), _show_cluster(world)])

    @api.get("clustermgmt", "config/clusters/<cluster_id>", f"{CLUSTER}.GetClusterApiResponse")
    def get_cluster(cluster_id: str) -> Result:
        known = {world.ext_id: _show_cluster, world.central_ext_id: _show_central}
        if cluster_id not in known:
            raise not_found("Cluster", cluster_id)
        return Entity(known[cluster_id](world), 1)

    _register_gpus(api)

    @api.get(
        "clustermgmt", "config/storage-containers", f"{CLUSTER}.ListStorageContainersApiResponse"
    )
    def list_containers() -> Result:
        return Listing(
            [
                obj(
                    f"{CLUSTER}.StorageContainer",
                    extId=container.ext_id,
                    containerExtId=container.ext_id,
                    name=container.name,
                    clusterExtId=world.ext_id,
                    clusterName=world.name,
                )
                for container in world.containers.values()
            ]
        )

    @api.get(
        "clustermgmt",
        "stats/storage-containers/<container_id>",
        "clustermgmt.v4.stats.GetStorageContainerStatsApiResponse",
    )
    def get_container_stats(container_id: str) -> Result:
        _named(world.containers, "Storage container", container_id)
        times = [request.args.get(name) for name in ("$startTime", "$endTime")]
        if not all(times):
            raise InvalidRequest("$startTime", "statistics need a beginning and an end")
        point = obj(
            "common.v1.stats.TimeIntValuePair",
            value=world.settings.free_bytes,
            timestamp=times[1],
        )
        kind = "clustermgmt.v4.stats.StorageContainerStats"
        return Entity(obj(kind, extId=container_id, storageFreeBytes=[point]), 1)

    @api.get("prism", "config/domain-managers", f"{PRISM}.ListDomainManagerApiResponse")
    def list_managers() -> Result:
        version = obj("clustermgmt.v4.config.BuildInfo", version=world.settings.pc_version)
        config = obj(f"{PRISM}.DomainManagerClusterConfig", name="lab-pc", buildInfo=version)
        return Listing([obj(f"{PRISM}.DomainManager", extId=world.central_ext_id, config=config)])


def _register_gpus(api: V4Api) -> None:
    settings = api.world.settings
    for kind, devices in (("Physical", settings.gpus), ("Virtual", settings.virtual_gpus)):

        @api.get(
            "clustermgmt",
            f"config/clusters/<cluster_id>/{kind.lower()}-gpu-profiles",
            f"{CLUSTER}.List{kind}GpuProfilesApiResponse",
        )
        def list_profiles(
            cluster_id: str, kind: str = kind, devices: tuple[int, ...] = devices
        ) -> Result:
            if cluster_id != api.world.ext_id:
                raise not_found("Cluster", cluster_id)
            return Listing([_show_gpu(kind, device) for device in devices])


def _show_gpu(kind: str, device: int) -> Json:
    config = obj(f"{CLUSTER}.{kind}GpuConfig", deviceId=device, deviceName=f"GPU {device}")
    return obj(f"{CLUSTER}.{kind}GpuProfile", **{f"{kind.lower()}GpuConfig": config})


def _register_lists(api: V4Api) -> None:
    world = api.world

    @api.get("networking", "config/subnets", "networking.v4.config.ListSubnetsApiResponse")
    def list_subnets() -> Result:
        return Listing([_show_subnet(world, subnet) for subnet in world.subnets.values()])

    @api.get(
        "networking", "config/subnets/<subnet_id>", "networking.v4.config.GetSubnetApiResponse"
    )
    def get_subnet(subnet_id: str) -> Result:
        return Entity(_show_subnet(world, _named(world.subnets, "Subnet", subnet_id)), 1)

    @api.get("prism", "config/categories", f"{PRISM}.ListCategoriesApiResponse")
    def list_categories() -> Result:
        return Listing([_show_category(category) for category in world.categories.values()])

    @api.get("prism", "config/categories/<category_id>", f"{PRISM}.GetCategoryApiResponse")
    def get_category(category_id: str) -> Result:
        return Entity(_show_category(_named(world.categories, "Category", category_id)), 1)

    @api.get(
        "datapolicies",
        "config/protection-policies",
        "datapolicies.v4.config.ListProtectionPoliciesApiResponse",
    )
    def list_policies() -> Result:
        kind = "datapolicies.v4.config.ProtectionPolicy"
        return Listing(
            [obj(kind, extId=policy.ext_id, name=policy.name) for policy in world.policies.values()]
        )

    @api.get(
        "dataprotection",
        "config/protected-resources/<ext_id>",
        "dataprotection.v4.config.GetProtectedResourceApiResponse",
    )
    def get_protected_resource(ext_id: str) -> Result:
        vm = world.vms.get(ext_id)
        if vm is None or vm.protection != "RULE_PROTECTED":
            raise not_found("Protected resource", ext_id)
        state = obj(
            "dataprotection.v4.config.ReplicationState",
            protectionPolicyExtId=vm.policy,
            recoveryPointObjectiveSeconds=3600,
            replicationStatus="IN_SYNC",
        )
        kind = "dataprotection.v4.config.ProtectedResource"
        return Entity(obj(kind, extId=ext_id, entityExtId=ext_id, replicationStates=[state]), 1)


def _register_tasks(api: V4Api) -> None:
    world = api.world

    @api.get("prism", "config/tasks", f"{PRISM}.ListTasksApiResponse")
    def list_tasks() -> Result:
        with world.lock:
            known = list(world.tasks.values())
        return Listing([_show_task(world, task) for task in known])

    @api.get("prism", "config/tasks/<task_id>", f"{PRISM}.GetTaskApiResponse")
    def get_task(task_id: str) -> Result:
        with world.lock:
            task = world.tasks.get(task_id.rpartition(":")[2])
        if task is None or task.ext_id != task_id:
            raise not_found("Task", task_id)
        return Entity(_show_task(world, task), 1)


def _register_cancel(api: V4Api, tasks: TaskRunner) -> None:
    @api.action("prism", "config/tasks/<task_id>/$actions/cancel", f"{PRISM}.CancelTaskApiResponse")
    def cancel_task(task_id: str) -> Result:
        task = api.world.tasks.get(task_id.rpartition(":")[2])
        if task is None:
            raise not_found("Task", task_id)
        if not tasks.cancel(task):
            raise ApiError(409, f"task {task_id} is {task.status}: too late", group="TASK_STARTED")
        return Answer(app_message(f"task {task_id} is canceled", code=0, group="NONE"))


def _named(known: Mapping[str, Named], kind: str, ext_id: str) -> Named:
    if ext_id not in known:
        raise not_found(kind, ext_id)
    return known[ext_id]


def _show_cluster(world: World) -> Json:
    addresses = {"externalAddress": ip(world.addresses.pe)}
    if world.settings.data_services:
        addresses["externalDataServiceIp"] = ip(world.addresses.data_services)
    node = obj(f"{CLUSTER}.NodeListItemReference", controllerVmIp=ip(world.addresses.cvm))
    return obj(
        f"{CLUSTER}.Cluster",
        extId=world.ext_id,
        name=world.name,
        nodes=obj(f"{CLUSTER}.NodeReference", nodeList=[node], numberOfNodes=1),
        config=_show_config("AOS", world.settings.aos_version, ["AHV"]),
        network=obj(f"{CLUSTER}.ClusterNetworkReference", **addresses),
        vmCount=len(world.vms),
    )


def _show_central(world: World) -> Json:
    """Show Prism Central: it lists itself among the clusters."""
    network = {"externalAddress": ip(world.addresses.pc)}
    return obj(
        f"{CLUSTER}.Cluster",
        extId=world.central_ext_id,
        name="lab-pc",
        config=_show_config("PRISM_CENTRAL", world.settings.pc_version, []),
        network=obj(f"{CLUSTER}.ClusterNetworkReference", **network),
    )


def _show_config(function: str, version: str, hypervisors: list[str]) -> Json:
    return obj(
        f"{CLUSTER}.ClusterConfigReference",
        buildInfo=obj(f"{CLUSTER}.BuildReference", version=version, fullVersion=f"lab-{version}"),
        clusterFunction=[function],
        hypervisorTypes=hypervisors,
        timezone="UTC",
        isAvailable=True,
    )


def _show_subnet(world: World, subnet: Named) -> Json:
    return obj(
        "networking.v4.config.Subnet",
        extId=subnet.ext_id,
        name=subnet.name,
        subnetType="VLAN",
        networkId=0,
        clusterReference=world.ext_id,
    )


def _show_category(category: Named) -> Json:
    return obj(
        f"{PRISM}.Category",
        extId=category.ext_id,
        key=category.name,
        value=category.value,
        type="USER",
    )


def _show_task(world: World, task: Task) -> Json:
    shown = obj(
        f"{PRISM}.Task",
        extId=task.ext_id,
        operation=task.operation,
        operationDescription=task.operation,
        status=task.status,
        progressPercentage=100 if task.finished else 0,
        createdTime=stamp(task.created),
        clusterExtIds=[world.ext_id],
        isCancelable=task.status == "QUEUED",
        isBackgroundTask=False,
        ownedBy=obj(f"{PRISM}.OwnerReference", extId=world.central_ext_id, name="admin"),
        entitiesAffected=[
            obj(f"{PRISM}.EntityReference", extId=ext_id, rel=rel) for rel, ext_id in task.affected
        ],
        completionDetails=pairs(task.details),
    )
    if task.started:
        shown["startedTime"] = stamp(task.started)
    if task.finished and task.completed:
        shown["completedTime"] = stamp(task.completed)
        if task.error:
            shown["errorMessages"] = [app_message(task.error)]
            shown["legacyErrorMessage"] = task.error
    return shown
