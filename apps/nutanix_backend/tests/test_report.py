"""The report: what is proven of backups and replicas, from what this host has recorded."""

from __future__ import annotations

import json
import os
import re
import time
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import attrs
from command_line import program
from nutanix_backend.__main__ import command_line
from nutanix_backend.cli import page
from nutanix_backend.queries.protection import Protection, Tried
from nutanix_backend.references import evidence
from nutanix_backend.references.known import Blocks
from prism_lab import tracking
from ptcomm import Level
from vm_replica.evidence import Evidence, Trial, TrialKind, trial

from apps.nutanix_backend.tests.conftest import MIB
from apps.replica_receiver.tests.failover_site import Site

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from apps.nutanix_backend.tests.conftest import Guest, Product

FULL, INCREMENTAL = Level.FULL, Level.INCREMENTAL
NOW = 1_800_000_000


def run(*words: object) -> int:
    return program.run(command_line(), list(map(str, words)))


def report(host: Product, *more: object) -> list[dict[str, Any]]:
    """The rows of the JSON file."""
    file = host.root / "report.json"
    host.root.mkdir(exist_ok=True)
    assert run("report", "--json", file, f"state_dir={host.root / 'state'}", *more) == 0
    rows: list[dict[str, Any]] = json.loads(file.read_text())["rows"]
    return rows


def only(host: Product) -> dict[str, Any]:
    (row,) = report(host)
    return row


def verify(host: Product) -> int:
    return run("verify", "--store", host.store.root, "--state-dir", host.root / "state")


def saved(host: Product) -> Guest:
    """A VM with a full and an incremental."""
    guest = host.guest(2 * MIB, MIB)
    host.good_backup(FULL, guest)
    guest.write(0, MIB, 65536)
    host.good_backup(INCREMENTAL, guest)
    return guest


def test_a_vm_that_is_only_saved(product: Product) -> None:
    guest = saved(product)
    row = only(product)
    assert (row["kind"], row["name"], row["uuid"]) == ("VM", guest.name, guest.ext_id)
    assert row["cluster"] == product.lab.cluster_name
    assert row["point"] == product.jobs()[-1].job_name
    assert row["age"] < 600
    assert row["proof"] == row["drill"] == {"good": None, "failed": None}
    assert row["blocks"]["total"] == 3
    assert not row["problems"]


def test_what_verify_finds_is_in_the_report(product: Product) -> None:
    saved(product)
    assert verify(product) == 0
    row = only(product)
    assert row["proof"]["good"]["point"] == product.jobs()[-1].job_name
    assert row["proof"]["failed"] is None
    (stored,) = [
        product.store.file_path(product.jobs()[-1], file)
        for file in product.jobs()[-1].files
        if file.file.name.endswith(".phcbt01") and file.data_bytes > 1000
    ]
    content = stored.read_bytes()
    stored.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert verify(product) == 2
    row = only(product)
    assert row["proof"]["good"]["point"] == product.jobs()[0].job_name
    assert row["proof"]["failed"]["point"] == product.jobs()[-1].job_name
    assert "is not what was backed up: it is damaged" in row["problems"][0]
    stored.write_bytes(content)
    assert verify(product) == 0
    assert not only(product)["problems"]


def test_what_a_restore_proves_is_in_the_report(product: Product) -> None:
    saved(product)
    product.good_restore(restore_to="verify", disk="0")
    assert only(product)["proof"]["good"] is None, "one of two disks is no proof of the VM"
    product.good_restore(restore_to="verify")
    assert only(product)["proof"]["good"]["text"] == "2 disks put together and compared"
    product.good_restore(restore_drill="yes", drill_wait="1")
    assert "it stayed on" in only(product)["drill"]["good"]["text"]


def test_a_restore_that_finds_what_the_list_of_changes_left_out(product: Product) -> None:
    guest = product.guest(4 * MIB)
    product.good_backup(FULL, guest)
    for part in range(3):
        guest.write(0, 2 * MIB + 2 * part * 65536, 65536)
    product.lab.spoil_changes(tracking.forget(1))
    product.good_backup(INCREMENTAL, guest, scrub="0")
    product.lab.spoil_changes(None)
    product.restore(restore_to="verify")
    row = only(product)
    assert row["proof"]["good"] is None
    assert "is not the one that was backed up" in row["problems"][0]


def test_a_vm_that_nobody_saves_any_more(product: Product) -> None:
    guest = saved(product)
    (path,) = (product.root / "state" / "bitmap").rglob(f"{guest.ext_id}.json")
    long_ago = time.time() - 5 * 86_400
    os.utime(path, (long_ago, long_ago))
    row = only(product)
    assert row["problems"] == ["not saved for 5 days"]
    assert row["age"] >= 5 * 86_400


def test_replicas(product: Product, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    site = Site(tmp_path / "receiver", capsys)
    site.cycle(taken=int(time.time()) - 5)
    (row,) = report(product, "--replicas", site.store)
    assert (row["kind"], row["name"], row["point"]) == ("replica", "web01", "generation 1")
    assert row["blocks"] is None
    assert not row["problems"]
    assert run("verify", "--store", site.store) == 0
    (row,) = report(product, "--replicas", site.store)
    assert row["proof"]["good"]["point"] == "generation 1"
    (image,) = site.store.rglob("disk-a.raw")
    with image.open("r+b") as file:
        file.seek(2 * MIB)
        file.write(b"rot")
    assert run("verify", "--store", site.store) == 2
    (row,) = report(product, "--replicas", site.store)
    assert "the proof of generation 1 failed" in row["problems"][0]


def test_a_replica_that_is_late(
    product: Product, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    site = Site(tmp_path / "receiver", capsys)
    site.cycle()
    (row,) = report(product, "--replicas", site.store)
    assert "60 s are allowed" in row["problems"][0]


def test_nothing_is_written_without_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("report") == 1
    assert "say where the report goes" in capsys.readouterr().err


# --- what is recorded ----------------------------------------------------------------------------


def test_of_each_kind_the_last_and_the_last_good_one_are_kept() -> None:
    known = Evidence()
    for when, good in ((1, True), (2, True), (3, False), (4, False)):
        for kind in TrialKind:
            known = known.with_trial(Trial(kind, when, f"job {when}", good, ""))
    assert len(known.trials) == 4
    assert known.last(TrialKind.DRILL) == Trial(TrialKind.DRILL, 4, "job 4", False, "")
    assert known.last(TrialKind.DRILL, good=True) == Trial(TrialKind.DRILL, 2, "job 2", True, "")


def test_of_two_at_the_same_second_the_later_counts() -> None:
    good, bad = (Trial(TrialKind.PROOF, 1, "job", good, "") for good in (True, False))
    assert Evidence().with_trial(good).with_trial(bad).last(TrialKind.PROOF) == bad
    assert Evidence().with_trial(bad).with_trial(good).last(TrialKind.PROOF) == good


def test_evidence_that_cannot_be_read_is_none(tmp_path: Path) -> None:
    whose = Evidence(cluster="a/b", vm_id="x", vm_name="web")
    assert not evidence.record(tmp_path, whose, trial(TrialKind.PROOF, "job"))
    (known,) = evidence.recorded(tmp_path)
    assert attrs.evolve(known, trials=()) == whose
    (path,) = tmp_path.rglob("*.json")
    path.write_text("{")
    assert list(evidence.recorded(tmp_path)) == [Evidence()]
    blocked = tmp_path / "file"
    blocked.touch()
    assert "is not recorded" in evidence.record(blocked, whose, trial(TrialKind.PROOF, "job"))


# --- the page ------------------------------------------------------------------------------------

GOOD = Trial(TrialKind.PROOF, NOW - 3600, "job 7", True, "2 disks put together and compared")
BAD = Trial(TrialKind.DRILL, NOW - 60, "job 8", False, "it was on for 300 s, but ...")


def sample() -> list[Protection]:
    """A VM of which all is known, one of which nothing is, and one with a hostile name."""
    return [
        Protection(
            "VM", "web01", "u-1", "lab", "job 8", NOW - 7200, 7200, Tried(GOOD), Tried(failed=BAD),
            Blocks(100, 3, NOW - 86_400), ("the drill of job 8 failed",),
        ),
        Protection("VM", "db01", "u-2", ""),
        Protection("replica", "<script>alert(1)</script>", "u-3", "a&b", "generation 1", NOW, 0),
    ]  # fmt: skip


class Page(HTMLParser):
    """What a page is made of."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_needs_nothing_and_runs_nothing() -> None:
    found = Page(page.render(sample(), host="<backup>", now=NOW))
    assert not {"script", "link", "img", "iframe", "form", "object"} & set(found.tags)
    assert not [name for name, _ in found.attributes if name in {"src", "href", "style"}]
    assert not [name for name, _ in found.attributes if name.startswith("on")]
    assert "<script>alert(1)</script>" in found.text
    assert "url(" not in page._STYLE
    assert "@import" not in page._STYLE


def test_the_page_says_all_that_is_known() -> None:
    text = Page(page.render(sample(), host="backup", now=NOW)).text
    for words in (
        "3 VMs and replicas, 1 with problems", "web01", "2:00:00", "job 7: 2 disks put together",
        "failed 2027-01-15 07:59", "3 of 100 blocks of 1 MiB never read", "no digest list",
        "the drill of job 8 failed",
    ):  # fmt: skip
        assert words in text
    assert len(re.findall("never", text)) > 3
