"""What the tests of the product share: a lab, the product driven through its own runner, a daemon
that says one thing at a time, and a small Prism in memory for what needs no cluster.
"""

from __future__ import annotations

import filecmp
import io
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import zlib
from contextlib import ExitStack, suppress
from datetime import UTC, datetime, timedelta
from enum import Enum
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast

import attrs
import pytest
import xxhash
from digests import StreamDigest
from nutanix_backend.cluster import inventory, sweep
from nutanix_backend.job import JobContext
from nutanix_backend.manifest import DiskEntry, Manifest, decode
from nutanix_backend.names import OURS, VmFolder
from nutanix_backend.references import state
from nutanix_backend.settings import places
from nutanix_backend.settings.parameters import parse
from nutanix_backend.settings.table import Connection, rows
from phcbt01 import apply
from phcbt01.testing import MemoryTarget, encode
from prism_client import (
    BackupType,
    Boot,
    ChangedRegion,
    Consistency,
    DiskRecoveryPoint,
    NotFound,
    PointId,
    PointKind,
    RecoveryPoint,
    Vm,
    VolumeGroup,
)
from prism_lab import Lab
from prism_lab._storage import clone, discard
from ptcomm import (
    Ack,
    Answer,
    BackendHello,
    Data,
    DataEnd,
    DataStart,
    End,
    EndOfInput,
    Endpoint,
    File,
    FileType,
    Finish,
    Job,
    JobType,
    Level,
    Message,
    Parameters,
    Phase,
    PluginHello,
    Reply,
    RestoreObject,
    Role,
    Severity,
    Start,
    Stat,
    Terminate,
    Times,
)
from ptcomm_runner import jobs
from ptcomm_runner.catalog import Job as StoredJob
from ptcomm_runner.catalog import Status, Store
from ptcomm_runner.jobs import Result, Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from uuid import UUID

    from phcbt01.testing import Changes
    from prism_client import DiskSnapshotRef, PrismClient
    from ptcomm import Event

KIB, MIB = 1 << 10, 1 << 20
BACKEND = (sys.executable, "-m", "nutanix_backend")
PATIENCE = 60.0
"""Seconds after which a backend that says nothing hangs."""

IN_FILE = tuple(row.name for row in rows(Connection) if row.name != "config_file")
"""The parameters that the product's configuration file has."""

E = TypeVar("E")
_numbers = count(1)


@attrs.define
class Watcher:
    """A watcher of jobs that looks away, but for a test that wants to act while data flows."""

    on_data: Callable[[], object] = lambda: None

    def message(self, message: Message) -> None:
        """Nothing."""

    def file(self, name: str, size: int) -> None:
        """Nothing."""

    def data(self, count: int) -> None:
        """Some of a file has come."""
        self.on_data()


@attrs.frozen
class Guest:
    """A VM of the lab, and what is done inside it."""

    lab: Lab
    name: str
    ext_id: str

    def disk(self, index: int) -> Path:
        """The live bytes of a disk."""
        return self.lab.disk_file(self.ext_id, index)

    def write(self, index: int, offset: int, length: int, seed: int | None = None) -> None:
        """Write random bytes."""
        content = random.Random(seed).randbytes(length)
        with self.disk(index).open("r+b") as file:
            file.seek(offset)
            file.write(content)

    def zero(self, index: int, offset: int, length: int) -> None:
        """Write zeros, as a guest does that wipes a file."""
        with self.disk(index).open("r+b") as file:
            file.seek(offset)
            file.write(bytes(length))

    def discard(self, index: int, offset: int, length: int) -> None:
        """Give space back, as fstrim does."""
        discard(self.disk(index), offset, length)

    def grow(self, index: int, size: int) -> None:
        """Enlarge a disk."""
        self.lab.grow_disk(self.ext_id, index, size)

    def add_disk(self, size: int) -> None:
        """Add an empty disk behind the others."""
        from prism_lab import _vms  # noqa: PLC0415 - the lab offers this over REST only

        vm = self.lab._vm(self.ext_id)
        _vms.add_disk(self.lab._world, vm, {"backingInfo": {"diskSizeBytes": size}})

    def remove_disk(self, index: int) -> None:
        """Take a disk away."""
        from prism_lab import _vms  # noqa: PLC0415 - the lab offers this over REST only

        vm = self.lab._vm(self.ext_id)
        _vms.remove_disk(vm, vm.disks[index])

    def disk_ids(self) -> list[str]:
        """The ids by which backups know the disks, in their order."""
        return [disk.disk_ext_id for disk in self.lab._vm(self.ext_id).disks]

    def recovery_points(self) -> list[str]:
        """What is left of this VM on the cluster, oldest first."""
        state = self.lab.state()
        points = state["recovery_points"] + state["vm_snapshots"]
        return [point["ext_id"] for point in points if self.ext_id in point["vms"]]


@attrs.define
class Product:
    """The product on one host: state, a store of backups, and a cluster to talk to."""

    lab: Lab
    root: Path
    references: int = 3
    """How many recovery points of a VM may stay after a job."""
    watcher: Watcher = attrs.field(factory=Watcher)
    command: tuple[str, ...] = BACKEND
    user_groups: set[str] = attrs.field(factory=set)
    """Volume groups that are attached to VMs, and nobody's to remove."""
    _points: dict[tuple[int, str], list[Path]] = attrs.field(factory=dict)

    @property
    def store(self) -> Store:
        """Where the backups go."""
        return Store(self.root / "store")

    def guest(self, *sizes: int, name: str = "") -> Guest:
        """A new VM with disks of these sizes, each with some data in it."""
        name = name or f"vm{next(_numbers):03}"
        guest = Guest(self.lab, name, self.lab.create_vm(name, sizes))
        for index, size in enumerate(sizes):
            for part in range(3):
                length = min(size // 8, 700 * KIB)
                guest.write(index, part * size // 3 // 4096 * 4096, length)
        return guest

    def parameters(self, **others: object) -> tuple[tuple[str, str], ...]:
        """The plugin parameters; a list gives one several times, None leaves one out.

        What says how Prism is reached lies in a file, as the guide has it.
        """
        given: dict[str, object] = {
            "prism": self.lab.pc_host,
            "user": self.lab.user,
            "password": self.lab.password,
            "ca": self.lab.ca_file,
            "state_dir": self.root / "state",
            "proxy_mode": "in_cluster",
            "transport": "userspace",  # the kernel's needs a guest of its own, see suites/kernel
            **others,
        }
        pairs = (
            (name, v) for name, v in given.items() for v in (v if isinstance(v, list) else [v])
        )
        return self._with_file([(name, str(value)) for name, value in pairs if value is not None])

    def _with_file(self, items: list[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
        reaching = [item for item in items if item[0] in IN_FILE]
        if not reaching or "config_file" in dict(items):
            return tuple(items)
        content = "".join(f"{name} = {value}\n" for name, value in reaching)
        file = self.root / "etc" / f"{zlib.crc32(content.encode()):08x}.conf"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
        file.chmod(0o600)
        return (("config_file", str(file)), *(item for item in items if item[0] not in IN_FILE))

    def settings(self, **parameters: object) -> Settings:
        """What the runner needs to start a backend."""
        return Settings(
            command=self.command,
            parameters=self.parameters(**parameters),
            working_dir=self.root / "working",
            watcher=self.watcher,
            timeout=PATIENCE,
        )

    def backup(
        self, level: Level, *guests: Guest, name: str = "job", **parameters: object
    ) -> Result:
        """Back up; keep a copy of each recovery point, and check that nothing else is left."""
        parameters.setdefault("vm", [guest.name for guest in guests])
        result = jobs.backup(self.store, name, level, self.settings(**parameters))
        for guest in guests:
            self._keep_point(result, guest)
            assert len(guest.recovery_points()) <= self.references, "recovery points are left"
        self.assert_nothing_left()
        return result

    def good_backup(self, level: Level, *guests: Guest, **parameters: Any) -> Result:
        """Back up, which must end without a warning of any kind, at the level asked for."""
        result = self.backup(level, *guests, **parameters)
        assert result.status is Status.GOOD, words(result)
        assert result.level is level
        assert not said(result, Severity.WARNING), words(result)
        return result

    def restore(
        self, where: Path | str = "/", *, name: str = "job", job_id: int | None = None,
        include: tuple[str, ...] = (), **parameters: object,
    ) -> Result:  # fmt: skip
        """Restore, and check that nothing is left behind."""
        result = jobs.restore(
            self.store, name, self.settings(**parameters),
            where=str(where), job_id=job_id, include=include,
        )  # fmt: skip
        self.assert_nothing_left()
        return result

    def good_restore(self, where: Path | str = "/", **options: Any) -> Result:
        """Restore, which must end well."""
        result = self.restore(where, **options)
        assert result.status is Status.GOOD, words(result)
        return result

    def jobs(self, name: str = "job") -> list[StoredJob]:
        """The jobs in the store."""
        return self.store.jobs(name)

    def restored(self, where: Path, guest: Guest, index: int) -> Path:
        """The image that a restore to a folder made of a disk."""
        (found,) = where.rglob(f"{guest.ext_id}/disks/disk-{index}-*.raw")
        return found

    def assert_restores(self, result: Result, *guests: Guest) -> Path:
        """A restore of this job to a folder gives its recovery points, bit for bit."""
        where = self.root / f"restored-{result.job_id}"
        self.good_restore(where, job_id=result.job_id)
        for guest in guests:
            self._assert_restored(where, result, guest)
        return where

    def _assert_restored(self, where: Path, result: Result, guest: Guest) -> None:
        points = self.points(result, guest)
        assert len(list(where.rglob(f"{guest.ext_id}/disks/*"))) == len(points)
        for index, point in enumerate(points):
            assert same(self.restored(where, guest, index), point), f"disk {index} differs"

    def points(self, result: Result, guest: Guest) -> list[Path]:
        """Copies of the disks in the recovery point of a job, in their order."""
        return self._points[result.job_id, guest.ext_id]

    def manifest(self, result: Result, guest: Guest) -> Manifest:
        """What a job says that it saved of a VM."""
        (job,) = (job for job in self.jobs() if job.job_id == result.job_id)
        (stored,) = (o for o in job.objects if o.name.endswith(f"/{guest.ext_id}"))
        return decode(self.store.object_path(job, stored).read_bytes())

    def files(self, result: Result, guest: Guest) -> dict[str, int]:
        """The whole disks and deltas of a job: their number and kind, and the bytes stored."""
        (job,) = (job for job in self.jobs() if job.job_id == result.job_id)
        found = {}
        for stored in job.files:
            folder, _, name = stored.file.name.rpartition("/")
            if f"/{guest.ext_id}/disks" in folder and not name.endswith(".digests"):
                found["-".join((name.split("-")[1], name.rpartition(".")[2]))] = stored.data_bytes
        return found

    def volume_group(self, name: str, sizes: Sequence[int], *guests: Guest) -> str:
        """A new volume group of the user's, attached to VMs; its id."""
        names = [guest.name for guest in guests]
        ext_id = self.lab.create_volume_group(name, sizes, names)
        self.user_groups.add(ext_id)
        return ext_id

    def remove_user_groups(self) -> None:
        """Take the volume groups of the user's away."""
        while self.user_groups:
            self.lab._groups.delete(self.lab._world.volume_groups[self.user_groups.pop()])

    def assert_nothing_left(self) -> None:
        """The cluster has no volume group, image, session or task of ours."""
        state = self.lab.state()
        groups = [g for g in state["volume_groups"] if g["ext_id"] not in self.user_groups]
        state["volume_groups"] = groups
        left = {kind: state[kind] for kind in ("volume_groups", "images", "sessions", "tasks")}
        left["trials"] = [vm for vm in state["vms"] if vm["name"].startswith(OURS)]
        assert not any(left.values()), left
        for folder in ("working", "state/staging"):
            assert not list((self.root / folder).glob("*")), f"files are left in {folder}"

    def clear_away(self) -> None:
        """Remove what was left behind, so that nothing else fails because of it."""
        for group in list(self.lab._world.volume_groups.values()):
            group.clients.clear()
            self.lab._groups.delete(group)

    def _keep_point(self, result: Result, guest: Guest) -> None:
        name = f"podheitor {result.job_name} {guest.ext_id}"
        state = self.lab.state()
        all_points = state["recovery_points"] + state["vm_snapshots"]
        points = [point["ext_id"] for point in all_points if point["name"] == name]
        if not points:
            return
        point = points[-1]  # the newest: jobs of two hosts that begin in one second have one name
        folder = self.root / "points" / f"{result.job_id}-{guest.ext_id}"
        folder.mkdir(parents=True)
        copies = []
        for index, disk_id in enumerate(guest.disk_ids()):
            copies.append(folder / f"{index}.raw")
            clone(self.lab.recovery_point_file(point, disk_id), copies[-1])  # holes stay holes
        self._points[result.job_id, guest.ext_id] = copies


def plain_root(image: bytes) -> str:
    """The root of the digest list of an image, from its definition and nothing else."""
    blocks = [image[at : at + MIB] for at in range(0, len(image), MIB)]
    digests = b"".join(xxhash.xxh3_128_digest(block) for block in blocks)
    whole = len(image).to_bytes(8, "little") + digests
    return f"xxh3-128:{xxhash.xxh3_128_hexdigest(whole)}"


def same(one: Path, other: Path) -> bool:
    """Whether two files hold the same bytes."""
    return filecmp.cmp(one, other, shallow=False)


def said(result: Result, severity: Severity) -> list[str]:
    """The messages of one kind in a job log."""
    return [message.text for message in result.log if message.severity is severity]


def words(result: Result) -> str:
    """The whole job log, for people."""
    return "\n".join(f"{message.severity.value} {message.text}" for message in result.log)


@pytest.fixture(scope="session", autouse=True)
def allowed_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The list of the folders that a plugin line may name: here, the one of all tests."""
    file = tmp_path_factory.mktemp("etc") / "allowed-folders"
    file.write_text(f"# the tests\n{tempfile.gettempdir()}\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(places.VARIABLE, str(file))
        yield file


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """One cluster for all tests; each makes its own VMs."""
    with Lab.start(tmp_path_factory.mktemp("lab")) as running:
        yield running


@pytest.fixture
def product(
    lab: Lab, tmp_path: Path, make_product: Callable[[Lab, Path], Product]
) -> Iterator[Product]:
    """The product on a fresh host; afterwards the faults ordered must all have happened."""
    running = make_product(lab, tmp_path / "host")
    yield running
    unused = lab.faults.pending()
    lab.faults.clear()
    running.clear_away()
    assert not unused, f"faults that never happened: {unused}"


@pytest.fixture
def make_product(request: pytest.FixtureRequest) -> Callable[[Lab, Path], Product]:
    """For tests that need a cluster of another kind.

    Tests that are marked `quick` look at what jobs do, and not at how a backend starts: theirs are
    forked from a process that has imported everything, which saves most of the time of a small job.
    """
    if request.node.get_closest_marker("quick") is None:
        return Product
    door: Path = request.getfixturevalue("prepared_door")

    def make(lab: Lab, root: Path) -> Product:
        made = FaultyProduct(lab, root, door=door)
        made.order()
        return made

    return make


@pytest.fixture
def loop_device(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Make loop devices of a size in bytes; they are gone after the test."""
    if not Path("/dev/loop-control").exists() or os.geteuid() != 0:
        pytest.skip("needs root and /dev/loop-control (the loop module)")

    def make(size: int) -> Path:
        file = tmp_path / f"loop-{next(_numbers)}.img"
        with file.open("xb") as image:
            image.truncate(size)
        command = ["losetup", "--find", "--show", str(file)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        device = Path(done.stdout.strip())
        stack.callback(subprocess.run, ["losetup", "--detach", str(device)], check=True)
        return device

    with ExitStack() as stack:
        yield make


# --- a daemon that says one thing at a time ------------------------------------------------------


class Daemon:
    """The file daemon's end of a real backend process, for what the runner would never say."""

    def __init__(self, folder: Path, command: tuple[str, ...] = BACKEND) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._stderr = (folder / "stderr").open("wb+")
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._stderr, bufsize=0
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.stdin = os.dup(self.process.stdin.fileno())
        self.stdout = os.dup(self.process.stdout.fileno())
        self._wire = Endpoint(Role.PLUGIN, self.stdout, os.dup(self.stdin))
        self.process.stdin.close()
        self.process.stdout.close()
        self.messages: list[Message] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.close_input()
        self._wire.close()
        self._stderr.close()

    def say(self, *events: Event) -> None:
        """Send events."""
        self._wire.send(*events)

    def raw(self, data: bytes) -> None:
        """Send bytes, whatever they mean."""
        os.write(self.stdin, data)

    def next(self) -> Event:
        """The next event that is not a message; a backend that is silent for long hangs."""
        while True:
            assert self._wire.pending(PATIENCE), "the backend hangs"
            event = self._wire.receive()
            if not isinstance(event, Message):
                return event
            self.messages.append(event)
            assert event.severity is not Severity.FATAL, event.text

    def hear(self, expected: type[E]) -> E:
        """The next event, which must be of this kind."""
        event = self.next()
        assert isinstance(event, expected), (event, self.messages)
        return event

    def hear_until(self, expected: type[E]) -> E:
        """The next event of this kind; what comes before it is passed by."""
        while not isinstance(event := self.next(), expected):
            pass
        return event

    def fatal(self) -> str:
        """The backend gives the job up: its only fatal line. Whatever else it says is passed by.

        After the answer to a file comes the end of the restore, which fails then.
        """
        while not self._fatal_lines():
            assert self._wire.pending(PATIENCE), "the backend hangs"
            event = self._wire.receive()
            assert not isinstance(event, EndOfInput), (event, self.messages)
            if isinstance(event, Message):
                self.messages.append(event)
            elif isinstance(event, Reply):
                self.say(Finish())
        (line,) = self._fatal_lines()
        return line

    def _fatal_lines(self) -> list[str]:
        return [m.text for m in self.messages if m.severity is Severity.FATAL]

    def close_input(self) -> None:
        """Close the backend's input; what it says can still be heard."""
        self._wire.close_output()
        if self.stdin >= 0:
            os.close(self.stdin)
            self.stdin = -1

    def hang_up(self) -> None:
        """Close both pipes, as a daemon that dies."""
        self.close_input()
        self._wire.close()

    def read_to_end(self) -> bytes:
        """All that is left of what the backend says, as bytes."""
        pieces = []
        while True:
            assert self._wire.pending(PATIENCE), "the backend hangs"
            pieces.append(os.read(self.stdout, MIB))
            if not pieces[-1]:
                return b"".join(pieces)

    def end(self) -> None:
        """Close the backend's input and hear it out: it ends with 0 and nothing on stderr."""
        self.close_input()
        while not isinstance(self.next(), EndOfInput):
            pass
        self.assert_ended_well()

    def assert_ended_well(self) -> None:
        """The process ends by itself with 0, and has written nothing to stderr."""
        assert self.process.wait(PATIENCE) == 0
        self._stderr.seek(0)
        assert self._stderr.read() == b""
        assert len(self._fatal_lines()) <= 1

    # the parts of a conversation

    def greet(self) -> None:
        """Hello, and its answer."""
        self.say(PluginHello("podheitor-nutanix", "4"))
        self.hear(BackendHello)

    def start(self, phase: Phase, job: Job, parameters: tuple[tuple[str, str], ...]) -> None:
        """Everything up to the acknowledged start of the job."""
        self.greet()
        for event in (job, Parameters(parameters), Start(phase)):
            self.say(event)
            self.hear(Ack)

    def start_backup(
        self,
        parameters: tuple[tuple[str, str], ...],
        level: Level = Level.FULL,
        previous: str = "",
        name: str = "by-hand.1",
    ) -> None:
        """Ask for a backup."""
        job = Job(name, 77, JobType.BACKUP, level=level, prev_job_name=previous)
        self.start(Phase.BACKUP, job, parameters)

    def start_restore(self, where: Path | str, **parameters: object) -> None:
        """Ask for a restore that needs no Prism."""
        given = {"state_dir": self.folder / "state", **parameters}
        pairs = tuple((name, str(value)) for name, value in given.items())
        job = Job("by-hand.2", 78, JobType.RESTORE, where=str(where), working_dir=str(self.folder))
        self.start(Phase.RESTORE, job, pairs)

    def offer_object(self, name: str, content: bytes) -> None:
        """Send a restore object."""
        view = memoryview(content)
        self.say(RestoreObject(name, len(content)))
        self.say(*(Data(view[at : at + 65_536]) for at in range(0, len(view), 65_536)), DataEnd())

    def give_manifests(self, *backups: MadeUp) -> None:
        """Hand the manifests of all jobs over."""
        for backup in backups:
            for saved in backup.manifests:
                self.offer_object(saved.object_name, saved.encode())
                self.hear(Reply)

    def offer_file(self, name: str, size: int = 1) -> None:
        """Announce a file."""
        self.say(File(name, Stat(FileType.REGULAR, size), Times(1, 1, 1)))

    def give_file(self, name: str, content: bytes) -> Answer:
        """Hand a file over, unless the backend skips it; returns the last answer."""
        self.offer_file(name, len(content))
        answer = self.hear(Reply).answer
        if answer is not Answer.OK:
            return answer
        self.send_content(content)
        return self.hear(Reply).answer

    def send_content(self, content: bytes) -> None:
        """The content of a file that the backend wants."""
        view = memoryview(content)
        self.say(DataStart())
        self.say(*(Data(view[at : at + 65_536]) for at in range(0, len(view), 65_536)))
        self.say(DataEnd())

    def finish(self) -> None:
        """The orderly end of a restore."""
        self.say(Finish())
        self.hear(Ack)
        self.say(End())
        self.hear(Ack)
        self.say(Terminate())
        self.end()


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Callable[..., Daemon]]:
    """Start backends, each with a daemon to talk to; none outlives the test."""
    with ExitStack() as stack:

        def start(command: tuple[str, ...] = BACKEND) -> Daemon:
            folder = tmp_path / f"daemon-{next(_numbers)}"
            return stack.enter_context(Daemon(folder, command))

        yield start


# --- a small Prism in memory ---------------------------------------------------------------------


class When(Enum):
    """When a call raises: with no effect at all, once it had its effect, or long before it has."""

    BEFORE = "before the effect"
    AFTER = "after the effect"
    EARLY = "before the effect, which comes later"


@attrs.frozen
class Fault:
    """What a call raises, and when."""

    error: BaseException
    when: When = When.BEFORE


class FakePrism:
    """Recovery points, volume groups and changed regions in memory; calls fail as ordered."""

    def __init__(self) -> None:
        self.points: dict[str, RecoveryPoint] = {}
        self.groups: dict[str, VolumeGroup] = {}
        self.attached: set[tuple[str, str]] = set()
        self.made: dict[UUID, str] = {}
        """What each idempotency key made."""
        self.regions: dict[tuple[str, str | None], list[ChangedRegion] | Exception] = {}
        self.calls: list[str] = []
        self.faults: dict[str | int, Fault] = {}
        """By the name of the call, or by its number counted from 0; each happens once."""
        self._to_come: list[Callable[[], object]] = []
        self.recovery_points = FakeRecoveryPoints(self)
        self.volume_groups = FakeVolumeGroups(self)
        self.changed_regions = FakeChangedRegions(self)

    @property
    def client(self) -> PrismClient:
        """Itself, as what it plays."""
        return cast("PrismClient", self)

    def call(self, name: str, effect: Callable[[], E]) -> E:
        """One call."""
        fault = self.faults.pop(len(self.calls), None) or self.faults.pop(name, None)
        self.calls.append(name)
        if fault is None:
            return effect()
        if fault.when is When.AFTER:
            effect()
        elif fault.when is When.EARLY:
            self._to_come.append(effect)
        raise fault.error

    def let_time_pass(self) -> None:
        """Let what was asked for come at last, unless that came to nothing in the meantime."""
        for effect in self._to_come:
            with suppress(NotFound):
                effect()
        self._to_come.clear()

    def add_point(self, vm: str, name: str = "", disks: tuple[str, ...] = ()) -> RecoveryPoint:
        """A recovery point with a snapshot `<disk>@<point>` of each disk."""
        ext_id = f"point-{next(_numbers)}"
        snapshots = tuple(DiskRecoveryPoint(f"{disk}@{ext_id}", disk) for disk in disks)
        point = RecoveryPoint(
            ext_id, name or ext_id, NOW, NOW, Consistency.CRASH, f"vm@{ext_id}", vm, snapshots
        )
        self.points[ext_id] = point
        return point


@attrs.define
class FakeRecoveryPoints:
    """The recovery points of a FakePrism."""

    prism: FakePrism
    generation: str = "v4"

    def understands(self, point: PointId) -> bool:
        """Whether it is of the kind of this generation."""
        is_snapshot = point.kind is PointKind.VM_SNAPSHOT
        return is_snapshot == (self.generation == "v3")

    def create(
        self,
        vm: str,
        *,
        name: str,
        expires: datetime,
        consistency: Consistency,
        backup_type: BackupType,
        project_ext_id: str | None,
        request_id: UUID,
    ) -> RecoveryPoint:
        """Make one, unless the key has made one; the server knows when it expires."""

        def make() -> RecoveryPoint:
            if request_id not in self.prism.made:
                made = self.prism.add_point(vm, name)
                point = attrs.evolve(made, expires=expires, consistency=consistency)
                self.prism.points[point.ext_id] = point
                self.prism.made[request_id] = point.ext_id
            return _found(self.prism.points, self.prism.made[request_id])

        return self.prism.call("create point", make)

    def get(self, ext_id: str) -> RecoveryPoint:
        """One of them."""
        return self.prism.call("get point", lambda: _found(self.prism.points, ext_id))

    def exists(self, ext_id: str) -> bool:
        """Whether it is there."""
        return self.prism.call("get point", lambda: ext_id in self.prism.points)

    def list(self, *, vm_ext_id: str, name: str) -> Iterator[RecoveryPoint]:
        """Those of a VM and a name; lazily, as the client does."""
        found = self.prism.call("list points", lambda: [*self.prism.points.values()])
        yield from (p for p in found if (p.vm_ext_id, p.name) == (vm_ext_id, name))

    def set_expiration(self, ext_id: str, expires: datetime) -> None:
        """Move the end of one."""

        def move() -> None:
            point = _found(self.prism.points, ext_id)
            self.prism.points[ext_id] = attrs.evolve(point, expires=expires)

        self.prism.call("prolong point", move)

    def delete(self, ext_id: str) -> bool:
        """Delete one."""
        gone = self.prism.call("delete point", lambda: self.prism.points.pop(ext_id, None))
        return gone is not None


@attrs.frozen
class FakeVolumeGroups:
    """The volume groups of a FakePrism; one with clients cannot be deleted."""

    prism: FakePrism

    def create(
        self,
        name: str,
        cluster: str,
        sources: Sequence[str],
        *,
        chap_secret: str | None,
        request_id: UUID,
    ) -> VolumeGroup:
        """Make one, unless the key has made one."""

        def make() -> VolumeGroup:
            if request_id not in self.prism.made:
                ext_id = self.prism.made[request_id] = f"group-{next(_numbers)}"
                group = VolumeGroup(ext_id, name, cluster, f"target-{ext_id}", ())
                self.prism.groups[ext_id] = group
            return _found(self.prism.groups, self.prism.made[request_id])

        return self.prism.call("create group", make)

    def list(self, *, name: str) -> Iterator[VolumeGroup]:
        """Those of a name."""
        found = self.prism.call("list groups", lambda: [*self.prism.groups.values()])
        yield from (group for group in found if group.name == name)

    def attach_client(self, group: str, initiator: str, *, chap_secret: str | None) -> str:
        """Let an initiator in."""

        def attach() -> str:
            _found(self.prism.groups, group)
            self.prism.attached.add((group, initiator))
            return initiator

        return self.prism.call("attach client", attach)

    def detach_client(self, group: str, initiator: str) -> bool:
        """Keep it out again."""

        def detach() -> bool:
            known = (group, initiator) in self.prism.attached
            self.prism.attached.discard((group, initiator))
            return known

        return self.prism.call("detach client", detach)

    def delete(self, group: str) -> bool:
        """Delete one."""

        def remove() -> bool:
            assert not any(group == attached for attached, _ in self.prism.attached)
            return self.prism.groups.pop(group, None) is not None

        return self.prism.call("delete group", remove)


@attrs.frozen
class FakeChangedRegions:
    """The changed regions that a test has put there."""

    prism: FakePrism

    def open(
        self, disk: DiskSnapshotRef, reference: DiskSnapshotRef | None, *, disk_size: int
    ) -> list[ChangedRegion]:
        """What was put there for a snapshot and its reference."""
        old = reference.disk_recovery_point_ext_id if reference else None
        key = disk.disk_recovery_point_ext_id, old
        found = self.prism.call("list regions", lambda: self.prism.regions[key])
        if isinstance(found, Exception):
            raise found
        return found


NOW = datetime(2026, 11, 23, tzinfo=UTC)
VM = Vm(
    ext_id="11111111-1111-4111-8111-111111111111",
    name="web01",
    description="",
    cluster_ext_id="cluster-1",
    power_state="ON",
    sockets=1,
    cores_per_socket=1,
    threads_per_core=1,
    memory=1 << 30,
    machine_type=None,
    boot=Boot(),
    disks=(),
    volume_group_ext_ids=(),
    nics=(),
    category_ext_ids=(),
    protection_type=None,
    raw={},
)


def _found(shelf: dict[str, E], ext_id: str) -> E:
    if ext_id not in shelf:
        raise NotFound(f"no such thing: {ext_id}", status=404)
    return shelf[ext_id]


@pytest.fixture(scope="session")
def make_prism() -> type[FakePrism]:
    """To make Prisms in memory with."""
    return FakePrism


@pytest.fixture
def prism() -> FakePrism:
    """A Prism with nothing in it."""
    return FakePrism()


@pytest.fixture(scope="session")
def fault() -> Callable[..., Fault]:
    """To order faults with; `when` is one of "before", "after" and "early"."""
    return lambda error, when="before": Fault(error, When[when.upper()])


@pytest.fixture(scope="session")
def vm() -> Vm:
    """A VM without disks."""
    return VM


@attrs.define
class Recorder:
    """The backend's endpoint, for code that only sends."""

    sent: list[Event] = attrs.field(factory=list)

    def send(self, *events: Event) -> None:
        """Keep what is sent."""
        self.sent += events

    def pending(self) -> bool:
        """The daemon has nothing to say."""
        return False

    def texts(self, severity: Severity) -> list[str]:
        """The messages of one kind."""
        return [e.text for e in self.sent if isinstance(e, Message) and e.severity is severity]


@attrs.frozen
class JobByHand:
    """A job in progress without a daemon, and what it said."""

    context: JobContext
    endpoint: Recorder


@pytest.fixture(scope="session")
def job_by_hand() -> Callable[..., JobByHand]:
    """Make a JobContext for a backup: its name, level, predecessor and parameters."""

    def make(
        name: str = "job.1",
        level: Level = Level.FULL,
        previous: str = "",
        parameters: tuple[tuple[str, str], ...] = (),
    ) -> JobByHand:
        endpoint = Recorder()
        info = Job(name, 1, JobType.BACKUP, level=level, prev_job_name=previous)
        context = JobContext(cast("Endpoint", endpoint), info, parse(parameters))
        return JobByHand(context, endpoint)

    return make


# --- backups that were never made ----------------------------------------------------------------


class MadeUp:
    """What the jobs of one VM saved, made up: for restores, and for damage in between."""

    def __init__(
        self, vm_id: str = VM.ext_id, vm_name: str = VM.name, *, with_roots: bool = False
    ) -> None:
        self.vm_name = vm_name
        self.with_roots = with_roots
        """Whether manifests have the roots of digest lists; those of version 0.1 have not."""
        self.folder = VmFolder("lab", vm_id)
        self.manifests: list[Manifest] = []
        self.files: dict[str, bytes] = {}
        self.images: list[bytes] = []
        """The disks as of the last job."""

    def full(self, *images: bytes) -> Manifest:
        """A full backup of disks with this content."""
        self.images = list(images)
        return self.job("F", [self.entry(n, image) for n, image in enumerate(images)])

    def incremental(self, *changes: Changes, sizes: Sequence[int] = ()) -> Manifest:
        """An incremental: what changed of each disk, and to which sizes they grew."""
        base = self.manifests[-1]
        entries = []
        for number, (image, disk) in enumerate(zip(self.images, changes, strict=True)):
            target = MemoryTarget(image)
            size = sizes[number] if sizes else len(image)
            stream = encode(size, disk)
            apply(io.BytesIO(stream), target)
            self.images[number] = bytes(target.content)
            entries.append(self.entry(number, stream, size=size, base=base.digest()))
        return self.job("I", entries)

    def entry(self, index: int, stream: bytes, *, size: int = -1, base: str = "") -> DiskEntry:
        """A file of a disk; with a base it is a delta."""
        disk_id = f"disk-of-{self.folder.vm[:8]}-{index}"
        when = NOW + timedelta(hours=len(self.manifests))
        name = self.folder.delta(index, disk_id, when) if base else self.folder.raw(index, disk_id)
        self.files[name] = stream
        digest = StreamDigest()
        digest.update(stream)
        return DiskEntry(
            index=index,
            disk_id=disk_id,
            size=len(stream) if size < 0 else size,
            file=name,
            kind="phcbt01" if base else "raw",
            stream_bytes=len(stream),
            regions=1,
            data_bytes=len(stream),
            digest=digest.text(),
            base=base,
            image_root=plain_root(self.images[index]) if self.with_roots else "",
        )

    def job(self, level: str, entries: list[DiskEntry]) -> Manifest:
        """A job that saved these."""
        number = len(self.manifests) + 1
        manifest = Manifest(
            schema=1,
            job=f"made-up.{number}",
            job_id=number,
            level=level,
            cluster=self.folder.cluster,
            cluster_id="cluster-1",
            vm_id=self.folder.vm,
            vm_name=self.vm_name,
            consistency_asked="crash",
            consistency_got="crash",
            recovery_point=f"point-{number}",
            disks=tuple(entries),
        )
        self.manifests.append(manifest)
        return manifest


@pytest.fixture(scope="session")
def made_up() -> type[MadeUp]:
    """To make backups up with."""
    return MadeUp


# --- backends in which one call goes wrong -------------------------------------------------------


@attrs.define
class FaultyProduct(Product):
    """The product with backends that start at once, and in which one call goes wrong as ordered.

    See prepared_backend.py for what can be ordered.
    """

    door: Path = Path()

    def order(self, **order: object) -> None:
        """Let the next jobs go wrong like this; without words, not at all."""
        self._report.unlink(missing_ok=True)
        head = (sys.executable, "-I", "-S", str(PREPARED), "job", str(self.door))
        self.command = (*head, str(self._report), json.dumps(order))

    @property
    def _report(self) -> Path:
        return self.door.with_name("report")

    def sprung(self) -> str:
        """What went wrong in the last job; empty when it made fewer calls than that."""
        self.wait_for_backend()
        return self._report.read_text().strip() if self._report.exists() else ""

    def wait_for_backend(self) -> None:
        """Until the last backend is gone, and the cluster has done all that it was asked for."""
        with socket.socket(socket.AF_UNIX) as wire:
            wire.settimeout(PATIENCE)
            wire.connect(str(self.door))
            wire.shutdown(socket.SHUT_WR)
            assert not wire.recv(1)
        deadline = time.monotonic() + PATIENCE
        while self.lab.state()["tasks"]:
            assert time.monotonic() < deadline, "a task hangs"
            time.sleep(0.005)

    def job(self, level: Level, *guests: Guest, **parameters: object) -> Result:
        """Back up, with no expectation of how it ends."""
        settings = self.settings(vm=[guest.name for guest in guests], **parameters)
        return jobs.backup(self.store, "job", level, settings)

    def parallel_job(self, guest: Guest) -> Result:
        """A full backup of another Director, into another store."""
        watcherless = attrs.evolve(self, watcher=Watcher())
        settings = watcherless.settings(vm=guest.name, lock_wait="0.1")
        return jobs.backup(Store(self.root / "store-2"), "job", Level.FULL, settings)

    def restore_without_checks(self, name: str = "") -> Result:
        """Restore to new VMs, one of them under a name, with no expectation of how it ends."""
        settings = self.settings(restore_vm_name=name or None)
        return jobs.restore(self.store, "job", settings)

    def take_vm(self, name: str) -> bool:
        """Remove a VM from the cluster; whether it was there."""
        vms = self.lab._world.vms
        found = [vm.ext_id for vm in vms.values() if vm.name == name]
        for ext_id in found:
            del vms[ext_id]
        return bool(found)

    def sweep(self) -> list[str]:
        """Sweep as the next job would."""
        settings = parse(self.parameters())
        with inventory.connect(settings) as client:
            return [str(removed) for removed in sweep.sweep(client, settings)]

    def assert_clean(self, *guests: Guest, most: int = 3) -> None:
        """Nothing is left but references that the state knows, at most so many of a VM."""
        self.assert_nothing_left()
        for guest in guests:
            points = guest.recovery_points()
            assert set(points) <= set(state.recorded_points(self.root / "state"))
            assert len(points) <= most, "more references than a chain can need"
        self.let_an_hour_pass()

    def let_an_hour_pass(self) -> None:
        """Forget the creates without an answer that sweeps still look for, an hour long."""
        for path in self.journals():
            path.unlink()

    def journals(self) -> list[Path]:
        """The journals that are left for a sweep."""
        return list((self.root / "state" / "journal").glob("*"))

    def assert_chain_restores(self, *guests: Guest) -> None:
        """The newest good job restores to what the disks hold now, also those of groups."""
        self.order()
        where = self.root / "restored"
        self.good_restore(where)
        for guest in guests:
            for index in range(len(guest.disk_ids())):
                assert same(self.restored(where, guest, index), guest.disk(index))
        for group in self.user_groups:
            for disk in self.lab._world.volume_groups[group].disks:
                (image,) = where.rglob(f"{group}/disks/disk-*{disk.ext_id}*.raw")
                assert same(image, disk.file)
        shutil.rmtree(where)


PREPARED = Path(__file__).with_name("prepared_backend.py")


@pytest.fixture(scope="module")
def prepared_door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where backends start at once."""
    door = tmp_path_factory.mktemp("door") / "socket"
    command = [sys.executable, str(PREPARED), "serve", str(door)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as server:
        assert server.stdout
        assert server.stdout.readline() == b"ready\n"
        yield door
        server.kill()


@pytest.fixture(scope="module")
def quick_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A cluster whose tasks do not wait."""
    with Lab.start(tmp_path_factory.mktemp("quick"), task_seconds=0) as running:
        yield running


@pytest.fixture
def faulty(quick_lab: Lab, prepared_door: Path, tmp_path: Path) -> FaultyProduct:
    """The product on a fresh host, with backends in which calls can go wrong."""
    product = FaultyProduct(quick_lab, tmp_path / "host", door=prepared_door)
    product.order()
    return product


@pytest.fixture
def tell(capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    """Print a line past pytest's capture: what was tried and found."""

    def write(text: str) -> None:
        with capsys.disabled():
            sys.stdout.write(f"{text}\n")

    return write
