"""Every case against a testee: whole, byte by byte and at the recorded splits."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, TypeAlias

import attrs

from vectortool import vectors

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from vectortool.testee import Program
    from vectortool.vectors import Case

Json: TypeAlias = Any
ROLES = {
    "ptcomm-sessions": ("plugin", "backend"),
    "replication-sessions": ("source", "receiver"),
}
"""The two ends that a session of a suite has."""


@attrs.define
class Report:
    """What came out: counts per suite, and one line per failure."""

    testee: str
    passed: Counter[str] = attrs.Factory(Counter)
    skipped: Counter[str] = attrs.Factory(Counter)
    failures: list[str] = attrs.Factory(list)

    @property
    def green(self) -> bool:
        """Whether nothing failed."""
        return not self.failures

    def lines(self) -> Iterator[str]:
        """The report as text."""
        for suite in vectors.SUITES:
            skipped = f", {self.skipped[suite]} skipped" if self.skipped[suite] else ""
            yield f"{self.testee:10} {suite:16} {self.passed[suite]:4} passed{skipped}"
        yield from (f"{self.testee:10} FAILED {failure}" for failure in self.failures)


@attrs.frozen
class Check:
    """One request, the answer it must have, and how it is called in a failure."""

    request: Json
    expected: Json
    how: str


def run(testee: Program, *, root: Path = vectors.ROOT, suites: list[str] | None = None) -> Report:
    """Run the suites and compare with the list of known failures."""
    report = Report(testee.name)
    known = known_failures(testee.name, root)
    for suite in suites or list(vectors.SUITES):
        for test in vectors.cases(suite, root):
            _judge(testee, test, known, report)
    return report


def known_failures(name: str, root: Path) -> set[str]:
    """The tests that a testee is known to skip; ``suite/*`` is all of a suite."""
    path = root / "known_failures" / f"{name}.txt"
    if not path.exists():
        return set()
    lines = (line.partition("#")[0].strip() for line in path.read_text("utf-8").splitlines())
    return {line for line in lines if line}


def _judge(testee: Program, test: Case, known: set[str], report: Report) -> None:
    listed = bool({test.name, f"{test.suite}/*"} & known)
    faults = [fault for check in checks(test) if (fault := _fault(testee, check))]
    skipped = all(fault.endswith("skipped") for fault in faults)
    if faults and skipped and listed:
        report.skipped[test.suite] += 1
    elif faults:
        report.failures.append(f"{test.name} ({test.body['comment']}): {faults[0]}")
    elif listed:
        report.failures.append(f"{test.name} is listed as a known failure and passes")
    else:
        report.passed[test.suite] += 1


def _fault(testee: Program, check: Check) -> str:
    found = plain(testee.ask(check.request))
    if found == plain(check.expected):
        return ""
    if "lost" in found:
        return f"{check.how}: {found['lost']} {testee.last_words()}".rstrip()
    if "skipped" in found:
        return f"{check.how}: skipped"
    return f"{check.how}: {found!s:.300} instead of {check.expected!s:.300}"


def checks(test: Case) -> Iterator[Check]:
    """The requests that a test is made of."""
    body = test.body
    cuts = [
        ("whole", []),
        ("byte by byte", "bytes"),
        *(("split", s) for s in body.get("splits", [])),
    ]
    if body["op"] == "encode":
        yield Check(_request(test, "encode", value=body["value"]), _answer(body), "encode")
        return
    for how, cut in cuts:
        if body["op"] == "session":
            yield from (
                attrs.evolve(check, how=f"{check.how}, {how}") for check in _session(test, cut)
            )
        else:
            extra = {key: body[key] for key in ("base", "vm") if key in body}
            request = _request(test, body["op"], input=body["input"], cuts=cut, **extra)
            yield Check(request, _answer(body), how)
    if body["op"] == "decode" and body.get("encode") == "exact":
        yield Check(_request(test, "encode", value=body["value"]), {"ok": body["input"]}, "encode")


def _request(test: Case, op: str, **rest: Json) -> Json:
    return plain({"suite": test.suite, "op": op, **rest})


def _answer(body: Json) -> Json:
    if body["result"] == "valid":
        return {"ok": body["output"] if "output" in body else body["value"]}
    return {key: body[key] for key in ("error", "offset") if key in body}


def _session(test: Case, cut: Json) -> Iterator[Check]:
    body = test.body
    if "script" not in body:
        request = _request(test, "session", role=body["role"], steps=body["steps"], cuts=cut)
        yield Check(request, {"ok": body["outcomes"]}, body["role"])
        return
    for role in ROLES[test.suite]:
        played = [_played(line, role) for line in body["script"]]
        steps, outcomes = [step for step, _ in played], [outcome for _, outcome in played]
        request = _request(test, "session", role=role, steps=steps, cuts=cut)
        yield Check(request, {"ok": outcomes}, role)


def _played(line: Json, role: str) -> tuple[Json, Json]:
    if line["who"] == role:
        return {"send": line["event"]}, {"bytes": line["bytes"]}
    return {"receive": line["bytes"]}, {"events": [line["event"]]}


def plain(value: Json) -> Json:
    """Every text in its one form: a string if it is plain, ``{"hex": ...}`` otherwise."""
    if isinstance(value, dict):
        if set(value) == {"hex"}:
            return _text(bytes.fromhex(value["hex"]))
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, str) and not _is_plain(value):
        return {"hex": value.encode().hex()}
    return value


def _text(data: bytes) -> Json:
    text = data.decode("latin-1")
    return text if _is_plain(text) else {"hex": data.hex()}


def _is_plain(text: str) -> bool:
    return text.isascii() and text.isprintable() and '"' not in text and "\\" not in text
