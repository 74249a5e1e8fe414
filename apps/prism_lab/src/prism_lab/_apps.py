"""The two web applications: which calls Prism Central serves, and which Prism Element."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flask import Flask, Response, g, request

from prism_lab import (
    _v2,
    _v3_api,
    _v3_images,
    _v3_inventory,
    _v3_snapshots,
    _v3_vms,
    _v3_volumes,
    _v4_dataprotection,
    _v4_inventory,
    _v4_vmm,
    _v4_volumes,
)
from prism_lab._api import V4Api, serve_versions, unauthorized
from prism_lab._auth import PC_COOKIE, PE_COOKIE, Auth, Unauthorized
from prism_lab._server import RequestLog, new_app

if TYPE_CHECKING:
    from prism_lab._images import Images
    from prism_lab._model import World
    from prism_lab._tasks import TaskRunner
    from prism_lab._volume_groups import VolumeGroups
    from prism_lab.faults import Faults

_CONTENT = "/api/dataprotection/v4."
_BEFORE_V4 = ("/api/nutanix/", "/PrismGateway/")  # an API key is documented for v4 only


def prism_central(
    world: World,
    auth: Auth,
    tasks: TaskRunner,
    groups: VolumeGroups,
    images: Images,
    requests: RequestLog,
    faults: Faults,
) -> Flask:
    """Make the application of Prism Central."""
    app = new_app("prism central", requests, faults, auth.expire_jwts, world.settings.latency.call)
    _require_login(app, auth, PC_COOKIE, api_key=True)
    serve_versions(app, world.settings.revisions if world.settings.version_info else {})
    api = V4Api(app, world, tasks)
    _v4_inventory.register(api)
    _v4_vmm.register(api, images)
    _v4_dataprotection.register_config(api, auth, groups)
    _v4_volumes.register(api, groups)
    _serve_v3(app, world, tasks, groups, images, central=True)

    @app.route("/api/<namespace>/v4.<int:revision>/<path:rest>", methods=_METHODS)
    def unknown(namespace: str, revision: int, rest: str) -> Response:
        """Answer 501 to content actions and unknown calls, 404 to revisions not served."""
        served = revision <= world.settings.revisions.get(namespace, -1)
        return Response(status=501 if served or rest.startswith("content/") else 404)

    return app


_METHODS = ["GET", "POST", "PUT", "DELETE", "PATCH"]


def prism_element(
    world: World,
    auth: Auth,
    tasks: TaskRunner,
    groups: VolumeGroups,
    images: Images,
    requests: RequestLog,
    faults: Faults,
) -> Flask:
    """Make the application of Prism Element: no generic v4, but the content calls."""
    app = new_app("prism element", requests, faults, auth.expire_jwts, world.settings.latency.call)
    _require_login(app, auth, PE_COOKIE, api_key=False)
    api = V4Api(app, world, tasks)
    if world.settings.change_tracking:
        known = {"dataprotection": world.settings.content_revision}
        serve_versions(app, known if world.settings.version_info else {})
        _v4_dataprotection.register_content(api)
    v3 = _serve_v3(app, world, tasks, groups, images, central=False)
    _v3_snapshots.register(v3)

    @app.get("/entity_download/<image_id>")
    def entity_download(image_id: str) -> Response:
        file = images.for_token(request.headers.get("Cookie", ""), image_id)
        if file is None:
            raise Unauthorized("the redirect token is not known")
        return _v3_images.send_image(file)

    return app


def _serve_v3(
    app: Flask,
    world: World,
    tasks: TaskRunner,
    groups: VolumeGroups,
    images: Images,
    *,
    central: bool,
) -> _v3_api.V3Api:
    """Add what both kinds of Prism serve beside v4: v3, and the part of v2 it leaves out."""
    _v3_api.install(app)
    api = _v3_api.V3Api(app, world, tasks)
    _v3_inventory.register(api, central=central)
    _v3_vms.register(api, central=central)
    _v3_images.register(api, images)
    _v3_volumes.register(api, groups)
    _v2.register(app, world, tasks, groups, central=central)
    return api


def _unauthorized(problem: Unauthorized) -> Response | tuple[Response, int]:
    if request.path.startswith(_v3_api.BASE):
        return _v3_api.error_answer(401, "AUTHENTICATION_REQUIRED", str(problem))
    return unauthorized(problem)


def _require_login(app: Flask, auth: Auth, cookie: str, *, api_key: bool) -> None:
    app.register_error_handler(Unauthorized, _unauthorized)
    content = cookie == PE_COOKIE  # only a Prism Element serves the content calls

    @app.before_request
    def check() -> Response | None:
        if request.method == "OPTIONS" or request.path.startswith("/entity_download/"):
            return None  # open to all, or checked by the token of the redirect
        if content and request.path.startswith(_CONTENT):
            return _check_content(auth)
        old = request.path.startswith(_BEFORE_V4)
        g.session = auth.check(request, cookie=cookie, api_key=api_key and not old)
        return None

    @app.after_request
    def remember(response: Response) -> Response:
        if session := g.get("session"):
            response.set_cookie(cookie, session, secure=True, httponly=True)
        return response


def _check_content(auth: Auth) -> Response | None:
    """Let only the JWT of discover-cluster pass, as a cookie: a bearer token is refused."""
    if request.headers.get("Authorization", "").startswith("Bearer "):
        return Response(status=403)
    token = request.cookies.get(PE_COOKIE)
    if token is None:
        raise Unauthorized("authentication is required")
    auth.check_jwt(token, request.path)
    return None
