"""Any bytes, to either end of a session of replication, in any state: messages or ProtocolBroken.

However the bytes are cut the messages are the same, and each is written back as what it was.
"""

from __future__ import annotations

from vm_replica.errors import CycleRefused, ProtocolBroken
from vm_replica.protocol import lines, manifest, messages, order
from vm_replica.protocol.session import Session


def check(data: bytes) -> None:
    """Hear the bytes; the first two say as whom, and in which state."""
    if len(data) < 2:
        return
    role = list(messages.Role)[data[0] % 2]
    state = list(order.SessionState)[data[1] % len(order.SessionState)]
    stream = data[2:]
    heard, end = _heard(role, state, stream, max(len(stream), 1))
    for size in (1, 13):
        if _heard(role, state, stream, size) != (heard, end):
            raise AssertionError("cut into pieces the messages differ")
    said = b"".join(b"".join(lines.encode(role.peer, message)) for message in heard)
    if not stream.startswith(said):
        raise AssertionError(f"{heard!r:.300} is not what was sent")
    for message in heard:
        if isinstance(message, messages.Cycle):
            _read(message.manifest)


def _heard(
    role: messages.Role, state: order.SessionState, stream: bytes, size: int
) -> tuple[list[messages.Message], object]:
    session = Session(role)
    session.state = state
    found: list[messages.Message] = []
    try:
        for start in range(0, len(stream), size):
            session.receive_data(stream[start : start + size])
            for message in session.messages():
                plain = isinstance(message, messages.Data)
                found.append(messages.Data(bytes(message.view)) if plain else message)  # type: ignore[union-attr]
                if session.state is not order.SessionState.CLOSED:
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
    try:
        manifest.refuse_unusable(found)
    except CycleRefused:
        return
    machine = found.configuration.read()
    own = [disk for disk in found.disks if disk.disk_id not in found.in_groups]
    if len(machine.disks) < len(own):
        raise AssertionError("a disk is not in the configuration")
