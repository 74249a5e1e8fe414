"""v3 as far as the product needs it: images with an upload, which v4 does not offer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flask import Flask, Response, jsonify, request, send_file

from prism_lab.errors import LabError

if TYPE_CHECKING:
    from pathlib import Path

    from prism_lab._images import Images
    from prism_lab._model import Image, Task, World
    from prism_lab._tasks import TaskRunner

Json = dict[str, Any]
BASE = "/api/nutanix/v3"


class V3Error(Exception):
    """An error answer in the v3 envelope."""

    def __init__(self, status: int, reason: str, message: str, kind: str = "image") -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.kind = kind


def register(app: Flask, world: World, images: Images, tasks: TaskRunner) -> None:
    """Add the image and task calls."""
    app.register_error_handler(V3Error, _error_answer)
    _register_images(app, world, images, tasks)
    _register_files(app, world, images)

    @app.get(f"{BASE}/tasks/<task_id>")
    def get_task(task_id: str) -> Response:
        task = world.tasks.get(task_id)
        if task is None:
            raise V3Error(404, "ENTITY_NOT_FOUND", f"task {task_id} does not exist", "task")
        return jsonify(_show_task(task))


def _register_images(app: Flask, world: World, images: Images, tasks: TaskRunner) -> None:

    @app.post(f"{BASE}/images")
    def create_image() -> tuple[Response, int]:
        spec = _spec()
        image = images.create(
            spec["name"], spec["resources"]["image_type"], spec.get("description") or ""
        )
        task = tasks.start("create_image", lambda task: _affect(task, image))
        shown = _show(world, image)
        shown["status"] = {
            "state": "PENDING",
            "execution_context": {"task_uuid": task.uuid},
        }
        return jsonify(shown), 202

    @app.get(f"{BASE}/images/<image_id>")
    def get_image(image_id: str) -> Response:
        return jsonify(_show(world, _find(world, image_id)))

    @app.post(f"{BASE}/images/list")
    def list_images() -> Response:
        given = request.get_json(force=True, silent=True) or {}
        offset, length = int(given.get("offset") or 0), int(given.get("length") or 20)
        known = list(world.images.values())
        return jsonify(
            {
                "api_version": "3.1",
                "entities": [_show(world, image) for image in known[offset : offset + length]],
                "metadata": {
                    "kind": "image",
                    "total_matches": len(known),
                    "offset": offset,
                    "length": min(length, len(known)),
                },
            }
        )

    @app.delete(f"{BASE}/images/<image_id>")
    def delete_image(image_id: str) -> tuple[Response, int]:
        image = _find(world, image_id)
        task = tasks.start("delete_image", lambda task: _delete(task, images, image))
        context = {"state": "DELETE_PENDING", "execution_context": {"task_uuid": task.uuid}}
        return jsonify({"api_version": "3.1", "status": context, "metadata": _metadata(image)}), 202


def _register_files(app: Flask, world: World, images: Images) -> None:
    @app.put(f"{BASE}/images/<image_id>/file")
    def upload(image_id: str) -> Response:
        image = _find(world, image_id)
        kind = request.headers.get("X-Nutanix-Checksum-Type")
        value = request.headers.get("X-Nutanix-Checksum-Bytes")
        try:
            images.fill(image, request.stream, (kind, value) if kind and value else None)
        except LabError as exc:
            raise V3Error(422, "INVALID_REQUEST", str(exc)) from exc
        return jsonify({})

    @app.get(f"{BASE}/images/<image_id>/file")
    def download(image_id: str) -> Response:
        image = _find(world, image_id)
        if image.state != "COMPLETE":
            raise V3Error(404, "ENTITY_NOT_FOUND", f"image {image_id} has no content")
        return send_image(image.file)


def send_image(file: Path) -> Response:
    """Send a whole file: a Range header is ignored, as clusters do."""
    return send_file(
        file,
        mimetype="application/octet-stream",
        as_attachment=True,
        download_name=file.name,
        conditional=False,
        etag=False,
    )


def _affect(task: Task, image: Image) -> None:
    task.affected.append(("image", image.ext_id))


def _delete(task: Task, images: Images, image: Image) -> None:
    images.delete(image)
    _affect(task, image)


def _spec() -> Json:
    given = request.get_json(force=True, silent=True)
    spec = given.get("spec") if isinstance(given, dict) else None
    if not isinstance(spec, dict) or not spec.get("name"):
        raise V3Error(422, "INVALID_REQUEST", "spec.name is required")
    if (spec.get("resources") or {}).get("image_type") not in {"DISK_IMAGE", "ISO_IMAGE"}:
        raise V3Error(422, "INVALID_REQUEST", "spec.resources.image_type is required")
    return spec


def _find(world: World, ext_id: str) -> Image:
    with world.lock:
        image = world.images.get(ext_id)
    if image is None:
        raise V3Error(404, "ENTITY_NOT_FOUND", f"image {ext_id} does not exist")
    return image


def _metadata(image: Image) -> Json:
    return {"kind": "image", "uuid": image.ext_id, "spec_version": image.version}


def _show(world: World, image: Image) -> Json:
    spec = {
        "name": image.name,
        "description": image.description,
        "resources": {"image_type": image.kind},
    }
    return {
        "api_version": "3.1",
        "metadata": _metadata(image),
        "spec": spec,
        "status": {
            "state": "COMPLETE",
            "name": image.name,
            "resources": {
                "image_type": image.kind,
                "size_bytes": image.size,
                "current_cluster_reference_list": [{"kind": "cluster", "uuid": world.ext_id}],
            },
        },
    }


def _show_task(task: Task) -> Json:
    return {
        "api_version": "3.1",
        "uuid": task.uuid,
        "status": "ABORTED" if task.status == "CANCELED" else task.status,
        "percentage_complete": 100 if task.finished else 0,
        "operation_type": task.operation,
        "entity_reference_list": [{"kind": kind, "uuid": ext_id} for kind, ext_id in task.affected],
        "progress_message": task.operation,
        "error_detail": task.error or "",
    }


def _error_answer(problem: V3Error) -> tuple[Response, int]:
    message = {"message": str(problem), "reason": problem.reason, "details": {}}
    answer = {
        "api_version": "3.1",
        "code": problem.status,
        "kind": problem.kind,
        "state": "ERROR",
        "message_list": [message],
    }
    return jsonify(answer), problem.status
