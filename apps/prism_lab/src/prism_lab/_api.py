"""The rules that every v4 call obeys: revisions, envelopes, ETags, replays, paging, errors."""

from __future__ import annotations

import base64
import datetime as dt
import json
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs
from flask import Flask, Response, g, jsonify, request

from prism_lab import _odata
from prism_lab._model import Task, World, now

if TYPE_CHECKING:
    from prism_lab._auth import Unauthorized
    from prism_lab._tasks import TaskRunner, Work

log = logging.getLogger(__name__)
Json = dict[str, Any]
NEVER = dt.datetime(2200, 1, 1, tzinfo=dt.UTC)
_CODE_PREFIX = {
    "clustermgmt": "CLU",
    "datapolicies": "DTP",
    "dataprotection": "DP",
    "networking": "NET",
    "prism": "PRI",
    "vmm": "VMM",
    "volumes": "VOL",
}


class ApiError(Exception):
    """An error answer in the v4 envelope."""

    def __init__(
        self, status: int, message: str, *, code: int = 10000, group: str = "INTERNAL_ERROR"
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.group = group


class InvalidRequest(ApiError):
    """400: the request does not fit the schema; the answer names the attribute."""

    def __init__(self, attribute: str, message: str, *, location: str = "Request Body") -> None:
        super().__init__(400, message)
        self.attribute = attribute
        self.location = location


def not_found(kind: str, ext_id: str, *, code: int = 10400) -> ApiError:
    """Return the 404 for an entity that is not there."""
    group = f"{g.namespace.upper()}_ENTITY_NON_EXISTENT_ERROR"
    return ApiError(404, f"{kind} {ext_id} does not exist.", code=code, group=group)


@attrs.frozen
class Entity:
    """One object; its version makes the ETag."""

    data: Json
    version: int


@attrs.frozen
class Listing:
    """Objects to filter, order and page."""

    items: Sequence[Json]


@attrs.frozen
class Accepted:
    """202 with a task."""

    task: Task


@attrs.frozen
class Answer:
    """A synchronous answer that is neither an entity nor a paged list."""

    data: Json | list[Json]
    extra: Mapping[str, int] = attrs.field(factory=dict)


Result = Entity | Listing | Accepted | Answer | Response
Handler = Callable[..., Result]


def obj(object_type: str, **fields: Any) -> Json:  # noqa: ANN401 - JSON values
    """Build an object of an answer: SDKs choose its class by $objectType."""
    return {"$objectType": object_type, "$reserved": {"$fv": f"v4.r{g.revision}"}, **fields}


def ref(object_type: str, ext_id: str) -> Json:
    """Build an object that is only an extId."""
    return obj(object_type, extId=ext_id)


def ip(address: str) -> Json:
    """Build an IPAddress."""
    v4 = obj("common.v1.config.IPv4Address", value=address, prefixLength=32)
    return obj("common.v1.config.IPAddress", ipv4=v4)


def pairs(values: Mapping[str, Any]) -> list[Json]:
    """Build a list of KVPair."""
    return [obj("common.v1.config.KVPair", name=k, value=v) for k, v in values.items()]


def stamp(time: dt.datetime) -> str:
    """Write a time as the API does."""
    return time.isoformat(timespec="microseconds").replace("+00:00", "Z")


def etag(version: int) -> str:
    """Make the ETag of a version: opaque, quoted exactly as it is sent."""
    return base64.b64encode(f"application/json:{version}".encode()).decode()


def check_etag(version: int, *, required: bool = True) -> None:
    """Refuse a write without If-Match (428) or with an old one (412)."""
    given = request.headers.get("If-Match")
    if given is None and required:
        raise ApiError(428, "If-Match is required", group="PRECONDITION_REQUIRED")
    if given is not None and given != etag(version):
        raise ApiError(412, "the entity has changed: ETag mismatch", group="ETAG_MISMATCH")


def body() -> Json:
    """Return the request's JSON object."""
    given = request.get_json(force=True, silent=True)
    if not isinstance(given, dict):
        raise InvalidRequest("", "the body must be a JSON object")
    return given


def future(spec: Json) -> dt.datetime:
    """Return the mandatory expirationTime of a body."""
    text = need(spec, "expirationTime")
    try:
        expires = dt.datetime.fromisoformat(text)
    except (TypeError, ValueError) as exc:
        raise InvalidRequest("expirationTime", f"{text!r} is not a time") from exc
    if expires.tzinfo is None or expires <= now():
        raise InvalidRequest("expirationTime", "the time must have a zone and lie in the future")
    return expires


def need(given: Mapping[str, Any], field: str) -> Any:  # noqa: ANN401 - a JSON value
    """Return a mandatory field of a body."""
    if given.get(field) in (None, "", []):
        raise InvalidRequest(field, f"{field} is required")
    return given[field]


@attrs.define
class V4Api:
    """Registers v4 routes of one Flask app and turns handlers' results into answers."""

    app: Flask
    world: World
    tasks: TaskRunner
    _replays: dict[tuple[str, str, str], Accepted] = attrs.field(factory=dict)
    _replay_lock: threading.Lock = attrs.field(factory=threading.Lock)

    def __attrs_post_init__(self) -> None:
        self.app.register_error_handler(ApiError, _error_answer)

    def get(
        self, namespace: str, rule: str, answer: str, *, since: int = 0
    ) -> Callable[[Handler], Handler]:
        """Register a GET; `answer` is the $objectType of the envelope.

        `since` is the first revision that has the call.
        """
        return self._route("GET", namespace, rule, answer, lambda handler: handler(), since)

    def action(self, namespace: str, rule: str, answer: str) -> Callable[[Handler], Handler]:
        """Register a POST that answers at once."""
        return self._route("POST", namespace, rule, answer, lambda handler: handler())

    def task(
        self, method: str, namespace: str, rule: str, answer: str, *, since: int = 0
    ) -> Callable[[Handler], Handler]:
        """Register a write that answers 202; the same NTNX-Request-Id gets the same task."""
        return self._route(method, namespace, rule, answer, self._once, since)

    def _route(
        self,
        method: str,
        namespace: str,
        rule: str,
        answer: str,
        call: Callable[[Callable[[], Result]], Result],
        since: int = 0,
    ) -> Callable[[Handler], Handler]:
        path = f"/api/{namespace}/v4.<int:revision>/{rule}"

        def register(handler: Handler) -> Handler:
            def view(revision: int, **ids: str) -> Response:
                g.namespace, g.revision, g.answer = namespace, revision, answer
                if not since <= revision <= self.world.settings.revisions.get(namespace, -1):
                    return Response("404 page not found", status=404, content_type="text/plain")
                return self._answer(call(lambda: handler(**ids)))

            self.app.add_url_rule(
                path,
                endpoint=f"{method} {path}",
                view_func=view,
                methods=[method],
                provide_automatic_options=False,
            )
            return handler

        return register

    def _once(self, handler: Callable[[], Result]) -> Result:
        request_id = request.headers.get("NTNX-Request-Id")
        if request_id is None:
            return handler()
        key = (request_id, request.method, request.path)
        with self._replay_lock:
            known = self._replays.get(key)
            if known is not None:
                return known
            result = handler()
            if isinstance(result, Accepted):
                self._replays[key] = result
            return result

    def start(self, operation: str, work: Work) -> Accepted:
        """Start the task of a write, with the fault that was ordered for this request."""
        fault = g.get("fault")
        failing = fault if fault is not None and fault.kind == "fail_task" else None
        return Accepted(self.tasks.start(operation, work, failing))

    def _answer(self, result: Result) -> Response:
        match result:
            case Response():
                return result
            case Accepted(task):
                data = obj("prism.v4.config.TaskReference", extId=task.ext_id)
                return envelope(data, status=202)
            case Entity(data, version):
                response = envelope(data)
                response.headers["ETag"] = etag(version)
                return response
            case Answer(data, extra):
                return envelope(data, extra=extra)
            case Listing(items):
                return _page(items)


def serve_versions(app: Flask, newest: Mapping[str, int]) -> None:
    """Tell the newest revision of a namespace to OPTIONS, with or without a login."""

    def info(namespace: str) -> Response:
        if namespace not in newest:
            return Response("404 page not found", status=404, content_type="text/plain")
        return jsonify({"data": f"v4.{newest[namespace]}"})

    app.add_url_rule(
        "/api/<namespace>/unversioned/info",
        view_func=info,
        methods=["OPTIONS"],
        provide_automatic_options=False,
    )


def envelope(
    data: Json | list[Json],
    *,
    status: int = 200,
    error: bool = False,
    paged: Mapping[str, Any] | None = None,
    extra: Mapping[str, int] | None = None,
) -> Response:
    """Wrap `data`; an empty list is left out altogether, as clusters do."""
    flags = {"hasError": error, "isPaginated": paged is not None, "isTruncated": False}
    metadata = obj(
        "common.v1.response.ApiResponseMetadata",
        flags=[obj("common.v1.config.Flag", name=k, value=v) for k, v in flags.items()],
        **(paged or {"links": [_link("self", request.url)]}),
    )
    if extra:
        metadata["extraInfo"] = pairs(extra)
    whole = obj(g.answer, data=data, metadata=metadata)
    if data == []:
        del whole["data"]
    return Response(json.dumps(whole), status=status, content_type="application/json")


def _link(rel: str, href: str) -> Json:
    return obj("common.v1.response.ApiLink", rel=rel, href=href)


def _page(items: Sequence[Json]) -> Response:
    number = _integer("$page", 0, 0, 1 << 31)
    limit = _integer("$limit", 50, 1, 100)
    try:
        if text := request.args.get("$filter"):
            items = list(filter(_odata.compile_filter(text), items))
        if text := request.args.get("$orderby"):
            items = _odata.order(list(items), text)
    except (_odata.FilterError, TypeError) as exc:
        raise InvalidRequest("$filter", str(exc), location="Query Parameter") from exc
    shown = list(items[number * limit : (number + 1) * limit])
    if text := request.args.get("$select"):
        shown = [_odata.select(item, text) for item in shown]
    last = max(0, -(-len(items) // limit) - 1)
    pages = {"self": number, "first": 0, "prev": number - 1, "next": number + 1, "last": last}
    links = [
        _link(rel, f"{request.base_url}?$page={page}&$limit={limit}")
        for rel, page in pages.items()
        if 0 <= page <= max(last, number if rel == "self" else 0)
    ]
    return envelope(shown, paged={"links": links, "totalAvailableResults": len(items)})


def _integer(name: str, default: int, low: int, high: int) -> int:
    text = request.args.get(name, str(default))
    try:
        value = int(text)
    except ValueError:
        value = low - 1
    if not low <= value <= high:
        raise InvalidRequest(
            name, f"{name} must be from {low} to {high}, not {text}", location="Query Parameter"
        )
    return value


def _error_answer(problem: ApiError) -> Response:
    if isinstance(problem, InvalidRequest):
        error: Any = obj(
            f"{g.namespace}.v4.error.SchemaValidationError",
            timestamp=stamp(now()),
            statusCode=problem.status,
            error="Bad Request",
            path=request.path,
            validationErrorMessages=[
                obj(
                    f"{g.namespace}.v4.error.SchemaValidationErrorMessage",
                    location=problem.location,
                    message=problem.message,
                    attributePath=problem.attribute,
                )
            ],
        )
    else:
        error = [app_message(problem.message, code=problem.code, group=problem.group)]
    data = obj(f"{g.namespace}.v4.error.ErrorResponse", error=error)
    return envelope(data, status=problem.status, error=True)


def app_message(message: str, *, code: int = 10000, group: str = "INTERNAL_ERROR") -> Json:
    """Build the AppMessage of an error answer or of a failed task."""
    return obj(
        f"{g.namespace}.v4.error.AppMessage",
        code=f"{_CODE_PREFIX[g.namespace]}-{code}",
        errorGroup=group,
        message=message,
        severity="ERROR",
        locale="en_US",
        argumentsMap={"reason": message},
    )


def unauthorized(problem: Unauthorized) -> Response:
    """Answer 401 as v4 does."""
    text = json.dumps({"message": str(problem), "status": 401})
    return Response(text, status=401, content_type="application/json")
