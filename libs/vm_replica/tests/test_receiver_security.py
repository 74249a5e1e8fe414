"""The receiver against sources that are stolen, strangers that wait, and hosts that run short."""

from __future__ import annotations

import errno
import logging
import os
import resource
import socket
import threading
import time
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any

import attrs
import pytest
from phcbt01.testing import encode
from vm_replica import session as sessions
from vm_replica.errors import Code, CycleRefused, PeerLost, ReplicationError
from vm_replica.protocol import allowed, channel, messages, tls
from vm_replica.protocol.channel import Patience
from vm_replica.protocol.manifest import CycleDisk, CycleManifest
from vm_replica.session import Pace
from vm_replica.status import Level, statuses
from vm_replica.store.admission import Limits
from vm_replica.store.replica import Store
from vm_replica.store.retention import Retention
from vm_replica.stranger_log import StrangerLog

from libs.vm_replica.tests.receiver_site import (
    OTHER_VM,
    QUICK,
    SIZE,
    VM,
    cycle_of,
    offer,
    opened,
    send,
)

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from vm_replica.protocol.channel import Channel

    from libs.vm_replica.tests.receiver_site import Site

pytestmark = pytest.mark.security


def within(seconds: float, question: Callable[[], bool]) -> bool:
    """Whether it becomes true in time; a busy host may take long."""
    until = time.monotonic() + seconds
    while not question():
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


def withdraw(site: Site, source: Path, *, certificate: bool = False) -> None:
    """What `allow --remove` does, without its end of the session."""
    fingerprint = tls.load_identity(source).fingerprint
    left = tuple(g for g in allowed.load(site.identity) if g.source != fingerprint)
    allowed.save(site.identity, left)
    if certificate:
        tls.remove_peer(site.identity, fingerprint)


@pytest.fixture
def no_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody ends sessions: each step must look by itself."""
    monkeypatch.setattr("vm_replica.receiver._WATCH", 1e9)


# --- 1: grants ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_watch")
@pytest.mark.parametrize("step", ["cycle", "disk", "commit"])
def test_a_grant_that_is_withdrawn_counts_at_the_next_step(site: Site, step: str) -> None:
    source = site.source("source", VM)
    manifest, stream = cycle_of(os.urandom(SIZE))
    with site.connect(source) as session:
        opened(session)
        if step == "cycle":
            withdraw(site, source)
        else:
            offer(session, manifest)
        if step == "disk":
            withdraw(site, source)
        if step != "cycle":
            session.send(messages.Disk("d", 0), messages.Data(stream), messages.EndOfDisk())
        if step == "commit":
            session.expect(messages.Stored)
            withdraw(site, source)
        with pytest.raises(ReplicationError, match=r"not allowed|may not write"):  # noqa: PT012
            if step == "cycle":
                offer(session, manifest)
            if step == "disk":
                session.expect(messages.Stored)
            session.send(messages.Commit(manifest.digest()))
            session.expect(messages.Committed)
    assert site.replica().points() == []


@pytest.mark.parametrize("certificate", [True, False])
def test_the_session_of_a_removed_source_ends_in_seconds(site: Site, *, certificate: bool) -> None:
    source = site.source("source", VM)
    with site.connect(source, Patience(connect=5, idle=60, message=60)) as session:
        opened(session)
        withdraw(site, source, certificate=certificate)
        began = time.monotonic()
        with pytest.raises(ReplicationError, match=r"not allowed|does not belong to a host"):
            session.receive()
        assert time.monotonic() - began < 30, "it would have been told only after its patience"


def test_a_removed_source_that_goes_on_sending_is_cut_off(site: Site) -> None:
    """What arrives behind a shutdown of the reading side is still received."""
    source = site.source("source", VM)
    size = 1 << 40
    stream = encode(100, [(0, b"x" * 100)])
    disk = CycleDisk("d", 0, size, True, 40 + (1 << 24), 1)
    manifest = attrs.evolve(cycle_of(b"x")[0], disks=(disk,))
    head = stream[:8] + size.to_bytes(8, "little") + (1).to_bytes(8, "little")
    head += (0).to_bytes(8, "little") + (1 << 24).to_bytes(8, "little")
    with site.connect(source) as session:
        opened(session)
        offer(session, manifest)
        session.send(messages.Disk("d", 0), messages.Data(head))
        withdraw(site, source)
        with pytest.raises(ReplicationError, match="not allowed"):  # noqa: PT012
            for _ in range(1 << 14):
                session.send(messages.Data(b"x" * 512))
                time.sleep(0.02)
                session.poll()


# --- 2: the history -------------------------------------------------------------------------------


def test_a_stolen_source_cannot_remove_the_points_of_before(start: Callable[..., Site]) -> None:
    site = start(retention=Retention(count=0, hours=0, days=0))
    content = os.urandom(SIZE)
    clean, stream = cycle_of(content)
    base = clean.digest()
    with site.connect(site.source("source", VM)) as session:
        send(session, clean, stream)
        for taken in range(2, 30):
            evil, stream = cycle_of(b"encrypted", base, taken)
            send(session, evil, stream)
            base = evil.digest()
    assert [point.number for point in site.replica().points()] == list(range(1, 30))
    site.replica().verify(1)


def test_a_cycle_that_rewrites_most_of_a_disk_is_an_alarm(site: Site) -> None:
    content = os.urandom(4 << 20)
    first, stream = cycle_of(content)
    second, same = cycle_of(content[:-1000] + os.urandom(1000), first.digest(), 2)
    third, other = cycle_of(os.urandom(4 << 20), second.digest(), 3)
    with site.connect(site.source("source", VM)) as session:
        for manifest, body in ((first, stream), (second, same)):
            send(session, manifest, body)
        (shown,) = statuses(site.store, 10)
        assert "overwritten" not in shown.why
        send(session, third, other)
    now = site.replica().points()[-1].committed
    (shown,) = statuses(site.store, now, 10**10)
    assert [p.disks[0].rewritten for p in site.replica().points()] == [0, shown_share(site, 2), 100]
    assert shown_share(site, 2) < 50


def shown_share(site: Site, number: int) -> int:
    """The share that a generation has overwritten."""
    return site.replica().files.generation(number).disks[0].rewritten


def test_the_alarm_is_shown_for_a_day(site: Site) -> None:
    now = int(time.time())
    first, stream = cycle_of(os.urandom(2 << 20), taken=now - 20)
    second, other = cycle_of(os.urandom(2 << 20), first.digest(), now - 10)
    with site.connect(site.source("source", VM)) as session:
        send(session, first, stream)
        send(session, second, other)
    (shown,) = statuses(site.store, now)
    assert shown.level is Level.WARNING
    assert "generation 2 has overwritten 100 %" in shown.why
    assert "generation 1 is the last good one" in shown.why


def test_a_time_in_the_future_is_refused_and_lag_does_not_believe_it(site: Site) -> None:
    """A clock 26 hours ahead for one cycle stopped replication for 26 hours, with a lag of 0."""
    now = int(time.time())
    ahead, stream = cycle_of(os.urandom(SIZE), taken=now + 26 * 3600)
    good, _ = cycle_of(b"", taken=now)
    with site.connect(site.source("source", VM)) as session:
        opened(session)
        with pytest.raises(CycleRefused, match="in the future") as caught:
            offer(session, ahead)
        assert caught.value.code is Code.BAD_MANIFEST
        seed = attrs.evolve(ahead, taken=now)
        assert send(session, seed, stream) == 1
        assert good.taken == now
    state = site.replica().state()
    assert state
    assert state.current
    forged = attrs.evolve(state.current, manifest_json=ahead.encode().decode())
    from vm_replica.store.records import save  # noqa: PLC0415 - an old store had such a record

    save(site.replica().files, attrs.evolve(state, current=forged))
    (shown,) = statuses(site.store, state.current.committed + 500)
    assert shown.lag == 500


# --- 3: strangers and neighbours ------------------------------------------------------------------


def test_silent_strangers_keep_nobody_out(start: Callable[..., Site]) -> None:
    """64 of them were enough to lock everybody out; and they took a thread each."""
    site = start(first_byte=600.0)
    source = site.source("source", "*")
    threads = threading.active_count()
    with ExitStack() as stack:
        for _ in range(70):
            plain = socket.create_connection(("127.0.0.1", site.port), timeout=10)
            stack.enter_context(plain)
        with site.connect(source) as session:
            opened(session)
        assert threading.active_count() <= threads + 1


def test_who_says_nothing_is_dropped_in_seconds(start: Callable[..., Site]) -> None:
    site = start(first_byte=0.3, patience=Patience(connect=600, idle=600, message=600))
    with socket.create_connection(("127.0.0.1", site.port), timeout=60) as plain:
        assert plain.recv(1) == b""


def test_strangers_that_begin_a_handshake_keep_nobody_out(start: Callable[..., Site]) -> None:
    """The oldest has to go, of the same address first."""
    site = start(strangers=8, strangers_of_host=4, patience=Patience(60, 60, 60))
    source = site.source("source", "*")
    with ExitStack() as stack:
        for _ in range(12):
            plain = socket.create_connection(("127.0.0.1", site.port), timeout=10)
            stack.enter_context(plain)
            plain.sendall(b"\x16\x03\x01")
        with connected(site, source) as session:
            opened(session)


def connected(site: Site, source: Path) -> Channel:
    """A session, as soon as there is one."""
    for _ in range(200):
        try:
            return site.connect(source)
        except ReplicationError:
            time.sleep(0.05)
    raise AssertionError("there is no place")


def test_each_allowed_source_has_a_place_and_a_refused_session_takes_none(
    start: Callable[..., Site],
) -> None:
    site = start(sessions=3, sessions_of_a_source=3)
    greedy, quiet = site.source("greedy", "*"), site.source("quiet", OTHER_VM)
    with site.connect(greedy), site.connect(greedy):
        with ExitStack() as stack:
            refused = 0
            for _ in range(5):
                opening = channel.connect(f"127.0.0.1:{site.port}", greedy, patience=QUICK)
                stack.enter_context(opening)
                with pytest.raises(ReplicationError, match="too many sessions"):
                    channel.greet(opening, "test")
                refused += 1
            with site.connect(quiet) as session:
                opened(session, OTHER_VM)
        assert refused == 5


def test_the_context_is_made_anew_only_when_the_files_change(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = 0
    make = tls.server_context

    def counted(folder: Path) -> ssl.SSLContext:
        nonlocal made
        made += 1
        return make(folder)

    monkeypatch.setattr(tls, "server_context", counted)
    trust = tls.Trust(site.identity)
    assert trust.context() is trust.context()
    site.source("new")
    assert trust.context() is trust.context()
    assert made == 2


@contextmanager
def few_descriptors(left: int) -> Iterator[None]:
    """So many more descriptors can be opened, and no more."""
    used = [os.open("/dev/null", os.O_RDONLY)]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (used[0] + 1 + left, hard))
    try:
        while True:
            try:
                used.append(os.open("/dev/null", os.O_RDONLY))
            except OSError:
                break
        for _ in range(left):
            os.close(used.pop())
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in used:
            os.close(descriptor)


def test_no_descriptors_left_is_survived(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    source = site.source("source", "*")
    with few_descriptors(1), socket.create_connection(("127.0.0.1", site.port), timeout=10):
        assert within(20, lambda: "Too many open files" in caplog.text)
    with connected(site, source) as session:
        opened(session)


def test_errors_of_accept_are_survived(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert site.running
    door = site.running._entrance._door
    left = iter((errno.ECONNABORTED, errno.ENETDOWN, errno.ENOBUFS))

    class Door:
        """A socket that fails a few times."""

        def accept(self) -> Any:
            code = next(left, 0)
            if code:
                raise OSError(code, os.strerror(code))
            return door.accept()

        def fileno(self) -> int:
            return door.fileno()

        def close(self) -> None:
            door.close()

    monkeypatch.setattr(site.running._entrance, "_door", Door())
    with connected(site, site.source("source", "*")) as session:
        opened(session)
    assert "was lost before it was taken" in caplog.text
    monkeypatch.undo()


def test_a_thread_that_cannot_be_started_is_survived(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    source = site.source("source", "*")
    with monkeypatch.context() as patch:

        def never(_: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        patch.setattr(threading.Thread, "start", never)
        with pytest.raises(ReplicationError):
            site.connect(source)
    assert "can't start new thread" in caplog.text
    with site.connect(source) as session:
        opened(session)


def test_who_sends_a_byte_now_and_then_does_not_hold_the_replica(
    start: Callable[..., Site],
) -> None:
    site = start(pace=Pace(rate=1000, window=0.5))
    source = site.source("source", VM)
    manifest, stream = cycle_of(os.urandom(SIZE))
    with site.connect(source) as session:
        opened(session)
        offer(session, manifest)
        session.send(messages.Disk("d", 0))
        with pytest.raises(ReplicationError, match="bytes a second"):  # noqa: PT012
            for at in range(1000):
                session.send(messages.Data(stream[at : at + 1]))
                time.sleep(0.05)
                session.poll()
    with connected(site, source) as session:
        assert send_when_free(session, manifest, stream) == 1


def send_when_free(session: Channel, manifest: CycleManifest, stream: bytes) -> int:
    """Send a cycle as soon as the other session has let go."""
    for _ in range(300):
        try:
            return send(session, manifest, stream)
        except CycleRefused as refused:
            if refused.code is not Code.BUSY:
                raise
            time.sleep(0.02)
    raise AssertionError("the replica stays busy")


# --- 4: space -------------------------------------------------------------------------------------


def test_running_cycles_are_booked_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four sources each passed the check, and filled the store together."""
    store = Store(tmp_path / "store", Limits(reserve=0))
    content = os.urandom(1 << 20)
    cycles = [cycle_of(content, vm=f"vm{n}") for n in range(4)]
    real = os.statvfs

    def small(path: Any) -> Any:
        found = real(path)
        free = 6 << 20
        return attrs.make_class("S", ["f_bavail", "f_frsize"])(
            free // found.f_frsize, found.f_frsize
        )

    monkeypatch.setattr(os, "statvfs", small)
    with ExitStack() as stack:
        for manifest, _ in cycles[:2]:
            replica = store.replica("c", manifest.vm_id)
            stack.enter_context(replica.begin_cycle(manifest, "a" * 64))
        replica = store.replica("c", cycles[2][0].vm_id)
        with pytest.raises(CycleRefused) as caught:
            replica.begin_cycle(cycles[2][0], "a" * 64)
        assert caught.value.code is Code.NO_SPACE
    with replica.begin_cycle(cycles[2][0], "a" * 64) as cycle:
        assert cycle.durable_bytes == {}, "what has ended is not booked any more"


def test_a_disk_larger_than_a_file_may_be_is_refused_before_anything_is_written(
    tmp_path: Path,
) -> None:
    """A disk of 64 TiB on ext4, whose files have 16 TiB at most, stayed half applied for ever."""
    replica = Store(tmp_path / "store", Limits(reserve=0)).replica("c", VM)
    stream = encode(1 << 30, [(0, b"x")])
    disk = CycleDisk("d", 0, 1 << 30, True, len(stream), 1)
    manifest = attrs.evolve(cycle_of(b"x")[0], disks=(disk,))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 29, hard))
    try:
        with pytest.raises(CycleRefused) as caught:
            replica.begin_cycle(manifest, "a" * 64)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.code is Code.TOO_LARGE
    assert not replica.files.path.exists()


def test_a_source_gets_no_more_than_its_quota(tmp_path: Path) -> None:
    store = Store(tmp_path / "store", Limits(reserve=0, quota=8 << 20, replicas=3))
    commit(store, *cycle_of(os.urandom(3 << 20), vm="vm0"))
    with pytest.raises(CycleRefused, match=r"may use 8\.0 MiB") as caught:
        commit(store, *cycle_of(os.urandom(3 << 20), vm="vm1"))
    assert caught.value.code is Code.NO_SPACE
    commit(store, *cycle_of(b"small", vm="vm1"))
    small = Store(tmp_path / "other", Limits(reserve=0, replicas=2))
    for number in range(2):
        commit(small, *cycle_of(b"x", vm=f"vm{number}"))
    with pytest.raises(CycleRefused, match="may have 2"):
        commit(small, *cycle_of(b"x", vm="vm2"))


def commit(store: Store, manifest: CycleManifest, stream: bytes, source: str = "a" * 64) -> int:
    """Send a cycle past the network."""
    replica = store.replica("c", manifest.vm_id)
    with replica.begin_cycle(manifest, source) as cycle:
        with cycle.disk("d", 0) as arriving:
            arriving.write(stream)
            arriving.finish()
        return cycle.commit(manifest.digest())


# --- 5: recovery ----------------------------------------------------------------------------------


def half_applied(store: Store, source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Die in the middle of a commit."""
    manifest, stream = cycle_of(os.urandom(SIZE))

    def die(*_: object) -> None:
        raise OSError(errno.EIO, "the storage has failed")

    with monkeypatch.context() as patch:
        patch.setattr("vm_replica.store.undo.apply", die)
        with pytest.raises(ReplicationError):
            commit(store, manifest, stream, source)
    state = store.replica("c", VM).state()
    assert state
    assert state.applying


def test_a_recovery_blocks_nobody_else(
    tmp_path: Path, start: Callable[..., Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    fingerprint = tls.ensure_identity(tmp_path / "source", "source").fingerprint
    half_applied(Store(tmp_path / "store", Limits(reserve=0)), fingerprint, monkeypatch)
    gate = threading.Event()
    monkeypatch.setattr("vm_replica.recovery.GRACE", 0.1)
    from vm_replica.store import undo  # noqa: PLC0415 - patched here

    real = undo.apply

    def slow(*args: Any) -> None:
        gate.wait(60)
        real(*args)

    monkeypatch.setattr(undo, "apply", slow)
    try:
        site = start()
        source = site.source("source", "*")
        with site.connect(source) as session:
            opened(session, OTHER_VM)
            with pytest.raises(CycleRefused, match="being recovered") as caught:
                opened(session)
            assert caught.value.code is Code.NOT_READY
    finally:
        gate.set()
    assert within(30, lambda: bool(site.replica().points()))
    with site.connect(source) as session:
        assert opened(session).generation == 1
    site.replica().verify(1)


def test_a_receiver_that_only_works_does_not_hold_a_source_for_ever(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "PULSE", 0.0)
    monkeypatch.setattr(
        "vm_replica.store.replica.Replica.begin_cycle",
        lambda self, manifest, source, tick, permit: tick_for_ever(tick),
    )
    patience = Patience(connect=5, idle=5, message=5, work=0.5)
    with site.connect(site.source("source", VM), patience) as session:
        opened(session)
        with pytest.raises(PeerLost, match="does not finish"):
            offer(session, cycle_of(b"x")[0])


def tick_for_ever(tick: Callable[[], None]) -> None:
    """Until the source has gone."""
    for _ in range(3000):
        tick()
        time.sleep(0.02)


def test_two_disks_with_one_index_are_refused(site: Site) -> None:
    """Their exported files and their order in a VM are named after it."""
    manifest, _ = cycle_of(b"x")
    two = (manifest.disks[0], attrs.evolve(manifest.disks[0], disk_id="e"))
    with site.connect(site.source("source", VM)) as session:
        opened(session)
        with pytest.raises(CycleRefused, match="same index") as caught:
            offer(session, attrs.evolve(manifest, disks=two))
    assert caught.value.code is Code.BAD_MANIFEST


def test_names_that_are_refused_are_not_logged(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    with site.connect(site.source("source", "*")) as session:
        for name in ("c\nforged line", "c\x1b[2J"):
            session.send(messages.Open(name, VM))
            with pytest.raises(CycleRefused):
                session.expect(messages.Ready)
    assert within(10, lambda: caplog.text.count("not-allowed") == 2)
    assert "forged" not in caplog.text
    assert "\x1b" not in caplog.text


def test_lines_about_strangers_are_counted_and_not_all_written(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever can reach the port could fill the disk with them."""
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    strangers = StrangerLog(logging.getLogger("strangers"), most=3, seconds=60)
    for number in range(50):
        strangers.warning("stranger %d", number)
    assert caplog.messages == ["stranger 0", "stranger 1", "stranger 2"]
    caplog.clear()
    now += 60
    strangers.warning("stranger %d", 50)
    assert caplog.messages == ["47 more lines about strangers were left out", "stranger 50"]
    caplog.clear()
    now += 60
    strangers.warning("stranger %d", 51)
    assert caplog.messages == ["stranger 51"]


def test_many_handshakes_that_fail_fill_no_log(
    start: Callable[..., Site], caplog: pytest.LogCaptureFixture
) -> None:
    site = start()
    assert site.running
    for _ in range(200):
        with socket.create_connection(site.running.address) as connection:
            connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
            connection.settimeout(30)
            with suppress(OSError):
                connection.recv(100)
    assert len(caplog.records) < 100
