"""The rules that every v3 call obeys: envelopes, lists, intents, spec versions, errors."""

from __future__ import annotations

import re
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from urllib.parse import unquote

import attrs
from flask import Flask, Response, g, jsonify, request

from prism_lab._lazily import Lazily
from prism_lab._model import Intent, Task, World, new_id

if TYPE_CHECKING:
    from prism_lab._tasks import TaskRunner, Work

Json = dict[str, Any]
Handler = Callable[..., Any]
T = TypeVar("T")
BASE = "/api/nutanix/v3"
VERSION = "3.1"
_DEFAULT_LENGTH = 20
_MAX_LENGTH = 500
_COMPARISON = re.compile(r"\(?([A-Za-z_.]+)==([^;,()]*)\)?")


class V3Error(Exception):
    """An error answer in the v3 envelope."""

    def __init__(self, status: int, reason: str, message: str, kind: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.kind = kind


def invalid(message: str) -> V3Error:
    """Return the 422 for a body that does not fit the schema."""
    return V3Error(422, "INVALID_REQUEST", message)


def not_found(kind: str, ext_id: str) -> V3Error:
    """Return the 404 for an entity that is not there."""
    return V3Error(404, "ENTITY_NOT_FOUND", f"{kind} {ext_id} does not exist", kind)


@attrs.frozen
class Kind(Generic[T]):
    """A kind of entity that can be looked at: where it is kept, and how it is shown."""

    name: str
    plural: str
    shelf: Callable[[], Mapping[str, T]]
    show: Callable[[T], Json]


@attrs.define
class V3Api:
    """Registers v3 routes of one Flask app."""

    app: Flask
    world: World
    tasks: TaskRunner
    _lock: threading.Lock = attrs.field(factory=threading.Lock)

    def route(self, method: str, rule: str) -> Callable[[Handler], Handler]:
        """Register one call below the base path."""

        def register(handler: Handler) -> Handler:
            self.app.add_url_rule(
                f"{BASE}/{rule}", f"{method} v3 {rule}", handler, methods=[method]
            )
            return handler

        return register

    def reads(self, kind: Kind[Any]) -> None:
        """Register GET and list of a kind."""

        @self.route("GET", f"{kind.plural}/<ext_id>")
        def get(ext_id: str) -> Response:
            with self.world.lock:
                entity = kind.shelf().get(ext_id)
                if entity is not None:
                    return jsonify(kind.show(entity))
            return jsonify(self._show_intent(kind.name, ext_id))

        @self.route("POST", f"{kind.plural}/list")
        def list_all() -> Response:
            with self.world.lock:
                shown = Lazily(list(kind.shelf().values()), kind.show)
                return jsonify(_page(kind.name, shown))

    def _show_intent(self, kind: str, ext_id: str) -> Json:
        """Show what was asked for and is not there yet, or never came to be."""
        intent = self.world.intents.get(ext_id)
        if intent is None or intent.kind != kind or intent.task.status == "SUCCEEDED":
            raise not_found(kind, ext_id)
        status: Json = {
            "state": "ERROR" if intent.task.error else "PENDING",
            "execution_context": {"task_uuid": intent.task.uuid},
        }
        if intent.task.error:
            status["message_list"] = [message("INTERNAL_ERROR", intent.task.error)]
        return {**_accepted_head(kind, ext_id), "spec": intent.spec, "status": status}

    def create(
        self, kind: str, check: Callable[[Json], Any], work: Callable[[str, Any, Task], None]
    ) -> tuple[Response, int]:
        """Start a create; the same metadata.uuid gets the same answer again.

        `check` turns the spec into what `work` needs and refuses what is wrong with it.
        """
        given = body()
        ext_id = _wanted_id(kind, given)
        with self._lock:
            intent = self.world.intents.get(ext_id)
            if intent is None:
                wanted = check(spec_of(given))
                task = self.start(f"create_{kind}", lambda task: work(ext_id, wanted, task))
                intent = Intent(kind, spec_of(given), task)
                self.world.intents[ext_id] = intent
        return jsonify(
            {
                **_accepted_head(kind, ext_id),
                "spec": intent.spec,
                "status": _pending("PENDING", intent.task),
            }
        ), 202

    def change(
        self, kind: str, ext_id: str, operation: str, work: Work, state: str = "PENDING"
    ) -> tuple[Response, int]:
        """Start an update or a delete."""
        task = self.start(f"{operation}_{kind}", work)
        answer = {**_accepted_head(kind, ext_id), "status": _pending(state, task)}
        return jsonify(answer), 202

    def start(self, operation: str, work: Work) -> Task:
        """Start the task of a write, with the fault that was ordered for this request."""
        fault = g.get("fault")
        failing = fault if fault is not None and fault.kind == "fail_task" else None
        return self.tasks.start(operation, work, failing)


def _pending(state: str, task: Task) -> Json:
    return {"state": state, "execution_context": {"task_uuid": task.uuid}}


def _accepted_head(kind: str, ext_id: str) -> Json:
    metadata = {"kind": kind, "uuid": ext_id, "spec_version": 0}
    return {"api_version": VERSION, "metadata": metadata}


def _wanted_id(kind: str, given: Json) -> str:
    metadata = given.get("metadata")
    if not isinstance(metadata, dict) or metadata.get("kind") != kind:
        raise invalid(f"metadata.kind must be {kind}")
    wanted = metadata.get("uuid")
    if wanted is None:
        return new_id()
    try:
        return str(uuid.UUID(wanted))
    except (ValueError, AttributeError, TypeError) as exc:
        raise invalid(f"metadata.uuid: {wanted!r} is not a UUID") from exc


def body() -> Json:
    """Return the request's JSON object."""
    given = request.get_json(force=True, silent=True)
    if not isinstance(given, dict):
        raise invalid("the body must be a JSON object")
    return given


def spec_of(given: Json) -> Json:
    """Return the spec of a body, which must name the entity."""
    spec = given.get("spec")
    if not isinstance(spec, dict) or not isinstance(spec.get("resources"), dict):
        raise invalid("spec.resources is required")
    if not spec.get("name"):
        raise invalid("spec.name is required")
    return spec


def check_version(given: Json, version: int) -> None:
    """Refuse an update that was not made from the current state."""
    metadata = given.get("metadata")
    if not isinstance(metadata, dict) or metadata.get("spec_version") != version:
        raise V3Error(409, "CONCURRENT_EDIT", "Edit conflict: please retry change.")


def reference(kind: str, ext_id: str, name: str = "") -> Json:
    """Build a reference to another entity."""
    named = {"name": name} if name else {}
    return {"kind": kind, "uuid": ext_id, **named}


def integer(given: Mapping[str, Any], field: str, default: int | None) -> int | None:
    """Return a number of a body; a string or an explicit null is refused."""
    if field not in given:
        return default
    value = given[field]
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise invalid(f"{field} must be a number, not {value!r}")
    return value


def _page(kind: str, shown: Sequence[Json]) -> Json:
    given = body()
    if given.get("kind", kind) != kind:
        raise invalid(f"kind must be {kind}")
    offset = integer(given, "offset", 0) or 0
    length = integer(given, "length", _DEFAULT_LENGTH) or _DEFAULT_LENGTH
    if length > _MAX_LENGTH:
        raise invalid(f"length must be at most {_MAX_LENGTH}")
    chosen = _filtered(shown, given.get("filter") or "")
    if field := given.get("sort_attribute"):
        descending = given.get("sort_order") == "DESCENDING"
        chosen = sorted(chosen, key=lambda e: str(_attributes(e).get(field)), reverse=descending)
    page = list(chosen[offset : offset + length])
    return {
        "api_version": VERSION,
        "entities": page,
        "metadata": {
            "kind": kind,
            "total_matches": len(chosen),
            "offset": offset,
            "length": len(page),
        },
    }


def _filtered(shown: Sequence[Json], text: str) -> Sequence[Json]:
    """Understand `attribute==value;attribute==value`: all of them."""
    chosen = shown
    for part in filter(None, text.split(";")):
        comparison = _COMPARISON.fullmatch(part)
        if comparison is None:
            raise invalid(f"the filter {part!r} is not understood")
        field, value = comparison[1], unquote(comparison[2])
        chosen = [entity for entity in chosen if str(_attributes(entity).get(field)) == value]
    return chosen


def _attributes(entity: Json) -> Json:
    """What an entity can be filtered and sorted by."""
    metadata, status = entity.get("metadata") or entity, entity.get("status")
    if not isinstance(status, dict):
        return {**metadata, "status": status}
    name = status.get("name")
    resources = status.get("resources") or {}
    return {"uuid": metadata["uuid"], "name": name, f"{metadata['kind']}_name": name} | {
        key: value for key, value in resources.items() if isinstance(value, str)
    }


def message(reason: str, text: str) -> Json:
    """Build one entry of a message_list."""
    return {"message": text, "reason": reason, "details": {}}


def error_answer(status: int, reason: str, text: str, kind: str = "") -> tuple[Response, int]:
    """Build an error in the v3 envelope."""
    answer = {
        "api_version": VERSION,
        "code": status,
        "kind": kind,
        "state": "ERROR",
        "message_list": [message(reason, text)],
    }
    return jsonify(answer), status


def install(app: Flask) -> None:
    """Answer errors, and calls that are not served here, in the v3 envelope."""

    @app.errorhandler(V3Error)
    def problem(problem: V3Error) -> tuple[Response, int]:
        return error_answer(problem.status, problem.reason, str(problem), problem.kind)

    @app.route(f"{BASE}/<path:rest>", methods=["GET", "POST", "PUT", "DELETE"])
    def unknown_v3(rest: str) -> tuple[Response, int]:
        return error_answer(404, "URL_NOT_FOUND", f"/{rest} is not served here")
