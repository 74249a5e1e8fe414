"""The command line `failover` on the store of a receiver, with cycles going on beside it."""

from __future__ import annotations

import filecmp
import json
import os
import signal
from typing import TYPE_CHECKING

import pytest
from vm_replica.errors import Code, CycleRefused

from apps.replica_receiver.tests.failover_site import MIB, VM_ID, Site, here

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """The power is not cut here; processes are killed."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def site(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Site:
    """A replica with three generations."""
    made = Site(tmp_path, capsys)
    made.copies.mkdir()
    for _ in range(3):
        made.cycle()
    return made


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
        (("test", "nobody"), "it has web01"),
        (("test", "web01"), "say where to make the copy"),
        (("test", "web01", "--folder", "/nowhere"), "is not a folder"),
        (("test", "web01", "--folder", "{}", "--point", "9"), "there are 1, 2, 3"),
        (("planned", "web01", "--folder", "{}"), "give --source"),
        (("recover", "web01"), "possible: test or drill or planned or unplanned"),
    ],
)
def test_what_cannot_be_done_is_one_line(site: Site, words: tuple[str, ...], says: str) -> None:
    said = site.refused(*(word.format(site.copies) for word in words))
    assert says in said
    assert site.state()["state"] == "replicating"
    assert not list(site.copies.iterdir())


def test_a_damaged_replica_is_not_failed_over_to(site: Site) -> None:
    """The worst time to find that out, and better than a guest on damaged disks."""
    image = site.replica.files.image("disk-a")
    with image.open("r+b") as file:
        file.seek(1 * MIB)
        file.write(b"rot")
    status, said = site.run("unplanned", *here(site))
    assert status == 2
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


def test_copies_of_one_point_are_equal(site: Site) -> None:
    site.good("test", *here(site), "--name", "one", "--point", 2)
    site.good("end-test", "web01")
    site.good("test", *here(site), "--name", "other", "--point", 2)
    site.cycle()
    site.good("unplanned", *here(site), "--point", 2)
    first, second = site.copies / "other", site.copies / "web01-failover"
    assert filecmp.cmp(first / "disk-0.raw", second / "disk-0.raw", shallow=False)


def test_a_name_is_never_markup(site: Site) -> None:
    """A tag in the name of a VM, which rich would take for its own."""
    for vm, name in (("11111111-1111-4111-8111-111111111111", "web[/b]"), ("x", "[bold]web")):
        other = Site(site.root, site.capsys, vm_id=vm, vm_name=name)
        other.cycle()
        status, said = site.run("status")
        assert status == 0, said
        assert name in said
    status, said = site.run("test", "web[/b]", "--folder", site.copies, "--format", "raw")
    assert status == 0, said
    assert "web[/b]-test (generation 1)" in site.run("status")[1]


def test_a_target_that_is_not_installed(site: Site) -> None:
    said = site.refused("test", "web01", "--target-kind", "esx", "--target", "host=x")
    assert "no failover target esx is installed (there is:" in said
    assert "host has no parameter" in site.refused(
        "test", "web01", "--target-kind", "host", "--target", "prism=x"
    )
    assert "give the folder" in site.refused("test", "web01", "--target-kind", "host")
