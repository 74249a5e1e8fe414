"""Images of v3, with the upload that v4 does not offer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flask import Response, jsonify, request, send_file

from prism_lab._v3_api import VERSION, Json, Kind, V3Api, V3Error, invalid, not_found, reference
from prism_lab.errors import LabError

if TYPE_CHECKING:
    from pathlib import Path

    from prism_lab._images import Images
    from prism_lab._model import Image, Task, World


def register(api: V3Api, images: Images) -> None:
    """Add the image calls."""
    world = api.world
    api.reads(Kind("image", "images", lambda: world.images, lambda image: _show(world, image)))
    _register_writes(api, images)
    _register_files(api, images)


def _register_writes(api: V3Api, images: Images) -> None:
    world = api.world

    @api.route("POST", "images")
    def create_image() -> tuple[Response, int]:
        return api.create("image", _check, make)

    def make(ext_id: str, spec: Json, task: Task) -> None:
        kind = spec["resources"]["image_type"]
        images.create(spec["name"], kind, spec.get("description") or "", ext_id)
        task.affected.append(("image", ext_id))

    @api.route("DELETE", "images/<image_id>")
    def delete_image(image_id: str) -> tuple[Response, int]:
        image = _find(world, image_id)

        def work(task: Task) -> None:
            images.delete(image)
            task.affected.append(("image", image_id))

        return api.change("image", image_id, "delete", work, "DELETE_PENDING")


def _register_files(api: V3Api, images: Images) -> None:
    world = api.world

    @api.route("PUT", "images/<image_id>/file")
    def upload(image_id: str) -> Response:
        image = _find(world, image_id)
        kind = request.headers.get("X-Nutanix-Checksum-Type")
        value = request.headers.get("X-Nutanix-Checksum-Bytes")
        try:
            images.fill(image, request.stream, (kind, value) if kind and value else None)
        except LabError as exc:
            raise invalid(str(exc)) from exc
        return jsonify({})

    @api.route("GET", "images/<image_id>/file")
    def download(image_id: str) -> Response:
        image = _find(world, image_id)
        if image.state != "COMPLETE":
            raise V3Error(404, "ENTITY_NOT_FOUND", f"image {image_id} has no content", "image")
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


def _check(spec: Json) -> Json:
    if spec["resources"].get("image_type") not in {"DISK_IMAGE", "ISO_IMAGE"}:
        raise invalid("spec.resources.image_type is required")
    return spec


def _find(world: World, ext_id: str) -> Image:
    with world.lock:
        image = world.images.get(ext_id)
    if image is None:
        raise not_found("image", ext_id)
    return image


def _show(world: World, image: Image) -> Json:
    spec = {
        "name": image.name,
        "description": image.description,
        "resources": {"image_type": image.kind},
    }
    return {
        "api_version": VERSION,
        "metadata": {"kind": "image", "uuid": image.ext_id, "spec_version": image.version},
        "spec": spec,
        "status": {
            "state": "COMPLETE",
            "name": image.name,
            "resources": {
                "image_type": image.kind,
                "size_bytes": image.size,
                "current_cluster_reference_list": [reference("cluster", world.ext_id)],
            },
        },
    }
