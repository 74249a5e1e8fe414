"""Digest lists: each job knows its disks as they are after it, and each restore is held to that."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import pytest
from digests import ImageDigests, StreamDigest
from nutanix_backend.disks.targets import ImageTarget, at_path
from nutanix_backend.errors import RestoreFailed, StateError
from nutanix_backend.references import state
from nutanix_backend.references.lists import ListStore
from nutanix_backend.references.proven import ProvenTimes
from nutanix_backend.restore.plan import plan_vm
from nutanix_backend.restore.writer import DiskWriter
from phcbt01.testing import encode
from ptcomm import Level, Severity

from apps.nutanix_backend.tests.conftest import plain_root, said

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ptcomm_runner.jobs import Result

    from apps.nutanix_backend.tests.conftest import Guest, MadeUp, Product

KIB, MIB = 1 << 10, 1 << 20
FULL, INCREMENTAL, DIFFERENTIAL = Level.FULL, Level.INCREMENTAL, Level.DIFFERENTIAL


def assert_lists_are_right(product: Product, result: Result, guest: Guest) -> None:
    """Roots and list files of a job are those of the lab's recovery point."""
    (job,) = (job for job in product.jobs() if job.job_id == result.job_id)
    lists = {
        stored.file.name.split("/disks/disk-")[1].split("-")[0]: stored
        for stored in job.files
        if f"/{guest.ext_id}/" in stored.file.name and stored.file.name.endswith(".digests")
    }
    points = product.points(result, guest)
    manifest = product.manifest(result, guest)
    assert len(manifest.disks) == len(lists) == len(points)
    for entry, point in zip(manifest.disks, points, strict=True):
        assert entry.image_root == plain_root(point.read_bytes()), f"disk {entry.index}"
        content = product.store.file_path(job, lists[str(entry.index)]).read_bytes()
        assert ImageDigests.decode(content).root() == entry.image_root


def test_a_restore_takes_every_file_that_the_daemon_counts(product: Product) -> None:
    """Bacula reports one that is refused as a mismatch of files expected and restored."""
    guest = product.guest(2 * MIB)
    product.good_backup(FULL, guest)
    guest.write(0, 0, 64 * KIB)
    product.good_backup(INCREMENTAL, guest)
    assert not said(product.good_restore(product.root / "restored"), Severity.SKIPPED)


def lists_on_host(product: Product) -> list[Path]:
    return list((product.root / "state" / state.BACKUP).rglob("*.digests"))


def test_every_job_has_the_lists_of_its_disks(product: Product) -> None:
    guest = product.guest(5 * MIB, 3 * MIB + 512 * KIB)
    full = product.good_backup(FULL, guest)
    guest.write(0, MIB + 4 * KIB, 64 * KIB)
    guest.discard(0, 2 * MIB, 2 * MIB)
    guest.grow(1, 6 * MIB)
    guest.add_disk(2 * MIB)
    guest.write(2, 700 * KIB, 700 * KIB)
    first = product.good_backup(INCREMENTAL, guest)
    guest.write(1, 5 * MIB, 10)
    second = product.good_backup(INCREMENTAL, guest)
    differential = product.good_backup(DIFFERENTIAL, guest)
    for result in (full, first, second, differential):
        assert_lists_are_right(product, result, guest)
        product.assert_restores(result, guest)
    assert len(lists_on_host(product)) <= 3 * 3, "of the disks of the references that are kept"
    (line,) = (text for text in said(second, Severity.INFO) if "for the digest lists" in text)
    assert "compared, 1.0 MiB with changes in part read" in line


def test_a_list_that_is_not_on_the_host_is_made_by_reading_the_disk(product: Product) -> None:
    guest = product.guest(4 * MIB)
    product.good_backup(FULL, guest)
    (path,) = lists_on_host(product)
    path.write_bytes(b"damaged")
    guest.write(0, 100 * KIB, 100 * KIB)
    result = product.good_backup(INCREMENTAL, guest)
    (line,) = (text for text in said(result, Severity.INFO) if "as a whole once" in text)
    assert line == (
        f"VM {guest.name} disk 0 is read as a whole once: the digest list of its last backup "
        "is not on this host"
    )
    assert set(product.files(result, guest)) == {"0-phcbt01"}, "no full is needed"
    assert_lists_are_right(product, result, guest)
    guest.write(0, MIB, 10)
    after = product.good_backup(INCREMENTAL, guest)
    assert not any("as a whole" in text for text in said(after, Severity.INFO))
    assert_lists_are_right(product, after, guest)


# --- the lists on the host -----------------------------------------------------------------------


def a_list(content: bytes = b"content") -> ImageDigests:
    image = ImageDigests(len(content))
    image.update(0, content)
    return image


def test_the_state_keeps_the_lists_that_it_names_and_no_others(tmp_path: Path) -> None:
    file = state.StateFile(tmp_path / "cluster" / "vm.json", "vm")
    kept, gone = a_list(), a_list(b"other")
    for image in (kept, gone):
        file.lists.save(image, ProvenTimes(image.size))
    disk = state.DiskReference("d", 7, "p", kept.root())
    reference = state.Reference("r", "v", "sha256:m", (disk,))
    record = state.JobRecord("job", 1, "F", "", state.SENT, reference)
    file.save(state.VmState(state.SCHEMA, "vm", (record,)))
    assert file.load()[0].jobs == (record,)
    found = file.lists.load(kept.root())
    assert found is not None
    assert found.encode() == kept.encode()
    assert file.lists.load(gone.root()) is None
    file.remove()
    assert list((tmp_path / "cluster").iterdir()) == []


def test_a_list_is_what_its_name_says_or_not_there(tmp_path: Path) -> None:
    store = ListStore(tmp_path / "lists")
    image = a_list()
    assert store.load("") is None
    store.save(image, ProvenTimes(image.size))
    (path,) = (tmp_path / "lists").glob("*.digests")
    for content in (a_list(b"other").encode(), b"", image.encode()[:-1]):
        path.write_bytes(content)
        assert store.load(image.root()) is None


def test_a_list_that_cannot_be_removed_stays_until_the_next_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ListStore(tmp_path / "lists")
    store.save(a_list(), ProvenTimes(7))
    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.unlink", fails)
        store.keep_only(set())
    assert store.load(a_list().root()) is not None
    store.keep_only(set())
    assert not (tmp_path / "lists").exists()


def fails(path: Path) -> None:
    raise OSError(f"{path} is on a damaged disk")


def test_a_list_that_cannot_be_saved_is_an_error_of_the_state(tmp_path: Path) -> None:
    (tmp_path / "lists").write_text("a file")
    with pytest.raises(
        StateError, match=r"digest list of a disk cannot be saved.*check free space"
    ):
        ListStore(tmp_path / "lists").save(a_list(), ProvenTimes(7))


# --- restores are held to them -------------------------------------------------------------------

SIZE = 2 * MIB + 4 * KIB


@pytest.fixture
def backup(made_up: type[MadeUp]) -> MadeUp:
    """A disk in a full and two incrementals, growing in the last."""
    backup = made_up(with_roots=True)
    backup.full(bytes(range(256)) * (SIZE // 256))
    backup.incremental([(3, b"first"), (MIB, bytes(MIB))])
    backup.incremental([(4, b"second"), (SIZE, b"grown")], sizes=[SIZE + 8 * KIB])
    return backup


def restore(backup: MadeUp, path: Path, *, verify: bool = False) -> DiskWriter:
    (chain,) = plan_vm(backup.manifests).disks
    writer = DiskWriter(chain, at_path(path), verify=verify)
    try:
        for file in chain.files:
            content = memoryview(backup.files[file.name])
            writer.begin(file.name)
            for at in range(0, len(content), 100_000):
                writer.write(content[at : at + 100_000])
            writer.end()
    finally:
        writer.abandon()
    return writer


@pytest.mark.parametrize("verify", [False, True])
def test_a_chain_makes_the_disk_that_its_list_says(
    backup: MadeUp, tmp_path: Path, verify: bool
) -> None:
    path = tmp_path / "disk.raw"
    assert restore(backup, path, verify=verify).complete
    assert path.read_bytes() == backup.images[0]


def replaced(backup: MadeUp, number: int, stream: bytes) -> None:
    """Put another valid delta in the place of one, with a manifest that says so.

    Everything agrees: the digest of the stream, and the base of each manifest above it.
    """
    manifests, base = [], ""
    for at, manifest in enumerate(backup.manifests):
        (entry,) = manifest.disks
        if at == number:
            backup.files[entry.file] = stream
            digest = StreamDigest()
            digest.update(stream)
            entry = attrs.evolve(entry, digest=digest.text(), stream_bytes=len(stream))
        if at:
            entry = attrs.evolve(entry, base=base)
        manifests.append(attrs.evolve(manifest, disks=(entry,)))
        base = manifests[-1].digest()
    backup.manifests = manifests


@pytest.mark.parametrize("verify", [False, True])
@pytest.mark.parametrize("number", [1, 2])
def test_a_delta_of_another_chain_is_refused_although_every_digest_is_right(
    backup: MadeUp, tmp_path: Path, number: int, verify: bool
) -> None:
    size = backup.manifests[number].disks[0].size
    replaced(backup, number, encode(size, [(9 * KIB, b"of another chain")]))
    path = tmp_path / "disk.raw"
    with pytest.raises(RestoreFailed) as caught:
        restore(backup, path, verify=verify)
    assert str(caught.value) == (
        "disk 0 is not the one that was backed up, although each of its 3 files is as it was "
        "saved: a file of another backup is among them, or Prism left changes out of its list; "
        "this disk is not restored: restore an earlier backup, and run a full backup now"
    )
    assert not list(tmp_path.iterdir())


def test_the_same_delta_in_its_place_is_no_fault(backup: MadeUp, tmp_path: Path) -> None:
    """What is replaced above is refused for its content, not because manifests were rebuilt."""
    replaced(backup, 1, backup.files[backup.manifests[1].disks[0].file])
    assert restore(backup, tmp_path / "disk.raw").complete


def test_a_backup_of_before_there_were_lists_goes_on(
    made_up: Callable[..., MadeUp], tmp_path: Path
) -> None:
    backup = made_up()
    backup.full(bytes(SIZE))
    backup.with_roots = True
    backup.incremental([(3, b"first")])
    assert not backup.manifests[0].disks[0].image_root
    assert restore(backup, tmp_path / "disk.raw").complete


def test_with_verify_a_block_that_changed_on_the_medium_is_found(
    backup: MadeUp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one that the last file did not write."""
    whole = ImageTarget.read_into

    def damaged(target: ImageTarget, offset: int, buffer: memoryview) -> None:
        whole(target, offset, buffer)
        if offset == MIB:
            buffer[-1] ^= 1

    monkeypatch.setattr(ImageTarget, "read_into", damaged)
    assert restore(backup, tmp_path / "without.raw").complete, "nobody looks at that block"
    with pytest.raises(RestoreFailed, match="does not hold what was written to it: is the medium"):
        restore(backup, tmp_path / "disk.raw", verify=True)
    assert [path.name for path in tmp_path.iterdir()] == ["without.raw"]
