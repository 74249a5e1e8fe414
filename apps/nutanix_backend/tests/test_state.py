"""The state of a VM: what is written comes back, and what cannot be used is never built on."""

from __future__ import annotations

import contextlib
import json
import re
import resource
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import pytest
from command_line.cancel import Cancelled
from durable import records
from hypothesis import given
from hypothesis import strategies as st
from nutanix_backend.errors import StateError
from nutanix_backend.references import state
from nutanix_backend.references.state import DiskReference, JobRecord, Reference, StateFile, VmState

if TYPE_CHECKING:
    from collections.abc import Iterator

VM = "11111111-1111-4111-8111-111111111111"
REFERENCE = Reference("point", "vm@point", "sha256:0", (DiskReference("d", 512, "d@point"),))
RECORD = JobRecord("job.1", 1, "F", "", state.SENT, REFERENCE)
STATE = VmState(state.SCHEMA, VM, (RECORD,))


@pytest.fixture
def file(tmp_path: Path) -> StateFile:
    """The state file of a VM, not written yet."""
    return StateFile(path_of(tmp_path), VM)


def path_of(tmp_path: Path) -> Path:
    """Where it is."""
    return tmp_path / "bitmap" / "cluster" / f"{VM}.json"


def test_what_is_saved_is_loaded(file: StateFile, tmp_path: Path) -> None:
    with file.locked():
        file.save(STATE)
        assert file.load() == (STATE, "")
    assert path_of(tmp_path).stat().st_mode & 0o777 == 0o600
    assert not list(tmp_path.rglob("*.new"))


def test_jobs_of_a_vm_never_begin_in_the_second_of_a_save(file: StateFile) -> None:
    with file.locked():
        for _ in range(2):
            before = datetime.now(UTC)
            file.save(STATE)
            assert int(file.new_second().timestamp()) > int(before.timestamp())


def test_a_vm_without_state_has_an_empty_one_and_a_reason(file: StateFile) -> None:
    assert file.load() == (VmState(state.SCHEMA, VM, ()), "no state of this VM is on this host")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "cannot be used"),
        (b"\xff\xfe{", "cannot be used"),
        (b"[" * 100_000, "cannot be used"),
        (b"[]", "cannot be used"),
        (b'{"schema":1}', "cannot be used"),
        (records.dump(STATE)[:-9], "cannot be used"),
        (records.dump(STATE).replace(b'"size":512', b'"size":"512"'), "cannot be used"),
        (records.dump(STATE).replace(b'"size":512', b'"size":true'), "cannot be used"),
        (records.dump(STATE).replace(b'"size":512', b'"size":512,"more":0'), "cannot be used"),
        (b'{"schema":2,"jobs":[],"new":"field"}', "it has schema 2"),
        (records.dump(attrs.evolve(STATE, vm_id="another")), "is of another VM"),
    ],
)
def test_what_cannot_be_used_is_empty_and_says_why(
    file: StateFile, tmp_path: Path, content: bytes, words: str
) -> None:
    path_of(tmp_path).parent.mkdir(parents=True)
    path_of(tmp_path).write_bytes(content)
    found, why = file.load()
    assert found.jobs == ()
    assert words in why
    assert str(path_of(tmp_path)) in why
    assert "\n" not in why


@given(st.data())
def test_a_damaged_file_never_loads_as_something_else(data: st.DataObject) -> None:
    """One byte changed: either it is noticed, or the records still mean what they say."""
    whole = records.dump(STATE)
    at = data.draw(st.integers(0, len(whole) - 1))
    value = data.draw(st.integers(0, 255))
    damaged = whole[:at] + bytes([value]) + whole[at + 1 :]
    try:
        found = records.load(damaged, VmState, schema=state.SCHEMA)
    except records.RecordError:
        return
    assert json.loads(records.dump(found)) == json.loads(damaged)


def test_a_state_that_is_a_folder_cannot_be_used(file: StateFile, tmp_path: Path) -> None:
    path_of(tmp_path).mkdir(parents=True)
    assert "cannot be used" in file.load()[1]


def test_a_second_job_on_the_vm_is_refused(file: StateFile, tmp_path: Path) -> None:
    other = StateFile(path_of(tmp_path), VM)
    words = f"another job is processing VM {VM}: run this job again when it has ended"
    with file.locked(), pytest.raises(StateError, match=words):
        enter(other)
    enter(other)


def enter(file: StateFile, patience: state.Patience | None = None) -> None:
    """Take the lock and give it back."""
    with file.locked(patience):
        pass


def test_a_job_waits_for_another_one_that_ends(file: StateFile, tmp_path: Path) -> None:
    lines: list[str] = []
    with contextlib.ExitStack() as first:
        first.enter_context(file.locked())
        patience = state.Patience(300, lines.append, first.close)
        enter(StateFile(path_of(tmp_path), VM, "web01"), patience)
    words = f"another job is processing VM web01 ({VM}): waiting for it up to 300 s (lock_wait)"
    assert lines == [words]


def test_a_job_does_not_wait_longer_than_it_is_told(file: StateFile, tmp_path: Path) -> None:
    looks: list[str] = []
    patience = state.Patience(0.1, str, lambda: looks.append("look"))
    words = re.escape(f"VM web01 ({VM}) for more than 0.1 s: run this job again")
    with file.locked(), pytest.raises(StateError, match=words):
        enter(StateFile(path_of(tmp_path), VM, "web01"), patience)
    assert looks


def test_a_job_that_waits_can_be_cancelled(file: StateFile, tmp_path: Path) -> None:
    def cancel() -> None:
        raise Cancelled("by the test")

    with file.locked(), pytest.raises(Cancelled):
        enter(StateFile(path_of(tmp_path), VM), state.Patience(300, str, cancel))


def test_the_lock_of_a_killed_job_is_free(file: StateFile, tmp_path: Path) -> None:
    script = f"""if True:
        from pathlib import Path
        from nutanix_backend.references.state import StateFile
        with StateFile(Path({str(path_of(tmp_path))!r}), "vm").locked():
            print("locked", flush=True)
            input()
    """
    command = [sys.executable, "-c", script]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe) as process:
        assert process.stdout
        assert process.stdout.readline() == b"locked\n"
        with pytest.raises(StateError):
            enter(file)
        process.kill()
    enter(file)


def test_an_error_under_the_lock_is_not_taken_for_a_second_job(file: StateFile) -> None:
    def fail() -> None:
        with file.locked():
            raise BlockingIOError("something else")

    with pytest.raises(BlockingIOError, match="something else"):
        fail()


def test_a_state_folder_that_cannot_be_made_is_one_line() -> None:
    with pytest.raises(StateError, match=r"state_dir is not usable: .*: check its path and rights"):
        enter(StateFile(Path("/proc/nothing/can/be/made/here.json"), VM))


def test_a_full_file_system_keeps_the_old_state(file: StateFile, tmp_path: Path) -> None:
    file_path = path_of(tmp_path)
    with file.locked():
        file.save(STATE)
        larger = attrs.evolve(STATE, jobs=(RECORD,) * 50)
        with files_limited_to(1000), pytest.raises(StateError, match=r"cannot be saved: .*free"):
            file.save(larger)
        assert file.load() == (STATE, "")
        file.save(larger)
        assert file.load() == (larger, ""), "what a failed save left does no harm"
    assert file_path.exists()


@contextlib.contextmanager
def files_limited_to(size: int) -> Iterator[None]:
    """Let writing behind `size` bytes of any file fail, as on a full file system."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_cluster_that_was_renamed_is_named_as_the_reason(tmp_path: Path) -> None:
    old, new = tmp_path / "old%2Fname", tmp_path / "new"
    old.mkdir()
    new.mkdir()
    StateFile(old / "vm.json", "vm").save(VmState(state.SCHEMA, "vm", ()))
    _, reason = StateFile(new / "vm.json", "vm").load()
    assert "its cluster was called old/name in the last job" in reason
    _, reason = StateFile(new / "other.json", "other").load()
    assert reason == "no state of this VM is on this host"
