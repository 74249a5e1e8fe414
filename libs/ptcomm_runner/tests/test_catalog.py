"""The folder catalog: what is kept of a job, and which jobs a later one stands on."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import attrs
import hypothesis.strategies as st
import pytest
from hypothesis import given
from ptcomm.events import File, FileType, Level, Message, PluginObject, Severity, Stat, Times
from ptcomm_runner import catalog
from ptcomm_runner.catalog import Job, Kind, RunningJob, Status, Store
from ptcomm_runner.errors import NoSuchJob, StoreBusy, StoreDamaged, UnsafeName

if TYPE_CHECKING:
    from pathlib import Path

NOTE = Message(Severity.NONFATAL, "one VM failed")
FULL, DIFF, INCR = Level.FULL, Level.DIFFERENTIAL, Level.INCREMENTAL


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def plain(name: str) -> File:
    return File(name, Stat(FileType.REGULAR, 5), Times(1, 2, 3))


def put(job: RunningJob, name: str, data: bytes) -> None:
    with job.file(plain(name)) as target:
        target.write(data)


def backup(
    store: Store,
    *names: str,
    level: Level = FULL,
    status: Status = Status.GOOD,
    name: str = "vm",
) -> Job:
    with store.lock():
        job = store.begin(name, Kind.BACKUP, level)
        for file in names:
            put(job, file, file.encode())
        return job.end(status, [])


def tree(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.name != ".lock"}


# -- a job in its folder --------------------------------------------------------------------------


def test_a_good_job_keeps_its_files_objects_and_record(store: Store) -> None:
    with store.lock():
        job = store.begin("vm", Kind.BACKUP, FULL)
        put(job, "@nutanix/c/disk.raw", b"bytes")
        with job.object("manifest.json") as target:
            target.write(b"{}")
        with job.object("../evil") as target:
            target.write(b"\1")
        job.entry(plain("@nutanix/c/empty/"))
        job.plugin_object(PluginObject("/vm", name="web", size=5))
        assert tree(store.root) >= {"vm/1-full.partial/files/@nutanix/c/disk.raw"}
        record = job.end(Status.WARNINGS, [NOTE])
    assert tree(store.root) == {
        "vm",
        "vm/1-full",
        "vm/1-full/job.json",
        "vm/1-full/files",
        "vm/1-full/files/@nutanix",
        "vm/1-full/files/@nutanix/c",
        "vm/1-full/files/@nutanix/c/disk.raw",
        "vm/1-full/objects",
        "vm/1-full/objects/1.json",
        "vm/1-full/objects/2.bin",
    }
    assert store.jobs() == [record]
    assert record.status is Status.WARNINGS
    assert record.data_bytes == 5
    assert record.log == (NOTE,)
    assert [item.name for item in record.objects] == ["manifest.json", "../evil"]
    assert store.file_path(record, record.files[0]).read_bytes() == b"bytes"
    assert store.object_path(record, record.objects[1]).read_bytes() == b"\1"
    assert record.files[0].file == plain("@nutanix/c/disk.raw")
    assert record.started <= record.ended


@pytest.mark.parametrize("status", [Status.FAILED, Status.CANCELED])
def test_of_a_bad_job_only_the_record_is_kept(store: Store, status: Status) -> None:
    record = backup(store, "a/b", status=status)
    assert tree(store.root) == {"vm", "vm/1-full.failed", "vm/1-full.failed/job.json"}
    assert store.jobs() == [record]
    assert record.files == ()


def test_a_file_cut_off_by_an_error_does_not_belong_to_the_job(store: Store) -> None:
    with store.lock():
        job = store.begin("vm", Kind.BACKUP, FULL)
        with suppress(RuntimeError), job.file(plain("a")) as target:
            target.write(b"half")
            raise RuntimeError
        assert job.end(Status.GOOD, []).files == ()


@pytest.mark.parametrize("name", ["../../../x", "/etc/cron.d/x", "a/../../x", "a\0"])
def test_an_unsafe_name_is_refused_and_leaves_nothing(store: Store, name: str) -> None:
    with store.lock():
        job = store.begin("vm", Kind.BACKUP, FULL)
        before = tree(store.root.parent)
        with pytest.raises(UnsafeName), job.file(plain(name)):
            pass
        with pytest.raises(UnsafeName):
            job.entry(plain(name))
        assert tree(store.root.parent) == before


def test_a_text_that_is_not_utf8_is_refused(store: Store) -> None:
    with store.lock():
        job = store.begin("vm", Kind.BACKUP, FULL)
        with pytest.raises(UnsafeName, match="not UTF-8"), job.object("manifest\udcff"):
            pass
        with pytest.raises(UnsafeName, match="not UTF-8"):
            job.plugin_object(PluginObject("/vm", name="\udcff"))
        with pytest.raises(UnsafeName, match="not UTF-8"):
            job.entry(attrs.evolve(plain("link"), link="\udcff"))
        assert job.end(Status.GOOD, []).objects == ()


@pytest.mark.parametrize(("first", "second"), [("a", "a"), ("a", "a/b"), ("a/b", "a")])
def test_two_names_for_one_place_are_refused(store: Store, first: str, second: str) -> None:
    with store.lock():
        job = store.begin("vm", Kind.BACKUP, FULL)
        put(job, first, b"1")
        with pytest.raises(UnsafeName, match="beside a file of its name"):
            put(job, second, b"2")


@pytest.mark.parametrize("name", ["", "..", ".hidden", "a/b", "working", "-x", "x" * 64, "a\nb"])
def test_a_job_name_that_cannot_be_a_folder_is_refused(store: Store, name: str) -> None:
    with pytest.raises(UnsafeName, match="cannot name a job"):
        store.begin(name, Kind.BACKUP, FULL)


# -- the store ------------------------------------------------------------------------------------


def test_ids_ascend_across_names_and_bad_jobs(store: Store) -> None:
    ids = [
        backup(store, name="b").job_id,
        backup(store, name="a", status=Status.FAILED).job_id,
        backup(store, name="c").job_id,
    ]
    assert ids == [1, 2, 3]
    assert [job.job_id for job in store.jobs()] == [1, 2, 3]
    assert [job.job_id for job in store.jobs("a")] == [2]


def test_unique_job_names_look_like_baculas(store: Store) -> None:
    names = [backup(store, name="my vm").job_name for _ in range(3)]
    assert len(set(names)) == 3
    stem, _, number = names[0].rpartition("_")
    assert number == "01"
    assert stem.startswith("my_vm.20")
    assert len(stem) == len("my_vm.2026-11-23_07.10.31")


def test_an_empty_or_absent_store_has_no_jobs(store: Store) -> None:
    assert store.jobs() == []
    with store.lock():
        assert store.jobs() == []


def test_a_second_job_is_refused_while_one_runs(store: Store) -> None:
    with store.lock(), pytest.raises(StoreBusy, match="a job is running"), store.lock():
        pytest.fail("two jobs at once")
    with store.lock():
        pass


def test_a_running_job_is_listed_as_running(store: Store) -> None:
    with store.lock():
        store.begin("vm", Kind.BACKUP, FULL)
        assert [job.status for job in store.jobs()] == [Status.RUNNING]


def test_a_job_whose_runner_was_killed_is_failed_by_the_next(store: Store) -> None:
    with store.lock():
        put(store.begin("vm", Kind.BACKUP, FULL), "a", b"half")
    assert backup(store).job_id == 2
    lost, _ = store.jobs()
    assert lost.status is Status.FAILED
    assert lost.log[-1].severity is Severity.FATAL
    assert tree(store.root / "vm") >= {"1-full.failed/job.json"}
    assert not (store.root / "vm/1-full.failed/files").exists()


def test_a_job_killed_before_its_new_name_is_kept_whole(store: Store) -> None:
    record = backup(store, "a")
    folder = store.root / "vm/1-full"
    folder.rename(folder.with_name("1-full.partial"))
    with store.lock():
        assert store.file_path(record, record.files[0]).read_bytes() == b"a"


def test_a_job_killed_while_it_was_cleaned_up_keeps_its_status(store: Store) -> None:
    backup(store, status=Status.CANCELED)
    folder = store.root / "vm/1-full.failed"
    (folder / "files").mkdir()
    folder.rename(folder.with_name("1-full.partial"))
    with store.lock():
        assert store.jobs()[0].status is Status.CANCELED
    assert not (folder / "files").exists()


def test_a_folder_killed_before_its_record_is_removed(store: Store) -> None:
    (store.root / "vm/1-full.partial").mkdir(parents=True)
    assert backup(store).job_id == 1


@pytest.mark.parametrize("content", [b"", b"{", b"{}", b'{"schema":1}', b"\xff", b"[" * 100_000])
def test_a_damaged_record_is_named(store: Store, content: bytes) -> None:
    backup(store)
    (store.root / "vm/1-full/job.json").write_bytes(content)
    with pytest.raises(StoreDamaged, match=r"vm/1-full/job\.json cannot be read"):
        store.jobs()


def test_a_record_of_another_folder_is_refused(store: Store) -> None:
    backup(store)
    (store.root / "vm/1-full").rename(store.root / "vm/7-full")
    with pytest.raises(StoreDamaged, match="not the record of this folder"):
        store.jobs()


def test_other_files_in_the_store_are_no_jobs(store: Store) -> None:
    backup(store)
    (store.root / "working/9-full").mkdir(parents=True)
    (store.root / "vm/notes.txt").write_text("mine")
    (store.root / "vm/2-notes").write_text("mine")
    (store.root / "vm/3-empty").mkdir()
    assert [job.job_id for job in store.jobs()] == [1]


# -- what the Director computes -------------------------------------------------------------------


def jobs(*rows: str) -> list[Job]:
    """Records from rows such as "FT", level and status; "RT" is a restore."""
    return [
        Job(
            schema=catalog.SCHEMA,
            job_id=number,
            name="vm",
            job_name=f"vm.{number}",
            kind=Kind.RESTORE if row[0] == "R" else Kind.BACKUP,
            level=None if row[0] == "R" else Level(row[0]),
            status=Status(row[1]),
            started=number,
            ended=number,
            predecessor="",
        )
        for number, row in enumerate(rows, 1)
    ]


@pytest.mark.parametrize(
    ("rows", "level", "expected"),
    [
        ("", INCR, None),
        ("FT", FULL, None),
        ("FT", INCR, 1),
        ("FW", DIFF, 1),
        ("FT IT", INCR, 2),
        ("FT IT", DIFF, 1),
        ("FT IT DT", INCR, 3),
        ("FT If IA IR", INCR, 1),
        ("Ff", INCR, None),
        ("Ff IT", INCR, None),  # the full was lost: nothing provable to stand on
        ("FT FT", DIFF, 2),
        ("FT RT", INCR, 1),
    ],
)
def test_predecessor(rows: str, level: Level, expected: int | None) -> None:
    found = catalog.predecessor(jobs(*rows.split()), level)
    assert (found and found.job_id) == expected


@pytest.mark.parametrize(
    ("rows", "wanted", "expected"),
    [
        ("FT", None, [1]),
        ("FT IT IW", None, [1, 2, 3]),
        ("FT IT IT", 2, [1, 2]),
        ("FT IT DT", None, [1, 3]),
        ("FT IT DT IT IT", None, [1, 3, 4, 5]),
        ("FT DT DT IT", None, [1, 3, 4]),
        ("FT If IT IA", None, [1, 3]),
        ("FT IT FT IT", None, [3, 4]),
        ("FT IT FT IT", 2, [1, 2]),
        ("FT RT", None, [1]),
    ],
)
def test_chain(rows: str, wanted: int | None, expected: list[int]) -> None:
    assert [job.job_id for job in catalog.chain(jobs(*rows.split()), wanted)] == expected


@pytest.mark.parametrize(
    ("rows", "wanted", "message"),
    [
        ("", None, "no good backup"),
        ("Ff RT", None, "no good backup"),
        ("FT If", 2, "job 2 is not a good backup"),
        ("FT RT", 2, "job 2 is not a good backup"),
        ("FT", 9, "job 9 is not a good backup"),
        ("FT", 0, "job 0 is not a good backup"),
        ("IT", None, "stands on a full backup that is not in the store"),
    ],
)
def test_a_chain_that_cannot_be(rows: str, wanted: int | None, message: str) -> None:
    with pytest.raises(NoSuchJob, match=message):
        catalog.chain(jobs(*rows.split()), wanted)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(Level), st.sampled_from("TWfA"), st.sets(st.integers(0, 5), max_size=3)
        ),
        min_size=1,
        max_size=12,
    )
)
def test_a_chain_restores_what_its_newest_job_saw(
    history: list[tuple[Level, str, set[int]]],
) -> None:
    """Each job saves what changed since its predecessor; the chain must give the state back."""
    state: dict[int, int] = {}
    done: list[Job] = []
    saved: dict[int, dict[int, int]] = {}
    seen: dict[int, dict[int, int]] = {}
    for number, (asked, status, changed) in enumerate(history, 1):
        state = state | dict.fromkeys(changed, number)
        before = catalog.predecessor(done, asked)
        level = asked if before else FULL
        base = seen[before.job_id] if before else {}
        saved[number] = {key: value for key, value in state.items() if base.get(key) != value}
        seen[number] = state
        (blank,) = jobs(f"{level.value}{status}")
        done.append(attrs.evolve(blank, job_id=number, job_name=f"vm.{number}"))
    for job in done:
        if not job.status.good:
            continue
        restored: dict[int, int] = {}
        for part in catalog.chain(done, job.job_id):
            restored |= saved[part.job_id]
        assert restored == seen[job.job_id]


def test_of_a_name_that_occurs_twice_only_the_newest_is_restored(store: Store) -> None:
    chain = [
        backup(store, "meta.json", "disk.raw"),
        backup(store, "meta.json", "disk.1.phcbt01", level=INCR),
        backup(store, "disk.2.phcbt01", "other", level=INCR),
    ]
    found = [(job.job_id, stored.file.name) for job, _, stored in catalog.newest_files(chain)]
    assert found == [
        (1, "disk.raw"),
        (2, "meta.json"),
        (2, "disk.1.phcbt01"),
        (3, "disk.2.phcbt01"),
        (3, "other"),
    ]
