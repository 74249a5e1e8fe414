"""The set itself is sound, the checks find what they are for, and it reaches other languages."""

from __future__ import annotations

import hashlib
import json
import subprocess
import tarfile
from typing import TYPE_CHECKING, Any

import podheitor_vectors
import pytest
from vectortool import edit, lint, vectors
from vectortool.__main__ import main

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NAMES = vectors.SUITES["names"]


def test_no_findings(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lint"]) == 0, capsys.readouterr().out


def changed(root: Path, change: Callable[[Any], object], name: str = NAMES) -> list[str]:
    """What lint says after a change of one file that was written in its form."""
    data = vectors.read(root / name)
    change(data)
    (root / name).write_text(edit.formatted(data))
    (root / "MANIFEST.json").write_text(edit.formatted(edit.manifest(root)))
    return list(lint.findings(root))


def first(data: Any) -> Any:
    return data["groups"][0]["tests"][0]


def by_hand(group: Any) -> bool:
    return bool(group["source"]["name"] == "hand")


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        (lambda d: first(d).update(colour="red"), "schema: "),
        (lambda d: first(d).update(tcId=7), "numbers: "),
        (lambda d: d.update(numberOfTests=1), "numbers: "),
        (lambda d: d["notes"].update(Unused="a note"), "flags: "),
        (lambda d: d["groups"][1]["tests"].append({**first(d), "tcId": 106}), "twins: "),
        (lambda d: first(d).update(result="invalid", error="no-such"), "errors: "),
        (lambda d: d.update(groups=[g for g in d["groups"] if not by_hand(g)]), "by hand: "),
    ],
)
def test_lint_finds(copy: Path, change: Callable[[Any], object], shown: str) -> None:
    assert any(line.startswith(shown) for line in changed(copy, change))


def test_lint_wants_a_vector_for_every_error_code(copy: Path) -> None:
    code = {"code": "bad-moon", "suites": ["names"], "meaning": "rising"}
    found = changed(copy, lambda d: d["errors"].append(code), "errors.json")
    assert found == ["errors: names has no vector for bad-moon"]


def test_lint_wants_the_one_form_and_a_true_manifest(copy: Path) -> None:
    path = copy / NAMES
    path.write_text(json.dumps(vectors.read(path)))
    found = list(lint.findings(copy))
    assert [line.split(":")[0] for line in found] == ["form", "manifest"]


def test_a_released_case_never_changes_and_never_goes(copy: Path) -> None:
    edit.release(copy)
    assert list(lint.findings(copy)) == []
    found = changed(copy, lambda d: first(d).update(input="ff"))
    assert any("names/1 was released" in line for line in found)
    found = changed(copy, lambda d: d["groups"][-1]["tests"].pop())
    assert any("was released and is not what it was" in line for line in found)


def test_a_comment_may_be_mended(copy: Path) -> None:
    edit.release(copy)
    assert changed(copy, lambda d: first(d).update(comment="a better one")) == []


def test_a_withdrawal_needs_a_case_and_a_reason(copy: Path) -> None:
    found = changed(copy, lambda d: d.update({"names/1": "", "names/9999": "x"}), "withdrawn.json")
    assert len([line for line in found if "withdrawn names/" in line]) == 2


def test_the_list_of_releases_continues_the_tagged_one(copy: Path) -> None:
    def git(*arguments: str) -> None:
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        subprocess.run(["git", *identity, *arguments], cwd=copy, check=True, timeout=30)

    edit.release(copy)
    git("init", "-q")
    git("add", "-A")
    git("commit", "-q", "-m", "release")
    git("tag", "vectors-1.0.0")
    assert list(lint.findings(copy)) == []
    lines = (copy / "released.txt").read_text().splitlines(keepends=True)
    (copy / "released.txt").write_text("".join(lines[1:]))
    edit.rewrite(copy)
    assert list(lint.findings(copy)) == [
        "tag: released.txt does not continue the one of vectors-1.0.0"
    ]


def test_a_binary_is_what_the_vector_means(copy: Path) -> None:
    (copy / "phcbt01/v1/streams/thousand.bin").write_bytes(b"other")
    edit.rewrite(copy)
    assert any(line.startswith("binaries: ") for line in lint.findings(copy))
    with pytest.raises(ValueError, match="is not the file"):
        list(vectors.cases("phcbt01-streams", copy))


def test_the_tarball_has_what_the_manifest_says(tmp_path: Path) -> None:
    one = edit.tarball(tmp_path)
    digest = hashlib.sha256(one.read_bytes()).digest()
    assert hashlib.sha256(edit.tarball(tmp_path).read_bytes()).digest() == digest
    with tarfile.open(one) as archive:
        top = one.name.removesuffix(".tar")
        manifest = json.load(archive.extractfile(f"{top}/MANIFEST.json") or pytest.fail("none"))
        for name, entry in manifest["files"].items():
            file = archive.extractfile(f"{top}/{name}")
            assert file is not None
            assert hashlib.sha256(file.read()).hexdigest() == entry["sha256"]


def test_the_python_package_opens_every_file() -> None:
    with podheitor_vectors.open_vector_file("MANIFEST.json") as file:
        manifest = json.load(file)
    for name, entry in manifest["files"].items():
        with podheitor_vectors.open_vector_file(name, "rb") as data:
            assert len(data.read()) == entry["bytes"]
    with pytest.raises(ValueError, match="only read"):
        podheitor_vectors.open_vector_file("VERSION", "w")
