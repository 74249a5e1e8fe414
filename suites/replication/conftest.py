"""What the proof of replication stands on: a receiver that can be killed, on a disk whose power can
be cut; a source made of plain values, and the real one against the lab; a line that can be cut.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import attrs
import pytest
from digests import StreamDigest
from nutanix_backend.cluster import inventory, sweep
from nutanix_backend.references import state
from nutanix_backend.replicate.cycles import Work
from nutanix_backend.settings.parameters import parse
from phcbt01.testing import encode
from prism_client import _clock
from prism_lab import Lab
from vm_replica.protocol import allowed, channel, messages, tls
from vm_replica.protocol.channel import Patience
from vm_replica.protocol.manifest import SCHEMA, Configuration, CycleDisk, CycleManifest
from vm_replica.store import spool
from vm_replica.store.replica import Store

from apps.nutanix_backend.tests.conftest import Guest, same

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from nutanix_backend.replicate.workers import Done
    from nutanix_backend.settings.parameters import Settings
    from phcbt01.testing import Changes
    from vm_replica.protocol.channel import Channel
    from vm_replica.store.catalog import Generation
    from vm_replica.store.replica import Replica

M = TypeVar("M")

KIB, MIB = 1 << 10, 1 << 20
BLOCK = 64 * KIB
PATIENCE = Patience(connect=10, idle=20, message=20)
LONGEST = 60.0
"""Seconds after which whoever says nothing is silent: that is a failure."""
SEGMENT = 256 * KIB

_tally: Counter[str] = Counter()


@pytest.fixture(scope="session")
def tally() -> Counter[str]:
    """Counts what was tried and found."""
    return _tally


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what was tried and found."""
    for what, number in _tally.items():
        terminalreporter.write_line(f"replication: {number:6} {what}")


# --- processes that start at once, and die -------------------------------------------------------


class Prepared:
    """A process that has imported everything, and forks one program after the other."""

    def __init__(self, stack: ExitStack) -> None:
        command = [sys.executable, str(Path(__file__).with_name("prepared.py"))]
        self._process = stack.enter_context(
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        )
        stack.callback(self._process.kill)
        assert self._process.stdin
        assert self._process.stdout
        self._orders, self._answers = self._process.stdin, self._process.stdout
        self._answer(LONGEST)
        self.pid = 0

    def start(self, **order: object) -> None:
        """Start what is ordered."""
        assert not self.pid, "the last one was not waited for"
        self._orders.write(json.dumps(order) + "\n")
        self._orders.flush()
        self.pid = self._answer(LONGEST)["pid"]

    def wait(self, seconds: float = LONGEST) -> int:
        """Its exit status, negative when a signal ended it."""
        status = int(self._answer(seconds)["status"])
        self.pid = 0
        return status

    def kill(self) -> bool:
        """Kill it now, unless it has ended; whether it was killed."""
        if self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            return self.wait() == -signal.SIGKILL
        return False

    def ended(self) -> bool:
        """Whether it has."""
        return bool(select.select([self._answers], [], [], 0)[0])

    def _answer(self, seconds: float) -> dict[str, Any]:
        ready, _, _ = select.select([self._answers], [], [], seconds)
        assert ready, f"nothing was said for {seconds} s"
        answer: dict[str, Any] = json.loads(self._answers.readline())
        return answer


class PowerDisk:
    """An ext4 file system in a file: cutting the power leaves what the kernel had written there."""

    def __init__(self, folder: Path, size: int) -> None:
        self.mounted = folder / "mnt"
        self.mounted.mkdir()
        self._image = folder / "disk.img"
        with self._image.open("xb") as file:
            file.truncate(size)
        options = ["-q", "-m", "0", "-J", "size=4", "-E", "lazy_itable_init=0,lazy_journal_init=0"]
        subprocess.run(["mkfs.ext4", *options, str(self._image)], check=True)
        self._mount()

    def cut(self) -> None:
        """Cut the power, and mount what is there then."""
        after = self._image.with_suffix(".after")
        subprocess.run(["cp", "--sparse=always", str(self._image), str(after)], check=True)
        self.close()
        after.replace(self._image)
        self._mount()

    def close(self) -> None:
        """Unmount it."""
        subprocess.run(["umount", str(self.mounted)], check=True)

    def _mount(self) -> None:
        command = ["mount", "-o", "loop,commit=1", str(self._image), str(self.mounted)]
        subprocess.run(command, check=True)


# --- the receiver --------------------------------------------------------------------------------


class Receiver:
    """A receiver in a process of its own, and a look into its store past it."""

    def __init__(self, folder: Path, store: Path, prepared: Prepared) -> None:
        self.folder = folder
        self.root = store
        self.identity = folder / "receiver-identity"
        self.source = folder / "source-identity"
        self._prepared = prepared
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.address = ""
        ours = tls.ensure_identity(self.source, "source")
        theirs = tls.ensure_identity(self.identity, "receiver")
        tls.add_peer(self.source, theirs.certificate)
        tls.add_peer(self.identity, ours.certificate)
        allowed.save(self.identity, (allowed.Grant(ours.fingerprint, "*", "*"),))
        self.reached_at(self.port)

    def reached_at(self, port: int) -> None:
        """The source finds it at this port."""
        self.address = f"127.0.0.1:{port}"
        theirs = tls.load_identity(self.identity).fingerprint
        tls.remember_pair(self.source, self.address, theirs)

    @property
    def log(self) -> Path:
        """What it printed."""
        return self.folder / "receiver.log"

    @property
    def store(self) -> Store:
        """Its store."""
        return Store(self.root)

    def start(self, **order: object) -> None:
        """Start it, and wait until it listens or is dead."""
        self._prepared.start(
            store=str(self.root), identity=str(self.identity), port=self.port,
            log=str(self.log), segment=SEGMENT, **order,
        )  # fmt: skip
        deadline = time.monotonic() + LONGEST
        while not self._prepared.ended():
            assert time.monotonic() < deadline, "the receiver does not listen"
            with (
                contextlib.suppress(OSError),
                socket.create_connection(("127.0.0.1", self.port), timeout=1),
            ):
                return
            time.sleep(0.005)

    def kill(self) -> bool:
        """Kill it; False when it was dead already, or ended well."""
        return self._prepared.kill()

    def wait(self) -> int:
        """Wait for its death."""
        return self._prepared.wait()

    def connect(self, **options: Any) -> Channel:
        """A connection of the source."""
        options.setdefault("patience", PATIENCE)
        connected = channel.connect(self.address, self.source, **options)
        try:
            channel.greet(connected, "source")
        except BaseException:
            connected.close()
            raise
        return connected


# --- a source made of plain values ---------------------------------------------------------------


class Session(Protocol):
    """What a cycle needs of a channel."""

    def send(self, message: messages.Message) -> None:
        """Say a message."""
        ...

    def expect(self, *kinds: type[M]) -> M:
        """Hear one of these."""
        ...


def configuration(disks: Iterable[str]) -> Configuration:
    """A configuration that has these disks."""
    lines = (f"scsi{number}: local:{disk},size=1M\n" for number, disk in enumerate(disks))
    return Configuration("@proxmox", f"cores: 1\n{''.join(lines)}")


@attrs.frozen
class Made:
    """A cycle: its manifest, its streams, and what the disks held when it was made."""

    manifest: CycleManifest
    streams: dict[str, bytes]
    disks: dict[str, bytes]


@attrs.define
class Model:
    """A VM in memory, whose cycles are made without a cluster; and what they must come to."""

    vm_id: str
    seed: int
    disks: dict[str, bytes] = attrs.field(factory=dict)
    made: dict[str, Made] = attrs.field(factory=dict)
    committed: list[str] = attrs.field(factory=list)
    """The digests of the generations that the receiver said, or showed, to have committed."""
    random: random.Random = attrs.field(factory=random.Random)
    pending: Made | None = None
    cluster: str = "model"
    _taken: int = 1_700_000_000

    def __attrs_post_init__(self) -> None:
        self.random.seed(self.seed)
        self.disks = {f"disk-{n}": bytes(size) for n, size in enumerate((2 * MIB, MIB + 4096))}
        self.change()

    def change(self) -> None:
        """Write, wipe, trim and grow somewhere."""
        for disk_id, content in self.disks.items():
            changed = bytearray(content)
            if self.random.random() < 0.1:
                changed += bytes(self.random.randrange(1, 64) * 4096)
            for _ in range(self.random.randrange(1, 5)):
                length = min(self.random.choice((512, 4096, 70_000, 300_000)), len(changed))
                offset = self.random.randrange(0, len(changed) - length + 1)
                wipe = self.random.random() < 0.3
                changed[offset : offset + length] = (
                    bytes(length) if wipe else self.random.randbytes(length)
                )
            self.disks[disk_id] = bytes(changed)
        if self.random.random() < 0.1:  # a disk comes, or goes
            if len(self.disks) > 2:
                self.disks.popitem()
            else:
                self.disks[f"disk-at-{self._taken}"] = self.random.randbytes(100 * 4096)

    def send(self, session: Session) -> int:
        """One cycle, as the real source would do it; returns the generation."""
        session.send(messages.Open(self.cluster, self.vm_id))
        ready = session.expect(messages.Ready)
        self.learn(ready.digest)
        held: dict[str, int] = {}
        if self.pending and ready.resume and ready.resume.digest == self.pending.manifest.digest():
            cycle, held = self.pending, dict(ready.resume.disks)
            _tally["cycles gone on with after an interruption"] += 1
        else:
            cycle = self._make(ready.digest)
        self.pending = cycle
        manifest = cycle.manifest
        kind = messages.Kind.SEED if manifest.is_seed else messages.Kind.DELTA
        session.send(messages.Cycle(kind, manifest.base, manifest.encode()))
        session.expect(messages.Accepted)
        for disk in manifest.disks:
            self._send_disk(session, disk, cycle.streams[disk.disk_id], held.get(disk.disk_id, 0))
        session.send(messages.Commit(manifest.digest()))
        generation = session.expect(messages.Committed).generation
        self.learn(manifest.digest())
        return generation

    def learn(self, digest: str) -> None:
        """The receiver stands at this manifest: at the last one that we know, or the one sent."""
        if self.committed and digest == self.committed[-1]:
            return
        if not digest:
            assert not self.committed, "a generation that was committed is gone"
            return
        assert self.pending, "a generation that was never sent"
        assert digest == self.pending.manifest.digest(), "a generation that was not sent last"
        self.committed.append(digest)
        self.pending = None

    def _send_disk(self, session: Session, disk: CycleDisk, stream: bytes, start: int) -> None:
        session.send(messages.Disk(disk.disk_id, start))
        digest = StreamDigest()
        for at in range(start, len(stream), 100_000):
            piece = stream[at : at + 100_000]
            digest.update(piece)
            session.send(messages.Data(piece))
        session.send(messages.EndOfDisk())
        assert session.expect(messages.Stored).digest == digest.text()

    def _make(self, base: str) -> Made:
        before = self.made[base].disks if base else {}
        streams = {
            disk_id: encode(len(content), changes(before.get(disk_id), content))
            for disk_id, content in self.disks.items()
        }
        self._taken += 1
        manifest = CycleManifest(
            schema=SCHEMA,
            cluster=self.cluster,
            vm_id=self.vm_id,
            vm_name="model",
            base=base,
            taken=self._taken,
            rpo=60,
            consistency="crash",
            recovery_point=f"point-{self._taken}",
            configuration=configuration(self.disks),
            disks=tuple(
                CycleDisk(
                    disk_id,
                    number,
                    len(self.disks[disk_id]),
                    disk_id not in before,
                    len(stream),
                    len(changes(before.get(disk_id), self.disks[disk_id])),
                )
                for number, (disk_id, stream) in enumerate(streams.items())
            ),
        )
        made = Made(manifest, streams, dict(self.disks))
        self.made[manifest.digest()] = made
        return made

    def check(self, store: Store, folder: Path, points: int = 2) -> None:
        """The store is at one generation, which is the last committed or the one sent.

        Its images are that bit for bit, and so is what is rebuilt of some older points.
        """
        replica = store.replica(self.cluster, self.vm_id)
        found = replica.state()
        if found is None or found.current is None:
            assert not self.committed
            return
        assert found.applying is None
        self.learn(found.current.digest)
        assert found.current.number == len(self.committed)
        for disk_id, content in self.made[found.current.digest].disks.items():
            image = replica.files.image(disk_id)
            assert image.read_bytes() == content, f"the image of {disk_id} is another"
        kept = replica.points()[:-1]
        for generation in self.random.sample(kept, min(points, len(kept))):
            self.check_point(replica, generation.number, generation.digest, folder)

    def check_point(self, replica: Replica, number: int, digest: str, folder: Path) -> None:
        """A point is rebuilt bit for bit."""
        assert digest == self.committed[number - 1]
        for disk_id, content in self.made[digest].disks.items():
            target = folder / "rebuilt.raw"
            replica.rebuild(number, disk_id, target)
            assert target.read_bytes() == content, f"{disk_id} of generation {number} is another"
            target.unlink()
            _tally["disks of older points rebuilt, all identical"] += 1


def changes(before: bytes | None, now: bytes) -> Changes:
    """The blocks of a disk that changed, joined; without a `before` those that are not zero."""
    found: list[tuple[int, bytes]] = []
    old = before or b""
    for at in range(0, len(now), 4096):
        block = now[at : at + 4096]
        was = old[at : at + 4096]
        if block != was + bytes(len(block) - len(was)):
            if found and found[-1][0] + len(found[-1][1]) == at:
                found[-1] = (found[-1][0], found[-1][1] + block)
            else:
                found.append((at, block))
    return found


# --- the real source, on the lab -----------------------------------------------------------------


class Words:
    """What a source said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        """Any line."""
        self.lines.append(text)

    warn = report = say


@attrs.frozen
class Site:
    """A host that replicates the VMs of the lab to a receiver."""

    lab: Lab
    receiver: Receiver
    folder: Path
    listener: Words = attrs.field(factory=Words)
    groups: dict[str, list[str]] = attrs.field(factory=dict)
    """The disks of the volume groups of each VM."""

    def group(self, guest: Guest, size: int) -> str:
        """A volume group with one disk, attached to the VM."""
        ext_id = self.lab.create_volume_group(f"data of {guest.name}", [size], [guest.name])
        (disk,) = self.lab._world.volume_groups[ext_id].disks
        self.groups[guest.ext_id] = [disk.ext_id]
        return ext_id

    @property
    def state_dir(self) -> Path:
        """Where the host keeps what it knows."""
        return self.folder / "state"

    def guest(self, *sizes: int) -> Guest:
        """A VM with some data on its disks."""
        name = f"vm-{len(self.lab.state()['vms']):03}"
        guest = Guest(self.lab, name, self.lab.create_vm(name, sizes))
        for index, size in enumerate(sizes):
            guest.write(index, size // 3 // 4096 * 4096, min(size // 8, 300 * KIB))
        return guest

    def parameters(self, **others: object) -> dict[str, object]:
        """The parameters of the source."""
        identity = self.state_dir / "identity"
        if not identity.exists():
            shutil.copytree(self.receiver.source, identity)
        config = self.state_dir / "prism.conf"
        config.touch(mode=0o600)
        config.write_text(
            f"prism = {self.lab.pc_host}\nuser = {self.lab.user}\n"
            f"password = {self.lab.password}\nca = {self.lab.ca_file}\n"
            "proxy_mode = in_cluster\n"
        )
        return {
            "config_file": config,
            "state_dir": self.state_dir,
            "transport": "userspace",
            "replicate_to": self.receiver.address,
            **others,
        }

    def settings(self, *guests: Guest, **others: object) -> Settings:
        """The same, read, for some VMs."""
        items = [(name, str(value)) for name, value in self.parameters(**others).items()]
        return parse([*items, *(("vm", guest.name) for guest in guests)])

    def cycle(self, *guests: Guest, **others: object) -> list[Done]:
        """One cycle of each, in this process."""
        work = Work(self.settings(*guests, **others), self.listener, 60)
        return list(work.once(lambda: None))

    def argv(self, *guests: Guest, **others: object) -> list[str]:
        """The same as a command line."""
        words = [f"{name}={value}" for name, value in self.parameters(**others).items()]
        return ["replicate", *words, *(guest.name for guest in guests)]

    def replica(self, guest: Guest) -> Replica:
        """What the receiver has of a VM."""
        return self.receiver.store.replica(self.lab.cluster_name, guest.ext_id)

    def assert_same(self, guest: Guest) -> None:
        """The replica is the recovery point that its generation was read from, bit for bit."""
        current = self.current(guest)
        disks = {disk.disk_id for disk in current.manifest.disks}
        for disk_id in disks:
            image = self.replica(guest).files.image(disk_id)
            assert same(image, self.point(guest, disk_id)), f"disk {disk_id} is another"
        assert len(disks) == len(guest.disk_ids()) + len(self.groups.get(guest.ext_id, ()))

    def generation(self, guest: Guest) -> int:
        """The number of the last generation; 0 before the first."""
        found = self.replica(guest).state()
        return found.number if found else 0

    def current(self, guest: Guest) -> Generation:
        """The last generation, which must be a whole one."""
        found = self.replica(guest).state()
        assert found
        assert found.current
        assert found.applying is None
        return found.current

    def point(self, guest: Guest, disk_id: str) -> Path:
        """A disk in the recovery point of the last generation."""
        return self.lab.recovery_point_file(self.current(guest).manifest.recovery_point, disk_id)

    def assert_clean(self, guest: Guest) -> None:
        """On the cluster is nothing of ours but recorded references, two at most."""
        found = self.lab.state()
        theirs = [group for group in found["volume_groups"] if group["name"].startswith("data of")]
        found["volume_groups"] = [g for g in found["volume_groups"] if g not in theirs]
        for kind in ("volume_groups", "images", "sessions", "tasks"):
            assert not found[kind], f"{kind} are left: {found[kind]}"
        points = guest.recovery_points()
        assert set(points) <= set(state.recorded_points(self.state_dir)), "unrecorded points"
        assert len(points) <= 2, "more references than the hand-over needs"

    def sweep(self) -> None:
        """What the next cycle does before it begins."""
        settings = self.settings()
        with inventory.connect(settings) as client:
            for removed in sweep.sweep(client, settings):
                _tally["things of killed sources swept"] += 1
                assert removed.done == "removed"

    def settle(self) -> None:
        """Wait until the cluster has done what dead sources asked for; forget how long ago."""
        deadline = time.monotonic() + LONGEST
        while self.lab.state()["tasks"] or self.lab.state()["sessions"]:
            assert time.monotonic() < deadline, "the cluster does not come to rest"
            time.sleep(0.01)


# --- a line that is cut --------------------------------------------------------------------------


class Line:
    """A connection to the receiver that is cut, or goes silent, after so many bytes to it.

    It takes one connection after the other; the limit counts for all of them together.
    """

    def __init__(self, port: int, stack: ExitStack) -> None:
        self._port = port
        self._door = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        self.port = self._door.getsockname()[1]
        self.left = 1 << 60
        self.silent = False
        self._open: list[socket.socket] = []
        threading.Thread(target=self._serve, daemon=True).start()
        stack.callback(self.cut)

    def cut(self) -> None:
        """Cut every connection."""
        for end in self._open:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        self._open.clear()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._door.accept()
                far = socket.create_connection(("127.0.0.1", self._port))
                self._open += [near, far]
                threading.Thread(target=self._carry, args=(far, near, False), daemon=True).start()
                threading.Thread(target=self._carry, args=(near, far, True), daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket, counted: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if counted:
                    data = data[: max(self.left, 0)]
                    self.left -= len(data)
                if self.silent and self.left <= 0:
                    continue
                target.sendall(data)
                if self.left <= 0 and not self.silent:
                    break
            if not self.silent:
                target.shutdown(socket.SHUT_RDWR)
                source.shutdown(socket.SHUT_RDWR)


# --- fixtures ------------------------------------------------------------------------------------


@pytest.fixture(scope="session", autouse=True)
def _short_pauses() -> None:
    clock: Any = _clock.SystemClock
    clock.sleep = lambda _, seconds: time.sleep(min(seconds, 0.01))
    vars(spool)["SEGMENT"] = SEGMENT


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """One cluster, whose tasks do not wait."""
    with Lab.start(tmp_path_factory.mktemp("lab"), task_seconds=0) as running:
        yield running


@pytest.fixture(scope="session")
def forks() -> Iterator[tuple[Prepared, Prepared]]:
    """What forks receivers, and what forks sources."""
    with ExitStack() as stack:
        yield Prepared(stack), Prepared(stack)


@pytest.fixture
def power(tmp_path: Path) -> Iterator[PowerDisk]:
    """A disk for a store, whose power can be cut."""
    if os.geteuid() != 0 or not Path("/dev/loop-control").exists():
        pytest.skip("needs root and /dev/loop-control (the loop module), to cut power")
    disk = PowerDisk(tmp_path, 192 * MIB)
    yield disk
    disk.close()


@pytest.fixture
def receiver(tmp_path: Path, forks: tuple[Prepared, Prepared]) -> Iterator[Receiver]:
    """A receiver that is not started."""
    made = Receiver(tmp_path, tmp_path / "store", forks[0])
    yield made
    made.kill()


@pytest.fixture
def powered(
    tmp_path: Path, forks: tuple[Prepared, Prepared], power: PowerDisk
) -> Iterator[Receiver]:
    """The same, with its store on a disk whose power can be cut."""
    made = Receiver(tmp_path, power.mounted / "store", forks[0])
    yield made
    made.kill()


@pytest.fixture
def site(lab: Lab, receiver: Receiver, tmp_path: Path) -> Site:
    """A host and a receiver that runs."""
    receiver.start()
    return Site(lab, receiver, tmp_path)


@pytest.fixture
def line(receiver: Receiver) -> Iterator[Line]:
    """A line to the receiver, which counts as the receiver for the source."""
    with ExitStack() as stack:
        made = Line(receiver.port, stack)
        receiver.reached_at(made.port)
        yield made


@pytest.fixture(scope="session")
def make_model() -> type[Model]:
    """To make VMs in memory with."""
    return Model
