"""The store: random cycles and every point exact; and a crash at any step, with the power cut too.

A crash is an exception at a chosen call that changes the file system, after which no call changes
anything any more. A power cut forgets what was not synced: of a file the content, of a folder the
names; or, in the torn variant, keeps some of it.
"""

from __future__ import annotations

import os
import shutil
import stat
import types
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from itertools import count
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import attrs
import durable
import phcbt01
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from phcbt01.testing import MemoryTarget, encode
from vm_replica.errors import Code, CycleRefused, ReplicaDamaged, StoreError
from vm_replica.protocol.manifest import SCHEMA, Configuration, CycleDisk, CycleManifest
from vm_replica.store import admission, records, spool, thinning, undo
from vm_replica.store.admission import Limits, Room
from vm_replica.store.replica import Store
from vm_replica.store.retention import Retention

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from vm_replica.store.replica import IncomingCycle, Replica

KIB = 1 << 10
CONFIGURATION = Configuration("@proxmox", "cores: 1\n")
CLUSTER, VM, SOURCE = "a cluster/with ü", "11111111-1111-4111-8111-111111111111", "a" * 64
NO_RESERVE = Limits(reserve=0)
SIZES = (0, 1, 4096, 64 * KIB, 65 * KIB + 1, 200_000)


@attrs.define
class Vm:
    """A VM whose disks change, and the cycles that say so."""

    random: Random
    disks: dict[str, bytes] = attrs.field(factory=dict)
    base: str = ""
    taken: int = 1000
    committed: dict[int, dict[str, bytes]] = attrs.field(factory=dict)
    digests: dict[int, str] = attrs.field(factory=dict)

    def cycle(self, *, seed: bool = False) -> Sent:
        """The next cycle, with disks that come, go, grow and shrink."""
        self.taken += 1
        base = "" if seed else self.base
        ids = [name for name in ("x", "y", "z") if self.random.random() < 0.8] or ["x"]
        made = [self._disk(name, index, base) for index, name in enumerate(ids)]
        manifest = CycleManifest(
            SCHEMA, CLUSTER, VM, "vm", base, self.taken, 60, "crash", "point", CONFIGURATION,
            tuple(disk for disk, _, _ in made),
        )  # fmt: skip
        streams = {disk.disk_id: stream for disk, stream, _ in made}
        return Sent(manifest, streams, {disk.disk_id: content for disk, _, content in made})

    def _disk(self, name: str, index: int, base: str) -> tuple[CycleDisk, bytes, bytes]:
        old = self.disks.get(name) if base else None
        whole = old is None or self.random.random() < 0.2
        if whole or old is None:
            content = bytearray(self.random.choice(SIZES))
        else:
            content = bytearray(old + bytes(self.random.choice((0, 0, 1, 70 * KIB))))
        changes: list[tuple[int, bytes]] = []
        at = 0
        while at < len(content) and self.random.random() < 0.7:
            at = self.random.randrange(at, len(content))
            length = self.random.randrange(1, min(len(content) - at, 70 * KIB) + 1)
            data = self.random.choice((bytes(length), self.random.randbytes(length)))
            changes.append((at, data))
            content[at : at + length] = data
            at += length + 1
        stream = encode(len(content), changes)
        disk = CycleDisk(name, index, len(content), whole, len(stream), len(changes))
        return disk, stream, bytes(content)

    def has_committed(self, number: int, sent: Sent) -> None:
        """The store has said so, or has it."""
        self.disks, self.base = sent.contents, sent.manifest.digest()
        self.committed[number], self.digests[number] = sent.contents, self.base


@attrs.frozen
class Sent:
    """A cycle: its manifest, its streams, and what the disks are after it."""

    manifest: CycleManifest
    streams: dict[str, bytes]
    contents: dict[str, bytes]


def newest(count: int) -> Retention:
    """Keep so many older generations, however young the others are."""
    return Retention(count, protect=0, hours=0, days=0)


def send(replica: Replica, sent: Sent, cut: Random | None = None) -> int:
    """Send a cycle, going on with what is there; the generation."""
    with replica.begin_cycle(sent.manifest, SOURCE) as cycle:
        for disk in sent.manifest.disks:
            stream, start = sent.streams[disk.disk_id], cycle.durable_bytes.get(disk.disk_id, 0)
            if start == len(stream):
                continue
            with cycle.disk(disk.disk_id, start) as arriving:
                middle = cut.randrange(start, len(stream)) if cut else start
                arriving.write(stream[start:middle])
                arriving.write(stream[middle:])
                arriving.finish()
        return cycle.commit(sent.manifest.digest())


def check(replica: Replica, vm: Vm) -> None:
    """Every kept point is exactly what was committed, read in every way."""
    for point in replica.points():
        assert point.digest == vm.digests[point.number]
        contents = vm.committed[point.number]
        assert {disk.disk_id for disk in point.disks} == set(contents)
        for name, content in contents.items():
            target = MemoryTarget(bytes(len(content)))
            replica.rebuild(point.number, name, target)
            assert target.content == content, (point.number, name)


@pytest.fixture
def replica(tmp_path: Path) -> Replica:
    """An empty replica."""
    return Store(tmp_path / "store", NO_RESERVE).replica(CLUSTER, VM)


@pytest.fixture
def vm() -> Vm:
    """A VM that always does the same."""
    return Vm(Random(1))


@contextmanager
def unsynced() -> Iterator[None]:
    """Nothing is made durable: what is true of a disk without crashes is found faster."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


# --- laws -----------------------------------------------------------------------------------------


@settings(max_examples=10)
@given(st.builds(Random, st.integers(0, 2**32)))
def test_every_point_of_random_cycles_is_exact(random: Random) -> None:
    with TemporaryDirectory() as folder, unsynced(), ExitStack() as stack:
        replica = Store(Path(folder), NO_RESERVE).replica(CLUSTER, VM)
        vm = Vm(random)
        readers: list[tuple[Any, bytes]] = []
        for number in range(1, 8):
            sent = vm.cycle(seed=number == 1 or random.random() < 0.1)
            assert send(replica, sent, random) == number
            vm.has_committed(number, sent)
            for reader, content in readers:
                assert bytes(reader.read(0, len(content))) == content, "a reader is undisturbed"
            generation = random.choice(replica.points()).number
            name, content = random.choice(sorted(vm.committed[generation].items()))
            reader = stack.enter_context(replica.reader(generation, name))
            readers.append((reader, content))
            at = random.randrange(len(content) + 2)
            assert reader.read(at, 1000).rstrip(b"\0") == content[at : at + 1000].rstrip(b"\0")
        check(replica, vm)
        verify_all(replica)
        assert [point.number for point in replica.points()] == list(range(1, 8))


@given(st.builds(Random, st.integers(0, 2**32)), st.integers(0, 6), st.integers(0, 20))
@settings(max_examples=10)
def test_retention_keeps_what_is_asked_and_breaks_nothing(
    random: Random, keep: int, age: int
) -> None:
    with TemporaryDirectory() as folder, unsynced():
        replica = Store(Path(folder), NO_RESERVE).replica(CLUSTER, VM)
        vm = Vm(random)
        for number in range(1, 6):
            sent = vm.cycle(seed=number == 1)
            vm.has_committed(send(replica, sent), sent)
        now = replica.points()[-1].committed + 10
        replica.prune(Retention(keep, age, protect=0, hours=0, days=0), now)
        left = [point.number for point in replica.points()]
        by_age = [] if 0 < age < 10 else [1, 2, 3, 4]
        assert left == [*by_age[max(4 - keep, 0) :], 5]
        check(replica, vm)
        assert replica.prune(newest(0)) == left[:-1]
        check(replica, vm)


# --- refusals -------------------------------------------------------------------------------------


def test_what_does_not_fit_is_refused_and_says_what_is_needed(replica: Replica, vm: Vm) -> None:
    seed = vm.cycle(seed=True)
    delta = attrs.evolve(seed.manifest, base="sha256:" + "0" * 64)
    refused(replica, delta, Code.NEEDS_SEED)
    assert not replica.files.path.exists(), "nothing is made for what is refused"
    send(replica, seed)
    vm.has_committed(1, seed)
    assert refused(replica, delta, Code.WRONG_BASE).needs == vm.base
    assert refused(replica, seed.manifest, Code.REPLAYED).needs == vm.base
    refused(replica, attrs.evolve(seed.manifest, taken=999), Code.REPLAYED)
    good = vm.cycle().manifest
    refused(replica, attrs.evolve(good, vm_id="another"), Code.BAD_MANIFEST)
    refused(replica, good, Code.NOT_ALLOWED, source="b" * 64)
    new = CycleDisk("new", 5, 10, whole=False, stream_bytes=24, regions=0)
    refused(replica, attrs.evolve(good, disks=(new,)), Code.NOT_READY)
    old = seed.manifest.disks[-1]
    shrunk = attrs.evolve(old, size=old.size - 1, whole=False, stream_bytes=24, regions=0)
    refused(replica, attrs.evolve(good, disks=(shrunk,)), Code.NOT_READY)
    huge = CycleDisk("new", 5, 1 << 60, whole=True, stream_bytes=24, regions=0)
    refused(replica, attrs.evolve(good, disks=(huge,)), Code.TOO_LARGE)
    assert replica.resumable() is None
    check(replica, vm)


def refused(
    replica: Replica, manifest: CycleManifest, code: Code, source: str = SOURCE
) -> CycleRefused:
    """The cycle is refused for this reason."""
    with pytest.raises(CycleRefused) as caught, replica.begin_cycle(manifest, source):
        raise AssertionError("it was taken")
    assert caught.value.code is code, caught.value
    assert "\n" not in str(caught.value)
    return caught.value


def test_a_replayed_cycle_is_refused_even_when_its_base_is_current(
    replica: Replica, vm: Vm
) -> None:
    """A seed of old stands on nothing, so only its time and its digest tell."""
    seeds = [vm.cycle(seed=True) for _ in range(2)]
    for number, seed in enumerate(seeds, 1):
        vm.has_committed(send(replica, seed), seed)
        assert replica.state().number == number  # type: ignore[union-attr]
    refused(replica, seeds[0].manifest, Code.REPLAYED)
    check(replica, vm)


def test_more_than_the_file_system_holds_is_refused_before_anything_is_written(
    tmp_path: Path, vm: Vm
) -> None:
    free = shutil.disk_usage(tmp_path).free
    replica = Store(tmp_path / "store", Limits(reserve=0)).replica(CLUSTER, VM)
    size = max(free, 1 << 30) * 2
    huge = CycleDisk(
        "x", 0, size, whole=True, stream_bytes=phcbt01.encoded_size(1, size), regions=1
    )
    manifest = attrs.evolve(vm.cycle(seed=True).manifest, disks=(huge,))
    refused(replica, manifest, Code.NO_SPACE)
    assert not (tmp_path / "store").exists()


def test_what_a_cycle_given_up_has_left_makes_room_for_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file system that has no room for a seed beside what has arrived of another one."""
    replica = Store(tmp_path / "store", NO_RESERVE).replica(CLUSTER, VM)
    vm = Vm(Random(1))
    content = bytes(range(250)) * 2000
    stream = encode(len(content), [(0, content)])
    disk = CycleDisk("x", 0, len(content), whole=True, stream_bytes=len(stream), regions=1)
    seeds = [attrs.evolve(vm.cycle(seed=True).manifest, disks=(disk,)) for _ in range(2)]
    monkeypatch.setattr(spool, "SEGMENT", 1000)
    with replica.begin_cycle(seeds[0], SOURCE) as cycle, cycle.disk("x", 0) as arriving:
        arriving.write(stream[:400_000])
    wanted = admission.needed(seeds[1], None, Room(free=0, block=1))
    assert wanted > 2 * len(stream)
    free = types.SimpleNamespace(f_bavail=wanted - 400_001, f_frsize=1)
    monkeypatch.setattr(os, "statvfs", lambda _: free)
    refused(replica, seeds[1], Code.NO_SPACE)
    free.f_bavail += 1
    with replica.begin_cycle(seeds[1], SOURCE) as cycle:
        assert cycle.durable_bytes == {}


def test_a_second_session_is_refused_and_the_first_goes_on(replica: Replica, vm: Vm) -> None:
    sent = vm.cycle(seed=True)
    with replica.begin_cycle(sent.manifest, SOURCE):
        refused(replica, sent.manifest, Code.BUSY)
    vm.has_committed(send(replica, sent), sent)
    check(replica, vm)


def write_all(cycle: IncomingCycle, name: str, start: int, stream: bytes) -> None:
    """Send a stream in small pieces."""
    with cycle.disk(name, start) as arriving:
        for at in range(0, len(stream), 100):
            arriving.write(stream[at : at + 100])
        arriving.finish()


@pytest.mark.parametrize("lie", ["size", "regions", "more", "less", "offset", "unknown", "magic"])
def test_a_stream_that_is_not_what_was_announced_never_gets_to_the_replica(
    replica: Replica, vm: Vm, lie: str
) -> None:
    content = bytes(5000) + b"x" * 5000
    disk = CycleDisk("x", 0, len(content), whole=True, stream_bytes=5040, regions=1)
    manifest = attrs.evolve(vm.cycle(seed=True).manifest, disks=(disk,))
    stream = {
        "size": encode(len(content) + 1, [(5000, content[5000:])]),
        "regions": encode(len(content), [(5000, content[5000:7000]), (8000, content[8000:])]),
        "more": encode(len(content), [(5000, content[5000:])]) + b"!",
        "less": encode(len(content), [(5000, content[5000:])])[:-1],
        "magic": b"PHCBT02\0" + bytes(5032),
    }.get(lie, encode(len(content), [(5000, content[5000:])]))
    with replica.begin_cycle(manifest, SOURCE) as cycle:
        name, start = "y" if lie == "unknown" else "x", int(lie == "offset")
        with pytest.raises(CycleRefused) as caught:
            write_all(cycle, name, start, stream)
        assert caught.value.code is Code.BAD_STREAM
        with pytest.raises(CycleRefused, match="has not arrived"):
            cycle.commit(manifest.digest())
    assert replica.points() == []
    assert not replica.files.images.exists()


def test_a_fenced_replica_takes_nothing_and_goes_on_when_it_is_unfenced(
    replica: Replica, vm: Vm
) -> None:
    sent = vm.cycle(seed=True)
    vm.has_committed(send(replica, sent), sent)
    sent = vm.cycle()
    with replica.begin_cycle(sent.manifest, SOURCE) as cycle:
        for name, stream in sent.streams.items():
            with cycle.disk(name, 0) as arriving:
                arriving.write(stream)
                arriving.finish()
        replica.fence("the reason")
        with pytest.raises(CycleRefused, match="the reason"):
            cycle.commit(sent.manifest.digest())
    refused(replica, sent.manifest, Code.FENCED)
    check(replica, vm)
    replica.unfence()
    vm.has_committed(send(replica, sent), sent)
    check(replica, vm)
    replica.close()
    refused(replica, vm.cycle().manifest, Code.FENCED)
    with pytest.raises(StoreError, match="ever again"):
        replica.unfence()


# --- damage ---------------------------------------------------------------------------------------


def large_seed(vm: Vm) -> Sent:
    """A seed with a stream of at least 5000 bytes."""
    seeds = (vm.cycle(seed=True) for _ in count())
    return next(seed for seed in seeds if max(map(len, seed.streams.values())) > 5000)


def verify_all(replica: Replica) -> None:
    """Prove every point."""
    for point in replica.points():
        replica.verify(point.number)


def test_damage_is_found(replica: Replica) -> None:
    vm = Vm(Random(3))
    for seed in (True, False, False):
        sent = vm.cycle(seed=seed)
        vm.has_committed(send(replica, sent), sent)
    victims = [p for p in replica.files.path.rglob("*") if p.suffix in {".raw", ".phcbt01"}]
    assert len(victims) > 3
    for path in victims:
        content = path.read_bytes()
        for at in range(0, len(content), max(len(content) // 5, 1)):
            path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
            with pytest.raises(ReplicaDamaged) as caught:
                verify_all(replica)
            assert "\n" not in str(caught.value)
        path.write_bytes(content)
    check(replica, vm)


def test_an_export_of_damaged_data_leaves_no_file(replica: Replica, vm: Vm, tmp_path: Path) -> None:
    sent = large_seed(vm)
    vm.has_committed(send(replica, sent), sent)
    name = max(sent.contents, key=lambda name: len(sent.contents[name]))
    image = replica.files.image(name)
    image.write_bytes(b"\xff" + image.read_bytes()[1:])
    with pytest.raises(ReplicaDamaged):
        replica.rebuild(1, name, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_arrived_and_was_damaged_here_is_not_gone_on_with(
    replica: Replica, vm: Vm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool, "SEGMENT", 1000)
    sent = large_seed(vm)
    name = max(sent.streams, key=lambda name: len(sent.streams[name]))
    with replica.begin_cycle(sent.manifest, SOURCE) as cycle, cycle.disk(name, 0) as arriving:
        for at in range(0, 3000, 500):
            arriving.write(sent.streams[name][at : at + 500])
    resumable = replica.resumable()
    assert resumable
    assert resumable.durable_bytes == {name: 3000}
    path = resumable.path(name)
    path.write_bytes(path.read_bytes()[:2500] + b"?" + path.read_bytes()[2501:])
    assert "damaged here" in str(refused(replica, sent.manifest, Code.BAD_STREAM))
    assert replica.resumable() is None
    vm.has_committed(send(replica, sent), sent)
    check(replica, vm)


# --- crashes --------------------------------------------------------------------------------------


class Crash(BaseException):
    """The process is killed here."""


class Disk:
    """A layer below the store that counts what changes the file system, and dies when ordered."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls = 0
        self.fatal = 0
        self.dead = False
        self.watch: Callable[[], None] = lambda: None
        self.synced: dict[int, bytes | dict[str, int]] = {}
        self._pinned: list[int] = []
        layer: Any = types.SimpleNamespace(**vars(os))
        for name in ("write", "pwrite", "ftruncate", "replace", "rename", "unlink", "rmdir"):
            setattr(layer, name, self._counted(getattr(os, name)))
        layer.open, layer.fsync = self._open, self._counted(self._fsync)
        layer.mkdir = self._counted(self._mkdir)
        self.layer = layer
        trees: Any = types.SimpleNamespace(**vars(shutil))
        trees.rmtree = self._remove_tree
        for module in (durable._files, spool, undo, thinning, phcbt01.files):
            monkeypatch.setattr(module, "os", layer)
        for module in (spool, records):
            monkeypatch.setattr(module, "shutil", trees)

    def order(self, fatal: int) -> None:
        """Die just before this call, which is just after the one before it; 0: live."""
        self.calls, self.fatal, self.dead = 0, fatal, False

    def remember(self, root: Path) -> None:
        """All that is there now is synced."""
        self.forget()
        for path in [root, *root.rglob("*")]:
            self._pin(os.open(path, os.O_PATH))
            self._note(path)

    def forget(self) -> None:
        """Let go of what was synced."""
        for descriptor in self._pinned:
            os.close(descriptor)
        self._pinned.clear()
        self.synced.clear()

    def cut_power(self, root: Path, torn: Random | None) -> None:
        """Bring the folder to what was synced, or with `torn` to some of what was not, too."""
        now = {path.stat().st_ino: path for path in [root, *root.rglob("*")]}
        after = root.with_name("after")
        self._rebuild(root.stat().st_ino, now, after, torn)
        shutil.rmtree(root)
        after.rename(root)

    def _counted(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **options: Any) -> Any:
            if self.dead:
                raise Crash
            self.calls += 1
            self.watch()
            if self.calls == self.fatal:
                self.dead = True
                raise Crash
            return call(*args, **options)

        return counted

    def _open(self, path: Any, flags: int, *mode: int) -> int:
        if not flags & os.O_CREAT:
            return os.open(path, flags, *mode)
        descriptor: int = self._counted(os.open)(path, flags, *mode)
        self._pin(os.open(path, os.O_PATH))
        return descriptor

    def _mkdir(self, path: Any, mode: int) -> None:
        os.mkdir(path, mode)  # noqa: PTH102 - a fault layer is near to os
        self._pin(os.open(path, os.O_PATH))

    def _pin(self, descriptor: int) -> None:
        """Keep an inode from being used for another file, which would look like this one."""
        self._pinned.append(descriptor)

    def _fsync(self, descriptor: int) -> None:
        self._note(Path(f"/proc/self/fd/{descriptor}").readlink())

    def _note(self, path: Path) -> None:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            names = {child.name: child.stat().st_ino for child in path.iterdir()}
            self.synced[status.st_ino] = names
        else:
            self.synced[status.st_ino] = path.read_bytes()

    def _remove_tree(self, folder: Path) -> None:
        for path in sorted(folder.rglob("*"), reverse=True):
            self.layer.rmdir(path) if path.is_dir() else self.layer.unlink(path)
        self.layer.rmdir(folder)

    def _rebuild(self, inode: int, now: dict[int, Path], target: Path, torn: Random | None) -> None:
        known, path = self.synced.get(inode), now.get(inode)
        if isinstance(known, dict) or (path and path.is_dir()):
            target.mkdir()
            names = dict(known) if isinstance(known, dict) else {}
            if torn and path:
                for child in path.iterdir():
                    if torn.random() < 0.5:
                        names[child.name] = child.stat().st_ino
            for name, child_inode in names.items():
                self._rebuild(child_inode, now, target / name, torn)
        else:
            content = known if isinstance(known, bytes) else b""
            target.write_bytes(
                _torn(content, path.read_bytes(), torn) if torn and path else content
            )


def _torn(old: bytes, new: bytes, torn: Random) -> bytes:
    """Some blocks as they were synced, some as they were written since."""
    length = torn.choice((len(old), len(new)))
    found = bytearray(old[:length].ljust(length, b"\0"))
    for at in range(0, length, 4096):
        if torn.random() < 0.5:
            block = new[at : min(at + 4096, length)]
            found[at : at + len(block)] = block
    return bytes(found)


POWER: dict[str, Callable[[int], Random | None] | None] = {
    "killed": None,
    "power cut": lambda _: None,
    "power cut, torn": Random,
}


@pytest.mark.parametrize("power", POWER)
def test_a_crash_at_every_step_leaves_exactly_one_committed_generation(
    power: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three generations; then a cycle with a disk gone and one grown, and retention, is killed."""
    monkeypatch.setattr(spool, "SEGMENT", 50_000)
    disk = Disk(monkeypatch)
    before, vm = tmp_path / "before", Vm(Random(11))
    for number in (1, 2, 3):
        sent = vm.cycle(seed=number == 1)
        vm.has_committed(send(replica_in(before), sent), sent)
    next_one = next(sent for sent in (vm.cycle() for _ in count()) if is_eventful(vm, sent))
    outcomes = set()
    for fatal in count(1):
        root = tmp_path / "root"
        shutil.copytree(before, root)
        disk.remember(root)
        disk.order(fatal)
        with suppress(Crash):
            send(replica_in(root), next_one)
            replica_in(root).prune(newest(2))
        if not disk.dead:
            break
        disk.order(0)
        cut = POWER[power]
        if cut:
            disk.cut_power(root, cut(fatal))
            disk.remember(root)
        outcomes.add(after_the_crash(replica_in(root), vm, next_one))
        shutil.rmtree(root)
    disk.forget()
    assert fatal > 60
    assert outcomes == {3, 4}, "some crashes came before the mark, some after it"


def is_eventful(vm: Vm, sent: Sent) -> bool:
    """A disk goes, and one is changed and grows."""
    before, after = vm.disks, sent.contents
    changed = [disk for disk in sent.manifest.disks if not disk.whole and disk.regions]
    return bool(changed) and (
        any(len(before.get(disk.disk_id, b"")) < disk.size for disk in changed)
        and before.keys() > before.keys() & after.keys()
    )


def replica_in(root: Path) -> Replica:
    """The replica, as a new process opens it."""
    return Store(root, NO_RESERVE).replica(CLUSTER, VM)


def after_the_crash(replica: Replica, vm: Vm, sent: Sent) -> int:
    """What a receiver that starts again finds; then the source goes on."""
    vm = attrs.evolve(vm, committed=dict(vm.committed), digests=dict(vm.digests))
    found = replica.state()
    assert found
    if found.applying:
        check(replica, vm)  # older points can be had even before it is recovered
    replica.recover()
    state = replica.state()
    assert state
    assert state.applying is None
    if state.number == 4:
        vm.has_committed(4, sent)
    else:
        assert state.number == 3
    check(replica, vm)
    if state.number == 3:
        held = replica.resumable()
        assert held is None or held.manifest == sent.manifest
        assert send(replica, sent) == 4
        vm.has_committed(4, sent)
        check(replica, vm)
    assert replica.resumable() is None
    replica.prune(newest(1))
    assert [point.number for point in replica.points()] == [3, 4]
    check(replica, vm)
    left = {path.name for path in replica.files.images.iterdir()}
    assert left == {f"{name}.raw" for name in sent.contents}
    return state.number


def test_points_can_be_read_at_every_moment_of_a_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, vm, replica = Disk(monkeypatch), Vm(Random(4)), replica_in(tmp_path)
    for number in range(1, 5):
        sent = vm.cycle(seed=number == 1)
        vm.has_committed(send(replica, sent), sent)
    with ExitStack() as stack:
        readers = [
            (stack.enter_context(replica.reader(number, name)), content)
            for number, contents in vm.committed.items()
            for name, content in contents.items()
        ]
        looks = 0

        def look() -> None:
            nonlocal looks
            looks += 1
            for reader, content in readers:
                assert bytes(reader.read(0, len(content))) == content
            for number, contents in vm.committed.items():
                for name, content in contents.items():
                    with replica.reader(number, name) as fresh:
                        assert bytes(fresh.read(0, len(content))) == content
                        fresh.verify(lambda: None)

        disk.watch = look
        for _ in range(3):
            sent = vm.cycle()
            number = send(replica, sent)
            disk.watch = lambda: None
            vm.has_committed(number, sent)
            disk.watch = look
        assert replica.prune(newest(0)) == [], "nothing is dropped that is being read"
    disk.watch = lambda: None
    disk.forget()
    assert looks > 100


def test_a_commit_that_cannot_write_changes_nothing_and_can_be_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file system is full at each step in turn, and has room again afterwards."""
    vm = Vm(Random(11))
    first = vm.cycle(seed=True)
    send(replica_in(tmp_path / "before"), first)
    vm.has_committed(1, first)
    sent = vm.cycle()
    failures = 0
    for number in count(1):
        root = tmp_path / "root"
        shutil.copytree(tmp_path / "before", root)
        replica = replica_in(root)
        with pytest.MonkeyPatch.context() as patch:
            if not fails_once(patch, number, partial(send, replica, sent)):
                break
        failures += 1
        replica.recover()
        state = replica.state()
        assert state
        assert state.applying is None
        if state.number == 1:
            check(replica, vm)
            assert send(replica, sent) == 2
        replica_of_both = attrs.evolve(vm, committed=dict(vm.committed), digests=dict(vm.digests))
        replica_of_both.has_committed(2, sent)
        check(replica, replica_of_both)
        shutil.rmtree(root)
    assert failures > 30


def fails_once(patch: pytest.MonkeyPatch, number: int, work: Callable[[], object]) -> bool:
    """Do something while this call that changes the file system fails, once; whether it came."""
    left = iter(range(number, -1, -1))
    layer: Any = types.SimpleNamespace(**vars(os))

    def failing(call: Callable[..., Any]) -> Callable[..., Any]:
        def maybe(*args: Any, **options: Any) -> Any:
            if next(left, -1) == 1:
                raise OSError(28, "No space left on device")
            return call(*args, **options)

        return maybe

    for name in ("write", "pwrite", "fsync", "ftruncate", "replace", "rename", "mkdir"):
        setattr(layer, name, failing(getattr(os, name)))
    for module in (durable._files, spool, undo, thinning, phcbt01.files):
        patch.setattr(module, "os", layer)
    try:
        work()
    except (StoreError, OSError) as error:
        return "No space left" in str(error)
    return next(left, -1) < 1
