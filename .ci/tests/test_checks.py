"""Checks: which there are, that all run and are reported, and that nothing is left running."""

from __future__ import annotations

import threading
import time
from contextlib import closing
from pathlib import Path

import checks
import pytest
from checks import Check, Result, Runner


def shell(name: str, script: str, *, waits: bool = False) -> Check:
    return Check(name, ("sh", "-c", script), waits=waits)


def run(tmp_path: Path, *wanted: Check) -> dict[str, bool]:
    with closing(Runner(tmp_path / "logs")) as runner:
        return {result.name: result.passed for result in runner.run(wanted)}


def test_a_failure_stops_nothing(tmp_path: Path) -> None:
    results = run(tmp_path, shell("one", "exit 3"), shell("two", "true"), shell("three", "false"))
    assert results == {"one": False, "two": True, "three": False}


def test_what_waits_runs_beside_the_rest_and_is_shown(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Each waits until the other has begun: one after the other they would never end."""
    wait = (
        f"cd {tmp_path}; touch $0; "
        "for i in $(seq 600); do [ -e $1 ] && exit; sleep 0.1; done; exit 1"
    )
    results = run(
        tmp_path,
        Check("daemons", ("sh", "-c", f"echo words of daemons; {wait}", "a", "b"), waits=True),
        shell("guests", "echo words of guests >&2; exit 1", waits=True),
        Check("tests", ("sh", "-c", wait, "b", "a")),
    )
    assert results == {"tests": True, "daemons": True, "guests": False}
    shown = capfd.readouterr().out
    assert "words of daemons" in shown
    assert "words of guests" in shown
    assert (tmp_path / "logs/guests.log").read_text() == "words of guests\n"


def test_nothing_is_left_running(tmp_path: Path) -> None:
    runner = Runner(tmp_path / "logs")
    thread = threading.Thread(
        target=runner.run, args=([shell("long", f"sleep 600 & echo $! >{tmp_path}/pid; wait")],)
    )
    thread.start()
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        time.sleep(0.05)
    runner.close()
    thread.join()
    process = Path("/proc", (tmp_path / "pid").read_text().strip(), "status")
    for _ in range(600):
        if not process.exists() or "State:\tZ" in process.read_text():
            return
        time.sleep(0.1)
    pytest.fail("the child of the check still runs")


def test_a_missing_package_is_a_failure(tmp_path: Path) -> None:
    needs = Check("needs", ("true",), packages=("package-that-does-not-exist",))
    assert run(tmp_path, needs, shell("other", "true")) == {"needs": False, "other": True}


def test_the_table_names_what_failed() -> None:
    lines = checks.table([Result("lint", True, 1.25), Result("bacula", False, 300)])
    assert lines == [
        "lint    passed       1.2 s",
        "bacula  FAILED     300.0 s",
        "1 of 2 failed: bacula",
    ]
    assert checks.table([Result("lint", True, 1)])[-1] == "all passed"


def test_every_name_is_a_check() -> None:
    for group in ([], ["versions"], ["nightly"], ["e2e-kernel", "faults-local", "restore-matrix"]):
        names = checks.expand(group)
        assert names
        for name in names:
            assert checks.find(name).command


def test_the_usual_checks_are_of_every_member() -> None:
    usual = checks.expand([])
    assert {"lint", "house", "ptcomm", "prism_client", "nutanix_backend", "bacula"} < set(usual)
    assert checks.find("ptcomm").command[-1] == "py-ptcomm"
    assert {"py313-nutanix_backend", "lowest-ptcomm"} < set(checks.expand(["versions"]))
    assert "lowest-nutanix_backend" not in checks.expand(["versions"])


@pytest.mark.parametrize("suite", checks.suites())
def test_a_suite_runs_often_or_every_night(suite: str) -> None:
    assert suite in checks.expand([]) or suite in checks.expand(["nightly"])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "pyproject.toml").write_text("[tool.uv.workspace]\nmembers = []\n")
    for name in ("deaths", "daemons"):
        (tmp_path / "suites" / name).mkdir(parents=True)
        (tmp_path / "suites" / name / "conftest.py").touch()
    (tmp_path / "suites/daemons/start").touch()
    (tmp_path / "suites/daemons/packages").write_text("cmake\nmake\n")
    return tmp_path


def test_a_suite_is_a_folder(root: Path) -> None:
    deaths, daemons = checks.find("deaths", root), checks.find("daemons-trixie", root)
    assert deaths.command[-3:] == ("suites", "--", "suites/deaths")
    assert (deaths.packages, deaths.waits) == ((), False)
    assert daemons.command == (str(root / "suites/daemons/start"), "trixie")
    assert (daemons.packages, daemons.waits) == (("cmake", "make"), True)


@pytest.mark.parametrize("name", ["nothing", "deaths-qemu", "py39-ptcomm", "lint-now"])
def test_an_unknown_check_is_refused(root: Path, name: str) -> None:
    with pytest.raises(checks.UnknownCheck):
        checks.find(name, root)


def test_an_unknown_name_runs_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert checks.main(["lint", "lnt"]) == 2
    assert "no check is called lnt: known are lint" in capsys.readouterr().err
