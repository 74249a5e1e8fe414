"""The vectors as they lie in the folder, and the expansion of what is too large to write out."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import attrs

if TYPE_CHECKING:
    from collections.abc import Iterator

Json: TypeAlias = Any

ROOT = Path(__file__).resolve().parents[1]
SUITES = {
    "ptcomm-packets": "ptcomm/v1/packets.json",
    "ptcomm-sessions": "ptcomm/v1/sessions.json",
    "phcbt01-headers": "phcbt01/v1/headers.json",
    "phcbt01-streams": "phcbt01/v1/streams.json",
    "phcbt01-apply": "phcbt01/v1/apply.json",
    "digest-lists": "digests/v1/lists.json",
    "names": "nutanix/v1/names.json",
    "manifests": "nutanix/v1/manifests.json",
    "states": "nutanix/v1/states.json",
    "replication-sessions": "replication/v1/sessions.json",
    "replication-manifests": "replication/v1/manifests.json",
}


@attrs.frozen
class Case:
    """One case of a suite, with recipes expanded."""

    suite: str
    number: int
    body: Json

    @property
    def name(self) -> str:
        """How failures and lists call it."""
        return f"{self.suite}/{self.number}"


def read(path: Path) -> Json:
    """One JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def canonical(value: Json) -> str:
    """The one form that a value has in digests."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def withdrawn(root: Path = ROOT) -> dict[str, str]:
    """The cases that count no longer, and why."""
    found: dict[str, str] = read(root / "withdrawn.json")
    return found


def raw_cases(suite: str, root: Path = ROOT) -> Iterator[tuple[Json, Json]]:
    """Every group and test of a suite as written."""
    for group in read(root / SUITES[suite])["groups"]:
        for test in group["tests"]:
            yield group, test


def cases(suite: str, root: Path = ROOT) -> Iterator[Case]:
    """Every case of a suite that counts."""
    gone = withdrawn(root)
    for _, body in raw_cases(suite, root):
        test = Case(suite, body["tcId"], expand(body, root))
        if test.name not in gone:
            yield test


def expand(value: Json, root: Path = ROOT) -> Json:
    """Put hex in the place of every recipe."""
    if isinstance(value, dict):
        if set(value) == {"recipe"}:
            return b"".join(_ingredient(part, root) for part in value["recipe"]).hex()
        return {key: expand(item, root) for key, item in value.items()}
    if isinstance(value, list):
        return [expand(item, root) for item in value]
    return value


def _ingredient(part: Json, root: Path) -> bytes:
    if isinstance(part, str):
        return bytes.fromhex(part)
    if "repeat" in part:
        count: int = part["count"]
        return bytes.fromhex(part["repeat"]) * count
    if "counter" in part:
        length: int = part["counter"]
        words = (number.to_bytes(4, "little") for number in range((length + 3) // 4))
        return b"".join(words)[:length]
    data: bytes = (root / part["file"]).read_bytes()
    if hashlib.sha256(data).hexdigest() != part["sha256"] or len(data) != part["length"]:
        raise ValueError(f"{part['file']} is not the file that the vector means")
    start, end = part.get("slice", (0, len(data)))
    return data[start:end]
