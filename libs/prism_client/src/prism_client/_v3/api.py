"""The v3 calls of one server: reading entities and whole lists, the kinds of write, tasks.

A v3 write answers 202 with the entity's uuid, often with a task; the entity ends COMPLETE or ERROR.
"""

from __future__ import annotations

import itertools
import logging
import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import attrs

from prism_client._fields import text_or_empty
from prism_client._http import Call
from prism_client._listing import ROUNDS, Reading, entries, understood
from prism_client._text import one_line
from prism_client._v3 import wire
from prism_client._waiting import failed, wait_for
from prism_client.errors import (
    ApiError,
    BadAnswer,
    BadRequest,
    Conflict,
    NotFound,
    TaskFailed,
    Timeout,
)
from prism_client.model import Task
from prism_client.unreadable import Unreadables

if TYPE_CHECKING:
    import builtins
    from collections.abc import Callable, Iterator, Mapping

    from prism_client._clock import Clock
    from prism_client._fields import Fields
    from prism_client._http import Answer, Http
    from prism_client._listing import Entry, T

log = logging.getLogger(__name__)

V3 = "/api/nutanix/v3"
V2 = "/api/nutanix/v2.0"
PAGE = 100  # entities of a list at once; a list may give 500, a VM is some kilobytes
_STALE = 3  # tries with a fresh spec_version each
_RESERVED = 24 * 60  # minutes for which a reserved uuid stays ours
_NOT_HERE = frozenset({404, 405, 501})


def segment(uuid_: str) -> str:
    """Return an id fit for a path: an id is data."""
    return quote(uuid_, safe="")


def label(entry: object) -> tuple[str, str]:
    """Return name and id of any entity, "" for each that cannot be read."""
    parts = {
        part: value
        for part in ("metadata", "status", "spec")
        if isinstance(entry, dict) and isinstance(value := entry.get(part), dict)
    }
    names = (text_or_empty(parts.get(part, {}).get("name")) for part in ("status", "spec"))
    return next(filter(None, names), ""), text_or_empty(parts.get("metadata", {}).get("uuid"))


@attrs.frozen
class Api:
    """v3 and v2 of one server, Prism Central or a cluster. deadline: seconds for a task.

    unreadable: takes in what cannot be understood of a list.
    """

    http: Http
    clock: Clock
    deadline: float
    unreadable: Unreadables = attrs.field(factory=Unreadables)
    _reserved: dict[uuid.UUID, str] = attrs.field(factory=dict, init=False, repr=False)
    _unanswered: set[uuid.UUID] = attrs.field(factory=set, init=False, repr=False)
    _made: dict[uuid.UUID, str] = attrs.field(factory=dict, init=False, repr=False)

    # --- reading

    def get(self, path: str, base: str = V3) -> Fields:
        """Return one entity. Raises NotFound."""
        return self.http.send(Call("GET", f"{base}/{path}", repeatable=True)).json()

    def ask(self, path: str, body: Mapping[str, Any]) -> Fields:
        """POST what changes nothing."""
        return self.http.send(Call("POST", f"{V3}/{path}", json=body, repeatable=True)).json()

    def has(self, path: str) -> bool:
        """Say whether an entity is there."""
        try:
            self.get(path)
        except NotFound:
            return False
        return True

    def records(
        self,
        kind: str,
        path: str,
        read: Callable[[Fields], T | None],
        *,
        filter_: str | None = None,
        name: str | None = None,
    ) -> Iterator[T]:
        """Yield the records of PATH/list; what cannot be understood is reported and left out.

        name: the only name that was asked for. An unreadable record of this name is an error.
        """
        found = self.list(path, filter_=filter_)
        return understood(found, kind, read, self.unreadable, name=name)

    def list(self, path: str, *, filter_: str | None = None) -> Iterator[Entry]:
        """Yield every entry of PATH/list, each once; read again while it changes."""
        seen: set[str] = set()
        for _ in range(ROUNDS):
            reading = Reading()
            for entry in itertools.chain.from_iterable(self._pages(path, filter_, reading)):
                if entry.key not in seen:
                    seen.add(entry.key)
                    yield entry
            if reading.is_whole():
                return
            log.info("%s changed while it was listed, reading it again", path)
        raise BadAnswer(
            f"{V3}/{path}/list: {ROUNDS} readings of the list were not whole;"
            " is something creating and deleting all the time?"
        )

    def _pages(
        self, path: str, filter_: str | None, reading: Reading
    ) -> Iterator[builtins.list[Entry]]:
        query = {"kind": path.removesuffix("s"), "length": PAGE}
        query |= {"filter": filter_} if filter_ else {}
        offset = 0
        while True:
            body = self.ask(f"{path}/list", {**query, "offset": offset})
            page = entries(body.array("entities"), label)
            total = body.child("metadata").opt_integer("total_matches")
            reading.add(page, total, body.where)
            yield page
            offset += len(page)
            if not page or reading.is_at_end():
                return

    # --- writing

    def create(
        self, path: str, kind: str, spec: Mapping[str, Any], request_id: uuid.UUID | None
    ) -> str:
        """Create an entity, wait until it is whole, return its uuid.

        The same request again is the same entity, whether its answer came or was lost.
        """
        key = request_id or uuid.uuid4()
        task = None
        if key not in self._made:
            self._made[key], task = self._create(path, kind, spec, key)
        self._until_whole(f"{path}/{segment(self._made[key])}", kind, task)
        return self._made[key]

    def _create(
        self, path: str, kind: str, spec: Mapping[str, Any], key: uuid.UUID
    ) -> tuple[str, str | None]:
        """Ask for an entity, under a uuid that is reserved before; return its uuid and the task."""
        reserved = self._reserve(key)
        metadata = {"kind": kind} | ({} if reserved is None else {"uuid": reserved})
        call = Call(
            "POST",
            f"{V3}/{path}",
            json={"api_version": "3.1", "metadata": metadata, "spec": spec},
            repeatable=reserved is not None,
        )
        try:
            with self.once(None if reserved else key, f"a new {kind}"):
                answer = self.http.send(call)
        except (Conflict, BadRequest):
            if reserved is None or not self.has(f"{path}/{segment(reserved)}"):
                raise
            return reserved, None  # an earlier sending, whose answer was lost
        return answer.json().need("metadata").text("uuid"), _task_of(answer)

    @contextmanager
    def once(self, key: uuid.UUID | None, what: str) -> Iterator[None]:
        """Let a call that would act twice be sent once under a key, if there is one.

        Raises Timeout, sending nothing, when it was sent before and no answer came.
        """
        if key in self._unanswered:
            raise Timeout(
                f"{what} was asked for before, and no answer came: it may still come, so look for"
                " it by its name"
            )
        if key is not None:
            self._unanswered.add(key)
        try:
            yield
        except (ApiError, TaskFailed):
            self._unanswered.discard(key)
            raise
        self._unanswered.discard(key)

    def _reserve(self, key: uuid.UUID) -> str | None:
        """Return the uuid for what is created under a key; None where none can be reserved."""
        if key in self._reserved:
            return self._reserved[key]
        body = {
            "client_identifier": str(key),
            "count": 1,
            "valid_duration_in_minutes": _RESERVED,
        }
        try:
            answer = self.ask("idempotence_identifiers", body)
        except ApiError as exc:
            if exc.status not in _NOT_HERE:
                raise
            log.info("nothing can be reserved, creating without: %s", exc)
            return None
        reserved = answer.texts("uuid_list")
        if len(reserved) != 1:
            raise answer.fault("uuid_list", f"one uuid is expected, not {len(reserved)}")
        self._reserved[key] = reserved[0]
        return reserved[0]

    def _until_whole(self, path: str, kind: str, task: str | None) -> None:
        if task is not None:
            self.wait(task)
        wait_for(lambda: wire.state_as_task(self.get(path), kind), self.clock, self.deadline)

    def update(self, path: str, change: Callable[[dict[str, Any]], bool]) -> None:
        """Let `change` alter the spec of an entity; False leaves it alone. Raises NotFound.

        The spec is read and changed anew when somebody else was faster.
        """
        for left in reversed(range(_STALE)):
            entity = self.get(path)
            spec = dict(entity.need("spec").value)
            if not change(spec):
                return
            body = {
                "api_version": "3.1",
                "metadata": dict(entity.need("metadata").value),
                "spec": spec,
            }
            # Sent again after it took effect, its spec_version is stale, and the change a no-op.
            call = Call("PUT", f"{V3}/{path}", json=body, repeatable=True)
            try:
                answer = self.http.send(call)
            except Conflict:
                if not left:
                    raise
                continue
            self.wait(_task_of(answer))
            return

    def delete(self, path: str) -> bool:
        """Delete an entity; False when it was gone, which a second look has to confirm."""
        try:
            answer = self.http.send(Call("DELETE", f"{V3}/{path}", repeatable=True))
            self.wait(_task_of(answer))
        except (NotFound, TaskFailed) as exc:
            if self.has(path):
                raise
            return isinstance(exc, TaskFailed)
        return True

    def post_v2(self, path: str, body: Mapping[str, Any]) -> Task | None:
        """Do something that only v2 can, once: v2 knows no way to say that it is the same."""
        answer = self.http.send(Call("POST", f"{V2}/{path}", json=body))
        return self.wait(_task_of(answer))

    # --- tasks

    def task(self, ext_id: str) -> Task:
        """Return a task as it is now. Raises NotFound."""
        return wire.task(self.get(f"tasks/{segment(ext_id)}"), ext_id)

    def wait(self, ext_id: str | None, timeout: float | None = None) -> Task | None:
        """Return the task once SUCCEEDED; None means that there is none to wait for."""
        if ext_id is None:
            return None
        limit = self.deadline if timeout is None else timeout
        return wait_for(lambda: self.task(ext_id), self.clock, limit)


def _task_of(answer: Answer) -> str | None:
    """Return the task that an answer names, in v3's place or in v2's."""
    if not answer.body:
        return None
    body = answer.json()
    task = body.child("status", "execution_context").opt_text("task_uuid")
    return task or body.opt_text("task_uuid")


def task_failed(ext_id: str, operation: str, status: str, words: str) -> TaskFailed:
    """Return the error for something that ended badly without a task of its own."""
    return failed(Task(ext_id, operation, status, 0, {}, {}, one_line(words)))
