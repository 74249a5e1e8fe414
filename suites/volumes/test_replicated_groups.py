"""Two VMs and their volume groups are replicated, and fail over to another cluster with them."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import uuid4

import attrs
import pytest
from command_line import program
from nutanix_backend.replicate.cycles import Work
from nutanix_backend.settings.parameters import parse
from prism_lab import Lab
from replica_receiver.__main__ import command_line
from vm_replica.errors import CycleRefused
from vm_replica.failover import ledger, stored
from vm_replica.protocol import allowed, tls
from vm_replica.receiver import Receiver
from vm_replica.status import Level, statuses
from vm_replica.store.admission import Limits
from vm_replica.store.replica import Store

from apps.nutanix_backend.tests.conftest import Product
from suites.volumes.test_volumes import Site, digest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from nutanix_backend.replicate.source import Result
    from nutanix_backend.replicate.workers import Done

T = TypeVar("T")


@attrs.define
class Words:
    """What a source said."""

    lines: list[str] = attrs.field(factory=list)

    def say(self, text: str) -> None:
        """Any line."""
        self.lines.append(text)

    warn = report = say


@attrs.define
class Disaster:
    """The VMs `a` and `b` on one cluster, their replicas in a store, and another cluster.

    `product` replicates the VMs `names`.
    """

    site: Site
    other: Lab
    receiver: Receiver
    root: Path
    capsys: pytest.CaptureFixture[str]
    product: Product
    names: tuple[str, str] = ("a", "b")
    store: str = "store"
    words: Words = attrs.field(factory=Words)

    def cycle(self) -> dict[str, Result]:
        """A cycle of each VM, side by side."""
        found = {}
        for done in self.tried():
            assert done.result, done.error
            found[done.name] = done.result
        return found

    def tried(self, **more: str) -> list[Done]:
        """The same with these parameters, and no expectation of how it ends."""
        to = f"127.0.0.1:{self.receiver.address[1]}"
        given = {"vm": [*self.names], "replicate_to": to, **more}
        settings = parse(self.product.parameters(**given))
        return list(Work(settings, self.words, 60).once(lambda: None))

    def cycles(self, stop: threading.Event) -> None:
        """The source goes on for ever."""
        while not stop.wait(0.3):
            self.tried()

    def way_to(self, lab: Lab, option: str) -> list[str]:
        """The parameters of a cluster."""
        file = self.root / f"{option}.conf"
        file.touch(mode=0o600)
        file.write_text(
            f"prism={lab.pc_host}\nuser={lab.user}\npassword={lab.password}\nca={lab.ca_file}\n"
            "transport=userspace\nproxy_mode=in_cluster\n"
        )
        state = f"state_dir={self.root / option}"
        return [word for given in (f"config_file={file}", state) for word in (f"--{option}", given)]

    def failover(self, action: str, *words: str) -> tuple[int, str]:
        """A command of the receiver: its status, and what it said."""
        has_target = "--folder" not in words and action not in {"permanent", "reverse"}
        target = self.way_to(self.other, "target") if has_target else []
        argv = ["failover", action, "--store", str(self.root / self.store), *words, *target]
        status = program.run(command_line(), argv)
        captured = self.capsys.readouterr()
        return status, captured.out + captured.err

    def good(self, action: str, *words: str) -> str:
        """A command that succeeds."""
        status, said = self.failover(action, *words)
        assert status == 0, said
        return said

    def moving(self, action: Callable[[], T]) -> T:
        """What an action gives while the source goes on."""
        stop = threading.Event()
        source_host = threading.Thread(target=self.cycles, args=(stop,))
        source_host.start()
        try:
            return action()
        finally:
            stop.set()
            source_host.join()

    def started(self, action: str, *words: str) -> subprocess.Popen[str]:
        """A command of the receiver in a process of its own."""
        store = ["--store", str(self.root / self.store)]
        argv = ["failover", action, *store, *words, *self.way_to(self.other, "target")]
        return subprocess.Popen(
            [sys.executable, "-m", "replica_receiver", *argv],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def until_delayed(self, one: subprocess.Popen[str]) -> None:
        """Wait until the process makes the call that is to be delayed."""
        while self.other.faults.pending():
            assert one.poll() is None, one.communicate()[0]
            time.sleep(0.02)

    def killed(self, action: str, *words: str) -> None:
        """A command of the receiver that is killed when it makes the call that is to be delayed."""
        with self.started(action, *words) as one:
            self.until_delayed(one)
            one.kill()

    def vms(self) -> dict[str, Any]:
        """The VMs of the other cluster, by name."""
        return {vm.name: vm for vm in self.other._world.vms.values()}

    def groups(self) -> dict[str, Any]:
        """The volume groups of the other cluster, by the name without its mark."""
        return {g.name.rpartition(" ")[0]: g for g in self.other._world.volume_groups.values()}

    def assert_nothing_there(self) -> None:
        """The other cluster is as it was."""
        state = self.other.state()
        for kind in ("vms", "volume_groups", "images", "sessions", "tasks"):
            assert not state[kind], kind


@pytest.fixture
def disaster(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Disaster]:
    with (
        Lab.start(tmp_path / "lab", task_seconds=0) as lab,
        Lab.start(tmp_path / "other", task_seconds=0) as other,
    ):
        site = Site.of(Product(lab, tmp_path / "host", references=9))
        with receiving(tmp_path, "store", tmp_path / "host") as receiver:
            yield Disaster(site, other, receiver, tmp_path, capsys, site.product)


@contextmanager
def receiving(root: Path, store: str, host: Path) -> Iterator[Receiver]:
    """A receiver with a store of this name, paired with the source in the folder `host`."""
    identity, folder = root / f"{store}-receiver", root / f"{store}-source"
    theirs = tls.ensure_identity(identity, "receiver")
    with Receiver(Store(root / store, Limits(reserve=0)), identity) as receiver:
        ours = tls.ensure_identity(folder, "source")
        tls.add_peer(folder, theirs.certificate)
        tls.add_peer(identity, ours.certificate)
        allowed.save(identity, (allowed.Grant(ours.fingerprint, "*", "*"),))
        tls.remember_pair(folder, f"127.0.0.1:{receiver.address[1]}", theirs.fingerprint)
        shutil.copytree(folder, host / "state" / "identity")
        yield receiver


def test_a_failover_brings_the_groups_and_shares_what_was_shared(disaster: Disaster) -> None:
    site = disaster.site
    disaster.cycle()
    site.write()
    wanted = site.content()
    assert not disaster.cycle()["a"].seed
    lab = site.lab.state()
    assert {g["ext_id"] for g in lab["volume_groups"]} == {site.own, site.shared}
    assert len(lab["recovery_points"]) == 2, "one of each VM, for all of its disks"

    disaster.good("test", "b", "--name", "b-test")
    assert disaster.vms()["b-test"].ext_id in disaster.groups()["b-test quorum"].vms
    disaster.good("end-test", "b")
    disaster.assert_nothing_there()

    copies = disaster.root / "copies"
    copies.mkdir()
    disaster.good("test", "b", "--folder", str(copies), "--format", "raw")
    image = copies / "b-test" / "group-0-disk-0.raw"
    assert digest(image) == wanted[f"{site.shared}/0"]
    disaster.good("end-test", "b")

    disaster.good("unplanned", "b", "--off")
    said = disaster.good("unplanned", "a")
    assert "is there already, with the copy of another VM" in said
    vms, groups = disaster.vms(), disaster.groups()
    assert set(groups) == {"b-failover quorum", "a-failover data"}
    own, shared = groups["a-failover data"], groups["b-failover quorum"]
    assert own.vms == [vms["a-failover"].ext_id]
    assert set(shared.vms) == {vm.ext_id for vm in vms.values()}
    sharing = [group.settings["sharingStatus"] for group in (own, shared)]
    assert sharing == ["NOT_SHARED", "SHARED"]
    assert not own.clients, "the receiver is kept out"
    assert vms["a-failover"].power_state == "ON"
    found = [digest(disk.file) for disk in (*own.disks, *shared.disks)]
    assert found == [wanted[f"{site.own}/{n}"] for n in (0, 1)] + [wanted[f"{site.shared}/0"]]
    assert [digest(d.file) for d in vms["a-failover"].disks] == [
        wanted[f"{site.first.ext_id}/{n}"] for n in (0, 1)
    ]

    said = disaster.good("undo", "b")
    assert "stays: VM a-failover uses it" in said
    disaster.good("undo", "a")
    disaster.assert_nothing_there()
    assert not disaster.cycle()["a"].seed


def test_a_point_is_proven_with_its_groups_in_other_replicas(disaster: Disaster) -> None:
    """It was called proven while a disk of its shared group was damaged."""
    disaster.site.write()
    disaster.cycle()
    store = disaster.root / "store"
    proof = ["verify", "--store", str(store), "b"]
    assert program.run(command_line(), proof) == 0
    assert "volume group quorum is in the replica " in disaster.capsys.readouterr().out
    (quorum,) = stored.find(Store(store), "b").point(None).groups
    (image,) = store.rglob(f"images/{quorum.disks[0].disk_id}.raw")
    content = bytearray(image.read_bytes())
    content[next(at for at, value in enumerate(content) if value)] ^= 1
    image.write_bytes(content)
    assert program.run(command_line(), proof) == 2
    assert "DAMAGED" in disaster.capsys.readouterr().out


def test_a_planned_move_leaves_nothing_of_a_group_behind(disaster: Disaster) -> None:
    site = disaster.site
    source = disaster.way_to(site.lab, "source")
    words = ["a", "--off", *source, "--grace", "5", "--patience", "60"]
    world = site.lab._world

    def refused(reason: str) -> None:
        status, said = disaster.failover("planned", *words)
        assert status == 1
        assert reason in said, said
        assert world.vms[site.first.ext_id].power_state == "ON", "refused before it is shut down"

    disaster.cycle()
    refused("VM b is on, and uses volume group")
    world.vms[site.second.ext_id].power_state = "OFF"
    world.volume_groups[site.own].clients.append("iqn.2026-01.example:other")
    refused("is attached to hosts over iSCSI too")
    world.volume_groups[site.own].clients.clear()
    new = site.lab.create_volume_group("new", [1 << 20], ["a"])
    refused(f"volume group {new} of VM a is in no replica that takes cycles")
    site.lab._groups.delete(world.volume_groups[new])

    site.write()
    wanted = site.content()
    disaster.moving(lambda: disaster.good("planned", *words))
    own, shared = (disaster.groups()[f"a-failover {name}"] for name in ("data", "quorum"))
    assert [digest(disk.file) for disk in own.disks] == [wanted[f"{site.own}/{n}"] for n in (0, 1)]
    assert digest(shared.disks[0].file) == wanted[f"{site.shared}/0"]
    assert disaster.failover("undo", "a")[0] == 1, "it needs the source, to switch it on"
    disaster.good("undo", "a", *source)
    assert world.vms[site.first.ext_id].power_state == "ON", "its groups are in no cycle until then"
    disaster.assert_nothing_there()

    world.vms[site.first.ext_id].power_state = "OFF"
    disaster.cycle()
    disaster.good("unplanned", "a", "--off")
    words[0] = "b"
    world.vms[site.second.ext_id].power_state = "ON"
    disaster.tried()
    status, said = disaster.failover("planned", *words)
    assert status == 1
    assert "is there already, with the copy of another VM, as of" in said


def test_after_a_failover_the_next_vm_brings_the_shared_group(disaster: Disaster) -> None:
    """Nobody brought it, and the status of the other VM was OK."""
    site = disaster.site
    disaster.cycle()
    disaster.good("unplanned", "a")
    site.write()
    first, second = sorted(disaster.tried(), key=lambda done: done.name)
    assert isinstance(first.error, CycleRefused)
    assert second.result
    (quorum,) = stored.find(Store(disaster.root / "store"), "b").point(None).groups
    image = disaster.root / "quorum"
    quorum.disks[0].write(image)
    assert digest(image) == site.content()[f"{site.shared}/0"]

    source = disaster.way_to(site.lab, "source")
    words = ["b", "--off", *source, "--grace", "5", "--patience", "60"]
    site.lab._world.vms[site.first.ext_id].power_state = "OFF"
    status, said = disaster.failover("planned", *words)
    assert status == 1
    assert "is there already, with the copy of another VM, as of" in said
    assert site.lab._world.vms[site.second.ext_id].power_state == "ON"
    said = disaster.good("unplanned", "b")
    assert "what the source wrote to it in between is not in it" in said
    (shared,) = (g for name, g in disaster.groups().items() if "quorum" in name)
    assert {vm.ext_id for vm in disaster.vms().values()} <= set(shared.vms)
    for vm in ("a", "b"):
        disaster.good("undo", vm)
    disaster.assert_nothing_there()


def test_the_vms_go_back_with_their_groups(disaster: Disaster) -> None:
    site, other = disaster.site, disaster.other
    disaster.cycle()
    for vm in ("a", "b"):
        disaster.good("unplanned", vm)
        disaster.good("permanent", vm)
        assert f"replicate {vm}-failover at" in disaster.good("reverse", vm)
    copies = disaster.vms()
    groups = list(other._world.volume_groups.values())
    disks = [disk for copy in copies.values() for disk in copy.disks]
    disks += [disk for group in groups for disk in group.disks]
    for number, disk in enumerate(disks):
        with disk.file.open("r+b") as file:
            file.write(bytes([number + 1]) * 50_000)
    wanted = {name: [digest(disk.file) for disk in copy.disks] for name, copy in copies.items()}
    of_groups = {digest(disk.file) for group in groups for disk in group.disks}

    host = disaster.root / "host-back"
    with receiving(disaster.root, "back", host) as receiver:
        back = attrs.evolve(
            disaster,
            other=site.lab,
            receiver=receiver,
            product=Product(other, host, references=9),
            names=("a-failover", "b-failover"),
            store="back",
        )
        assert all(result.seed for result in back.cycle().values())
        for copy in copies.values():
            copy.power_state = "OFF"
        for name in back.names:
            back.good("unplanned", name, "--name", f"{name}-back", "--off")
    for name, content in wanted.items():
        returned = back.vms()[f"{name}-back"]
        assert [digest(disk.file) for disk in returned.disks] == content
    made = {name: group for name, group in back.groups().items() if "-back " in name}
    assert set(made) == {f"a-failover-back a-failover {name}" for name in ("data", "quorum")}
    assert {digest(disk.file) for group in made.values() for disk in group.disks} == of_groups


def test_a_point_that_is_older_than_a_group_that_is_there(disaster: Disaster) -> None:
    """It got the newer group, and the message said that the older one was missing data."""
    for _ in range(3):
        disaster.site.write()
        disaster.cycle()
        time.sleep(1.1)
    disaster.good("unplanned", "a", "--off")
    status, said = disaster.failover("unplanned", "b", "--off", "--point", "2")
    assert status == 1
    assert "and would get what was written after it: undo the other failover" in said
    disaster.good("undo", "a")
    disaster.good("unplanned", "a", "--off", "--point", "1")
    disaster.good("unplanned", "b", "--off", "--point", "2")
    for vm in ("a", "b"):
        disaster.good("undo", vm)
    disaster.assert_nothing_there()


def test_groups_that_the_cycles_leave_out_are_named(disaster: Disaster) -> None:
    """The status was OK, and a failover made the VM without its groups."""
    lab, store = disaster.site.lab, Store(disaster.root / "store")
    empty = lab.create_volume_group("empty", [], ["a"])
    disaster.cycle()
    assert {status.level for status in statuses(store, time.time())} == {Level.OK}
    assert len(stored.find(store, "a").point(None).groups) == 2, "one without disks is not missed"
    assert all(done.result for done in disaster.tried(volume_groups="no"))
    for found in statuses(store, time.time()):
        assert found.level is Level.WARNING
        assert "its cycles leave out volume group " in found.why
    status, said = disaster.failover("unplanned", "a", "--off")
    assert status == 1
    for group in (disaster.site.own, disaster.site.shared, empty):
        assert f"volume group {group} is not in this copy: it was attached to the VM" in said
    said = disaster.good("unplanned", "a", "--off", "--target", "volume_groups=no")
    assert "and its cycle left it out" in said
    assert not disaster.groups()


def test_an_undo_finds_a_copy_that_was_renamed(disaster: Disaster) -> None:
    """It found none, and accepted the source while the copy went on running."""
    disaster.cycle()
    disaster.good("unplanned", "a")
    copy = disaster.vms()["a-failover"]
    copy.name = "web"
    assert "VM web is removed" in disaster.good("undo", "a")
    disaster.assert_nothing_there()

    disaster.good("unplanned", "a")
    copy = disaster.vms()["a-failover"]
    description, copy.name = copy.hardware["description"], "web"
    copy.hardware["description"] = "ours now"
    status, said = disaster.failover("undo", "a")
    assert status == 1
    assert "the copy a-failover (key " in said
    assert "is not found at" in said
    assert "repeat this with --abandon" in said
    (first, second) = sorted(disaster.tried(), key=lambda done: done.name)
    assert isinstance(first.error, CycleRefused), "the source is still refused"
    assert second.result
    copy.hardware["description"] = description
    clone = attrs.evolve(copy, ext_id=str(uuid4()), name="clone", disks=[])
    disaster.other._world.vms[clone.ext_id] = clone
    status, said = disaster.failover("undo", "a")
    assert status == 1
    assert "give that one its name back" in said
    copy.name = "a-failover"
    disaster.good("undo", "a")
    assert set(disaster.vms()) == {"clone"}


def test_an_undo_goes_on_without_a_copy_that_is_gone(disaster: Disaster) -> None:
    disaster.cycle()
    disaster.good("unplanned", "a")
    copy = disaster.vms()["a-failover"]
    for group in disaster.groups().values():
        group.vms.clear()
    del disaster.other._world.vms[copy.ext_id]
    assert disaster.failover("undo", "a")[0] == 1
    assert "not removed: a-failover (key " in disaster.good("undo", "a", "--abandon")
    disaster.assert_nothing_there()
    assert all(done.result for done in disaster.tried())


def test_a_planned_move_of_a_vm_with_groups_is_undone(disaster: Disaster) -> None:
    """Its replica takes no cycles then, and the other VM may be on again."""
    site, world = disaster.site, disaster.site.lab._world
    source = disaster.way_to(site.lab, "source")
    disaster.cycle()
    world.vms[site.second.ext_id].power_state = "OFF"
    words = ("a", *source, "--patience", "60")
    moved = disaster.moving(lambda: disaster.failover("planned", *words))
    assert moved[0] == 0, moved[1]
    world.vms[site.second.ext_id].power_state = "ON"
    assert world.vms[site.first.ext_id].power_state == "OFF"
    disaster.good("undo", "a", *source)
    assert world.vms[site.first.ext_id].power_state == "ON"
    disaster.assert_nothing_there()


def test_a_planned_move_that_was_killed_is_recovered(disaster: Disaster) -> None:
    site, world = disaster.site, disaster.site.lab._world
    source = disaster.way_to(site.lab, "source")
    disaster.cycle()
    world.vms[site.second.ext_id].power_state = "OFF"
    disaster.other.faults.delay("POST */volume-groups", 1.0)
    disaster.moving(lambda: disaster.killed("planned", "a", *source))
    time.sleep(1.2)  # the call that was under way takes effect
    disaster.good("recover", "a", *source)
    assert world.vms[site.first.ext_id].power_state == "ON"
    disaster.assert_nothing_there()


def test_nothing_is_undone_while_the_other_vm_fails_over(disaster: Disaster) -> None:
    """It has chosen the shared group, and would miss it at its end."""
    disaster.cycle()
    disaster.good("unplanned", "a", "--off")
    disaster.other.faults.delay("POST */ahv/config/vms", 3.0)
    with disaster.started("unplanned", "b", "--off") as one:
        disaster.until_delayed(one)
        status, said = disaster.failover("undo", "a")
        assert status == 1
        assert "VM b shares volume group quorum, and its failover (unplanned)" in said
        assert one.wait(60) == 0, one.communicate()[0]
    (shared,) = (g for name, g in disaster.groups().items() if "quorum" in name)
    assert {vm.ext_id for vm in disaster.vms().values()} <= set(shared.vms)
    for vm in ("a", "b"):
        disaster.good("undo", vm)
    disaster.assert_nothing_there()


def test_of_two_undos_at_once_one_removes_the_shared_group(disaster: Disaster) -> None:
    disaster.cycle()
    for vm in ("a", "b"):
        disaster.good("unplanned", vm, "--off")
    disaster.other.faults.delay("DELETE */ahv/config/vms/*", 3.0)
    with disaster.started("undo", "a") as one:
        disaster.until_delayed(one)
        status, said = disaster.failover("undo", "b")
        assert status == 1
        assert "VM a shares volume group quorum, and its failover (undo)" in said
        assert one.wait(60) == 0, one.communicate()[0]
    disaster.good("undo", "b")
    disaster.assert_nothing_there()


def test_undos_that_were_killed_do_not_wait_for_each_other(disaster: Disaster) -> None:
    disaster.cycle()
    for vm in ("a", "b"):
        disaster.good("unplanned", vm, "--off")
    disaster.other.faults.delay("DELETE */ahv/config/vms/*", 1.0)
    disaster.killed("undo", "a")
    time.sleep(1.2)  # the call that was under way takes effect
    status, said = disaster.failover("undo", "b")
    assert status == 1
    assert "run failover recover a" in said
    folder = stored.find(Store(disaster.root / "store"), "b").folder
    with ledger.opened(folder) as held:  # as if both had begun before
        held.keep(attrs.evolve(held.record, doing="undo"))
    for vm in ("a", "b"):
        disaster.good("recover", vm)
    disaster.assert_nothing_there()


def test_the_group_of_a_permanent_copy_stays(disaster: Disaster) -> None:
    """Its VM got another name and description, and is without the group for the moment."""
    disaster.cycle()
    for vm in ("a", "b"):
        disaster.good("unplanned", vm, "--off")
    disaster.good("permanent", "a")
    kept = disaster.vms()["a-failover"]
    kept.hardware["description"], kept.name = "production", "a"
    shared = disaster.groups()["a-failover quorum"]
    shared.vms.remove(kept.ext_id)
    said = disaster.good("undo", "b")
    assert f"volume group {shared.name} stays: VM a shares it, and its copy is permanent" in said
    assert "a-failover quorum" in disaster.groups()


def test_a_group_that_was_deleted_during_a_failover_is_named(disaster: Disaster) -> None:
    disaster.cycle()
    disaster.good("unplanned", "a", "--off")
    disaster.other.faults.delay("POST */ahv/config/vms", 2.0)
    with disaster.started("unplanned", "b", "--off") as one:
        disaster.until_delayed(one)
        world = disaster.other._world
        shared = disaster.groups()["a-failover quorum"]
        shared.vms.clear()
        disaster.other._groups.delete(shared)
        assert shared.ext_id not in world.volume_groups
        assert one.wait(60) == 1
        said = one.communicate()[0]
    assert "but it was deleted meanwhile: repeat the failover" in said
    disaster.good("unplanned", "b", "--off")


CALLS = ("POST */volume-groups", "POST */$actions/attach-vm", "POST */ahv/config/vms")


def test_a_failover_that_is_killed_leaves_no_group(disaster: Disaster) -> None:
    disaster.cycle()
    for call in CALLS:
        disaster.other.faults.delay(call, 1.0)
        disaster.killed("unplanned", "a")
        time.sleep(1.2)  # the call that was under way takes effect
        status, said = disaster.failover("unplanned", "b")
        assert status == 1
        assert "VM a shares volume group quorum, and its failover (unplanned)" in said
        disaster.good("recover", "a")
        disaster.assert_nothing_there()
        disaster.cycle()
    disaster.good("unplanned", "a")
    assert len(disaster.groups()) == 2
