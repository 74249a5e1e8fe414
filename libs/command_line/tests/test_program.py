"""A program's command line: its exit codes, and its output on terminals of every encoding."""

from __future__ import annotations

import argparse
import subprocess
import sys

import pytest
from command_line import program
from command_line.program import exit_code

ENVIRONMENTS = {
    "C": {"LC_ALL": "C"},
    "POSIX": {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    "ASCII": {"PYTHONIOENCODING": "ascii"},
    "Latin-1": {"PYTHONIOENCODING": "latin-1"},
    "Latin-1, strict": {"PYTHONIOENCODING": "latin-1:strict"},
    "UTF-8": {"PYTHONIOENCODING": "utf-8"},
}
SHOW = """
from command_line import program, terminal
import argparse
def show(args):
    names = ["B\\xfcro", "\\u0438\\u043c\\u044f", "\\U0001f600", "[bold]web[/b]", "\\udcff"]
    names += ["a\\x1b[2Jb"]
    terminal.show_table(("VM",), ((name,) for name in names))
    for name in names:
        terminal.say(name)
    raise OSError("no \\u0438\\u043c\\u044f\\nhere")
parser = argparse.ArgumentParser()
parser.set_defaults(run=show)
raise SystemExit(program.main(lambda: parser))
"""


@pytest.mark.parametrize("environment", ENVIRONMENTS.values(), ids=list(ENVIRONMENTS))
def test_every_name_can_be_shown_in_every_locale(environment: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SHOW],
        check=False, capture_output=True, env={"PYTHONPATH": ":".join(sys.path), **environment},
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert b"Traceback" not in done.stderr
    assert done.stderr.count(b"\n") == 1
    assert b"[bold]web[/b]" in done.stdout
    table = done.stdout.split(b"a?[2Jb")[0]
    assert b"\x1b" not in table
    encoding = environment.get("PYTHONIOENCODING", "utf-8").partition(":")[0]
    done.stdout.decode(encoding)


def test_an_error_has_the_code_of_its_nearest_base() -> None:
    assert exit_code(FileNotFoundError) == program.NOT_DONE
    assert exit_code(KeyboardInterrupt) == program.INTERRUPTED
    assert exit_code(ZeroDivisionError) is None


def test_a_defect_is_not_hidden() -> None:
    parser = argparse.ArgumentParser()
    parser.set_defaults(run=lambda _: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        program.run(parser, [])


def test_an_interrupt_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(_: argparse.Namespace) -> int:
        raise KeyboardInterrupt

    parser = argparse.ArgumentParser()
    parser.set_defaults(run=interrupt)
    assert program.run(parser, []) == program.INTERRUPTED
    assert capsys.readouterr().err == "interrupted\n"
