"""One v4 namespace: reading entities and whole lists, and the three kinds of write. No models."""

from __future__ import annotations

import itertools
import logging
import uuid
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import attrs

from prism_client._fields import text_or_empty
from prism_client._http import Call
from prism_client._listing import ROUNDS, Reading, entries, understood
from prism_client._refusal import app_messages
from prism_client._text import one_line
from prism_client.errors import BadAnswer, BadRequest, Conflict, NotFound, ServerError, TaskFailed
from prism_client.unreadable import Unreadables

if TYPE_CHECKING:
    import builtins
    from collections.abc import Callable, Iterator, Mapping

    from prism_client import services
    from prism_client._fields import Fields
    from prism_client._http import Answer, Http
    from prism_client._listing import Entry, T
    from prism_client.model import Task

log = logging.getLogger(__name__)

PAGE = 100  # the most that a v4 list returns at once
_STALE = 3  # tries with a fresh ETag each


def segment(ext_id: str) -> str:
    """Return an id fit for a path: a task's holds "=" and ":", and an id is data."""
    return quote(ext_id, safe="")


def label(entry: object) -> tuple[str, str]:
    """Return name and id of any entity, "" for each that cannot be read."""
    values = entry if isinstance(entry, dict) else {}
    return text_or_empty(values.get("name")), text_or_empty(values.get("extId"))


def equals(field: str, value: str) -> str:
    """Return the OData filter for a field being exactly this text."""
    return f"{field} eq '{value.replace(chr(39), chr(39) * 2)}'"


@attrs.frozen
class Api:
    """The calls of one namespace, at the revision that the server speaks.

    unreadable: takes in what cannot be understood of a list.
    """

    http: Http
    namespace: str
    revision: str
    unreadable: Unreadables = attrs.field(factory=Unreadables)

    def path(self, path: str) -> str:
        """Return the whole path of something in this namespace."""
        return f"/api/{self.namespace}/{self.revision}/{path}"

    def send(self, call: Call) -> tuple[Answer, Fields]:
        """Return the answer to a call, whose path begins inside the namespace, and its envelope."""
        answer = self.http.send(attrs.evolve(call, path=self.path(call.path)))
        return answer, envelope(answer)

    def get(self, path: str) -> Fields:
        """Return one entity. Raises NotFound."""
        _, body = self.send(Call("GET", path, repeatable=True))
        return attrs.evolve(body.need("data"), path="")

    def has(self, path: str) -> bool:
        """Say whether an entity is there."""
        try:
            self.get(path)
        except NotFound:
            return False
        return True

    def etag(self, path: str) -> str | None:
        """Return the version of an entity, which a change to it has to name. Raises NotFound."""
        answer, _ = self.send(Call("GET", path, repeatable=True))
        return answer.etag

    def records(
        self,
        kind: str,
        path: str,
        read: Callable[[Fields], T | None],
        *,
        filter_: str | None = None,
        name: str | None = None,
    ) -> Iterator[T]:
        """Yield the records of a list; what cannot be understood is reported and left out.

        name: the only name that was asked for. An unreadable record of this name is an error.
        """
        found = self.list(path, filter_=filter_)
        return understood(found, kind, read, self.unreadable, name=name)

    def list(self, path: str, *, filter_: str | None = None) -> Iterator[Entry]:
        """Yield every entry of a list, each once.

        A list that changes while it is read may skip an entity at the edge of a page, so it is
        read again until its size stays the same from the first page to the last. A filter that
        this server does not know is left out: the caller checks what it gets.
        """
        seen: set[str] = set()
        for _ in range(ROUNDS):
            reading = Reading()
            try:
                pages = self._pages(path, filter_, reading)
                for entry in itertools.chain.from_iterable(pages):
                    if entry.key not in seen:
                        seen.add(entry.key)
                        yield entry
            except BadRequest as exc:
                if filter_ is None:
                    raise
                log.info("listing without a filter: %s", exc)
                filter_ = None
                continue
            if reading.is_whole():
                return
            log.info("%s changed while it was listed, reading it again", path)
        raise BadAnswer(
            f"{self.path(path)}: {ROUNDS} readings of the list were"
            " not whole; is something creating and deleting all the time?"
        )

    def _pages(
        self, path: str, filter_: str | None, reading: Reading
    ) -> Iterator[builtins.list[Entry]]:
        for number in itertools.count():
            params = {"$page": str(number), "$limit": str(PAGE)}
            if filter_ is not None:
                params["$filter"] = filter_
            _, body = self.send(Call("GET", path, params, repeatable=True))
            page = entries(body.array("data"), label)
            total = body.child("metadata").opt_integer("totalAvailableResults")
            reading.add(page, total, body.where)
            yield page
            if not page or reading.is_at_end():
                return


@attrs.frozen
class Writes:
    """Create, act, delete: each starts a task and waits for it."""

    api: Api
    tasks: services.Tasks

    def create(
        self,
        path: str,
        body: Mapping[str, Any],
        kind: str,
        request_id: uuid.UUID | None,
        *,
        detail: str = "",
    ) -> str:
        """Create an entity of a kind and return its id, which the task names.

        detail: the name under which the task's completion details may hold the id.
        """
        task = self._run("POST", path, body, request_id=request_id)
        named = task.ids(detail) or task.affected.get(kind, ())
        if not named:
            raise BadAnswer(f"{task.operation} succeeded without naming a {kind} ({task.ext_id})")
        return named[0]

    def act(
        self,
        entity: str,
        action: str,
        body: Mapping[str, Any] | None = None,
        request_id: uuid.UUID | None = None,
    ) -> Task:
        """Call an action of an entity, naming its current version. Raises NotFound."""
        path = f"{entity}/$actions/{action}"
        return self._fresh(
            entity, lambda etag, rid: self._run("POST", path, body, etag, rid), request_id
        )

    def add(
        self, entity: str, part: str, body: Mapping[str, Any], request_id: uuid.UUID | None = None
    ) -> Task:
        """Create a part of an entity, naming the entity's current version. Raises NotFound."""
        path = f"{entity}/{part}"
        return self._fresh(
            entity, lambda etag, rid: self._run("POST", path, body, etag, rid), request_id
        )

    def update(self, entity: str, change: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> Task:
        """Write what `change` makes of an entity as it was read. Raises NotFound."""

        return self._fresh(
            entity,
            lambda etag, rid: self._run(
                "PUT", entity, change(self.api.get(entity).value), etag, rid
            ),
        )

    def delete(self, entity: str) -> bool:
        """Delete an entity; False when it was gone, which a second look has to confirm."""
        try:
            self._fresh(entity, lambda etag, rid: self._run("DELETE", entity, None, etag, rid))
        except (NotFound, TaskFailed) as exc:
            if self.api.has(entity):
                raise
            return isinstance(exc, TaskFailed)
        return True

    def _fresh(
        self,
        entity: str,
        change: Callable[[str | None, uuid.UUID | None], Task],
        request_id: uuid.UUID | None = None,
    ) -> Task:
        """Change an entity, again with a fresh ETag when somebody else was faster."""
        for _ in range(_STALE - 1):
            etag = self.api.etag(entity)
            try:
                return change(etag, request_id)
            except Conflict as exc:
                if exc.status != 412:
                    raise
                request_id = None  # the answer to the old key is "412"; nothing was done under it
        return change(self.api.etag(entity), request_id)

    def _run(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        etag: str | None = None,
        request_id: uuid.UUID | None = None,
    ) -> Task:
        call = Call(
            method,
            path,
            json=body,
            headers={} if etag is None else {"If-Match": etag},
            request_id=request_id or uuid.uuid4(),
            repeatable=True,  # the server does not act twice on one request id
        )
        _, answer = self.api.send(call)
        return self.tasks.wait(answer.need("data").text("extId"))


def envelope(answer: Answer) -> Fields:
    """Return the envelope of a good answer; one that reports an error in spite of 2xx raises."""
    body = answer.json()
    if not has_flag(body, "hasError"):
        return body
    messages = app_messages(body.child("data").value.get("error"))
    words = "; ".join(text for text, _ in messages if text)
    raise ServerError(f"{answer.where}: {one_line(words) or 'failed'}", status=answer.status)


def has_flag(body: Fields, name: str) -> bool:
    """Say whether a flag in the metadata of an envelope is set."""
    flags = body.child("metadata").items("flags")
    return any(flag.opt_text("name") == name and flag.flag("value") for flag in flags)
