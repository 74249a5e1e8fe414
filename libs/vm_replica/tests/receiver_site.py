"""A receiver on this host, and sources that send it cycles."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
from phcbt01.testing import encode
from vm_replica.protocol import allowed, channel, messages, tls
from vm_replica.protocol.channel import Patience
from vm_replica.protocol.manifest import SCHEMA, Configuration, CycleDisk, CycleManifest
from vm_replica.receiver import Options, Receiver

if TYPE_CHECKING:
    from pathlib import Path

    from vm_replica.protocol.channel import Channel
    from vm_replica.store.replica import Replica, Store

VM, OTHER_VM = "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"
SIZE = 300_000
PROXMOX = Configuration("@proxmox", "name: vm\ncores: 1\nscsi0: local:d,size=1M\n")
QUICK = Patience(connect=5, idle=5, message=5)


@attrs.define
class Site:
    """A receiver, and identities of sources."""

    folder: Path
    store: Store
    options: Options = attrs.field(factory=lambda: Options(patience=QUICK))
    running: Receiver | None = None

    @property
    def identity(self) -> Path:
        """The receiver's identity and lists."""
        return self.folder / "receiver"

    @property
    def port(self) -> int:
        """Where it listens."""
        assert self.running
        return self.running.address[1]

    def source(self, name: str, vm: str = "", *, known: bool = True) -> Path:
        """A source, which trusts the receiver; the VM that it may replicate, if any."""
        folder = self.folder / name
        ours = tls.ensure_identity(folder, name)
        theirs = tls.load_identity(self.identity)
        tls.add_peer(folder, theirs.certificate, theirs.fingerprint)
        tls.remember_pair(folder, f"127.0.0.1:{self.port}", theirs.fingerprint)
        if known:
            tls.add_peer(self.identity, ours.certificate)
        if vm:
            grants = allowed.load(self.identity)
            grant = allowed.Grant(ours.fingerprint, "*", vm)
            allowed.save(self.identity, (*grants, grant))
        return folder

    def connect(self, source: Path, patience: Patience = QUICK) -> Channel:
        """A session of a source, greeted."""
        opened = channel.connect(f"127.0.0.1:{self.port}", source, patience=patience)
        try:
            channel.greet(opened, "test")
        except BaseException:
            opened.close()
            raise
        return opened

    def untouched(self) -> bool:
        """Whether nothing at all was written for anybody."""
        return not self.store.root.exists()

    def replica(self, vm: str = VM) -> Replica:
        """A replica, looked at past the receiver."""
        return self.store.replica("c", vm)


def cycle_of(
    content: bytes, base: str = "", taken: int = 1, vm: str = VM
) -> tuple[CycleManifest, bytes]:
    """A cycle that sends a whole disk."""
    stream = encode(len(content), [(0, content)] if content else [])
    disk = CycleDisk("d", 0, len(content), True, len(stream), int(bool(content)))
    made = CycleManifest(SCHEMA, "c", vm, "vm", base, taken, 60, "crash", "p", PROXMOX, (disk,))
    return made, stream


def offer(session: Channel, manifest: CycleManifest) -> None:
    """Offer a cycle, and have it accepted."""
    kind = messages.Kind.SEED if manifest.is_seed else messages.Kind.DELTA
    session.send(messages.Cycle(kind, manifest.base, manifest.encode()))
    session.expect(messages.Accepted)


def opened(session: Channel, vm: str = VM) -> messages.Ready:
    """Open a replica."""
    session.send(messages.Open("c", vm))
    return session.expect(messages.Ready)


def send(session: Channel, manifest: CycleManifest, stream: bytes) -> int:
    """A whole cycle; the generation."""
    opened(session, manifest.vm_id)
    offer(session, manifest)
    pieces = (messages.Data(stream[at : at + 900_000]) for at in range(0, len(stream), 900_000))
    session.send(messages.Disk("d", 0), *pieces, messages.EndOfDisk())
    session.expect(messages.Stored)
    session.send(messages.Commit(manifest.digest()))
    return session.expect(messages.Committed).generation
