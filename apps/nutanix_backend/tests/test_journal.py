"""The journal and the sweep: what a job is about to make is written down, found and removed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import pytest
from durable import records
from hypothesis import given
from hypothesis import strategies as st
from nutanix_backend.cluster import inventory, journal, sweep
from nutanix_backend.cluster.journal import ObjectKind
from nutanix_backend.errors import StateError
from nutanix_backend.settings.parameters import parse
from prism_client import Consistency
from ptcomm import Level, Severity
from ptcomm_runner.catalog import Status

if TYPE_CHECKING:
    from nutanix_backend.cluster.journal import Found
    from prism_client import PrismClient
    from prism_lab import Lab
    from ptcomm_runner.jobs import Result

    from apps.nutanix_backend.tests.conftest import FaultyProduct, Guest, Product

KIB, MIB = 1 << 10, 1 << 20
MODULE = [sys.executable, "-m", "nutanix_backend"]
PRISM = "prism:9440"


def kill(state_dir: Path, *intents: tuple[ObjectKind, str, str], prism: str = PRISM) -> Path:
    """The journal of a job that was killed: kinds, names and ids (empty for no answer)."""
    job = f"job.{len(list(state_dir.rglob('*.journal')))}"
    with journal.opened(state_dir, job, prism) as opened:
        for kind, name, ext_id in intents:
            entry = opened.intend(kind, name, vm_id="vm", initiator="iqn")
            if ext_id:
                entry.made(ext_id)
    return state_dir / "journal" / f"{job}-{os.getpid()}.journal"


def found(state_dir: Path) -> list[Found]:
    """The journals of jobs that are gone."""
    return list(journal.abandoned(state_dir))


# --- the journal ---------------------------------------------------------------------------------


def test_a_job_that_settled_all_leaves_no_journal(tmp_path: Path) -> None:
    with journal.opened(tmp_path, "job.1", PRISM) as opened:
        entry = opened.intend(ObjectKind.IMAGE, "podheitor x")
        entry.made("id")
        entry.close()
    assert not list((tmp_path / "journal").iterdir())


def test_what_is_not_settled_is_found_in_the_order_of_removal(tmp_path: Path) -> None:
    kinds = [
        ObjectKind.IMAGE,
        ObjectKind.RECOVERY_POINT,
        ObjectKind.VOLUME_GROUP,
        ObjectKind.SESSION,
    ]
    path = kill(tmp_path, *((kind, kind.value, "") for kind in kinds))
    assert path.stat().st_mode & 0o777 == 0o600
    (left,) = found(tmp_path)
    assert left.header == journal.Header(journal.SCHEMA, "job.0", PRISM)
    assert [pending.intent.kind for pending in left.pending] == [
        ObjectKind.SESSION, ObjectKind.VOLUME_GROUP, ObjectKind.RECOVERY_POINT, ObjectKind.IMAGE,
    ]  # fmt: skip
    assert len({pending.intent.key for pending in left.pending}) == 4


def test_the_journal_of_a_running_job_is_nobody_elses(tmp_path: Path) -> None:
    with journal.opened(tmp_path, "job.1", PRISM) as opened:
        entry = opened.intend(ObjectKind.IMAGE, "podheitor x")
        assert not found(tmp_path)
        (running,) = journal.running(tmp_path)
        assert running.pending[0].intent.name == "podheitor x"
        entry.close()


@given(cut=st.integers(0, 2000), at=st.integers(0, 2000), value=st.integers(0, 255))
def test_a_damaged_journal_is_read_as_far_as_it_goes(
    tmp_path_factory: pytest.TempPathFactory, cut: int, at: int, value: int
) -> None:
    """What is read of a torn journal was written, and all that is whole in it is read."""
    folder = tmp_path_factory.mktemp("torn")
    path = kill(folder, (ObjectKind.RECOVERY_POINT, "a", "1"), (ObjectKind.VOLUME_GROUP, "b", ""))
    whole = path.read_bytes()
    (before,) = found(folder)
    path.write_bytes(whole[: cut % (len(whole) + 1)])
    (after,) = found(folder)
    known = {pending.intent for pending in before.pending}
    assert {pending.intent for pending in after.pending} <= known
    assert len(after.pending) >= whole[: cut % (len(whole) + 1)].count(b'"since"') - 1

    damaged = bytearray(whole)
    damaged[at % len(whole)] = value
    path.write_bytes(damaged)
    assert all(len(left.pending) <= 4 for left in found(folder))


def test_a_line_after_a_torn_one_stands_on_its_own(tmp_path: Path) -> None:
    with journal.opened(tmp_path, "job.1", PRISM) as opened:
        entry = opened.intend(ObjectKind.IMAGE, "first")
        (path,) = (tmp_path / "journal").iterdir()
        with path.open("ab") as file:
            file.write(b'\n{"number":2,"kind":"ima')  # as a full file system leaves it
        opened.intend(ObjectKind.IMAGE, "second")
        entry.close()
    (left,) = found(tmp_path)
    assert [pending.intent.name for pending in left.pending] == ["second"]


def test_a_newer_journal_is_left_alone(tmp_path: Path) -> None:
    path = kill(tmp_path, (ObjectKind.IMAGE, "x", ""))
    path.write_bytes(path.read_bytes().replace(b'"schema":1', b'"schema":2'))
    assert not found(tmp_path)
    assert path.exists()


def test_without_a_journal_nothing_is_made() -> None:
    with (
        pytest.raises(StateError, match=r"the journal .* cannot be written"),
        journal.opened(Path("/proc/nothing"), "job.1", PRISM),
    ):
        pass


# --- the sweep, on a cluster ---------------------------------------------------------------------


@pytest.fixture
def client(product: Product) -> PrismClient:
    """A connection to the lab."""
    return inventory.connect(parse(product.parameters()))


def point(client: PrismClient, guest: Guest, name: str) -> str:
    """A recovery point of this name."""
    soon = datetime.now(UTC) + timedelta(days=1)
    made = client.recovery_points.create(
        guest.ext_id, name=name, expires=soon, consistency=Consistency.CRASH
    )
    return made.ext_id


def swept(client: PrismClient, product: Product) -> list[str]:
    """What a sweep says."""
    settings = parse(product.parameters())
    return [str(removed) for removed in sweep.sweep(client, settings)]


def test_a_create_that_comes_true_late_is_found_by_a_later_sweep(
    product: Product, client: PrismClient
) -> None:
    guest = product.guest(MIB)
    path = killed_while_it_waits(product, guest)
    assert not swept(client, product)
    assert path.exists(), "the server may still be at work"
    point(client, guest, "podheitor killed.1 x")
    assert swept(client, product) == [
        "removed: recovery point podheitor killed.1 x of job killed.1, which was killed"
    ]
    assert not guest.recovery_points()
    assert not path.exists()


def test_a_create_that_never_comes_true_is_forgotten_in_the_end(
    product: Product, client: PrismClient
) -> None:
    path = killed_while_it_waits(product, product.guest(MIB))
    since = int(time.time())
    content = path.read_bytes()
    assert str(since)[:-2].encode() in content
    old = json.dumps(since - sweep.SETTLING - 1000)[:-2].encode()
    path.write_bytes(content.replace(str(since)[:-2].encode(), old))
    assert not swept(client, product)
    assert not path.exists()


def killed_while_it_waits(product: Product, guest: Guest) -> Path:
    """The journal of a job killed before it was told of its recovery point."""
    with journal.opened(product.root / "state", "killed.1", prism_of(product)) as log:
        log.intend(ObjectKind.RECOVERY_POINT, "podheitor killed.1 x", vm_id=guest.ext_id)
    (path,) = (product.root / "state" / "journal").iterdir()
    return path


def prism_of(product: Product) -> str:
    """The Prism of the lab."""
    return f"{product.lab.pc_host}:9440"


def test_a_sweep_leaves_what_is_not_ours_and_what_is_a_reference(
    product: Product, client: PrismClient
) -> None:
    """Whatever a journal says: the state names references, and another Prism is not this one."""
    guest = product.guest(MIB)
    product.good_backup(Level.FULL, guest)
    (reference,) = guest.recovery_points()
    state_dir, prism = product.root / "state", prism_of(product)
    kill(state_dir, (ObjectKind.RECOVERY_POINT, "n", reference), prism=prism)
    other = kill(state_dir, (ObjectKind.RECOVERY_POINT, "n", point(client, guest, "foreign")))
    kill(state_dir, (ObjectKind.FOLDER, str(product.root / "store"), ""), prism=prism)
    assert not swept(client, product)
    assert len(guest.recovery_points()) == 2
    assert other.exists()
    assert (product.root / "store").exists()


def test_sweep_and_leftovers_on_the_command_line(faulty: FaultyProduct) -> None:
    guest = faulty.guest(MIB)
    assert faulty.job(Level.FULL, guest).status is Status.GOOD
    guest.write(0, 0, 70 * KIB)
    faulty.order(place="iscsi", call=1, act="kill", when="after")
    assert faulty.job(Level.INCREMENTAL, guest).status is Status.FAILED
    assert faulty.sprung()
    pairs = [f"{name}={value}" for name, value in faulty.parameters()]

    listed = command("leftovers", *pairs)
    assert len(listed) == 3
    assert len([line for line in listed if "reference of job job." in line]) == 1
    for kind in ("volume group", "recovery point"):
        assert [x for x in listed if x.startswith(kind) and "sweep removes it" in x]
    would = command("sweep", "--dry-run", *pairs)
    assert [line.partition(" podheitor")[0] for line in would] == [
        "found: volume group", "found: recovery point",
    ]  # fmt: skip
    assert len(faulty.lab.state()["volume_groups"]) == 1
    assert [line.replace("removed", "found") for line in command("sweep", *pairs)] == would
    faulty.assert_nothing_left()
    assert len(guest.recovery_points()) == 1
    assert command("sweep", *pairs) == []
    assert len(command("leftovers", *pairs)) == 1


def command(*arguments: str) -> list[str]:
    """Run the program; what it says, line by line."""
    done = subprocess.run(
        [*MODULE, *arguments], check=False, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return done.stdout.splitlines()


def test_a_sweep_that_cannot_work_says_so(tmp_path: Path) -> None:
    done = subprocess.run(
        [*MODULE, "sweep", f"state_dir={tmp_path}"],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert "parameter prism is missing" in done.stderr
    assert not done.stdout


# --- the order of the guards ---------------------------------------------------------------------


def test_a_backup_takes_its_guards_in_order_and_undoes_them_backwards(product: Product) -> None:
    """By its own journal, of which we keep a second name: swapped guards fail here."""
    guest = product.guest(MIB)
    kept = product.root / "kept"

    def keep_journal() -> None:
        (path,) = (product.root / "state" / "journal").glob("*.journal")
        if not kept.exists():
            os.link(path, kept)
            (lock,) = (product.root / "state").rglob(f"{guest.ext_id}.lock")
            lock.with_suffix(".new").mkdir()  # nothing can be recorded

    product.watcher.on_data = keep_journal
    assert product.backup(Level.FULL, guest).status is Status.FAILED
    assert not guest.recovery_points()
    lines = [json.loads(line) for line in kept.read_bytes().split(b"\n") if line]
    intents = {line["number"]: line["kind"] for line in lines if "kind" in line}
    closed = [intents[line["number"]] for line in lines if line.get("closed")]
    assert list(intents.values()) == ["recovery point", "volume group", "iSCSI session"]
    assert closed == ["iSCSI session", "volume group", "recovery point"]


# --- the state of a job --------------------------------------------------------------------------


def texts(result: Result, severity: Severity) -> str:
    """The messages of one kind."""
    return "\n".join(message.text for message in result.log if message.severity is severity)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("lost", "no state of this VM is on this host"),
        ("truncated", "cannot be used"),
        ("garbage", "cannot be used"),
        ("older schema", "it has schema 0"),
        ("newer schema", "it has schema 2"),
        ("of another VM", "is of another VM"),
        ("of another job", "no reference of this VM is recorded for job"),
    ],
)
def test_no_incremental_stands_on_a_state_that_cannot_be_used(
    faulty: FaultyProduct, damage: str, words: str
) -> None:
    guest = faulty.guest(MIB)
    assert faulty.job(Level.FULL, guest).status is Status.GOOD
    (path,) = (faulty.root / "state" / "bitmap").rglob("*.json")
    whole = path.read_bytes()
    match damage:
        case "lost":
            path.unlink()
        case "truncated":
            path.write_bytes(whole[: len(whole) // 2])
        case "garbage":
            path.write_bytes(os.urandom(len(whole)))
        case "older schema":
            path.write_bytes(whole.replace(b'"schema":1', b'"schema":0'))
        case "newer schema":
            path.write_bytes(whole.replace(b'"schema":1', b'"schema":2'))
        case "of another VM":
            path.write_bytes(whole.replace(guest.ext_id.encode(), b"another-vm"))
        case _:
            path.write_bytes(whole.replace(b'"job":"job.', b'"job":"another.'))
    guest.write(0, 0, 70 * KIB)
    result = faulty.job(Level.INCREMENTAL, guest)
    assert result.status is Status.GOOD
    assert words in texts(result, Severity.WARNING)
    assert [f.name.rpartition(".")[2] for f in result.files] == ["json", "raw", "digests"]
    faulty.assert_chain_restores(guest)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("number", [1, 5, 9, 14, 20, 26])
def test_a_disk_that_is_full_from_some_write_on(
    faulty: FaultyProduct, number: int, when: str
) -> None:
    """The job fails with one clear line or is good, and the chain goes on when there is space."""
    guest = faulty.guest(MIB)
    assert faulty.job(Level.FULL, guest).status is Status.GOOD
    guest.write(0, 0, 70 * KIB)
    faulty.order(place="state", call=number, when=when, lasting=True)
    result = faulty.job(Level.INCREMENTAL, guest)
    assert faulty.sprung()
    if result.status is not Status.GOOD:
        assert "ordered by the test" in texts(result, Severity.FATAL)
    faulty.order()
    faulty.sweep()
    faulty.assert_clean(guest)
    assert faulty.job(Level.INCREMENTAL, guest).status is Status.GOOD
    faulty.assert_chain_restores(guest)


def test_a_read_only_state_folder_fails_the_job_before_anything_is_made(
    faulty: FaultyProduct, quick_lab: Lab
) -> None:
    guest = faulty.guest(MIB)
    asked = len(quick_lab.requests)
    faulty.order(place="state", call=1, lasting=True, errno=30)
    result = faulty.job(Level.FULL, guest)
    assert result.status is Status.FAILED
    assert "is not usable: ordered by the test" in texts(result, Severity.FATAL)
    methods = {method for method, _, _ in quick_lab.requests[asked:]}
    assert methods <= {"GET", "OPTIONS"}, "nothing was made"


def test_a_second_job_on_the_same_vm_fails_clearly_and_disturbs_nothing(
    faulty: FaultyProduct,
) -> None:
    guest = faulty.guest(8 * MIB)  # more than the pipe holds: the first job has to wait for us
    second = attrs.evolve(faulty, command=(sys.executable, "-m", "nutanix_backend"))
    results: list[Result | None] = []

    def start_the_second() -> None:
        if not results:
            results.append(None)
            results[0] = second.parallel_job(guest)

    faulty.watcher.on_data = start_the_second
    assert faulty.job(Level.FULL, guest).status is Status.GOOD
    (refused,) = results
    assert refused
    assert refused.status is Status.FAILED
    words = f"another job is processing VM {guest.name} ({guest.ext_id}) for more than 0.1 s"
    assert words in texts(refused, Severity.FATAL)
    faulty.assert_clean(guest)
    faulty.assert_chain_restores(guest)


def test_every_record_of_a_journal_comes_back() -> None:
    intent = journal.Intent(1, ObjectKind.VM, "n", "k", "v", "i", 7)
    assert records.load(records.dump(intent), journal.Intent) == intent
