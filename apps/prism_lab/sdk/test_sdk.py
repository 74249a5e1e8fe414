"""The official SDK as judge: every call that a backup product needs, from three families of it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from apps.prism_lab.sdk.conftest import Stage, Verdict

FAMILIES = [
    ("latest", "newest", 200),
    ("v4.1", "7.3", 401),  # the JWT is for v4.0, and this SDK knows v4.1 only
    ("v4.0", "7.3", 200),
    ("v4.0", "2024.3", 404),  # no change tracking there
]


def test_the_newest_sdk_understands_every_answer(
    newest: tuple[Stage, Verdict], capsys: pytest.CaptureFixture[str]
) -> None:
    check(newest[1], "7.6", capsys)


@pytest.mark.parametrize(("family", "personality", "content"), FAMILIES)
def test_older_sdks_understand_every_answer(
    stage: Callable[[str], Stage],
    judge: Callable[..., Verdict],
    capsys: pytest.CaptureFixture[str],
    family: str,
    personality: str,
    content: int,
) -> None:
    check(judge(family, stage(personality), content=content), personality, capsys)


def check(verdict: Verdict, personality: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Print what was tried, and fail with the words of every call that failed."""
    failed = [f"{call['call']}: {call['words']}" for call in verdict.calls if not call["ok"]]
    versions = " ".join(f"{name} {version}" for name, version in verdict.versions.items())
    with capsys.disabled():
        sys.stdout.write(
            f"\nSDK {verdict.family} on {personality}: {len(verdict.calls)} calls, "
            f"{len(failed)} failed, {verdict.seconds:.1f} s ({versions})\n"
        )
    assert not failed, "\n".join(failed)
