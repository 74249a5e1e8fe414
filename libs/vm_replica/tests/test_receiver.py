"""The receiver over real TLS: who gets in, what each may do; nothing else leaves a trace."""

from __future__ import annotations

import json
import logging
import os
import socket
import ssl
import struct
import time
from typing import TYPE_CHECKING, Any

import attrs
import phcbt01
import pytest
from ptcomm import Status, encode_packet
from vm_replica import session as session_module
from vm_replica.errors import (
    Code,
    CycleRefused,
    IdentityError,
    PeerFailed,
    PeerLost,
    PeerRefused,
    ReplicationError,
)
from vm_replica.failover import stored
from vm_replica.protocol import allowed, channel, lines, messages, tls
from vm_replica.protocol.channel import Patience
from vm_replica.protocol.manifest import Configuration
from vm_replica.store import spool
from vm_replica.store.admission import Limits
from vm_replica.store.retention import Retention

from libs.vm_replica.tests.receiver_site import (
    OTHER_VM,
    QUICK,
    SIZE,
    VM,
    Site,
    cycle_of,
    offer,
    opened,
    send,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from vm_replica.protocol.channel import Channel
    from vm_replica.protocol.manifest import CycleManifest

IMPATIENT = Patience(connect=0.5, idle=0.5, message=0.5)


def logged(caplog: pytest.LogCaptureFixture, words: str) -> bool:
    """Wait a little until the receiver has said so in its log."""
    deadline = time.monotonic() + 5
    while words not in caplog.text and time.monotonic() < deadline:
        time.sleep(0.01)
    return words in caplog.text


# --- what it is for -------------------------------------------------------------------------------


def test_cycles_arrive_and_an_interrupted_one_goes_on(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool, "SEGMENT", 100_000)
    source = site.source("source", VM)
    content = os.urandom(SIZE)
    manifest, stream = cycle_of(content)
    with site.connect(source) as session:
        assert opened(session) == messages.Ready(0, "", None)
        offer(session, manifest)
        session.send(messages.Disk("d", 0), messages.Data(stream[:150_000]))
    deadline = time.monotonic() + 5
    while not (held := site.replica().resumable()) or not held.durable_bytes:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    with site.connect(source) as session:
        ready = opened(session)
        assert ready.resume == messages.Resume(manifest.digest(), (("d", 150_000),))
        wait_until_free(session, manifest)
        session.send(
            messages.Disk("d", 150_000), messages.Data(stream[150_000:]), messages.EndOfDisk()
        )
        session.expect(messages.Stored)
        session.send(messages.Commit(manifest.digest()))
        assert session.expect(messages.Committed).generation == 1
        newer, stream = cycle_of(content[:-1] + b"!", manifest.digest(), 2)
        assert send(session, newer, stream) == 2
    assert [point.number for point in site.replica().points()] == [1, 2]
    for number in (1, 2):
        site.replica().verify(number)


def wait_until_free(session: Channel, manifest: CycleManifest) -> None:
    """Offer a cycle until the session that broke off has let go of the replica."""
    for _ in range(500):
        try:
            return offer(session, manifest)
        except CycleRefused as refused:
            if refused.code is not Code.BUSY:
                raise
            time.sleep(0.01)
    raise AssertionError("the replica stays busy")


def test_older_points_are_dropped_by_the_receiver(start: Callable[..., Site]) -> None:
    site = start(retention=Retention(count=2, protect=0, hours=0, days=0))
    base = ""
    with site.connect(site.source("source", VM)) as session:
        for number in range(1, 6):
            manifest, stream = cycle_of(bytes([number]) * SIZE, base, number)
            assert send(session, manifest, stream) == number
            base = manifest.digest()
    assert [point.number for point in site.replica().points()] == [3, 4, 5]


def test_the_source_hears_that_a_long_commit_goes_on(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "PULSE", 0.0)
    manifest, stream = cycle_of(os.urandom(SIZE))
    with site.connect(site.source("source", VM)) as session:
        opened(session)
        offer(session, manifest)
        session.send(messages.Disk("d", 0), messages.Data(stream), messages.EndOfDisk())
        session.expect(messages.Stored)
        session.send(messages.Commit(manifest.digest()))
        assert isinstance(session.receive(), messages.Working)
        assert session.expect(messages.Committed).generation == 1


# --- who gets in ----------------------------------------------------------------------------------


def raw(site: Site, context: ssl.SSLContext) -> bytes:
    """What comes back to whoever says Hello with this context."""
    with (
        socket.create_connection(("127.0.0.1", site.port), timeout=5) as plain,
        context.wrap_socket(plain) as connection,
    ):
        connection.sendall(b"".join(lines.encode(messages.Role.SOURCE, messages.Hello("x"))))
        return connection.recv(100)


def anybody() -> ssl.SSLContext:
    """A client that trusts everyone and shows nothing."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def test_without_a_certificate_nobody_gets_in(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(OSError, match=r"(?i)certificate.required|reset|eof"):
        raw(site, anybody())
    assert logged(caplog, "PEER_DID_NOT_RETURN_A_CERTIFICATE")
    assert site.untouched()


def test_a_certificate_that_is_not_paired_does_not_get_in(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    stranger = site.source("stranger", VM, known=False)
    with pytest.raises(PeerRefused, match="does not accept our certificate"):
        site.connect(stranger)
    assert logged(caplog, "CERTIFICATE_VERIFY_FAILED")
    assert site.untouched()


def test_a_certificate_that_a_paired_one_has_signed_does_not_get_in(
    site: Site, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A source that is allowed cannot let others in: its certificate is no authority."""
    from cryptography import x509  # noqa: PLC0415 - only here
    from cryptography.hazmat.primitives import hashes, serialization  # noqa: PLC0415

    good, child = site.source("source", VM), tmp_path / "child"
    tls.ensure_identity(child, "child")
    key = serialization.load_pem_private_key((good / "key.pem").read_bytes(), None)
    parent = x509.load_pem_x509_certificate((good / "certificate.pem").read_bytes())
    old = x509.load_pem_x509_certificate((child / "certificate.pem").read_bytes())
    builder = x509.CertificateBuilder(
        issuer_name=parent.subject, subject_name=old.subject, public_key=old.public_key(),
        serial_number=1, not_valid_before=old.not_valid_before_utc,
        not_valid_after=old.not_valid_after_utc,
    )  # fmt: skip
    signed = builder.sign(key, hashes.SHA256())  # type: ignore[arg-type]
    (child / "certificate.pem").write_bytes(
        signed.public_bytes(serialization.Encoding.PEM) + (good / "certificate.pem").read_bytes()
    )
    context = anybody()
    context.load_cert_chain(child / "certificate.pem", child / "key.pem")
    with pytest.raises(OSError, match=r"(?i)alert|reset|eof"):
        raw(site, context)
    assert logged(caplog, "the handshake failed")
    assert site.untouched()


@pytest.mark.filterwarnings("ignore:.*TLSv1.*:DeprecationWarning")
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_1, ssl.TLSVersion.TLSv1_2])
def test_tls_below_1_3_does_not_get_in(
    site: Site, version: ssl.TLSVersion, caplog: pytest.LogCaptureFixture
) -> None:
    source = site.source("source", VM)
    context = anybody()
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.load_cert_chain(source / "certificate.pem", source / "key.pem")
    context.minimum_version = context.maximum_version = version
    with pytest.raises(OSError, match=r"(?i)protocol|alert|version"):
        raw(site, context)
    assert logged(caplog, "UNSUPPORTED_PROTOCOL")
    assert site.untouched()


def test_a_source_does_not_talk_to_another_receiver(site: Site, tmp_path: Path) -> None:
    """One that is paired, but with another address, and one that is not paired at all."""
    source = site.source("source", VM)
    other = tls.ensure_identity(tmp_path / "other", "other")
    tls.add_peer(source, other.certificate)
    tls.remember_pair(source, f"127.0.0.1:{site.port}", other.fingerprint)
    with pytest.raises(PeerRefused, match="not the receiver that was paired there"):
        site.connect(source)
    tls.remove_peer(source, tls.load_identity(site.identity).fingerprint)
    with pytest.raises(PeerRefused, match="not a receiver that we are paired with"):
        site.connect(source)
    with pytest.raises(PeerRefused, match="is not paired with this host"):
        channel.connect(f"localhost:{site.port}", source)
    assert site.untouched()


def test_a_ca_works_too_and_then_names_count(site: Site, tmp_path: Path) -> None:
    import trustme  # noqa: PLC0415 - only here

    ca = trustme.CA()
    source = tmp_path / "source"
    for folder, name in ((site.identity, "127.0.0.1"), (source, "the-source")):
        folder.mkdir(exist_ok=True)
        issued = ca.issue_cert(name, common_name=name)
        ca.cert_pem.write_to_path(str(folder / "ca.pem"))
        issued.private_key_pem.write_to_path(str(folder / "key.pem"))
        issued.cert_chain_pems[0].write_to_path(str(folder / "certificate.pem"))
    manifest, stream = cycle_of(b"x" * SIZE)
    with site.connect(source) as session, pytest.raises(CycleRefused, match="cn:the-source"):
        opened(session)
    allowed.save(site.identity, (allowed.Grant("cn:the-source", "c", "*"),))
    with site.connect(source) as session:
        assert send(session, manifest, stream) == 1
    assert site.replica().state().source == "cn:the-source"  # type: ignore[union-attr]
    with pytest.raises(PeerLost, match=r"(?i)hostname|match|no receiver|verify"):  # noqa: PT012
        try:
            channel.connect(f"localhost:{site.port}", source, patience=QUICK)
        except PeerRefused as error:
            raise PeerLost(str(error)) from error


# --- what each may do -----------------------------------------------------------------------------


def test_a_source_gets_at_no_replica_but_its_own(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    one, other = site.source("one", VM), site.source("other", OTHER_VM)
    manifest, stream = cycle_of(b"x" * SIZE)
    with site.connect(one) as session:
        send(session, manifest, stream)
    before = site.replica().state()
    with site.connect(other) as session:
        with pytest.raises(CycleRefused) as caught:
            opened(session)
        assert caught.value.code is Code.NOT_ALLOWED
        opened(session, OTHER_VM)
        evil, _ = cycle_of(b"y" * SIZE, manifest.digest(), 2)
        with pytest.raises(CycleRefused, match="of another VM"):
            offer(session, evil)
    assert logged(caplog, "not-allowed")
    grants = allowed.load(site.identity)
    fingerprint = tls.load_identity(other).fingerprint
    allowed.save(site.identity, (*grants, allowed.Grant(fingerprint, "*", "*")))
    with site.connect(other) as session, pytest.raises(CycleRefused, match="of another source"):
        opened(session)
    assert site.replica().state() == before
    assert not site.replica(OTHER_VM).files.path.exists()


def test_a_certificate_that_is_removed_is_out(site: Site) -> None:
    source = site.source("source", VM)
    with site.connect(source) as session:
        opened(session)
    tls.remove_peer(site.identity, tls.load_identity(source).fingerprint)
    with pytest.raises(PeerRefused):
        site.connect(source)


def test_a_replayed_cycle_is_refused(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    source = site.source("source", VM)
    first, stream = cycle_of(b"1" * SIZE)
    second, newer = cycle_of(b"2" * SIZE, first.digest(), 2)
    with site.connect(source) as session:
        send(session, first, stream)
        send(session, second, newer)
        for manifest, code in ((first, Code.REPLAYED), (second, Code.WRONG_BASE)):
            opened(session)
            with pytest.raises(CycleRefused) as caught:
                offer(session, manifest)
            assert caught.value.code is code
            assert caught.value.needs == second.digest()
    assert logged(caplog, "replayed")
    assert [point.number for point in site.replica().points()] == [1, 2]


@pytest.mark.parametrize(
    ("cluster", "vm"),
    [
        ("..", VM), (".", VM), ("../../etc", VM), ("/etc", VM), ("c\n", VM), ("c" * 300, VM),
        ("c", ".."), ("c", "../x"), ("c", "/etc/passwd"), ("c", "a/b"), ("c", "a" * 100),
        ("c", "x.json"), ("c", "a\0b"),
    ],
)  # fmt: skip
def test_names_are_no_paths(site: Site, cluster: str, vm: str, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    source = site.source("source", "*")
    before = sorted(tmp_path.rglob("*"))
    with site.connect(source) as session:
        session.send(messages.Open(cluster, vm))
        match session.expect(messages.Ready, messages.Refused):
            case messages.Refused(code):
                assert code is Code.NOT_ALLOWED
            case messages.Ready(generation):  # quoted, any printable name is one folder
                assert generation == 0
                assert vm == VM
    assert sorted(tmp_path.rglob("*")) == before
    replica = site.store.root / "replicas"
    for odd in ("..", ".", "../../etc"):
        path = site.store.replica(odd, VM).files.path
        assert path.parent.parent == replica
        assert path.parent.name not in {"..", "."}


@pytest.mark.parametrize(
    "change",
    [
        {"disks": ()},
        {"vm_id": "../x"},
        {"cluster": ""},
        {"base": "sha256:x"},
        {"taken": -1},
        {"disk_id": "../../../etc/passwd"},
        {"disk_id": "."},
        {"size": -1},
        {"size": 1 << 63},
        {"stream_bytes": 1 << 62},
        {"stream_bytes": 3},
        {"regions": 1 << 60},
        {"regions": -1},
        {"index": -1},
    ],
)
def test_a_manifest_that_lies_is_refused(site: Site, change: dict[str, Any]) -> None:
    source = site.source("source", "*")
    manifest, _ = cycle_of(b"x" * 100)
    plain = json.loads(manifest.encode())
    holder = plain["disks"][0] if set(change) <= set(plain["disks"][0]) else plain
    holder.update(change)
    with site.connect(source) as session:
        opened(session)
        text = json.dumps(plain, sort_keys=True, separators=(",", ":"))
        session.send(messages.Cycle(messages.Kind.SEED, "", text.encode()))
        with pytest.raises(CycleRefused) as caught:
            session.expect(messages.Accepted)
    assert caught.value.code is Code.BAD_MANIFEST, caught.value
    assert site.untouched()


def test_a_configuration_that_cannot_be_read_is_refused_when_it_is_offered(site: Site) -> None:
    """Such a replica would be proven, and nobody could fail over to it."""
    good, stream = cycle_of(b"x" * SIZE)
    bad = attrs.evolve(good, configuration=Configuration("@nutanix", "{}"))
    with site.connect(site.source("source", VM)) as session:
        opened(session)
        with pytest.raises(CycleRefused, match="configuration of the VM cannot be read") as caught:
            offer(session, bad)
        assert caught.value.code is Code.BAD_MANIFEST
        assert site.untouched()
        assert send(session, good, stream) == 1
    assert stored.find(site.store, VM).point(None).machine.name == "vm"


def test_lengths_that_lie_allocate_nothing(start: Callable[..., Site]) -> None:
    """A disk of exbibytes, a packet and a region that claim more than comes."""
    site = start(Limits(disks=2, disk_size=1 << 40, reserve=0))
    source = site.source("source", "*")
    manifest, _ = cycle_of(b"x" * 100)
    huge = attrs.evolve(manifest.disks[0], size=1 << 50, stream_bytes=(1 << 50) + 40)
    tall = attrs.evolve(manifest.disks[0], size=1 << 39, stream_bytes=(1 << 39) + 40)
    ids = ("d", "d1", "d2")
    lines = "".join(f"scsi{n}: local:{name},size=1M\n" for n, name in enumerate(ids))
    manifest = attrs.evolve(manifest, configuration=Configuration("@proxmox", f"cores: 1\n{lines}"))
    many = tuple(
        attrs.evolve(manifest.disks[0], disk_id=name, index=n) for n, name in enumerate(ids)
    )
    for disks, code in (
        ((huge,), Code.TOO_LARGE),
        (many, Code.TOO_LARGE),
        ((tall,), Code.NO_SPACE),
    ):
        with site.connect(source) as session:
            opened(session)
            with pytest.raises(CycleRefused) as caught:
                offer(session, attrs.evolve(manifest, disks=disks))
            assert caught.value.code is code
    assert site.untouched()
    with site.connect(source) as session:
        opened(session)
        offer(session, manifest)
        lie = phcbt01.MAGIC + struct.pack("<QQQQ", 100, 1, 0, 1 << 62)
        session.send(messages.Disk("d", 0), messages.Data(lie + b"x" * 100))
        with pytest.raises(PeerFailed, match="invalid"):
            flood(session)
    stored = sum(path.stat().st_size for path in site.store.root.rglob("*") if path.is_file())
    assert stored < 10_000
    assert site.replica().points() == []


def flood(session: Channel) -> None:
    """Send more than any buffer holds, and wait for an answer."""
    session.send(*[messages.Data(b"x" * 100_000)] * 200, messages.EndOfDisk())
    session.expect(messages.Stored)


# --- who dawdles ----------------------------------------------------------------------------------


def test_who_says_nothing_or_dawdles_is_cut_off(
    start: Callable[..., Site], caplog: pytest.LogCaptureFixture
) -> None:
    """Before, in and after the handshake, and in the middle of a message; byte by byte too."""
    site = start(patience=IMPATIENT, sessions=4)
    source = site.source("source", "*")
    context = tls.client_context(source)
    hello = b"".join(lines.encode(messages.Role.SOURCE, messages.Hello("x")))
    for dawdle in (b"", b"\x16\x03\x01"):
        with socket.create_connection(("127.0.0.1", site.port), timeout=5) as plain:
            plain.sendall(dawdle)
            assert ends(plain)
    for prefix in (b"", hello[:5], hello, hello + b"D099999\n" + b"x" * 50):
        with (
            socket.create_connection(("127.0.0.1", site.port), timeout=5) as plain,
            context.wrap_socket(plain) as connection,
        ):
            connection.sendall(prefix)
            assert ends(connection)
    with (
        socket.create_connection(("127.0.0.1", site.port), timeout=5) as plain,
        context.wrap_socket(plain) as connection,
    ):
        began = time.monotonic()
        with pytest.raises(OSError, match=r"(?i)broken|reset|eof|closed|protocol"):
            trickle(connection, b"C008000\n" + b"x" * 1000)
        assert time.monotonic() - began < 5
    assert logged(caplog, "for too long")
    assert site.untouched()
    with site.connect(source) as session:
        opened(session)


def trickle(connection: socket.socket, content: bytes) -> None:
    """A byte now and then."""
    for at in range(len(content)):
        connection.sendall(content[at : at + 1])
        time.sleep(0.05)


def ends(connection: socket.socket) -> bool:
    """Whether the receiver closes within its patience."""
    began = time.monotonic()
    try:
        while connection.recv(1000):
            pass
    except OSError:
        pass
    return time.monotonic() - began < 4.5


def test_more_sessions_than_allowed_are_turned_away_and_others_served(
    start: Callable[..., Site], caplog: pytest.LogCaptureFixture
) -> None:
    site = start(sessions=3, sessions_of_a_source=2)
    one, other = site.source("one", "*"), site.source("other", "*")
    with site.connect(one) as first, site.connect(one):
        with pytest.raises(ReplicationError, match="too many sessions"):
            site.connect(one)
        assert logged(caplog, "is turned away")
        opened(first)
        with connected(site, other), pytest.raises(ReplicationError, match="too many sessions"):
            site.connect(other)
    with connected(site, other) as session:
        opened(session)


def test_strangers_keep_nobody_out(
    start: Callable[..., Site], caplog: pytest.LogCaptureFixture
) -> None:
    """Connections without a handshake fill their own places, not those of the sources."""
    site = start(sessions=2, strangers=5, patience=attrs.evolve(QUICK, connect=1.0))
    source = site.source("source", "*")
    strangers = [socket.create_connection(("127.0.0.1", site.port)) for _ in range(4)]
    with site.connect(source) as session:
        opened(session)
    strangers += [socket.create_connection(("127.0.0.1", site.port)) for _ in range(4)]
    assert logged(caplog, "5 are silent")
    for stranger in strangers:
        stranger.close()
    with connected(site, source) as session:
        opened(session)


def connected(site: Site, source: Path) -> Channel:
    """A session, as soon as there is room for it."""
    for _ in range(300):
        try:
            return site.connect(source)
        except ReplicationError:
            time.sleep(0.01)
    raise AssertionError("there is no room")


def command(text: bytes) -> bytes:
    """The packet of a command."""
    return b"".join(encode_packet(Status.COMMAND, text))


def test_what_is_not_the_protocol_ends_the_session_with_words(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    source = site.source("source", "*")
    context = tls.client_context(source)
    hello = b"".join(lines.encode(messages.Role.SOURCE, messages.Hello("x")))
    for garbage, words in (
        (b"GET / HTTP/1.1\r\n\r\n", "bad-status"),
        (hello + command(b"Open c\n"), "bad-command"),
        (hello + command(b"Commit sha256:" + b"0" * 64 + b"\n"), "out-of-order"),
        (hello + command(b"x" * 10_000 + b"\n"), "oversized"),
        (command(b"Hello x 99\n"), "version"),
    ):
        with (
            socket.create_connection(("127.0.0.1", site.port), timeout=5) as plain,
            context.wrap_socket(plain) as connection,
        ):
            connection.sendall(garbage)
            answer = b""
            while piece := connection.recv(10_000):
                answer += piece
        assert words.encode() in answer, answer
        assert logged(caplog, words)
    assert site.untouched()


def test_a_receiver_that_stops_ends_its_sessions(site: Site) -> None:
    source = site.source("source", "*")
    with site.connect(source) as session:
        opened(session)
        assert site.running
        site.running.stop()
        with pytest.raises(ReplicationError):
            session.receive()


# --- identities -----------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "rubbish", tls.ONE_LINE, tls.ONE_LINE + "AAAA", "-----BEGIN"])
def test_what_is_no_certificate_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    with pytest.raises(IdentityError) as caught:
        tls.add_peer(tmp_path, tls.read_certificate(text))
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_nothing_secret_is_logged(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    source = site.source("source", VM)
    content = b"the content of a guest's disk " * 1000
    manifest, stream = cycle_of(content)
    with site.connect(source) as session:
        send(session, manifest, stream)
    key = (site.identity / "key.pem").read_text().splitlines()[1]
    assert "generation 1" in caplog.text
    assert key not in caplog.text
    assert "content of a guest" not in caplog.text
