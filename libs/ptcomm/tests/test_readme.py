"""The README's examples run, and its transcript is what the tool prints."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from ptcomm import PtcommError, Role, TranscriptWriter
from ptcomm.__main__ import dump

README = Path(__file__).parent.parent / "README.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README.read_text(), re.DOTALL | re.MULTILINE)


def test_the_examples_work() -> None:
    code = "".join(blocks("python"))
    assert code.count("expect(EndOfInput)") == 2
    exec(compile(code, str(README), "exec"), {})  # our own README


def test_the_transcript_is_what_dump_prints() -> None:
    file = io.BytesIO()
    writer = TranscriptWriter(file)
    writer.write(Role.PLUGIN, b"C000016\nHello example 1\n")
    writer.write(Role.BACKEND, b"C000013\nHello Bacula\nD000005\nhello")
    file.seek(0)
    (shown,) = [block.splitlines() for block in blocks("console")]
    printed = dump(file)
    assert [next(printed) for _ in range(3)] == shown[1:4]
    with pytest.raises(PtcommError) as caught:
        next(printed)
    assert shown[4:] == [f"ILLEGAL  {caught.value}"]
