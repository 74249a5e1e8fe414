"""What must hold of the set itself: its form, its completeness, and that releases never change."""

from __future__ import annotations

import hashlib
import subprocess  # noqa: TID251 - asks git for the last release, nothing else
from collections import Counter
from typing import TYPE_CHECKING, Any, TypeAlias

import jsonschema

from vectortool import edit, vectors
from vectortool.vectors import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Json: TypeAlias = Any


def findings(root: Path = ROOT) -> Iterator[str]:
    """One line per fault."""
    for name, check in CHECKS.items():
        for fault in check(root):
            yield f"{name}: {fault}"


def _schemas(root: Path) -> Iterator[str]:
    for path in vectors.SUITES.values():
        data = vectors.read(root / path)
        schema = vectors.read(root / data["schema"])
        for error in jsonschema.Draft202012Validator(schema).iter_errors(data):
            yield f"{path}: {error.json_path}: {error.message:.200}"
    schema = vectors.read(root / "schemas/errors.schema.json")
    for error in jsonschema.Draft202012Validator(schema).iter_errors(
        vectors.read(root / "errors.json")
    ):
        yield f"errors.json: {error.json_path}: {error.message:.200}"


def _form(root: Path) -> Iterator[str]:
    for path in edit.json_files(root):
        if path.read_text("utf-8") != edit.formatted(vectors.read(path)):
            yield f"{path.relative_to(root)} is not formatted: run fmt"


def _numbers(root: Path) -> Iterator[str]:
    for suite, path in vectors.SUITES.items():
        data = vectors.read(root / path)
        numbers = [test["tcId"] for _, test in vectors.raw_cases(suite, root)]
        if numbers != list(range(1, len(numbers) + 1)) or data["numberOfTests"] != len(numbers):
            yield f"{suite}: tcId must count from 1, numberOfTests all of them"


def _flags(root: Path) -> Iterator[str]:
    for suite, path in vectors.SUITES.items():
        notes = set(vectors.read(root / path)["notes"])
        used = {flag for _, test in vectors.raw_cases(suite, root) for flag in test["flags"]}
        if used != notes:
            yield f"{suite}: flags and notes differ: {sorted(used ^ notes)}"


def _twins(root: Path) -> Iterator[str]:
    for suite in vectors.SUITES:
        bodies = Counter(
            vectors.canonical(
                {k: v for k, v in test.items() if k not in {"tcId", "comment", "flags"}}
            )
            for _, test in vectors.raw_cases(suite, root)
        )
        if twins := sum(count - 1 for count in bodies.values()):
            yield f"{suite}: {twins} tests are there twice"


def _errors(root: Path) -> Iterator[str]:
    """Every code has a negative vector in every suite that names it, and no other code occurs."""
    listed = {
        (suite, error["code"])
        for error in vectors.read(root / "errors.json")["errors"]
        for suite in error["suites"]
    }
    used = {
        (suite, test["error"])
        for suite in vectors.SUITES
        for _, test in vectors.raw_cases(suite, root)
        if test["result"] == "invalid"
    }
    yield from (f"{suite} has no vector for {code}" for suite, code in sorted(listed - used))
    yield from (
        f"{suite} uses {code}, which errors.json does not list"
        for suite, code in sorted(used - listed)
    )


def _hands(root: Path) -> Iterator[str]:
    for suite in vectors.SUITES:
        if not any(
            group["source"]["name"] == "hand" for group, _ in vectors.raw_cases(suite, root)
        ):
            yield f"{suite} has no group that was assembled by hand"


def _manifest(root: Path) -> Iterator[str]:
    if vectors.read(root / "MANIFEST.json") != edit.manifest(root):
        yield "MANIFEST.json does not describe the files: run fmt"


def _released(root: Path) -> Iterator[str]:
    """A released case never changes and never goes; it may be withdrawn, with a reason."""
    present = edit.seals(root)
    for line in (root / "released.txt").read_text("utf-8").splitlines():
        name, seal = line.split(" ")
        if present.get(name) != seal:
            yield f"{name} was released and is not what it was: add a new case, withdraw this one"
    for name, reason in vectors.withdrawn(root).items():
        if name not in present or not reason:
            yield f"withdrawn {name}: no such case, or no reason"


def _tag(root: Path) -> Iterator[str]:
    """The list of the last tagged release is the beginning of ours."""
    tag = _git(root, "describe", "--tags", "--abbrev=0", "--match", "vectors-*").strip()
    if not tag:
        return
    before = _git(root, "show", f"{tag}:./released.txt")
    if not (root / "released.txt").read_text("utf-8").startswith(before):
        yield f"released.txt does not continue the one of {tag}"


def _git(root: Path, *arguments: str) -> str:
    """What git says; nothing when there is no git, no repository or no such thing."""
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=root, capture_output=True, text=True, check=False, timeout=20
        )
    except OSError:
        return ""
    return done.stdout if done.returncode == 0 else ""


def _binaries(root: Path) -> Iterator[str]:
    for suite in vectors.SUITES:
        for _, test in vectors.raw_cases(suite, root):
            for part in _files(test):
                data = (root / part["file"]).read_bytes()
                if hashlib.sha256(data).hexdigest() != part["sha256"]:
                    yield f"{suite}/{test['tcId']}: {part['file']} has another digest"


def _files(value: Json) -> Iterator[Json]:
    if isinstance(value, dict):
        if "file" in value and "sha256" in value:
            yield value
        for item in value.values():
            yield from _files(item)
    elif isinstance(value, list):
        for item in value:
            yield from _files(item)


CHECKS = {
    "schema": _schemas,
    "form": _form,
    "numbers": _numbers,
    "flags": _flags,
    "twins": _twins,
    "errors": _errors,
    "by hand": _hands,
    "manifest": _manifest,
    "released": _released,
    "tag": _tag,
    "binaries": _binaries,
}
