"""The source of replication, against a receiver in memory that can be told to fail."""

from __future__ import annotations

import io
import json
import socket
import threading
from typing import TYPE_CHECKING, Any

import attrs
import pytest
from command_line.text import with_notes
from digests import StreamDigest
from nutanix_backend.cluster import inventory, selection, sweep, transport
from nutanix_backend.cluster.guards import new_secret
from nutanix_backend.errors import ChainError, SelectionError
from nutanix_backend.references import state
from nutanix_backend.replicate.groups import with_groups
from nutanix_backend.replicate.source import Link, Replication, Result
from nutanix_backend.settings.parameters import parse
from phcbt01 import apply
from phcbt01.testing import MemoryTarget
from prism_client import PrismError
from ptcomm import Level
from vm_replica.errors import Code, CycleRefused, PeerFailed, ReplicationError
from vm_replica.protocol import manifest as manifests
from vm_replica.protocol import messages
from vm_replica.protocol.channel import Channel, Patience, greet
from vm_replica.protocol.manifest import ReplicaGroup
from vm_replica.protocol.tls import Peer
from vm_replica.throttle import Throttle

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

    from prism_lab import Lab
    from vm_replica.protocol.manifest import CycleManifest

    from apps.nutanix_backend.tests.conftest import Guest, Product

KIB, MIB = 1 << 10, 1 << 20
PATIENCE = Patience(connect=5, idle=10, message=10)


@attrs.define
class Replica:
    """A replica in memory, what it holds of a cycle that was broken off, and what to do wrong."""

    generation: int = 0
    digest: str = ""
    groups: tuple[ReplicaGroup, ...] = ()
    disks: dict[str, bytearray] = attrs.field(factory=dict)
    spool: dict[str, bytearray] = attrs.field(factory=dict)
    spooled: str = ""
    cut_after: int = -1
    """Bytes of data after which the connection is lost; what came is kept."""
    vanish: str = ""
    """The connection is lost "before" or "after" the next commit."""
    damage: bool = False
    refuse: list[messages.Refused] = attrs.field(factory=list)
    received: int = 0

    def connect(self) -> Channel:
        """A connection to the replica, served by a thread of its own."""
        ours, theirs = socket.socketpair()
        threading.Thread(target=self._serve, args=(theirs,), daemon=True).start()
        channel = self._channel(ours, messages.Role.SOURCE)
        greet(channel, "source")
        return channel

    def _channel(self, end: Any, role: messages.Role) -> Channel:
        return Channel(end, role, Peer("", ""), patience=PATIENCE)

    def _serve(self, end: socket.socket) -> None:
        with self._channel(end, messages.Role.RECEIVER) as channel:
            channel.expect(messages.Hello)
            channel.send(messages.Hello("receiver"))
            try:
                while self._answer(channel):
                    pass
            except (ReplicationError, BrokenPipeError):
                return

    def _answer(self, channel: Channel) -> bool:
        match channel.receive():
            case messages.Open():
                held = tuple((name, len(data)) for name, data in self.spool.items())
                resume = messages.Resume(self.spooled, held) if held else None
                channel.send(messages.Ready(self.generation, self.digest, resume))
            case messages.Cycle(_, _, text):
                return self._cycle(channel, manifests.decode(text))
            case _:
                return False
        return True

    def _cycle(self, channel: Channel, manifest: CycleManifest) -> bool:
        if self.refuse:
            channel.send(self.refuse.pop())
            return True
        assert manifest.base in {"", self.digest}, "a cycle on a base that was not named"
        if manifest.digest() != self.spooled:
            self.spooled, self.spool = manifest.digest(), {}
        channel.send(messages.Accepted())
        for _ in manifest.disks:
            if not self._disk(channel):
                return False
        channel.expect(messages.Commit)
        if self.vanish == "before":
            return False
        self._apply(manifest)
        if self.vanish == "after":
            return False
        channel.send(messages.Committed(self.generation))
        return True

    def _disk(self, channel: Channel) -> bool:
        disk = channel.expect(messages.Disk)
        stream = self.spool.setdefault(disk.disk_id, bytearray())
        assert disk.offset == len(stream)
        digest = StreamDigest()
        while isinstance(
            message := channel.expect(messages.Data, messages.EndOfDisk), messages.Data
        ):
            piece = bytes(message.view)
            stream += piece
            digest.update(piece)
            self.received += len(piece)
            if 0 <= self.cut_after < self.received:
                return False
        if self.damage:
            digest.update(b"x")
        channel.send(messages.Stored(digest.text()))
        return True

    def _apply(self, manifest: CycleManifest) -> None:
        disks = {}
        for disk in manifest.disks:
            old = b"" if disk.whole else self.disks[disk.disk_id]
            target = MemoryTarget(bytes(old))
            assert len(self.spool[disk.disk_id]) == disk.stream_bytes
            apply(io.BytesIO(bytes(self.spool[disk.disk_id])), target)
            disks[disk.disk_id] = target.content
        self.disks, self.spool, self.spooled = disks, {}, ""
        self.generation += 1
        self.digest = manifest.digest()
        self.groups = manifest.groups


@attrs.define
class Words:
    """What was said."""

    lines: list[str] = attrs.field(factory=list)

    def say(self, text: str) -> None:
        self.lines.append(text)

    warn = report = say


@attrs.frozen
class Site:
    """A VM, its replica, and the state folder of the host that replicates it."""

    product: Product
    guest: Guest
    replica: Replica = attrs.field(factory=Replica)
    words: Words = attrs.field(factory=Words)

    def cycle(self, fenced: Collection[str] = (), **parameters: object) -> Result:
        """One cycle; nothing but recorded references may be left afterwards, however it ends.

        The receiver takes no cycles of the VMs `fenced`.
        """
        chosen = {"vm": self.guest.name, **parameters}
        settings = parse(self.product.parameters(**chosen))
        throttle = Throttle(settings.replicate_limit, threading.Event())
        reach = transport.choose("userspace")
        link = Link(self.replica.connect, reach, new_secret(chap=True), throttle, rpo=60)
        try:
            with inventory.connect(settings) as client:
                selected = selection.select(client, settings, whole=True).sources
                every = with_groups(client, settings, selected, lambda _: fenced)
                source = {s.vm.ext_id: s for s in every}[self.guest.ext_id]
                return Replication(settings, source, link, self.words).run(client)
        finally:
            self.product.assert_nothing_left()
            recorded = state.recorded_points(settings.state_dir)
            assert set(self.guest.recovery_points()) <= set(recorded), "an unrecorded point is left"

    def fails(
        self, error: type[Exception], match: str = "connection", **parameters: object
    ) -> None:
        """A cycle that must fail so."""
        with pytest.raises(error, match=match):
            self.cycle((), **parameters)

    def assert_same(self) -> None:
        """The replica holds what the disks hold, which have not changed since."""
        for index, disk_id in enumerate(self.guest.disk_ids()):
            assert self.replica.disks[disk_id] == self.guest.disk(index).read_bytes()
        assert len(self.replica.disks) == len(self.guest.disk_ids())

    def change(self) -> None:
        """The guest writes, wipes and trims."""
        self.guest.write(0, MIB + 123, 300 * KIB)
        self.guest.zero(0, 3 * MIB, 64 * KIB)
        self.guest.discard(0, 0, 128 * KIB)


@pytest.fixture
def site(quick_lab: Lab, make_product: type[Product], tmp_path: Path) -> Site:
    """A VM of two disks that was never replicated."""
    product = make_product(quick_lab, tmp_path / "host")
    return Site(product, product.guest(8 * MIB, 2 * MIB))


@pytest.fixture
def seeded(site: Site) -> Site:
    """The same after its seed."""
    assert site.cycle().seed
    return site


def test_a_seed_and_cycles_make_the_replica_the_same(site: Site) -> None:
    assert site.cycle().seed
    site.assert_same()
    for generation in (2, 3, 4):
        site.change()
        result = site.cycle()
        assert result.generation == generation
        assert not result.seed
        assert result.sent < MIB
        site.assert_same()
        assert len(site.guest.recovery_points()) == 1, "one reference between two cycles"


def test_disks_come_grow_and_go(seeded: Site) -> None:
    seeded.guest.grow(0, 9 * MIB)
    seeded.guest.add_disk(MIB)
    seeded.guest.write(2, 0, 5000)
    assert not seeded.cycle().seed
    seeded.assert_same()
    seeded.guest.remove_disk(1)
    seeded.cycle()
    seeded.assert_same()


def test_only_what_is_allocated_is_seeded(site: Site) -> None:
    result = site.cycle()
    assert result.sent < 5 * MIB
    assert result.changed < 5 * MIB


# --- who knows how it ended ----------------------------------------------------------------------


def test_a_commit_that_was_not_answered_is_no_seed(seeded: Site) -> None:
    """The receiver has committed, and we do not know: it says so when it is asked."""
    seeded.change()
    seeded.replica.vanish = "after"
    seeded.fails(ReplicationError, "connection")
    assert len(seeded.guest.recovery_points()) == 2
    seeded.replica.vanish = ""
    seeded.change()
    result = seeded.cycle()
    assert (result.seed, result.generation) == (False, 3)
    seeded.assert_same()
    assert len(seeded.guest.recovery_points()) == 1


def test_a_commit_that_never_came_is_made_up_for(seeded: Site) -> None:
    """Everything had arrived: the cycle goes on from there, on the same recovery point."""
    seeded.change()
    seeded.replica.vanish = "before"
    seeded.fails(ReplicationError, "connection")
    points = seeded.guest.recovery_points()
    assert len(points) == 2
    seeded.replica.vanish = ""
    result = seeded.cycle()
    assert (result.seed, result.sent) == (False, 0)
    seeded.assert_same()
    assert seeded.guest.recovery_points() == points[1:]


@pytest.mark.parametrize("cut_after", [0, 100 * KIB, MIB])
def test_an_interrupted_seed_goes_on_where_it_was(site: Site, cut_after: int) -> None:
    site.replica.cut_after = cut_after
    site.fails(ReplicationError, "connection")
    (point,) = site.guest.recovery_points()
    there = site.replica.received
    site.replica.cut_after = -1
    result = site.cycle()
    assert (result.seed, result.resumed) == (True, there)
    assert site.guest.recovery_points() == [point]
    site.assert_same()


def test_what_was_interrupted_begins_anew_when_the_vm_has_other_disks(seeded: Site) -> None:
    seeded.change()
    seeded.replica.cut_after = 0
    seeded.fails(ReplicationError, "connection")
    seeded.replica.cut_after = -1
    seeded.guest.add_disk(MIB)
    assert not seeded.cycle().resumed
    seeded.assert_same()
    assert len(seeded.guest.recovery_points()) == 1


@pytest.mark.parametrize("damage", ["lost", "torn", "foreign"])
def test_what_was_interrupted_begins_anew_when_it_cannot_be_proven(
    seeded: Site, damage: str
) -> None:
    seeded.change()
    seeded.replica.cut_after = 0
    seeded.fails(ReplicationError, "connection")
    seeded.replica.cut_after = -1
    (path,) = (seeded.product.root / "state" / "replication").rglob("*.cycle")
    if damage == "lost":
        path.unlink()
    elif damage == "torn":
        path.write_bytes(path.read_bytes()[:100])
    else:
        content = json.loads(path.read_bytes())
        path.write_text(json.dumps(content | {"regions": content["regions"][::-1]}))
    assert not seeded.cycle().resumed
    seeded.assert_same()


def test_a_cycle_that_arrived_damaged_is_not_committed(seeded: Site) -> None:
    seeded.replica.damage = True
    seeded.fails(PeerFailed, "arrived damaged")
    assert seeded.replica.generation == 1


def test_a_base_that_is_gone_costs_a_seed_which_says_so(seeded: Site) -> None:
    (point,) = seeded.guest.recovery_points()
    del seeded.product.lab._world.recovery_points[point]
    seeded.fails(ChainError, "set fallback_to_full=yes", fallback_to_full="no")
    assert seeded.cycle().seed
    assert "is gone from the cluster" in "\n".join(seeded.words.lines)
    seeded.assert_same()


def test_lost_state_costs_a_seed_which_says_so(seeded: Site) -> None:
    for path in (seeded.product.root / "state" / "replication").rglob("*.json"):
        path.write_bytes(b"{")
    with pytest.raises(AssertionError, match="an unrecorded point is left"):
        seeded.cycle()
    assert "cannot be used" in "\n".join(seeded.words.lines)
    seeded.assert_same()


def test_what_the_receiver_asks_for_is_what_it_gets(seeded: Site) -> None:
    """It stands elsewhere when the cycle begins than when it was asked."""
    need = messages.Refused(Code.WRONG_BASE, f"sha256:{'0' * 64}", "on another base")
    seeded.replica.refuse.append(need)
    assert not seeded.cycle().seed
    seeded.replica.refuse += [need, need]
    seeded.fails(CycleRefused, "on another base")
    seeded.replica.refuse.append(messages.Refused(Code.FENCED, "", "fenced"))
    seeded.fails(CycleRefused, "fenced")
    assert not seeded.cycle().seed


# --- side by side with backup --------------------------------------------------------------------


def test_neither_side_touches_the_references_of_the_other(seeded: Site) -> None:
    product, guest = seeded.product, seeded.guest
    product.references = 4
    ours = guest.recovery_points()
    full = product.good_backup(Level.FULL, guest)
    seeded.change()
    seeded.cycle()
    incremental = product.good_backup(Level.INCREMENTAL, guest)
    assert not seeded.cycle().seed
    assert ours[0] not in guest.recovery_points()
    product.assert_restores(full, guest)
    product.assert_restores(incremental, guest)
    recorded = state.recorded_points(product.root / "state")
    assert sorted(recorded) == sorted(guest.recovery_points())


def test_a_sweep_leaves_what_an_interrupted_cycle_stands_on(seeded: Site) -> None:
    seeded.change()
    seeded.replica.cut_after = 0
    seeded.fails(ReplicationError, "connection")
    settings = parse(seeded.product.parameters())
    with inventory.connect(settings) as client:
        assert list(sweep.sweep(client, settings)) == []
        owners = [str(left) for left in sweep.leftovers(client, settings)]
    assert sum(seeded.guest.ext_id in owner for owner in owners) == 2
    assert all("reference of job" in o for o in owners if seeded.guest.ext_id in o)
    assert len(seeded.guest.recovery_points()) == 2


def test_a_vm_under_a_policy_is_replicated_only_when_told(site: Site) -> None:
    site.product.lab.protect_vm(site.guest.name, policy="gold")
    site.fails(SelectionError, "under a protection policy of Prism .gold.")
    assert site.guest.recovery_points() == []
    assert site.cycle(replicate_protected="yes").seed


# --- volume groups -------------------------------------------------------------------------------


@attrs.frozen
class Shared:
    """Two VMs, a volume group `own` of the first, and one that both share."""

    first: Site
    second: Site
    own: str
    shared: str

    def files(self) -> dict[str, Path]:
        lab = self.first.product.lab
        return {
            disk.ext_id: disk.file
            for group in (self.own, self.shared)
            for disk in lab._world.volume_groups[group].disks
        }

    def cycle(self, site: Site, fenced: Collection[str] = (), **parameters: str) -> Result:
        both = [self.first.guest.name, self.second.guest.name]
        return site.cycle(fenced, vm=both, **parameters)

    def write(self, seed: int) -> None:
        self.first.change()
        for file in self.files().values():
            with file.open("r+b") as disk:
                disk.seek(seed * 64 * KIB)
                disk.write(bytes([seed]) * 50_000)

    def assert_same(self) -> None:
        """The first replica has both groups, the second none."""
        first, groups = self.first.replica, self.files()
        for disk_id, file in groups.items():
            assert first.disks[disk_id] == file.read_bytes()
        own = {name: data for name, data in first.disks.items() if name not in groups}
        attrs.evolve(self.first, replica=attrs.evolve(first, disks=own)).assert_same()
        self.second.assert_same()


@pytest.fixture
def shared(site: Site) -> Iterator[Shared]:
    product, guest = site.product, site.guest
    second = Site(product, product.guest(MIB))
    own = product.volume_group("data", [3 * MIB, MIB], guest)
    both = product.volume_group("quorum", [MIB], guest, second.guest)
    yield Shared(site, second, own, both)
    product.remove_user_groups()


def test_volume_groups_come_with_their_vm_and_shared_ones_once(shared: Shared) -> None:
    first = shared.first
    for number in (1, 2, 3):
        shared.write(number)
        result = shared.cycle(first)
        assert result.seed == (number == 1)
        assert result.seed or result.sent < MIB, "its changes only"
        shared.cycle(shared.second)
        shared.assert_same()
        assert len(first.guest.recovery_points()) == 1, "one moment for all disks"
    own, both = first.replica.groups
    assert (own.group_id, both.group_id) == (shared.own, shared.shared)
    (elsewhere,) = shared.second.replica.groups
    assert elsewhere == ReplicaGroup(shared.shared, "", (), first.guest.ext_id)
    shared.write(4)
    first.replica.cut_after = first.replica.received + 400 * KIB
    with pytest.raises(ReplicationError):
        shared.cycle(first)
    first.replica.cut_after = -1
    assert shared.cycle(first).resumed
    shared.cycle(shared.second)
    shared.assert_same()


def test_a_shared_group_comes_with_a_vm_of_which_cycles_are_taken(shared: Shared) -> None:
    """It came with the first VM in any case, so with none when that one had failed over."""
    first, second = shared.first, shared.second
    shared.cycle(first)
    shared.cycle(second)
    shared.write(1)
    assert not shared.cycle(second, fenced={first.guest.ext_id}).seed
    (group,) = second.replica.groups
    assert (group.group_id, len(group.disks), group.replica) == (shared.shared, 1, "")
    (disk_id,) = group.disks
    assert second.replica.disks[disk_id] == shared.files()[disk_id].read_bytes()
    shared.cycle(second)
    assert second.replica.groups == (ReplicaGroup(shared.shared, "", (), first.guest.ext_id),)


def test_a_group_of_a_protected_vm_comes_with_the_next_one(shared: Shared) -> None:
    shared.first.product.lab.protect_vm(shared.first.guest.name, policy="gold")
    shared.cycle(shared.second)
    (group,) = shared.second.replica.groups
    assert len(group.disks) == 1
    shared.cycle(shared.second, replicate_protected="yes")
    (group,) = shared.second.replica.groups
    assert group.replica == shared.first.guest.ext_id


def test_a_shared_group_without_disks_is_in_no_replica(shared: Shared) -> None:
    product = shared.first.product
    empty = product.volume_group("empty", [], shared.first.guest, shared.second.guest)
    for site in (shared.first, shared.second):
        shared.cycle(site)
        assert ReplicaGroup(empty, "", (), site.guest.ext_id) in site.replica.groups


def test_what_is_not_replicated_is_named_and_how_to_go_on_without(shared: Shared) -> None:
    site = shared.first
    assert site.cycle(volume_groups="no").seed
    assert sum("are NOT in its replica" in line for line in site.words.lines) == 2
    assert site.replica.groups == ()
    site.product.lab.faults.status("POST */recovery-points", 403)
    with pytest.raises(PrismError) as failed:
        shared.cycle(site)
    assert "volume_groups=no replicates the VM without" in with_notes(failed.value)
    old = messages.Refused(Code.BAD_MANIFEST, "", "it has schema 3, this side knows 1 and 2")
    site.replica.refuse.append(old)
    with pytest.raises(CycleRefused) as refused:
        shared.cycle(site)
    assert "a receiver that is not updated" in with_notes(refused.value)
    assert not shared.cycle(site).seed, "the groups are whole, and the rest is changes"
    shared.cycle(shared.second)
    shared.assert_same()
