"""Any bytes, to either end of a session of replication, in any state: messages or ProtocolBroken.

However the bytes are cut the messages are the same, and each is written back as what it was.
"""

from __future__ import annotations

from vm_replica.errors import CycleRefused, ProtocolBroken
from vm_replica.protocol import manifest, wire


def check(data: bytes) -> None:
    """Hear the bytes; the first two say as whom, and in which state."""
    if len(data) < 2:
        return
    role = list(wire.Role)[data[0] % 2]
    state = list(wire.State)[data[1] % len(wire.State)]
    stream = data[2:]
    messages, end = _heard(role, state, stream, max(len(stream), 1))
    for size in (1, 13):
        if _heard(role, state, stream, size) != (messages, end):
            raise AssertionError("cut into pieces the messages differ")
    said = b"".join(b"".join(wire.encode(role.peer, message)) for message in messages)
    if not stream.startswith(said):
        raise AssertionError(f"{messages!r:.300} is not what was sent")
    for message in messages:
        if isinstance(message, wire.Cycle):
            _read(message.manifest)


def _heard(
    role: wire.Role, state: wire.State, stream: bytes, size: int
) -> tuple[list[wire.Message], object]:
    session = wire.Session(role)
    session.state = state
    found: list[wire.Message] = []
    try:
        for start in range(0, len(stream), size):
            session.receive_data(stream[start : start + size])
            for message in session.messages():
                plain = isinstance(message, wire.Data)
                found.append(wire.Data(bytes(message.view)) if plain else message)  # type: ignore[union-attr]
                if session.state is not wire.State.CLOSED:
                    session.state = state  # as if the other end had had its turn
    except ProtocolBroken as error:
        return found, (error.code, error.offset)
    return found, None


def _read(data: bytes) -> None:
    try:
        found = manifest.decode(data)
    except CycleRefused:
        return
    again = manifest.decode(found.encode())
    if again != found or again.digest() != found.digest():
        raise AssertionError("a manifest is not what its canonical form says")
    if any(not manifest.DISK_ID.fullmatch(disk.disk_id) for disk in found.disks):
        raise AssertionError("the id of a disk is a path")
