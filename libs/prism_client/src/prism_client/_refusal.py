"""What a refusal means and says: HTTP status and error envelope -> ApiError. Pure functions."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from prism_client._text import one_line
from prism_client.errors import (
    ApiError,
    AuthFailed,
    BadRequest,
    Conflict,
    Forbidden,
    NotFound,
    RateLimited,
    ServerError,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

_BY_STATUS: dict[int, type[ApiError]] = {
    401: AuthFailed,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    412: Conflict,
    428: Conflict,
    429: RateLimited,
}
_ADVICE = {
    401: "; check user, password or key",
    403: "; the account lacks a permission for this",
    429: "; too many requests, even after waiting",
    503: "; the server is busy, even after waiting",
}


def refusal(call: str, status: int, body: bytes, request_id: str) -> ApiError:
    """Return the error for an answer with a status of 400 or above."""
    words, code = server_words(body)
    kind = _BY_STATUS.get(status, ServerError if status >= 500 else BadRequest)
    said = f": {words}" if words else ""
    return kind(
        f"{call} answered {status}{said}{_ADVICE.get(status, '')} (request id {request_id})",
        status=status,
        code=code,
        request_id=request_id,
    )


def server_words(body: bytes) -> tuple[str, str]:
    """Return (the server's own words on one line, Prism's error code), either may be ""."""
    try:
        envelope = json.loads(body)
    except (ValueError, RecursionError):
        return "", ""  # a proxy's HTML page, or nothing, as Prism Central's empty 501
    messages = list(_messages(envelope))
    words = "; ".join(text for text, _ in messages if text)
    return one_line(words), next((code for _, code in messages if code), "")


def app_messages(errors: object) -> Iterable[tuple[str, str]]:
    """Yield (text, code) from a v4 list of messages, or from one schema validation error."""
    if isinstance(errors, dict):
        errors = [errors, *_list(errors, "validationErrorMessages")]
    for item in errors if isinstance(errors, list) else []:
        if isinstance(item, dict):
            yield _text(item, "message") or _text(item, "error"), _text(item, "code")


def _messages(envelope: object) -> Iterable[tuple[str, str]]:
    """Yield (text, code) from the envelope of v4 (data.error), v3 (message_list), v2 (message)."""
    if not isinstance(envelope, dict):
        return
    data = envelope.get("data")
    if isinstance(data, dict):
        yield from app_messages(data.get("error"))
    for item in _list(envelope, "message_list"):
        if isinstance(item, dict):
            yield _text(item, "message"), _text(item, "reason")
    yield _text(envelope, "message"), ""


def _list(item: dict[str, Any], name: str) -> list[Any]:
    value = item.get(name)
    return value if isinstance(value, list) else []


def _text(item: dict[str, Any], name: str) -> str:
    value = item.get(name)
    return value if isinstance(value, str) else ""
