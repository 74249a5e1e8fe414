"""The command line of the runner: what it accepts, prints and returns."""

from __future__ import annotations

import argparse
import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import program
from ptcomm import Severity
from ptcomm_runner import command, display
from ptcomm_runner.catalog import Store
from ptcomm_runner.joblog import MAX_MESSAGES, JobLog

SCRIPT = Path(__file__).with_name("runner_backend.py")
PROGRAM = """
import argparse, sys
from command_line import program
from ptcomm_runner import command
parser = argparse.ArgumentParser()
own = command.OwnBackend("backend-of-the-test", "a_backend", "@nutanix")
command.add_parser(parser.add_subparsers(required=True), own)
sys.exit(program.run(parser, sys.argv[1:]))
"""


@pytest.fixture
def backend(tmp_path: Path) -> str:
    """A program that takes no arguments, as `--backend` wants it."""
    script = tmp_path / "backend"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{SCRIPT}"\n')
    script.chmod(0o755)
    return str(script)


def run(*arguments: str | Path) -> int:
    parser = argparse.ArgumentParser()
    own = command.OwnBackend("backend-of-the-test", "a_backend", "@nutanix")
    command.add_parser(parser.add_subparsers(required=True), own)
    return program.run(parser, ["job", *map(str, arguments)])


def test_a_backup_and_its_restore(
    tmp_path: Path, backend: str, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ("--store", tmp_path / "store", "--name", "web vm", "--backend", backend)
    report = tmp_path / "report"
    assert run("backup", *common, "--level", "incremental", "vm=a=b") == 0
    shown = capsys.readouterr()
    assert "T (OK)" in shown.out
    assert "1 web_vm.20" in shown.out
    assert "I hello from the backend\n" in shown.err
    assert "I @nutanix/lab/vm-1/disks/disk-0-a.raw, 2.1 MB\n" in shown.err
    out = tmp_path / "out"
    arguments = ("--where", out, "--replace", "never", "--include", "*.raw", f"report={report}")
    assert run("restore", *common, "--job", "1", *arguments) == 0
    told = report.read_text()
    assert f"where='{out}'" in told
    assert "<Replace.NEVER: 'n'>" in told
    assert f"working_dir='{tmp_path}/store/working'" in told
    assert told.count("\nfile ") == 1
    capsys.readouterr()
    assert run("list", "--store", tmp_path / "store") == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if "web vm" in line]
    assert [row[1] for row in rows] == ["1", "2"]
    assert {"full", "restore"} <= {word for row in rows for word in row}


def test_json_is_all_there_is_on_stdout(
    tmp_path: Path, backend: str, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ("--store", tmp_path, "--name", "vm", "--backend", backend, "--json")
    assert run("backup", *common, "behave=q@between") == 0
    shown = capsys.readouterr()
    result = json.loads(shown.out)
    assert (result["job_id"], result["level"], result["status"]) == (1, "F", "W")
    assert {"severity": "Q", "text": "one VM of several failed"} in result["messages"]
    assert result["bytes"] == sum(file["size"] for file in result["files"])
    assert shown.err == ""
    assert run("backup", *common, "behave=a@inside") == 1
    shown = capsys.readouterr()
    assert json.loads(shown.out)["status"] == "f"
    assert shown.err == "no such VM: check vm=\n"
    assert run("list", "--store", tmp_path, "--json") == 0
    listed = json.loads(capsys.readouterr().out)
    assert [(job["job_id"], job["status"]) for job in listed] == [(1, "W"), (2, "f")]


def test_a_failed_job_returns_1_and_says_why(
    tmp_path: Path, backend: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("--store", tmp_path, "--name", "vm", "--backend", backend)
    assert run("backup", *arguments, "behave=a@between") == 1
    shown = capsys.readouterr()
    assert "A no such VM: check vm=\n" in shown.err
    assert "f (failed)" in shown.out
    assert run("restore", *arguments) == 1
    assert capsys.readouterr().err == "there is no good backup to restore from\n"


def test_estimate_listing_and_query_need_no_store(
    tmp_path: Path, backend: str, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "report"
    common = ("--name", "vm", "--backend", backend)
    assert run("estimate", *common, f"report={report}") == 0
    assert "@nutanix/lab/vm-1/disks/disk-0-a.raw" in capsys.readouterr().out
    working_dir = report.read_text().partition("working_dir='")[2].partition("'")[0]
    assert working_dir
    assert not Path(working_dir).exists()
    assert run("listing", *common, "--working-dir", tmp_path / "work", "listing=/") == 0
    assert "2104000" in capsys.readouterr().out
    assert (tmp_path / "work").is_dir()
    assert run("query", *common, "query=vm") == 0
    assert capsys.readouterr().out.startswith("vm=web\nraw \N{REPLACEMENT CHARACTER} row\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["backup", "--store", "s", "--name", "../x"], "cannot name a job"),
        (["backup", "--store", "s", "--name", "vm", "novalue"], "'novalue' is not KEY=VALUE"),
        (["backup", "--store", "s", "--name", "vm", "=x"], "'=x' is not KEY=VALUE"),
        (["query", "--name", "vm", "--timeout", "0"], "'0' is not from 0.001"),
        (["query", "--name", "vm", "--timeout", "nan"], "'nan' is not a time"),
        (["query", "--name", "vm", "--timeout", "soon"], "'soon' is not a time"),
        (["backup", "--name", "vm"], "required: --store"),
        ([], "required: action"),
    ],
)
def test_arguments_that_make_no_sense(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        run(*arguments)
    assert message in capsys.readouterr().err


def test_a_store_that_is_not_there_has_no_list(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("list", "--store", tmp_path / "absent") == 1
    assert "is not a folder" in capsys.readouterr().err


def test_a_busy_store_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Store(tmp_path).lock():
        assert run("backup", "--store", tmp_path, "--name", "vm") == 1
    assert capsys.readouterr().err == (
        f"a job is running in {tmp_path}: wait for it to end, or cancel it\n"
    )


def test_this_program_is_the_default_backend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "$@" >&2\n')
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    assert run("backup", "--store", tmp_path / "store", "--name", "vm") == 1
    assert "E stderr of the backend: -m a_backend\n" in capsys.readouterr().err


def test_a_terminal_gets_a_progress_bar(tmp_path: Path, backend: str) -> None:
    ours, theirs = pty.openpty()
    arguments = ["job", "backup", "--store", str(tmp_path), "--name", "vm"]
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments, "--backend", backend, "more=9000000"],
        stdout=subprocess.PIPE,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "120"},
    ) as program:
        os.close(theirs)
        shown = read_terminal(ours)
        assert b"T (OK)" in program.communicate(timeout=30)[0]
    assert program.returncode == 0
    assert "hello from the backend" in shown
    assert "disk-0-a.raw" in shown
    assert "MB/s" in shown or "kB/s" in shown or "?" in shown
    assert "\x1b[" in shown


def read_terminal(fd: int) -> str:
    """Everything written to a terminal until its last writer is gone."""
    shown = b""
    with os.fdopen(fd, "rb", buffering=0) as terminal:
        while True:
            try:
                piece = terminal.read(65_536)
            except OSError:  # Linux tells the end of a terminal by EIO
                break
            if not piece:
                break
            shown += piece
    return shown.decode(errors="replace")


def test_a_backend_that_cannot_stop_complaining_does_not_fill_the_memory() -> None:
    job_log = JobLog(display.Silent())
    for number in range(MAX_MESSAGES + 5):
        job_log.add(Severity.ERROR, f"no {number}")
    job_log.fatal("the end")
    assert len(job_log.messages) == MAX_MESSAGES + 2
    assert job_log.messages[-2].text == "the end"
    assert job_log.messages[-1].text == "5 further messages were not kept"
    assert job_log.messages[0].text == "no 0"
