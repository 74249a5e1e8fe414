"""Compares a request of our client with the SDK's for the same intent.

Ids are replaced by what they stand for before two requests are compared, as seen in the paths: a
request that names the wrong one of two ids is not equal. What may differ is written in DIFFERENCES,
each with its reason, and a difference that no request shows any more has to be taken out.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote, urlsplit

import attrs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from prism_lab import Exchange

HEADERS = ("Accept", "Content-Type", "If-Match", "Ntnx-Request-Id", "Authorization", "Cookie")
MISSING = "(missing)"
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_MOMENT = re.compile(r"((?:start|end)Time=)[^&]+")  # each client asks when it asks
_IN_PATH = re.compile(rf"/([a-z-]+)/((?:[^/]*:)?{_UUID.pattern})")
# Fields that may hold one of several types: a server can only tell by $objectType.
_ONE_OF = {
    "applicationConsistentProperties", "backingInfo", "bootConfig", "diskRecoveryPoint",
    "guestAuthentication", "reference", "referenceDiskRecoveryPoint", "spec", "transferFilesSpec",
    "vmOverrideSpec",
}  # fmt: skip


@attrs.frozen
class Request:
    """What a request says, with ids as roles; `wire` is path and query as they were sent."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Any
    wire: str


@attrs.frozen
class Gap:
    """One thing that the two requests do not say alike."""

    method: str
    where: str
    ours: Any
    sdk: Any


@attrs.frozen
class Difference:
    """A difference that is meant, and why."""

    mark: str
    what: str
    why: str
    covers: Callable[[Gap], bool]


def roles(exchanges: Iterable[Exchange], known: Mapping[str, str]) -> dict[str, str]:
    """Name every id after the kind of path segment that it follows; `known` names go first."""
    named: dict[str, str] = {}
    for exchange in exchanges:
        for segment, ext_id in _IN_PATH.findall(unquote(urlsplit(exchange.target).path)):
            named.setdefault(_UUID.findall(ext_id)[0], f"<{segment}>")
    return {**named, **known}


def read(exchange: Exchange, named: Mapping[str, str]) -> Request:
    """Turn a request as it came into what it says."""
    target = _MOMENT.sub(r"\1<time>", exchange.target)
    parts = urlsplit(target)

    def by_role(text: str) -> str:
        return _UUID.sub(lambda match: named.get(match[0], "<id>"), text)

    def walk(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: walk(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [walk(inner) for inner in value]
        return by_role(value) if isinstance(value, str) else value

    query = {key: by_role(value) for key, value in parse_qsl(parts.query)}
    return Request(
        exchange.method,
        by_role(unquote(parts.path)),
        query,
        {name: _header(name, exchange.headers.get(name)) for name in HEADERS},
        walk(exchange.body),
        by_role(target if parts.query else unquote(target)),
    )


def _header(name: str, value: str | None) -> str:
    """Keep what a header is about; secrets and version numbers differ from run to run."""
    if value is None:
        return MISSING
    if name == "Ntnx-Request-Id":
        return "<uuid>" if _UUID.fullmatch(value) else value
    if name in {"Authorization", "Cookie"}:
        return re.split(r"[ =]", value)[0]
    return "<etag>" if name == "If-Match" else value


def gaps(ours: Request, sdk: Request) -> list[Gap]:
    """List everything in which two requests differ."""
    found: list[tuple[str, Any, Any]] = []
    for name in ("method", "path"):
        _compare(name, getattr(ours, name), getattr(sdk, name), found)
    _compare("query", ours.query, sdk.query, found)
    if ours.query == sdk.query and ours.wire != sdk.wire:
        found.append(("encoding of the query", ours.wire, sdk.wire))
    _compare("header", ours.headers, sdk.headers, found)
    _compare("body", ours.body, sdk.body, found)
    return [Gap(ours.method, *entry) for entry in found]


def _compare(where: str, ours: Any, sdk: Any, found: list[tuple[str, Any, Any]]) -> None:
    if isinstance(ours, dict) and isinstance(sdk, dict):
        for key in sorted({*ours, *sdk}):
            _compare(f"{where}.{key}", ours.get(key, MISSING), sdk.get(key, MISSING), found)
    elif isinstance(ours, list) and isinstance(sdk, list) and len(ours) == len(sdk):
        for one, other in zip(ours, sdk, strict=True):
            _compare(f"{where}[]", one, other, found)
    elif ours != sdk:
        found.append((where, ours, sdk))


def _same_time(gap: Gap) -> bool:
    try:
        return datetime.fromisoformat(gap.ours) == datetime.fromisoformat(gap.sdk)
    except (TypeError, ValueError):
        return False


def _needless_type(gap: Gap) -> bool:
    """Is this the type of a field that can only have one?"""
    field, _, name = gap.where.rpartition(".")
    holder = field.rpartition(".")[2].removesuffix("[]")
    return name == "$objectType" and gap.ours == MISSING and holder not in _ONE_OF


def _at(gap: Gap, *fields: str, ours: Any = MISSING, sdk: Any = MISSING) -> bool:
    return gap.where in fields and (gap.ours, gap.sdk) == (ours, sdk)


_DEFAULTS = {
    "body.backingInfo.numQueues": 1,
    "body.hardwareClockTimezone": "UTC",
    "body.isInstantRestore": False,
    "body.nics[].backingInfo.numQueues": 1,
    "body.isHidden": False,
    "body.vmRecoveryPointRestoreOverrides[].isStrictMode": False,
    "body.shouldLoadBalanceVmAttachments": False,
}

DIFFERENCES = (
    Difference(
        "type",
        "The SDK names the type (`$objectType`) of every object; we name it where a field may hold"
        " one of several types, and on top of most bodies.",
        "Elsewhere the path or the field says the type. Where ours is sent, it is compared.",
        _needless_type,
    ),
    Difference(
        "reserved",
        "The SDK sends `$reserved` and `$unknownFields` in every object.",
        "They are its own bookkeeping: which model it was built from, what it read.",
        lambda gap: (
            gap.ours == MISSING and gap.where.rpartition(".")[2] in {"$reserved", "$unknownFields"}
        ),
    ),
    Difference(
        "default",
        "The SDK sends the defaults of its models: "
        + ", ".join(f"`{name.removeprefix('body.')}`" for name in _DEFAULTS)
        + ".",
        "They are the API's defaults: left out, they mean the same.",
        lambda gap: _at(gap, gap.where, sdk=_DEFAULTS.get(gap.where, MISSING)),
    ),
    Difference(
        "content-type",
        "The SDK sends a Content-Type with requests that have no body.",
        "There is no content whose type could matter.",
        lambda gap: _at(gap, "header.Content-Type", sdk="application/json"),
    ),
    Difference(
        "accept",
        "We say with OPTIONS too that we want JSON; the SDK does not.",
        "The answer is JSON either way.",
        lambda gap: (
            gap.method == "OPTIONS"
            and _at(gap, "header.Accept", ours="application/json", sdk=MISSING)
        ),
    ),
    Difference(
        "login",
        "We log in once and then send the session's cookie; the SDK logs in once a namespace.",
        "It has one client a namespace, each with cookies of its own.",
        lambda gap: (
            _at(gap, "header.Authorization", sdk="Basic")
            or _at(gap, "header.Cookie", ours="NTNX_IAM_SESSION")
        ),
    ),
    Difference(
        "moment",
        "A VM that is changed is sent back with the times at which it was made and changed.",
        "Each client changes a VM of its own.",
        lambda gap: _at(gap, "body.createTime", "body.updateTime", ours=gap.ours, sdk=gap.sdk),
    ),
    Difference(
        "time",
        "The SDK ends a time with `+00:00`, we with `Z`.",
        "RFC 3339 allows both; the moment is compared.",
        _same_time,
    ),
)


def explain(gap: Gap) -> Difference | None:
    """Return the written difference that this is one of, if any."""
    return next((difference for difference in DIFFERENCES if difference.covers(gap)), None)
