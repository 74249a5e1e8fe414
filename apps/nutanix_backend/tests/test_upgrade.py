"""What released versions have left is read by this one: backups, state and journals.

`frozen/VERSION.tar.xz` was made by that version against the lab: the runner's folder after a full,
two incrementals, a differential and an incremental of two VMs; the state of that host, and the
state after a job that was killed; and the SHA-256 of each disk in the recovery point of each job.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import pytest
from command_line import program
from nutanix_backend.__main__ import command_line
from nutanix_backend.cluster import journal
from nutanix_backend.references.state import StateFile
from ptcomm import Level, Severity
from ptcomm_runner.catalog import Status

from apps.nutanix_backend.tests.conftest import said

if TYPE_CHECKING:
    from apps.nutanix_backend.tests.conftest import Product

KIB, MIB = 1 << 10, 1 << 20
WITH_FILTER: Any = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
"""Python 3.11 of Debian 12 has no filter, later ones warn without it."""
RELEASES = sorted((Path(__file__).parent / "frozen").glob("*.tar.xz"))


@attrs.frozen
class Frozen:
    """What a version has left in a folder."""

    folder: Path

    @property
    def expected(self) -> Any:
        """The SHA-256 of the disks by job and VM, and the names of the VMs."""
        return json.loads((self.folder / "expected.json").read_text())

    def states(self, name: str = "state") -> list[Path]:
        """The state of each VM."""
        return sorted((self.folder / name / "bitmap").glob("*/*.json"))


@pytest.fixture(params=RELEASES, ids=lambda path: path.name)
def frozen(request: pytest.FixtureRequest, product: Product) -> Frozen:
    """The folders of a version; its backups are those of the product."""
    with tarfile.open(request.param) as archive:
        archive.extractall(product.root / "frozen", **WITH_FILTER)
    found = Frozen(product.root / "frozen")
    (found.folder / "store").rename(product.root / "store")
    return found


def test_every_backup_restores_to_the_same_bytes(frozen: Frozen, product: Product) -> None:
    assert len(frozen.expected["jobs"]) == 5
    for job_id, vms in frozen.expected["jobs"].items():
        where = product.root / f"restored-{job_id}"
        product.good_restore(where, job_id=int(job_id))
        for vm_id, digests in vms.items():
            images = sorted(where.rglob(f"{vm_id}/disks/disk-*.raw"))
            assert [digest(image) for image in images] == digests


def digest(image: Path) -> str:
    """The SHA-256 of a disk."""
    return hashlib.sha256(image.read_bytes()).hexdigest()


def test_a_vm_is_made_of_the_newest_backup(frozen: Frozen, product: Product) -> None:
    vm_id = frozen.expected["vms"]["web01"]
    result = product.good_restore(
        include=(f"*/{vm_id}/*",),
        restore_vm_name="web01-back",
        target_cluster=product.lab.cluster_name,
    )
    assert any("is restored as web01-back" in m.text for m in result.log)
    images = [product.lab.disk_file("web01-back", index) for index in range(2)]
    assert [digest(image) for image in images] == frozen.expected["jobs"]["5"][vm_id]


def test_the_backups_are_verified_where_they_are(
    product: Product, frozen: Frozen, capsys: pytest.CaptureFixture[str]
) -> None:
    assert len(frozen.states()) == 2
    code = program.run(command_line(), ["verify", "--store", str(product.root / "store")])
    printed = capsys.readouterr()
    assert printed.out.count("undamaged; it was saved without a digest list") == 5 * 3
    assert (code, printed.err) == (program.DONE, "")


def test_the_state_of_each_vm_is_read(frozen: Frozen) -> None:
    assert len(frozen.states()) == 2
    for path in frozen.states():
        state, problem = StateFile(path, path.stem).load()
        assert problem == ""
        assert state.references()
        assert state.jobs[-1].level == "I"


def test_a_chain_goes_on_after_the_upgrade(frozen: Frozen, product: Product) -> None:
    """The state of a full, in the words of the old version, is the base of the next job."""
    guest = product.guest(2 * MIB, MIB)
    (product.root / "store").rename(product.root / "store of the old version")
    product.good_backup(Level.FULL, guest)
    (path,) = (product.root / "state" / "bitmap").glob("*/*.json")
    path.write_text(json.dumps(in_words_of(json.loads(path.read_text()), old_words(frozen))))
    guest.write(0, 300 * KIB, 70 * KIB)
    result = product.good_backup(Level.INCREMENTAL, guest)
    assert all(name.endswith(("phcbt01", "digests")) for name in product.files(result, guest))
    product.assert_restores(result, guest)


def old_words(frozen: Frozen) -> set[str]:
    """Every name of a field in the state of the old version."""
    found: set[str] = set()
    for path in frozen.states():
        json.loads(path.read_text(), object_hook=found.update)
    return found


def in_words_of(value: Any, words: set[str]) -> Any:
    """JSON without the fields that the old version did not have."""
    if isinstance(value, dict):
        return {key: in_words_of(item, words) for key, item in value.items() if key in words}
    return [in_words_of(item, words) for item in value] if isinstance(value, list) else value


def test_what_a_killed_job_left_is_found(frozen: Frozen) -> None:
    (found,) = journal.abandoned(frozen.folder / "state-killed")
    assert found.header.job.startswith("job.")
    assert found.pending


def test_a_state_of_a_newer_version_costs_a_full_and_says_so(product: Product) -> None:
    """This is a downgrade: the field is one of a version to come."""
    guest = product.guest(MIB)
    product.good_backup(Level.FULL, guest)
    (path,) = (product.root / "state" / "bitmap").glob("*/*.json")
    state = json.loads(path.read_text())
    path.write_text(json.dumps({**state, "of_the_future": 1}))
    result = product.backup(Level.INCREMENTAL, guest)
    assert result.status is Status.GOOD
    (line,) = [text for text in said(result, Severity.WARNING) if "in full" in text]
    assert f"the state file {path} cannot be used" in line
    assert "of_the_future" in line
    product.assert_restores(result, guest)
