"""Whole jobs against a scripted backend process: every way a job's status can be decided."""

from __future__ import annotations

import hashlib
import os
import runpy
import shutil
import signal
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import pytest
from ptcomm import File, FileType, Level, Phase, Replace, Severity, Stat, Times
from ptcomm_runner import core, jobs, process
from ptcomm_runner.catalog import Kind, Status, Store
from ptcomm_runner.display import Silent
from ptcomm_runner.errors import NoSuchJob, StoreBusy, StoreDamaged
from ptcomm_runner.jobs import Result, Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

SCRIPT = Path(__file__).with_name("runner_backend.py")
NAMES = runpy.run_path(str(SCRIPT))
VM, IMAGE, delta = NAMES["VM"], NAMES["IMAGE"], NAMES["delta"]
FULL, DIFF, INCR = Level.FULL, Level.DIFFERENTIAL, Level.INCREMENTAL
BRIEF = 1.5
"""Seconds a test waits for a backend that hangs: it must still suffice to start a good one."""
TOO_LONG = f"the backend did nothing for {BRIEF} s: see its own log"


class Runner:
    """A store, and a backend that does as told; `told` is what the backend heard last."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = Store(folder / "store")
        self.report = folder / "report"
        self.timeout = 30.0
        self.command: tuple[str, ...] = (sys.executable, str(SCRIPT))
        self.settings = self.with_options()

    def with_options(self, **options: str) -> Settings:
        self.report.unlink(missing_ok=True)
        self.settings = Settings(
            command=self.command,
            parameters=(("report", str(self.report)), *options.items()),
            working_dir=self.folder / "working",
            watcher=Silent(),
            timeout=self.timeout,
        )
        return self.settings

    def backup(self, level: Level = FULL, **options: str) -> Result:
        return jobs.backup(self.store, "vm", level, self.with_options(**options))

    def restore(
        self,
        job_id: int | None = None,
        where: str = "/",
        replace: Replace = Replace.ALWAYS,
        include: tuple[str, ...] = (),
        **options: str,
    ) -> Result:
        settings = self.with_options(**options)
        return jobs.restore(
            self.store,
            "vm",
            settings,
            job_id=job_id,
            where=where,
            replace=replace,
            include=include,
        )

    @property
    def told(self) -> str:
        return self.report.read_text() if self.report.exists() else ""

    def files_told(self) -> list[str]:
        lines = self.told.splitlines()
        return [line.split("'")[1] for line in lines if line.startswith("file ")]

    def folders(self) -> list[str]:
        return sorted(path.name for path in (self.store.root / "vm").iterdir())


@pytest.fixture
def runner(tmp_path: Path) -> Runner:
    return Runner(tmp_path)


@pytest.fixture(scope="module")
def one_full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with one full backup, made once: starting a process takes its time."""
    runner = Runner(tmp_path_factory.mktemp("full"))
    assert runner.backup().status is Status.GOOD
    return runner.store.root


@pytest.fixture
def saved(runner: Runner, one_full: Path) -> Runner:
    """A runner whose store holds one full backup."""
    shutil.copytree(one_full, runner.store.root)
    return runner


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "CANCEL_PAUSE", 0.3)
    monkeypatch.setattr(process, "KILL_PAUSE", 0.3)


def said(result: Result, severity: Severity) -> list[str]:
    return [message.text for message in result.log if message.severity is severity]


def assert_no_data(runner: Runner) -> None:
    """Nothing of a failed job looks like a backup."""
    (folder,) = (runner.store.root / "vm").iterdir()
    assert folder.name.endswith(".failed")
    assert [path.name for path in folder.iterdir()] == ["job.json"]


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# -- backup ---------------------------------------------------------------------------------------


def test_a_good_full_is_stored_as_it_was_sent(runner: Runner) -> None:
    result = runner.backup(FULL, vm="web", exclude="a b", empty="")
    assert (result.status, result.job_id, result.level) == (Status.GOOD, 1, FULL)
    assert said(result, Severity.INFO) == ["hello from the backend"]
    (record,) = runner.store.jobs()
    metadata, empty, disk, folder = record.files
    root = runner.store.root / "vm/1-full/files" / VM
    assert (root / "disks/disk-0-a.raw").read_bytes() == IMAGE
    assert (root / "disks/disk-0-a.raw").stat().st_blocks * 512 < len(IMAGE)
    assert (root / "vm-metadata.json").read_bytes() == b'{"name": "web"}'
    assert (root / "empty").read_bytes() == b""
    assert (metadata.file.stat.mode, metadata.file.times.mtime) == (0o100640, 1_700_000_002)
    assert empty.file.stat.type is FileType.EMPTY
    assert disk.data_bytes == len(IMAGE)
    assert (folder.file.name, folder.file.stat.type) == (f"{VM}/dir/", FileType.DIRECTORY)
    (manifest,) = record.objects
    assert manifest.name == f"manifest/{VM}"
    path = runner.store.object_path(record, manifest)
    assert path.read_bytes() == f"manifest of {record.job_name}".encode()
    assert [item.name for item in record.plugin_objects] == ["web"]
    assert f"parameters report={runner.report} vm=web exclude=a b empty=\n" in runner.told
    assert "BACULA_JOBID=1\n" in runner.told
    assert runner.told.endswith("Terminate\nEndOfInput\n")
    assert str(runner.report) not in (runner.store.root / "vm/1-full/job.json").read_text()


def test_the_backend_learns_what_its_job_stands_on(runner: Runner) -> None:
    full = runner.backup(FULL)
    assert "level=<Level.FULL: 'F'>, since=None" in runner.told
    assert "prev_job_name=''" in runner.told
    first = runner.backup(INCR)
    started = runner.store.jobs()[0].started
    assert f"level=<Level.INCREMENTAL: 'I'>, since={started}" in runner.told
    assert f"prev_job_name='{full.job_name}'" in runner.told
    assert runner.backup(INCR, behave="a@between").status is Status.FAILED
    runner.backup(INCR)
    assert f"prev_job_name='{first.job_name}'" in runner.told
    runner.backup(DIFF)
    assert f"level=<Level.DIFFERENTIAL: 'D'>, since={started}" in runner.told
    assert f"prev_job_name='{full.job_name}'" in runner.told
    runner.backup(FULL)
    assert "prev_job_name=''" in runner.told
    assert runner.folders() == [
        "1-full",
        "2-incremental",
        "3-incremental.failed",
        "4-incremental",
        "5-differential",
        "6-full",
    ]
    assert runner.store.jobs()[3].predecessor == first.job_name


@pytest.mark.parametrize("level", [INCR, DIFF])
def test_without_a_good_full_any_level_is_a_full_and_says_so(runner: Runner, level: Level) -> None:
    runner.backup(FULL, behave="die@inside")
    result = runner.backup(level)
    assert (result.status, result.level) == (Status.GOOD, FULL)
    assert "no good full backup of vm" in said(result, Severity.INFO)[0]
    assert "level=<Level.FULL: 'F'>" in runner.told


@pytest.mark.parametrize(
    ("behave", "severity", "text"),
    [
        ("q@inside", Severity.NONFATAL, "one VM of several failed"),
        ("q@between", Severity.NONFATAL, "one VM of several failed"),
        ("stderr@inside", Severity.ERROR, "stderr of the backend: oops \N{REPLACEMENT CHARACTER}"),
        ("stderr@end", Severity.ERROR, "stderr of the backend: Traceback"),
    ],
)
def test_a_job_with_warnings(runner: Runner, behave: str, severity: Severity, text: str) -> None:
    result = runner.backup(behave=behave)
    assert result.status is Status.WARNINGS
    assert text in said(result, severity)
    assert runner.folders() == ["1-full"]
    assert runner.backup(INCR).level is INCR


def test_a_warning_leaves_the_job_good(runner: Runner) -> None:
    result = runner.backup(behave="w@inside")
    assert result.status is Status.GOOD
    assert said(result, Severity.WARNING) == ["certificate not verified"] * 9


def test_an_exit_status_is_reported(runner: Runner) -> None:
    result = runner.backup(exit="3")
    assert result.status is Status.WARNINGS
    assert said(result, Severity.ERROR) == ["the backend ended with exit status 3"]


def test_an_end_by_a_signal_is_reported(runner: Runner) -> None:
    result = runner.backup(behave="die@end")
    assert result.status is Status.WARNINGS
    assert said(result, Severity.ERROR) == ["the backend ended with signal 9"]


def test_a_size_that_differs_from_the_data_is_an_error_of_the_job(runner: Runner) -> None:
    result = runner.backup(lie="1")
    assert result.status is Status.WARNINGS
    assert f"{VM}/empty: the backend announced 1 bytes and sent 0" in said(
        result, Severity.NONFATAL
    )


@pytest.mark.parametrize(
    ("behave", "text"),
    [
        ("a@after-parameters", "no such VM: check vm="),
        ("a@between", "no such VM: check vm="),
        ("a@inside", "no such VM: check vm="),
        ("e@between", "bacula-fd would drop the rest"),
        ("e@inside", "bacula-fd would drop the rest"),
        ("die@inside", "the backend ended in the middle of the job"),
        ("leave@between", "the backend ended in the middle of the job"),
        ("junk@inside", "broke PTCOMM"),
        ("wrong@between", "broke PTCOMM"),
    ],
)
def test_a_failed_job_keeps_no_data(runner: Runner, behave: str, text: str) -> None:
    result = runner.backup(behave=behave)
    assert result.status is Status.FAILED
    assert text in said(result, Severity.FATAL)[-1]
    assert (result.files, result.data_bytes) == ((), 0)
    assert_no_data(runner)


def test_after_a_fatal_message_the_backend_ends_by_itself(runner: Runner) -> None:
    result = runner.backup(behave="a@inside", exit="4")
    assert "SIGUSR1" not in runner.told
    assert runner.told.endswith("EndOfInput\n")
    assert said(result, Severity.ERROR) == ["the backend ended with exit status 4"]


@pytest.mark.parametrize("behave", ["e@inside", "junk@inside"])
def test_a_backend_that_cannot_be_trusted_is_cancelled(runner: Runner, behave: str) -> None:
    runner.backup(behave=behave)
    assert "SIGUSR1" in runner.told


@pytest.mark.parametrize("name", ["../../../evil", "/etc/evil", f"{VM}/vm-metadata.json"])
def test_a_bad_file_name_fails_the_job(runner: Runner, name: str) -> None:
    before = {path for path in runner.folder.parent.rglob("*") if runner.folder not in path.parents}
    result = runner.backup(name=name)
    assert result.status is Status.FAILED
    assert repr(name) in said(result, Severity.FATAL)[-1]
    assert_no_data(runner)
    after = {path for path in runner.folder.parent.rglob("*") if runner.folder not in path.parents}
    assert after == before
    assert not Path("/etc/evil").exists()


def test_a_backend_that_cannot_be_started_fails_the_job(runner: Runner) -> None:
    runner.command = ("/no/such/backend",)
    result = runner.backup()
    assert result.status is Status.FAILED
    assert said(result, Severity.FATAL) == [
        "cannot start the backend /no/such/backend: No such file or directory"
    ]


def test_a_parameter_that_ptcomm_cannot_say_fails_the_job(runner: Runner) -> None:
    result = runner.backup(vm="a\nFINISH")
    assert result.status is Status.FAILED
    assert "FINISH" not in runner.told
    assert len(said(result, Severity.FATAL)) == 1


def test_a_full_file_system_fails_the_job(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(fd: int, data: object, offset: int) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", no_space)
    result = runner.backup()
    assert result.status is Status.FAILED
    assert "No space left on device" in said(result, Severity.FATAL)[-1]
    assert_no_data(runner)


def test_data_that_cannot_be_made_durable_fails_the_job(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_walk = os.walk

    def broken_once(*args: object) -> object:
        monkeypatch.setattr(os, "walk", real_walk)
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "walk", broken_once)
    result = runner.backup()
    assert result.status is Status.FAILED
    assert "cannot be made durable" in said(result, Severity.FATAL)[-1]
    assert_no_data(runner)


def test_a_second_job_in_the_store_is_refused(runner: Runner) -> None:
    with runner.store.lock(), pytest.raises(StoreBusy):
        runner.backup()


# -- time and cancel ------------------------------------------------------------------------------


def test_a_backend_that_says_nothing_for_too_long_is_cancelled(runner: Runner) -> None:
    runner.timeout = BRIEF
    result = runner.backup(behave="hang@inside")
    assert result.status is Status.FAILED
    assert said(result, Severity.FATAL) == [TOO_LONG]
    assert runner.told.count("SIGUSR1") == 1
    assert_no_data(runner)


def test_a_backend_that_hangs_gets_its_time_to_clean_up(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "CANCEL_PAUSE", 0.1)
    runner.timeout = BRIEF
    result = runner.backup(behave="tidy@inside")
    assert said(result, Severity.FATAL) == [TOO_LONG]
    assert runner.told.endswith("SIGUSR1\ntidied up\n")


@pytest.mark.usefixtures("impatient")
def test_a_backend_that_does_not_listen_either_is_killed(runner: Runner) -> None:
    runner.timeout = BRIEF
    result = runner.backup(behave="deaf@inside")
    assert result.status is Status.FAILED
    assert said(result, Severity.FATAL) == [TOO_LONG]


@pytest.mark.usefixtures("impatient")
def test_a_process_left_behind_does_not_keep_the_job_waiting(runner: Runner) -> None:
    runner.timeout = BRIEF
    result = runner.backup(behave="orphan@inside")
    assert result.status is Status.FAILED
    pid = int(runner.told.partition("orphan ")[2].split()[0])
    assert is_gone_within(pid, 60)


def is_gone_within(pid: int, seconds: float) -> bool:
    """Whether a process has ended; a signal that was sent may arrive later on a busy machine."""
    deadline = time.monotonic() + seconds
    status = Path(f"/proc/{pid}/stat")
    while status.exists() and " Z " not in status.read_text():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


@pytest.mark.usefixtures("impatient")
def test_a_restore_that_the_backend_does_not_read_times_out(saved: Runner) -> None:
    saved.timeout = BRIEF
    result = saved.restore(behave="hang@inside")
    assert result.status is Status.FAILED
    assert said(result, Severity.FATAL) == [TOO_LONG]


@pytest.mark.usefixtures("impatient")
def test_a_backend_that_does_not_end_after_the_job_fails_it(runner: Runner) -> None:
    runner.timeout = BRIEF
    result = runner.backup(behave="hang@end")
    assert result.status is Status.FAILED
    assert f"did not end within {BRIEF} s" in said(result, Severity.FATAL)[-1]
    assert_no_data(runner)


def cancel_when(told: str, runner: Runner, times: int = 1) -> Iterator[None]:
    """Send SIGINT to this process once the backend reported `told`."""

    def cancel() -> None:
        deadline = time.monotonic() + 20
        while told not in runner.told and time.monotonic() < deadline:
            time.sleep(0.02)
        for _ in range(times):
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            time.sleep(0.2)

    thread = threading.Thread(target=cancel)
    with runner.settings.cancellation.on_signals():
        thread.start()
        yield
        thread.join()


def canceled_backup(runner: Runner, behave: str, told: str, times: int = 1) -> Result:
    settings = runner.with_options(behave=behave)
    results = [
        jobs.backup(runner.store, "vm", FULL, settings) for _ in cancel_when(told, runner, times)
    ]
    return results[0]


@pytest.mark.parametrize("place", ["inside", "end"])
def test_a_cancelled_job_is_no_backup(runner: Runner, place: str) -> None:
    before = signal.getsignal(signal.SIGINT)
    result = canceled_backup(runner, f"hang@{place}", "hanging")
    assert result.status is Status.CANCELED
    assert said(result, Severity.FATAL) == ["the job was cancelled"]
    assert runner.told.count("SIGUSR1") == 1
    assert_no_data(runner)
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.usefixtures("impatient")
def test_a_second_signal_does_not_wait_for_the_backend(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "CANCEL_PAUSE", 20.0)
    began = time.monotonic()
    result = canceled_backup(runner, "deaf@inside", "BACULA_JOBID", times=2)
    assert result.status is Status.CANCELED
    assert time.monotonic() - began < 10


@pytest.mark.usefixtures("impatient")
def test_a_backend_deaf_to_a_cancel_is_killed_in_the_end(runner: Runner) -> None:
    runner.timeout = BRIEF
    assert canceled_backup(runner, "deaf@inside", "BACULA_JOBID").status is Status.CANCELED


def test_a_signal_before_the_conversation_cancels_at_its_first_wait(runner: Runner) -> None:
    settings = runner.with_options()
    with settings.cancellation.on_signals():
        signal.raise_signal(signal.SIGTERM)
        result = jobs.backup(runner.store, "vm", FULL, settings)
    assert result.status is Status.CANCELED


# -- restore --------------------------------------------------------------------------------------


def test_a_restore_gives_back_the_chain_as_bacula_does(runner: Runner) -> None:
    names = [runner.backup(level).job_name for level in (FULL, INCR, INCR)]
    runner.backup(FULL)
    result = runner.restore(3)
    assert result.status is Status.GOOD
    lines = runner.told.splitlines()
    manifests = [f"manifest of {name}".encode() for name in names]
    assert [line for line in lines if line.startswith("object")] == [
        f"object manifest/{VM} {len(data)} {len(data)} {digest(data)}" for data in manifests
    ]
    first_file = next(number for number, line in enumerate(lines) if line.startswith("file"))
    assert not any(line.startswith("object") for line in lines[first_file:])
    assert runner.files_told() == [
        f"{VM}/disks/disk-0-a.raw",
        f"{VM}/disks/disk-0-a.2.phcbt01",
        f"{VM}/vm-metadata.json",
        f"{VM}/empty",
        f"{VM}/disks/disk-0-a.3.phcbt01",
        f"{VM}/dir/",
    ]
    data = [line.split()[1:] for line in lines if line.startswith("data")]
    contents = (IMAGE, delta(2), b'{"name": "web"}', delta(3))
    expected = [[str(len(c)), str(min(len(c), 65_536)), digest(c)] for c in contents]
    assert data == expected
    assert "mode=33184, nlink=1, file_index=3), times=Times(atime=1700000001" in runner.told
    assert "type=<JobType.RESTORE: 'R'>, level=None, since=None, where=''" in runner.told
    assert lines[-3:] == ["Finish", "Terminate", "EndOfInput"]
    assert result.data_bytes == sum(len(c) for c in contents)
    assert runner.store.jobs()[-1].kind is Kind.RESTORE


def test_the_newest_good_backup_is_the_default(runner: Runner) -> None:
    names = [runner.backup(level).job_name for level in (FULL, INCR)]
    runner.backup(INCR, behave="die@inside")
    result = runner.restore()
    assert said(result, Severity.INFO)[0] == f"restoring from {names[0]}, {names[1]}"
    assert runner.backup(INCR).job_id == 5
    assert f"prev_job_name='{names[1]}'" in runner.told


def test_a_folder_as_where_is_put_before_the_names(saved: Runner) -> None:
    saved.restore(where="/mnt/out", replace=Replace.IF_OLDER, include=("*.raw", "*empty"))
    assert saved.files_told() == [
        f"/mnt/out/{VM}/empty",
        f"/mnt/out/{VM}/disks/disk-0-a.raw",
    ]
    assert "where='/mnt/out', regex_where=None, replace=<Replace.IF_OLDER: 'o'>" in saved.told


def test_a_file_the_backend_skips_is_not_sent(saved: Runner) -> None:
    result = saved.restore(skip="*.raw")
    assert result.status is Status.GOOD
    assert said(result, Severity.SKIPPED) == [
        f"{VM}/disks/disk-0-a.raw: the backend does not need it"
    ]
    assert digest(IMAGE) not in saved.told
    assert digest(b'{"name": "web"}') in saved.told


def test_a_backend_that_talks_while_it_is_given_data_does_not_block(saved: Runner) -> None:
    result = saved.restore(chatter="20")
    assert result.status is Status.GOOD
    assert len(said(result, Severity.INFO)) > 600


def test_a_lower_job_of_a_chain_can_be_restored(saved: Runner) -> None:
    saved.backup(INCR)
    saved.restore(1)
    assert f"{VM}/disks/disk-0-a.2.phcbt01" not in saved.files_told()


@pytest.mark.parametrize(
    ("behave", "text"),
    [
        ("a@reply", "no such VM: check vm="),
        ("a@inside", "no such VM: check vm="),
        ("die@reply", "the backend ended in the middle of the job"),
        ("die@inside", "the backend ended in the middle of the job"),
        ("junk@inside", "broke PTCOMM"),
    ],
)
def test_a_failed_restore(saved: Runner, behave: str, text: str) -> None:
    result = saved.restore(behave=behave)
    assert result.status is Status.FAILED
    assert text in said(result, Severity.FATAL)[-1]
    assert (result.files, result.data_bytes) == ((), 0)
    assert saved.folders() == ["1-full", "2-restore.failed"]


@pytest.mark.parametrize("behave", ["e@reply", "e@inside"])
def test_after_an_error_in_a_restore_the_backend_gets_finish_and_no_end(
    saved: Runner, behave: str
) -> None:
    result = saved.restore(behave=behave)
    assert result.status is Status.FAILED
    assert said(result, Severity.FATAL) == ["the backend failed to restore a file"]
    assert saved.told.endswith("\nFINISH\nEndOfInput\n")
    assert "SIGUSR1" not in saved.told


def test_a_reply_too_early_fails_the_restore(saved: Runner) -> None:
    result = saved.restore(include=("*.raw",), behave="wrong@inside")
    assert result.status is Status.FAILED
    assert "Finish" not in saved.told


def test_a_damaged_file_is_never_handed_over_whole(saved: Runner) -> None:
    disk = saved.store.root / "vm/1-full/files" / VM / "disks/disk-0-a.raw"
    with disk.open("r+b") as file:
        file.seek(1_000_000)
        file.write(b"rot")
    result = saved.restore()
    assert result.status is Status.FAILED
    assert "its digest differs" in said(result, Severity.FATAL)[-1]
    assert not any(line.startswith(f"data {len(IMAGE)} ") for line in saved.told.splitlines())


@pytest.mark.parametrize("part", ["files", "objects"])
def test_a_store_that_lacks_a_file_is_refused_before_the_backend_starts(
    saved: Runner, part: str
) -> None:
    folder = saved.store.root / "vm/1-full" / part
    next(path for path in folder.rglob("*") if path.is_file()).unlink()
    with pytest.raises(StoreDamaged, match="No such file"):
        saved.restore()
    assert saved.told == ""
    assert saved.folders() == ["1-full"]


def test_a_glob_that_matches_nothing_is_refused(saved: Runner) -> None:
    with pytest.raises(NoSuchJob, match="no file that was asked for"):
        saved.restore(include=("*.vmdk",))


def test_there_is_nothing_to_restore_without_a_good_backup(runner: Runner) -> None:
    runner.backup(behave="die@inside")
    with pytest.raises(NoSuchJob, match="no good backup"):
        runner.restore()


# -- files the backend leaves to the daemon -------------------------------------------------------


def test_core_files_are_created_below_where(saved: Runner, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = saved.restore(where=str(out), core="*")
    assert result.status is Status.GOOD
    disk = out / VM / "disks/disk-0-a.raw"
    assert disk.read_bytes() == IMAGE
    assert (out / VM / "empty").read_bytes() == b""
    assert (disk.stat().st_mode, int(disk.stat().st_mtime)) == (0o100640, 1_700_000_002)
    assert (out / VM / "dir").stat().st_mode == 0o40750
    assert sorted(path.name for path in (out / VM).iterdir()) == [
        "dir",
        "disks",
        "empty",
        "vm-metadata.json",
    ]
    assert "data" not in [line.split()[0] for line in saved.told.splitlines()]


def test_core_files_heed_replace(saved: Runner, tmp_path: Path) -> None:
    out = tmp_path / "out"
    there = out / VM / "vm-metadata.json"
    there.parent.mkdir(parents=True)
    there.write_bytes(b"mine")
    result = saved.restore(where=str(out), replace=Replace.NEVER, core="*metadata.json")
    assert there.read_bytes() == b"mine"
    assert len(said(result, Severity.SKIPPED)) == 1
    saved.restore(where=str(out), replace=Replace.ALWAYS, core="*metadata.json")
    assert there.read_bytes() == b'{"name": "web"}'


@pytest.mark.parametrize(
    ("replace", "age", "replaced"),
    [
        (Replace.ALWAYS, 0, True),
        (Replace.NEVER, 0, False),
        (Replace.IF_NEWER, -10, True),
        (Replace.IF_NEWER, 0, False),
        (Replace.IF_NEWER, 10, False),
        (Replace.IF_OLDER, -10, False),
        (Replace.IF_OLDER, 0, False),
        (Replace.IF_OLDER, 10, True),
    ],
)
def test_what_replace_means(tmp_path: Path, replace: Replace, age: int, replaced: bool) -> None:
    there = tmp_path / "file"
    file = File("file", Stat(FileType.REGULAR, 4), Times(1, 1_700_000_002, 3))
    assert core.wanted(there, file, replace)
    there.write_bytes(b"mine")
    os.utime(there, (1_700_000_002 + age,) * 2)
    assert core.wanted(there, file, replace) is replaced


def test_a_core_file_that_cannot_be_created_is_an_error_of_the_job(
    saved: Runner, tmp_path: Path
) -> None:
    (tmp_path / "out").write_bytes(b"no folder")
    result = saved.restore(where=str(tmp_path / "out"), core="*metadata.json")
    assert result.status is Status.WARNINGS
    assert "cannot be created" in said(result, Severity.ERROR)[-1]


def test_a_damaged_core_file_does_not_appear(saved: Runner, tmp_path: Path) -> None:
    disk = saved.store.root / "vm/1-full/files" / VM / "disks/disk-0-a.raw"
    disk.write_bytes(bytes(len(IMAGE)))
    result = saved.restore(where=str(tmp_path / "out"), core="*.raw")
    assert result.status is Status.FAILED
    assert "its digest differs" in said(result, Severity.FATAL)[-1]
    assert list((tmp_path / "out" / VM / "disks").iterdir()) == []


# -- estimate, listing, query ---------------------------------------------------------------------


@pytest.mark.parametrize("phase", [Phase.ESTIMATE, Phase.LISTING])
def test_an_estimate_and_a_listing_show_files_and_leave_no_trace(
    runner: Runner, phase: Phase
) -> None:
    result = jobs.listing("vm", runner.with_options(), phase)
    assert (result.status, result.job_id) == (Status.GOOD, 0)
    assert [file.name for file in result.files] == [
        f"{VM}/vm-metadata.json",
        f"{VM}/disks/disk-0-a.raw",
    ]
    assert result.data_bytes == 15 + len(IMAGE)
    assert "job_id=0, type=<JobType.ESTIMATE: 'E'>, level=None" in runner.told
    assert runner.told.endswith("Terminate\nEndOfInput\n")
    assert not runner.store.root.exists()


def test_a_query_shows_rows_and_ends_without_end(runner: Runner) -> None:
    result = jobs.query("vm", runner.with_options(query="vm"))
    assert (result.status, result.rows) == (
        Status.GOOD,
        ("vm=web", "raw \N{REPLACEMENT CHARACTER} row"),
    )
    assert "no End" in runner.told


def test_a_listing_and_a_query_that_fail_show_nothing(runner: Runner) -> None:
    listing = jobs.listing("vm", runner.with_options(behave="a@between"), Phase.LISTING)
    query = jobs.query("vm", runner.with_options(behave="die@between"))
    assert (listing.status, listing.files) == (Status.FAILED, ())
    assert (query.status, query.rows) == (Status.FAILED, ())


def test_a_working_folder_is_made(runner: Runner) -> None:
    settings = attrs.evolve(runner.with_options(), working_dir=runner.folder / "a/b")
    jobs.query("vm", settings)
    assert (runner.folder / "a/b").is_dir()
    assert f"working_dir='{runner.folder}/a/b'" in runner.told
