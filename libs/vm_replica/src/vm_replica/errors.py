"""What can go wrong between a source and a receiver, as one line for the administrator.

ReplicationError           base of everything here
    ├── CycleRefused       the receiver does not take this cycle; it says what it needs instead
    ├── ProtocolBroken     the peer sent something that is malformed, or out of order
    ├── PeerFailed         the peer ended the session, and gave a reason
    ├── PeerLost           the connection broke, or nothing came in time
    ├── PeerRefused        the peer is not the paired one, or does not accept us
    ├── IdentityError      our key, certificate or list of peers cannot be used
    ├── StoreError         the store cannot be read or written
    ├── NoSuchReplica      the store has no replica, or several, of the VM that was asked for
    ├── WrongUser          the store or the identity belongs to another user
    └── ReplicaDamaged     what is stored is not what was committed
"""

from __future__ import annotations

from enum import Enum


class Code(Enum):
    """Why a cycle (or the opening of a replica) is refused: stable words, also on the wire."""

    NOT_ALLOWED = "not-allowed"  # this certificate may not write this replica
    BUSY = "busy"  # another session has the replica, or too many are open
    FENCED = "fenced"  # a failover has fenced the source
    NEEDS_SEED = "needs-seed"  # the replica is empty
    WRONG_BASE = "wrong-base"  # the replica stands on another manifest, named in `needs`
    REPLAYED = "replayed"  # this manifest, or a newer one, was committed before
    BAD_MANIFEST = "bad-manifest"  # it contradicts itself, or the request
    BAD_STREAM = "bad-stream"  # the data of a disk is not what the manifest says
    TOO_LARGE = "too-large"  # more disks or bytes than the receiver allows
    NO_SPACE = "no-space"  # the receiver's file system has no room
    NOT_READY = "not-ready"  # the replica must be recovered first, or a disk is missing


class ReplicationError(Exception):
    """Base of every error of replication; its text is one line."""


class CycleRefused(ReplicationError):
    """The receiver does not take this; `needs` is the digest of the base that it would take."""

    def __init__(self, code: Code, text: str, *, needs: str = "") -> None:
        super().__init__(text)
        self.code = code
        self.needs = needs


class ProtocolBroken(ReplicationError):
    """The peer broke the protocol: `code` and `offset` as in ptcomm's RemoteProtocolError."""

    def __init__(self, code: str, offset: int, what: str) -> None:
        super().__init__(f"the peer broke the protocol at byte {offset}: {what} ({code})")
        self.code = code
        self.offset = offset


class PeerFailed(ReplicationError):
    """The peer gave the session up."""


class PeerLost(ReplicationError):
    """The connection broke, or nothing came in time."""


class PeerRefused(ReplicationError):
    """The peer is not who we were paired with, or does not accept us."""


class IdentityError(ReplicationError):
    """Our own key, certificate or list of peers cannot be used."""


class StoreError(ReplicationError):
    """The store cannot be read or written."""


class NoSuchReplica(ReplicationError):
    """The store has no replica, or several, of the VM that was asked for."""


class WrongUser(ReplicationError):
    """The store or the identity belongs to another user than the one who runs this."""


class ReplicaDamaged(ReplicationError):
    """What is stored is not what was committed."""
