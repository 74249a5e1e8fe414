"""A blocking end of a session on a TLS connection: whole messages in and out, and time-outs.

The only module of replication that touches a connected socket. A peer that sends nothing, or a
message byte by byte, is given up after a time that does not depend on how it goes about it.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import time
from typing import TYPE_CHECKING, TypeVar

import attrs
from durable.closable import Closable

from vm_replica.errors import (
    CycleRefused,
    PeerFailed,
    PeerLost,
    PeerRefused,
    ProtocolBroken,
    ReplicationError,
)
from vm_replica.protocol import tls
from vm_replica.protocol.messages import (
    PORT,
    VERSION,
    Data,
    EndOfInput,
    Failed,
    Hello,
    Message,
    Refused,
    Role,
    Working,
)
from vm_replica.protocol.order import SessionState
from vm_replica.protocol.session import Session

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from vm_replica.protocol.messages import Buffer

M = TypeVar("M")

RECORD = 16_384
"""Bytes that TLS hands over at a time."""
LINGER = 3.0
"""Seconds for which a side that gives up goes on reading, so that its last words arrive."""
LOOK = 0.5
"""Seconds after which who waits for the peer looks whether the session was interrupted."""
_LINGER_BYTES = 1 << 28


@attrs.frozen
class Patience:
    """How long to wait, in seconds: for a connection, for a message to begin, and for its rest.

    `work` is how long the other side may say that it is still at work, and nothing else.
    """

    connect: float = 30.0
    idle: float = 300.0
    message: float = 120.0
    work: float = 86_400.0


class Channel(Closable):
    """One end of a session. A context manager; not thread-safe."""

    def __init__(
        self,
        connection: ssl.SSLSocket,
        role: Role,
        peer: tls.Peer,
        *,
        patience: Patience,
        limiter: Callable[[Buffer], Iterable[Buffer]] | None = None,
    ) -> None:
        """Own the connection, whose handshake is done.

        `limiter` cuts what is sent into pieces, and hands each over when its time has come.
        """
        self.peer = peer
        self._connection = connection
        self._session = Session(role)
        self._patience = patience
        self._limiter = limiter
        self._interrupted = ""
        self._timeout = 0.0  # of the socket, as far as receiving has set it

    def send(self, *messages: Message) -> None:
        """Say the messages; raise PeerLost, or PeerFailed with what the peer said before it went.

        Raises LocalProtocolError, with nothing sent of it, for a message that is not legal now.
        """
        try:
            for message in messages:
                self._put(self._session.send(message), is_data=isinstance(message, Data))
        except OSError as error:
            raise self._last_words() or self._lost(error) from error

    def receive(self) -> Message:
        """The next message. Raises PeerFailed, PeerLost, PeerRefused, ProtocolBroken."""
        begun = time.monotonic()
        while True:
            for message in self._session.messages():
                if isinstance(message, Failed):
                    raise PeerFailed(message.text)
                return message
            if self._session.state is SessionState.CLOSED:
                raise PeerLost(f"the session with the {self._session.role.peer.value} is over")
            longest = self._patience.message if self._session.is_inside else self._patience.idle
            self._fill(begun + longest - time.monotonic())

    def expect(self, *kinds: type[M]) -> M:
        """Receive one of these; "still at work" is passed by, and waited for anew.

        Raises CycleRefused for a refusal, unless Refused is among the kinds.
        """
        until = time.monotonic() + self._patience.work
        while isinstance(message := self.receive(), Working) and Working not in kinds:
            if time.monotonic() > until:
                raise PeerLost(
                    f"the {self._session.role.peer.value} says for {self._patience.work:.0f} s "
                    "that it is at work, and does not finish: look at its log and its storage"
                )
        if isinstance(message, kinds):
            return message
        if isinstance(message, Refused):
            raise CycleRefused(message.code, message.text, needs=message.needs)
        if isinstance(message, EndOfInput):
            raise PeerLost(f"the {self._session.role.peer.value} has closed the connection")
        wanted = " or ".join(kind.__name__ for kind in kinds)
        what = f"expected {wanted}, got {type(message).__name__}"
        raise ProtocolBroken("out-of-order", self._session.received, what)

    def poll(self) -> Message | None:
        """A message that is already here, or None. Ask while sending; raises as receive() does."""
        self._connection.settimeout(0)
        self._timeout = 0.0
        try:
            while data := self._connection.recv(RECORD):
                self._session.receive_data(data)
        except (ssl.SSLWantReadError, BlockingIOError):
            pass
        except OSError as error:
            raise self._lost(error) from error
        for message in self._session.messages():
            if isinstance(message, Failed):
                raise PeerFailed(message.text)
            return message
        return None

    def fail(self, text: str) -> None:
        """Tell the peer that we give up, as well as it goes, and why; then only close() is left."""
        with contextlib.suppress(OSError, ReplicationError):
            self._connection.settimeout(LINGER)
            for part in self._session.send(Failed(text)):
                self._connection.sendall(part)
            self._connection.shutdown(socket.SHUT_WR)
            self._drain()

    def interrupt(self, reason: str = "this side ends the session") -> None:
        """End the session for whoever receives in another thread: PeerRefused with this reason."""
        self._interrupted = reason

    def close(self) -> None:
        """Close the connection; a second close does nothing."""
        self._connection.close()

    def _put(self, parts: list[Buffer], *, is_data: bool) -> None:
        if not is_data:
            parts = [b"".join(parts)]
        self._connection.settimeout(self._patience.message)
        self._timeout = 0.0
        for part in parts:
            for piece in self._limiter(part) if self._limiter and is_data else (part,):
                self._connection.sendall(piece)

    def _fill(self, seconds: float) -> None:
        """Receive something; of a packet that has begun all the rest, in one block."""
        until = time.monotonic() + seconds
        wanted, filled = self._session.missing, 0
        block = memoryview(bytearray(wanted or RECORD))
        try:
            while True:  # TLS hands over a record at a time, so this is where the time goes
                if self._interrupted:
                    raise PeerRefused(self._interrupted)
                count = self._receive_into(block[filled:], until)
                filled += count or 0
                if count == 0 or filled >= wanted > 0 or (filled and not wanted):
                    break
        except OSError as error:
            raise self._lost(error) from error
        self._session.receive_data(block[:filled])

    def _receive_into(self, block: memoryview, until: float) -> int | None:
        """Bytes that came, 0 at the end of the connection; None when it is time to look around."""
        left = until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        pause = min(left, LOOK)
        if not 0.9 * self._timeout < pause <= self._timeout:
            self._connection.settimeout(pause)
            self._timeout = pause
        try:
            return self._connection.recv_into(block)
        except TimeoutError:
            return None

    def _lost(self, error: OSError) -> ReplicationError:
        peer = self._session.role.peer.value
        if isinstance(error, TimeoutError):
            return PeerLost(f"the {peer} has sent nothing complete for too long")
        reason = getattr(error, "reason", None) or ""
        if "CERTIFICATE_EXPIRED" in reason:
            return PeerRefused(
                f"the {peer} does not accept our certificate: it has expired, or is not valid yet: "
                "compare the clocks, or make a new one with `pair --renew`"
            )
        if "CERTIFICATE_REVOKED" in reason:
            return PeerRefused(f"the {peer} does not accept our certificate: the CA has revoked it")
        if "ALERT" in reason:
            return PeerRefused(
                f"the {peer} does not accept our certificate ({reason.lower()}): allow it there"
            )
        return PeerLost(f"the connection to the {peer} broke: {error}")

    def _last_words(self) -> ReplicationError | None:
        """Why the peer stopped listening, if it said so."""
        try:
            self._connection.settimeout(LINGER)
            while data := self._connection.recv(RECORD):
                self._session.receive_data(data)
        except OSError as error:
            found = self._lost(error)
            if isinstance(found, PeerRefused):
                return found
        with contextlib.suppress(ReplicationError):
            for message in self._session.messages():
                if isinstance(message, Failed):
                    return PeerFailed(message.text)
        return None

    def _drain(self) -> None:
        until, count = time.monotonic() + LINGER, 0
        while count < _LINGER_BYTES and (left := until - time.monotonic()) > 0:
            self._connection.settimeout(left)
            data = self._connection.recv(RECORD)
            if not data:
                return
            count += len(data)


def parse_address(text: str) -> tuple[str, int]:
    """`host`, `host:port` or `[v6]:port` taken apart; raise ReplicationError."""
    bare = text.removeprefix("[").replace("]", "") if text.startswith("[") else text
    host, colon, port = bare.rpartition(":")
    if not text.startswith("[") and ":" in host:
        raise ReplicationError(f"{text!r} is not an address: write an IPv6 address in brackets")
    if text.endswith("]") or not colon:
        host, port = bare, str(PORT)
    if not host or not port.isascii() or not port.isdecimal() or not 0 <= int(port) < 65536:
        raise ReplicationError(f"{text!r} is not an address: expected HOST or HOST:PORT")
    return host, int(port)


def connect(
    address: str,
    folder: Path,
    *,
    fingerprint: str = "",
    patience: Patience | None = None,
    limiter: Callable[[Buffer], Iterable[Buffer]] | None = None,
) -> Channel:
    """Connect to a receiver as the identity in `folder`, and make sure that it is the paired one.

    `fingerprint` overrides the one that was remembered for the address. Raises PeerLost,
    PeerRefused, IdentityError.
    """
    patience = patience or Patience()
    host, port = parse_address(address)
    expected = tls.paired_with(folder, f"{host}:{port}")
    if fingerprint:
        expected = frozenset({tls.normalise(fingerprint)})
    if not expected and not tls.uses_ca(folder):
        raise PeerRefused(
            f"the receiver at {host}:{port} is not paired with this host: run the command `pair`"
        )
    context = tls.client_context(folder)
    connection = _open(host, port, context, patience)
    try:
        peer = tls.identify(connection, folder)
        _require(peer, expected, f"{host}:{port}")
    except BaseException:
        connection.close()
        raise
    return Channel(connection, Role.SOURCE, peer, patience=patience, limiter=limiter)


def _require(peer: tls.Peer, expected: frozenset[str], address: str) -> None:
    if expected and peer.fingerprint not in expected:
        raise PeerRefused(f"what answers at {address} is not the receiver that was paired there")


def _open(host: str, port: int, context: ssl.SSLContext, patience: Patience) -> ssl.SSLSocket:
    try:
        plain = socket.create_connection((host, port), timeout=patience.connect)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return context.wrap_socket(plain, server_hostname=host)
    except ssl.SSLCertVerificationError as error:
        raise PeerRefused(
            f"what answers at {host}:{port} is not a receiver that we are paired with: "
            f"{tls.explain(error)}"
        ) from error
    except OSError as error:
        raise PeerLost(f"no receiver answers at {host}:{port}: {error}") from error


def wrap(plain: socket.socket, context: ssl.SSLContext) -> ssl.SSLSocket:
    """Make a connection that came in ready for its handshake; raise OSError."""
    plain.settimeout(0)
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return context.wrap_socket(plain, server_side=True, do_handshake_on_connect=False)


def accept(connection: ssl.SSLSocket, folder: Path, *, patience: Patience) -> Channel:
    """Do the handshake on a wrapped connection; raise PeerRefused, PeerLost, IdentityError."""
    until = time.monotonic() + patience.connect
    try:
        peer = _shake_hands(connection, folder, until)
    except BaseException:
        connection.close()
        raise
    return Channel(connection, Role.RECEIVER, peer, patience=patience)


def _shake_hands(connection: ssl.SSLSocket, folder: Path, until: float) -> tls.Peer:
    try:
        _complete_handshake(connection, until)
        return tls.identify(connection, folder)
    except ssl.SSLError as error:
        raise PeerRefused(f"the handshake failed: {tls.explain(error)}") from error
    except OSError as error:
        raise PeerLost(f"the connection broke in its handshake: {error}") from error


def _complete_handshake(connection: ssl.SSLSocket, until: float) -> None:
    """The handshake, in so much time altogether: a socket's own time-out begins with each byte."""
    connection.settimeout(0)
    while True:
        try:
            return connection.do_handshake()
        except ssl.SSLWantReadError:
            _wait(connection, until, writing=False)
        except ssl.SSLWantWriteError:
            _wait(connection, until, writing=True)


def _wait(connection: ssl.SSLSocket, until: float, *, writing: bool) -> None:
    poller = select.poll()
    poller.register(connection, select.POLLOUT if writing else select.POLLIN)
    left = until - time.monotonic()
    if left <= 0 or not poller.poll(left * 1000):
        raise TimeoutError("nothing complete came in time")


def greet(channel: Channel, name: str) -> Hello:
    """As the source: say Hello, hear the receiver's; raise ProtocolBroken for another version."""
    channel.send(Hello(name))
    answer = channel.expect(Hello)
    if answer.version != VERSION:
        raise ProtocolBroken("version", 0, f"it speaks version {answer.version}, not {VERSION}")
    return answer
