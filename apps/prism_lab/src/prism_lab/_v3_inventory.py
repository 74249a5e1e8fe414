"""Clusters, subnets, projects, policies, tasks and reserved ids of v3."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from flask import Response, jsonify

from prism_lab._api import stamp
from prism_lab._model import Named, new_id
from prism_lab._v3_api import VERSION, Json, Kind, V3Api, body, integer, invalid, reference

if TYPE_CHECKING:
    from prism_lab._model import Task, World

_POLL_PAUSE = 0.01
_LONGEST_POLL = 30
_MOST_IDS = 1000


def register(api: V3Api, *, central: bool) -> None:
    """Add the calls; a Prism Central lists itself among the clusters, and knows policies."""
    world = api.world

    def clusters() -> dict[str, Json]:
        shown = {world.ext_id: _show_cluster(world)}
        return {world.central_ext_id: _show_central(world), **shown} if central else shown

    api.reads(Kind("cluster", "clusters", clusters, lambda shown: shown))
    api.reads(
        Kind("subnet", "subnets", lambda: world.subnets, lambda subnet: _show_subnet(world, subnet))
    )
    if central:
        project = Named("default")
        api.reads(Kind("project", "projects", lambda: {project.ext_id: project}, _show_project))
        api.reads(Kind("protection_rule", "protection_rules", lambda: world.policies, _show_policy))
    api.reads(Kind("task", "tasks", lambda: world.tasks, lambda task: _show_task(world, task)))
    _register_poll(api)
    _register_ids(api)


def _register_poll(api: V3Api) -> None:
    @api.route("POST", "tasks/poll")
    def poll() -> Response:
        """Answer when one of the tasks has ended, or the caller's time is over."""
        given = body()
        wanted = given.get("task_uuid_list")
        seconds = integer(given, "poll_timeout_seconds", None)
        if not isinstance(wanted, list) or seconds is None:
            raise invalid("task_uuid_list and poll_timeout_seconds are required")
        deadline = time.monotonic() + min(seconds, _LONGEST_POLL)
        while True:
            known = [task for uuid in wanted if (task := api.world.tasks.get(uuid))]
            ended = [task for task in known if task.finished]
            if ended or not known or time.monotonic() >= deadline:
                break
            time.sleep(_POLL_PAUSE)
        entities = [_show_task(api.world, task) for task in ended]
        return jsonify({"api_version": VERSION, "entities": entities})


def _register_ids(api: V3Api) -> None:
    @api.route("POST", "idempotence_identifiers")
    def reserve() -> tuple[Response, int]:
        given = body()
        count = integer(given, "count", None)
        if not count or count > _MOST_IDS:
            raise invalid(f"count must be from 1 to {_MOST_IDS}")
        minutes = integer(given, "valid_duration_in_minutes", 60) or 60
        return jsonify(
            {
                "client_identifier": given.get("client_identifier") or new_id(),
                "count": count,
                "expiration_time": time.strftime(
                    "%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 60 * minutes)
                ),
                "uuid_list": [new_id() for _ in range(count)],
            }
        ), 201


def _entity(kind: str, ext_id: str, name: str, resources: Json, **more: Json) -> Json:
    return {
        "metadata": {"kind": kind, "uuid": ext_id, "spec_version": 0, "categories": {}},
        "spec": {"name": name, "resources": resources},
        "status": {"state": "COMPLETE", "name": name, "resources": resources, **more},
    }


def _show_cluster(world: World) -> Json:
    network = {"external_ip": world.addresses.pe, "external_subnet": f"{world.addresses.pe}/24"}
    if world.settings.data_services:
        network["external_data_services_ip"] = world.addresses.data_services
    return _cluster(world.ext_id, world.name, world.settings.aos_version, "AOS", network)


def _show_central(world: World) -> Json:
    network = {"external_ip": world.addresses.pc}
    version = world.settings.pc_version
    return _cluster(world.central_ext_id, "lab-pc", version, "PRISM_CENTRAL", network)


def _cluster(ext_id: str, name: str, version: str, service: str, network: Json) -> Json:
    build = {"version": version, "full_version": f"lab-{version}"}
    config = {"build": build, "service_list": [service], "timezone": "UTC"}
    return _entity("cluster", ext_id, name, {"config": config, "network": network})


def _show_subnet(world: World, subnet: Named) -> Json:
    shown = _entity("subnet", subnet.ext_id, subnet.name, {"subnet_type": "VLAN", "vlan_id": 0})
    owner = reference("cluster", world.ext_id, world.name)
    shown["spec"]["cluster_reference"] = shown["status"]["cluster_reference"] = owner
    return shown


def _show_project(project: Named) -> Json:
    return _entity("project", project.ext_id, project.name, {"is_default": True})


def _show_policy(policy: Named) -> Json:
    category = {"type": "CATEGORIES_MATCH_ANY", "kind_list": ["vm"], "params": {}}
    resources = {"category_filter": category, "start_time": "00h:00m"}
    return _entity("protection_rule", policy.ext_id, policy.name, resources)


def _show_task(world: World, task: Task) -> Json:
    shown = {
        "api_version": VERSION,
        "uuid": task.uuid,
        "status": "ABORTED" if task.status == "CANCELED" else task.status,
        "percentage_complete": 100 if task.finished else 0,
        "operation_type": task.operation,
        "cluster_reference": reference("cluster", world.ext_id),
        "creation_time": stamp(task.created),
        "entity_reference_list": [reference(kind, ext_id) for kind, ext_id in task.affected],
        "subtask_reference_list": [],
        "progress_message": task.operation,
    }
    if task.started:
        shown["start_time"] = stamp(task.started)
    if task.finished and task.completed:
        shown["completion_time"] = stamp(task.completed)
    if task.error:
        shown |= {"error_code": "INTERNAL_ERROR", "error_detail": task.error}
    return shown
