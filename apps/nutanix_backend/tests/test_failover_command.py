"""The command line `failover` on the store of a receiver, with cycles going on beside it."""

from __future__ import annotations

import filecmp
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import attrs
import pytest
from nutanix_backend import __main__ as program
from phcbt01.testing import encode
from prism_lab import Lab
from vm_config.ahv_record import ConfigDisk, VmConfig
from vm_replica.errors import Code, CycleRefused
from vm_replica.failover import ledger, stored
from vm_replica.failover.transitions import State
from vm_replica.protocol.manifest import SCHEMA, CycleDisk, CycleManifest
from vm_replica.status import Level, statuses
from vm_replica.store.replica import Limits, Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from vm_replica.store.replica import Replica

KIB, MIB = 1 << 10, 1 << 20
VM_ID = "22222222-2222-4222-8222-222222222222"
SIZES = {"disk-a": 3 * MIB, "disk-b": MIB}


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """The power is not cut here; processes are killed."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@attrs.define
class Site:
    """A store, what its source holds, and the commands of its administrator."""

    root: Path
    capsys: pytest.CaptureFixture[str]
    vm_id: str = VM_ID
    images: dict[str, bytearray] = attrs.field(factory=dict)
    history: list[dict[str, bytes]] = attrs.field(factory=list)
    taken: int = 1_700_000_000
    chance: random.Random = attrs.field(factory=lambda: random.Random(1))

    @property
    def store(self) -> Path:
        return self.root / "store"

    @property
    def copies(self) -> Path:
        return self.root / "copies"

    @property
    def replica(self) -> Replica:
        return Store(self.store, Limits(reserve=0)).replica("lab", self.vm_id)

    def cycle(self, *, taken: int = 0) -> int:
        """The guest writes, and the source sends what changed, or all of it at first."""
        changes = {}
        self.taken = taken or self.taken + 60
        for disk_id, size in SIZES.items():
            image = self.images.setdefault(disk_id, bytearray(size))
            offset = self.chance.randrange(size // (64 * KIB)) * 64 * KIB
            data = self.chance.randbytes(64 * KIB)
            image[offset : offset + len(data)] = data
            changes[disk_id] = [(offset, data)]
        state = self.replica.state()
        base = state.current.digest if state and state.current else ""
        streams = {name: encode(SIZES[name], change) for name, change in changes.items()}
        manifest = self.manifest(base, streams)
        with self.replica.begin_cycle(manifest, "source") as incoming:
            for name, stream in streams.items():
                with incoming.disk(name, 0) as spool:
                    spool.write(stream)
                    spool.finish()
            number = incoming.commit(manifest.digest())
        self.history.append({name: bytes(image) for name, image in self.images.items()})
        return number

    def manifest(self, base: str, streams: dict[str, bytes]) -> CycleManifest:
        disks = [ConfigDisk(name, "SCSI", n, size) for n, (name, size) in enumerate(SIZES.items())]
        config = VmConfig(
            schema=1, vm_id=self.vm_id, name="web01", description="", cluster_id="c", sockets=1,
            cores_per_socket=1, threads_per_core=1, memory=1 << 28, machine_type="PC",
            firmware="legacy", secure_boot=False, boot_order=("DISK",), disks=tuple(disks),
            nics=(), prism={},
        )  # fmt: skip
        return CycleManifest(
            schema=SCHEMA, cluster="lab", vm_id=self.vm_id, vm_name="web01", base=base,
            taken=self.taken, rpo=60, consistency="crash", recovery_point=f"point-{self.taken}",
            metadata=config.encode().decode(),
            disks=tuple(
                CycleDisk(name, n, SIZES[name], not base, len(streams[name]), 1)
                for n, name in enumerate(SIZES)
            ),
        )  # fmt: skip

    def run(self, action: str, *words: object) -> tuple[int, str]:
        """A command; its status, and what it said."""
        arguments = ["failover", action, "--store", self.store, *words]
        status = program._command([str(word) for word in arguments])
        captured = self.capsys.readouterr()
        return status, captured.out + captured.err

    def good(self, action: str, *words: object) -> str:
        status, said = self.run(action, *words)
        assert status == 0, said
        return said

    def refused(self, action: str, *words: object) -> str:
        status, said = self.run(action, *words)
        assert status == 1
        assert said.count("\n") == 1, said
        return said

    def state(self) -> dict[str, Any]:
        _, said = self.run("status", "--json")
        (row,) = json.loads(said)
        assert isinstance(row, dict)
        return row

    def is_copy_of(self, folder: Path, generation: int) -> bool:
        """Whether the raw images in a folder are those of a generation."""
        truth = self.history[generation - 1]
        return all(
            (folder / f"disk-{n}.raw").read_bytes() == truth[name] for n, name in enumerate(SIZES)
        )


@pytest.fixture
def site(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Site:
    """A replica with three generations."""
    made = Site(tmp_path, capsys)
    made.copies.mkdir()
    for _ in range(3):
        made.cycle()
    return made


def here(site: Site) -> tuple[object, ...]:
    return ("web01", "--folder", site.copies, "--format", "raw")


def test_a_drill(site: Site) -> None:
    """Replication goes on beside a test copy, which is another matter than the replica."""
    said = site.good("test", *here(site))
    assert "virsh define" in said
    assert site.is_copy_of(site.copies / "web01-test", 3)
    assert (site.state()["state"], site.state()["test"]["generation"]) == ("testing", 3)
    assert site.cycle() == 4
    with (site.copies / "web01-test" / "disk-0.raw").open("r+b") as guest:
        guest.write(b"the guest of the drill writes")
    site.replica.verify(4)
    site.replica.verify(3)
    assert "possible: " in site.refused("planned", *here(site), "--source", "prism=x")
    site.good("end-test", "web01")
    assert site.state()["state"] == "replicating"
    assert not list(site.copies.iterdir())
    assert site.cycle() == 5


def test_the_worst_day_and_back(site: Site) -> None:
    """The source is refused from then on; undone, it goes on without a seed."""
    site.good("unplanned", *here(site), "--point", 2)
    assert site.is_copy_of(site.copies / "web01-failover", 2)
    assert site.state()["fenced"] is True
    with pytest.raises(CycleRefused) as refused:
        site.cycle()
    assert refused.value.code is Code.FENCED
    site.images = {name: bytearray(data) for name, data in site.history[-1].items()}
    assert "undo or permanent" in site.refused("unplanned", *here(site))
    site.good("undo", VM_ID)
    assert not list(site.copies.iterdir())
    assert site.cycle() == 4  # a delta: its base is generation 3
    site.replica.verify(4)
    assert site.replica.files.generation(4).manifest.base


def test_for_good(site: Site) -> None:
    site.good("unplanned", *here(site))
    site.good("permanent", "lab/" + VM_ID)
    assert "possible: reverse" in site.refused("undo", "web01")
    with pytest.raises(CycleRefused, match="become production"):
        site.cycle()
    assert "replicate --to" in site.good("reverse", "web01")
    assert "possible: nothing" in site.refused("reverse", "web01")
    assert site.is_copy_of(site.copies / "web01-failover", 3)


def test_a_disaster_in_a_drill(site: Site) -> None:
    site.good("test", *here(site))
    site.cycle()
    site.good("unplanned", *here(site))
    assert site.is_copy_of(site.copies / "web01-test", 3)
    assert site.is_copy_of(site.copies / "web01-failover", 4)
    site.good("end-test", "web01")
    assert site.state()["state"] == "failed-over"
    site.good("undo", "web01")
    assert not list(site.copies.iterdir())


def test_the_audit_log(site: Site) -> None:
    site.good("test", *here(site))
    site.refused("undo", "web01")
    said = site.good("history", "web01")
    lines = said.splitlines()
    assert "test begin" in lines[0]
    assert "make the test copy: web01-test of generation 3" in lines[1]
    assert "undo refused" in lines[-1]
    assert [line["what"] for line in json.loads(site.good("history", "web01", "--json"))] == [
        "begin", "step", "end", "refused",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("test", "nobody"), "there are web01"),
        (("test", "web01"), "say where the copy is to be"),
        (("test", "web01", "--folder", "/nowhere"), "is not a folder"),
        (("test", "web01", "--folder", "{}", "--point", "9"), "there are 1, 2, 3"),
        (("planned", "web01", "--folder", "{}"), "say --source prism="),
        (("test", "web01", "--target", "nonsense"), "is not KEY=VALUE"),
        (("recover", "web01"), "possible: test or planned or unplanned"),
    ],
)
def test_what_cannot_be_done_is_one_line(site: Site, words: tuple[str, ...], says: str) -> None:
    said = site.refused(*(word.format(site.copies) for word in words))
    assert says in said
    assert site.state()["state"] == "replicating"
    assert not list(site.copies.iterdir())


def test_a_folder_that_is_no_store(site: Site) -> None:
    status = program._command(["failover", "status", "--store", str(site.copies)])
    assert status == 1
    assert "is not a receiver's store" in site.capsys.readouterr().err


def test_another_users_store(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert "run this with sudo -u" in site.refused("test", *here(site))


def test_a_damaged_replica_is_not_failed_over_to(site: Site) -> None:
    """The worst time to find that out, and better than a guest on damaged disks."""
    image = site.replica.files.image("disk-a")
    with image.open("r+b") as file:
        file.seek(1 * MIB)
        file.write(b"rot")
    status, said = site.run("unplanned", *here(site))
    assert status == 1
    assert "not what was committed" in said
    assert site.state()["state"] == "replicating"
    assert not list(site.copies.iterdir())


# --- killed -------------------------------------------------------------------------------------


def killed_at(call: int, action: Callable[[], object]) -> bool:
    """Run in a process that is killed at the nth fsync; whether it was."""
    child = os.fork()
    if not child:
        left = call

        def fsync(fd: object) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

        os.fsync = fsync
        status = 99
        try:
            action()
            status = 0
        finally:
            os._exit(status)
    ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert ended in {0, -signal.SIGKILL}, "the command has failed"
    return ended != 0


@pytest.mark.parametrize("action", ["test", "end-test", "unplanned", "undo", "permanent"])
def test_killed_at_every_write(site: Site, action: str) -> None:
    """After each kill `recover` leads to rest: whole copies that are recorded, and no others."""
    before = {"end-test": "test", "undo": "unplanned", "permanent": "unplanned"}.get(action)
    words = here(site) if action in {"test", "unplanned"} else ("web01",)
    after = {"test": "testing", "unplanned": "failed-over", "permanent": "permanent"}
    kills = 0
    for call in range(1, 60):
        if before and site.state()["state"] == "replicating":
            site.good(before, *here(site))
        start = site.state()["state"]
        died = killed_at(call, lambda: site.run(action, *words))
        kills += died
        if site.state()["doing"]:
            site.good("recover", "web01")
        row = site.state()
        assert row["state"] in {start, after.get(action, "replicating")}
        known = {copy["name"] for copy in (row["copy"], row["test"]) if copy}
        assert {path.name for path in site.copies.iterdir()} == known
        assert all(site.is_copy_of(site.copies / name, 3) for name in known)
        fenced = row["state"] in {"failed-over", "permanent"}
        state = site.replica.state()
        assert state
        assert (state.role.value != "replica") == fenced == row["fenced"]
        if not died:
            break
        if row["state"] == "testing" and action == "test":
            site.good("end-test", "web01")
        if row["state"] == "failed-over" and action == "unplanned":
            site.good("undo", "web01")
        if row["state"] == "permanent":
            break
    assert kills >= 4


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A cluster whose tasks do not wait."""
    with Lab.start(tmp_path_factory.mktemp("source"), task_seconds=0) as running:
        yield running


# --- with a cluster to fail over to -------------------------------------------------------------


@pytest.mark.parametrize("call", ["PUT */images/*/file", "POST */ahv/config/vms"])
def test_killed_on_the_way_to_a_cluster(site: Site, lab: Lab, call: str) -> None:
    """Recovery finds what the killed process was making, by its journal and by its key."""
    parameters = (
        f"prism={lab.pc_host}", f"user={lab.user}", f"password={lab.password}",
        f"ca={lab.ca_file}", "restore_via=image",
    )  # fmt: skip
    target = [word for parameter in parameters for word in ("--target", parameter)]
    before = len(lab.requests)
    lab.faults.delay(call, 1.0)
    words = ["failover", "unplanned", "--store", str(site.store), "web01", *target]
    with subprocess.Popen([sys.executable, "-m", "nutanix_backend", *words]) as process:
        while lab.faults.pending():
            assert process.poll() is None
            time.sleep(0.02)
        process.kill()
    deadline = time.monotonic() + 20
    while len(lab.requests) == before or lab.state()["tasks"]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(1.5)  # the call that was under way takes effect
    assert site.state()["doing"] == "unplanned"
    assert "say --target prism=" in site.refused("recover", "web01")
    site.good("recover", "web01", *target)
    assert site.state()["state"] == "replicating"
    state = lab.state()
    assert not [vm for vm in state["vms"] if vm["name"] == "web01-failover"]
    assert not state["images"]
    assert not list(site.store.glob("podheitor-nutanix-*"))
    site.good("unplanned", "web01", *target, "--off")
    site.good("undo", "web01", *target)
    assert site.cycle() == 4


# --- with the cluster of the source --------------------------------------------------------------


@attrs.define
class Planned:
    """A replica of a VM that runs on a cluster."""

    site: Site
    lab: Lab

    @property
    def words(self) -> tuple[object, ...]:
        lab = self.lab
        parameters = (
            f"prism={lab.pc_host}", f"user={lab.user}", f"password={lab.password}",
            f"ca={lab.ca_file}", f"state_dir={self.site.root / 'state'}",
        )  # fmt: skip
        sources = [word for parameter in parameters for word in ("--source", parameter)]
        return (*here(self.site), *sources, "--grace", "5")

    @property
    def is_on(self) -> bool:
        vms = self.lab.state()["vms"]
        return bool({vm["ext_id"]: vm["power"] for vm in vms}[self.site.vm_id] == "ON")

    def cycle_when_off(self) -> None:
        """The source goes on, and comes to a cycle when the guest is down."""
        deadline = time.monotonic() + 30
        while self.is_on and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.5)
        self.site.cycle(taken=int(time.time()) + 5)


@pytest.fixture
def planned(lab: Lab, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Planned:
    site = Site(tmp_path, capsys, vm_id=lab.create_vm("web01", list(SIZES.values())))
    site.copies.mkdir()
    site.cycle()
    return Planned(site, lab)


def test_a_planned_failover_loses_nothing(planned: Planned) -> None:
    site = planned.site
    source = threading.Thread(target=planned.cycle_when_off)
    source.start()
    site.good("planned", *planned.words)
    source.join()
    was_on = planned.is_on
    assert not was_on
    assert site.is_copy_of(site.copies / "web01-failover", 2)
    refused = site.refused("undo", site.vm_id)
    assert "say --source prism=" in refused
    site.good("undo", site.vm_id, *planned.words[5:])
    assert planned.is_on
    assert site.state()["state"] == "replicating"


def test_without_a_last_cycle_the_source_is_on_again(planned: Planned) -> None:
    status, said = planned.site.run("planned", *planned.words, "--patience", "1")
    assert status == 1
    assert "no cycle came within 1 s" in said
    assert "planned is taken back: the replica is replicating" in said
    assert planned.is_on
    assert planned.site.cycle() == 2


def test_told_to_stop_it_takes_all_back(planned: Planned) -> None:
    def stop() -> None:
        while planned.is_on:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    stopper = threading.Thread(target=stop)
    stopper.start()
    status, said = planned.site.run("planned", *planned.words)
    stopper.join()
    assert status == 1
    assert "told to stop by SIGTERM" in said
    assert planned.is_on
    assert planned.site.state()["doing"] == ""


def test_a_source_that_is_lost_in_between(planned: Planned) -> None:
    """The storm comes while the source is down: what cannot be taken back is abandoned."""
    site = planned.site
    planned.lab.faults.status("POST */$actions/power-on", 400, times=3)
    status, said = site.run("planned", *planned.words, "--patience", "1")
    assert status == 1
    assert "failover recover" in said
    status, said = site.run("status")
    assert status == 1
    assert "broke off" in said
    (replica,) = statuses(Store(site.store), time.time())
    assert (replica.level, replica.why) == (Level.CRITICAL, "planned broke off: failover recover")
    with ledger.opened(replica_folder := site.replica.files.path):
        assert not ledger.broke_off(replica_folder, ledger.read(replica_folder))
    assert "possible: recover" in site.refused("unplanned", *planned.words[:5])
    assert "say --source prism=" in site.refused("recover", "web01")
    said = site.good("recover", "web01", "--abandon")
    assert "not done: switch the source on" in said
    planned.lab.faults.clear()
    site.good("unplanned", *planned.words[:5])
    assert site.state()["state"] == State.FAILED_OVER.value
    assert site.is_copy_of(site.copies / "web01-failover", 1)


def test_names_from_the_network_move_no_cursor(site: Site) -> None:
    replica = stored.find(site.store, "web01")
    assert ledger.read(replica.folder).state is State.REPLICATING
    assert stored._printable("a\x1b[2Jb\nc") == "a?[2Jb?c"


def test_copies_of_one_point_are_equal(site: Site) -> None:
    site.good("test", *here(site), "--name", "one", "--point", 2)
    site.good("end-test", "web01")
    site.good("test", *here(site), "--name", "other", "--point", 2)
    site.cycle()
    site.good("unplanned", *here(site), "--point", 2)
    first, second = site.copies / "other", site.copies / "web01-failover"
    assert filecmp.cmp(first / "disk-0.raw", second / "disk-0.raw", shallow=False)
