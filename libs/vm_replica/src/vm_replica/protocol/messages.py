"""What a source and a receiver say to each other. Only records live here.

    source    Hello, Open, Cycle, then for each disk: Disk, Data.., EndOfDisk; then Commit
    receiver  Hello, Ready, Accepted, Stored, Committed; or Refused, with a code and what is needed;
              Working while it is busy
    both      Failed: this side ends the session

`order` says when each is legal, `lines` how it is written, `session` puts both together.
docs/replication.md is normative.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, TypeAlias

import attrs

if TYPE_CHECKING:
    from vm_replica.errors import Code

Buffer: TypeAlias = bytes | bytearray | memoryview

PORT = 9848
VERSION = 1
"""Of the protocol: both sides must say the same."""


class Role(Enum):
    """An end of the connection, or who said something."""

    SOURCE = "source"
    RECEIVER = "receiver"

    @property
    def peer(self) -> Role:
        """The other end."""
        return Role.RECEIVER if self is Role.SOURCE else Role.SOURCE


class Kind(Enum):
    """What a cycle stands on."""

    SEED = "seed"
    DELTA = "delta"


@attrs.frozen
class Hello:
    """First message of both sides: who speaks, and which version of the protocol."""

    name: str
    version: int = VERSION


@attrs.frozen
class Open:
    """The replica that the source wants to work on."""

    cluster: str
    vm: str


@attrs.frozen
class Cycle:
    """A cycle begins: the digest of its base (empty for a seed), and its manifest as JSON."""

    kind: Kind
    base: str
    manifest: bytes


@attrs.frozen
class Disk:
    """The stream of a disk follows, from this byte of it on."""

    disk_id: str
    offset: int


@attrs.frozen
class Data:
    """A piece of the stream."""

    view: Buffer


@attrs.frozen
class EndOfDisk:
    """The stream of the disk is complete."""


@attrs.frozen
class Commit:
    """All disks are sent: make the manifest of this digest the current generation."""

    digest: str


@attrs.frozen
class Resume:
    """What the receiver holds, durably, of a cycle that was interrupted.

    `digest` is of its manifest; for each disk of which there is something, how many bytes.
    """

    digest: str
    disks: tuple[tuple[str, int], ...]


@attrs.frozen
class Ready:
    """Where the replica stands: its generation and the digest of its manifest (0, empty: none)."""

    generation: int
    digest: str
    resume: Resume | None = None


@attrs.frozen
class Accepted:
    """The cycle may be sent."""


@attrs.frozen
class Stored:
    """The stream of the disk is durable; the digest is of the bytes that this Disk brought."""

    digest: str


@attrs.frozen
class Committed:
    """The cycle is durable, and the replica has this generation."""

    generation: int


@attrs.frozen
class Refused:
    """Not this, and why; `needs` is the digest of the base that would be right, or empty."""

    code: Code
    needs: str
    text: str


@attrs.frozen
class Working:
    """The receiver is busy with what was asked, and alive."""

    text: str


@attrs.frozen
class Failed:
    """This side gives the session up."""

    text: str


@attrs.frozen
class EndOfInput:
    """The peer has closed the connection between two messages."""


FromSource: TypeAlias = Hello | Open | Cycle | Disk | Data | EndOfDisk | Commit
FromReceiver: TypeAlias = Hello | Ready | Accepted | Stored | Committed | Refused | Working
Message: TypeAlias = FromSource | FromReceiver | Failed | EndOfInput
