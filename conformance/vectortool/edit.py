"""Changes of the set: numbers and form are the tool's business, never done by hand."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from typing import TYPE_CHECKING, Any, TypeAlias

from vectortool import vectors
from vectortool.vectors import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Json: TypeAlias = Any
DATA = ("ptcomm", "phcbt01", "digests", "nutanix", "replication", "schemas")
LOOSE = ("errors.json", "withdrawn.json", "released.txt", "VERSION", "PROTOCOL.md")


def add(suite: str, draft: Json, root: Path = ROOT) -> None:
    """Append groups without numbers: ``{"notes": {...}, "groups": [...]}``."""
    path = root / vectors.SUITES[suite]
    data = vectors.read(path)
    for group in draft["groups"]:
        for test in group["tests"]:
            data["numberOfTests"] += 1
            test["tcId"] = data["numberOfTests"]
        data["groups"].append(group)
    data["notes"] = dict(sorted((data["notes"] | draft.get("notes", {})).items()))
    path.write_text(formatted(data), encoding="utf-8")
    rewrite(root)


def rewrite(root: Path = ROOT) -> int:
    """Every file in its one form, and MANIFEST.json after them."""
    for path in json_files(root):
        path.write_text(formatted(vectors.read(path)), encoding="utf-8")
    (root / "MANIFEST.json").write_text(formatted(manifest(root)), encoding="utf-8")
    return 0


def release(root: Path = ROOT) -> int:
    """Seal every case that is not sealed yet."""
    path = root / "released.txt"
    text = path.read_text("utf-8") if path.exists() else ""
    known = {line.split(" ")[0] for line in text.splitlines()}
    new = (f"{name} {seal}\n" for name, seal in seals(root).items() if name not in known)
    path.write_text(text + "".join(new), encoding="utf-8")
    return rewrite(root)


def seals(root: Path = ROOT) -> dict[str, str]:
    """The digest of every case, by its name. What it says counts, not its comment or flags."""
    found = {}
    for suite in vectors.SUITES:
        for _, test in vectors.raw_cases(suite, root):
            said = {key: value for key, value in test.items() if key not in {"comment", "flags"}}
            seal = hashlib.sha256(vectors.canonical(said).encode()).hexdigest()
            found[f"{suite}/{test['tcId']}"] = seal
    return found


def formatted(value: Json) -> str:
    """The one form of a JSON file: as flat as it can be read."""
    return _laid_out(value, "") + "\n"


def _laid_out(value: Json, indent: str) -> str:
    flat = json.dumps(value, ensure_ascii=True)
    if len(flat) + len(indent) <= 120 or not isinstance(value, dict | list):
        return flat
    inside = indent + " "
    if isinstance(value, dict):
        lines = [f"{json.dumps(k)}: {_laid_out(v, inside)}" for k, v in value.items()]
    else:
        lines = [_laid_out(item, inside) for item in value]
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    return f"{opening}\n{inside}" + f",\n{inside}".join(lines) + f"\n{indent}{closing}"


def json_files(root: Path = ROOT) -> Iterator[Path]:
    """Every JSON file but the manifest."""
    for folder in DATA:
        yield from sorted((root / folder).rglob("*.json"))
    yield from (root / name for name in LOOSE if name.endswith(".json"))


def data_files(root: Path = ROOT) -> list[Path]:
    """What siblings get, beside the manifest."""
    found = [path for folder in DATA for path in sorted((root / folder).rglob("*.*"))]
    return [*(path for path in found if path.is_file()), *(root / name for name in LOOSE)]


def manifest(root: Path = ROOT) -> Json:
    """Every data file with its size and digest; of suites the schema and the number of tests."""
    suites = {root / path: suite for suite, path in vectors.SUITES.items()}
    files = {}
    for path in data_files(root):
        data = path.read_bytes()
        entry = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        if path in suites:
            suite = vectors.read(path)
            entry |= {key: suite[key] for key in ("suite", "schema")}
            entry |= {"tests": suite["numberOfTests"]}
        files[path.relative_to(root).as_posix()] = entry
    return {"version": (root / "VERSION").read_text("utf-8").strip(), "files": files}


def tarball(folder: Path, root: Path = ROOT) -> Path:
    """The data alone, the same bytes every time."""
    version = (root / "VERSION").read_text("utf-8").strip()
    top = f"podheitor-vectors-{version}"
    path = folder / f"{top}.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for file in [*data_files(root), root / "MANIFEST.json"]:
            data = file.read_bytes()
            info = tarfile.TarInfo(f"{top}/{file.relative_to(root).as_posix()}")
            info.size, info.mode = len(data), 0o644
            archive.addfile(info, io.BytesIO(data))
    return path
