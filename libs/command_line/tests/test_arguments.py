"""The values of a command line, and what argparse says about those that cannot be used."""

from __future__ import annotations

import argparse
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from command_line import arguments

if TYPE_CHECKING:
    from collections.abc import Callable

EVERY = arguments.seconds(least=1)
COUNT = arguments.number(least=0, most=9)


@pytest.mark.parametrize(
    ("reader", "text", "value"),
    [
        (arguments.pair, "a=b=c", ("a", "b=c")),
        (arguments.pair, "a=", ("a", "")),
        (arguments.size, "0", 0),
        (arguments.size, "16m", 16 << 20),
        (arguments.size, "64T", 64 << 40),
        (EVERY, "1.5", 1.5),
        (EVERY, "36h", 36 * 3600),
        (EVERY, "7D", 7 * 86_400),
        (COUNT, "9", 9),
    ],
)
def test_what_can_be_read(reader: Callable[[str], Any], text: str, value: object) -> None:
    assert reader(text) == value


@pytest.mark.parametrize(
    ("reader", "text", "says"),
    [
        (arguments.pair, "=b", "'=b' is not KEY=VALUE"),
        (arguments.pair, "ab", "'ab' is not KEY=VALUE"),
        (arguments.size, "1x", "'1x' is not a size: write a number of bytes, or a number with K"),
        (arguments.size, "", "is not a size"),
        (arguments.size, "-1", "is not a size"),
        (arguments.size, "9" * 16, "is not a size"),
        (EVERY, "nan", "'nan' is not a time"),
        (EVERY, "inf", "'inf' is not a time"),
        (EVERY, "1e9", "'1e9' is not a time"),
        (EVERY, "-5", "'-5' is not a time"),
        (EVERY, "0.5", "'0.5' is not from 1 to 315360000"),
        (EVERY, "999999d", "is not from 1 to"),
        (COUNT, "1.0", "'1.0' is not a whole number"),
        (COUNT, "٣", "is not a whole number"),
        (COUNT, "-1", "'-1' is not from 0 to 9"),
    ],
)
def test_what_cannot_be_used_has_a_sentence(
    capsys: pytest.CaptureFixture[str], reader: Callable[[str], Any], text: str, says: str
) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--value", type=reader)
    with pytest.raises(SystemExit) as ended:
        parser.parse_args([f"--value={text}"])
    assert ended.value.code == 2
    said = capsys.readouterr().err.partition("argument --value: ")[2]
    assert says in said


@pytest.mark.parametrize("encoding", ["UTF-8", "no UTF-8"])
def test_a_name_is_what_was_typed_in_utf8(encoding: str) -> None:
    """Terminals send UTF-8 also where the locale of the program is another one."""
    code = "import sys; from command_line.arguments import typed; print(ascii(typed(sys.argv[1])))"
    environment = {"PYTHONPATH": ":".join(sys.path)}
    if encoding != "UTF-8":
        environment |= {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    done = subprocess.run(
        [sys.executable, "-c", code, "имя".encode()],
        check=True, capture_output=True, text=True, env=environment,
    )  # fmt: skip
    assert done.stdout.strip() == ascii("имя")
