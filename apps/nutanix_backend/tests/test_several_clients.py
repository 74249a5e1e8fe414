"""Two clients that back up the same VMs, and a client that moves to another host."""

from __future__ import annotations

import io
import json
import tarfile
from typing import TYPE_CHECKING

import attrs
import pytest
from command_line import program
from nutanix_backend.__main__ import command_line
from nutanix_backend.errors import StateError
from nutanix_backend.references import transfer
from nutanix_backend.references.state import StateFile
from ptcomm import Level

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from prism_lab import Lab

    from apps.nutanix_backend.tests.conftest import Guest, Product

KIB, MIB = 1 << 10, 1 << 20
FULL, INCREMENTAL, DIFFERENTIAL = Level.FULL, Level.INCREMENTAL, Level.DIFFERENTIAL


@pytest.fixture
def other(lab: Lab, tmp_path: Path, make_product: Callable[[Lab, Path], Product]) -> Product:
    """Another host with the product, for the same cluster."""
    return make_product(lab, tmp_path / "other")


def run(*words: object, status: int = program.DONE) -> None:
    """Run the program."""
    assert program.run(command_line(), [str(word) for word in words]) == status


def changed(guest: Guest) -> Guest:
    """The guest has written something new."""
    guest.write(0, 300 * KIB, 70 * KIB)
    return guest


def test_two_clients_do_not_disturb_each_other(product: Product, other: Product) -> None:
    """Each has its own references, under the same name of a job."""
    guest = product.guest(2 * MIB)
    hosts = [attrs.evolve(host, references=6) for host in (product, other)]
    results = [host.good_backup(FULL, guest) for host in hosts]
    for level in (INCREMENTAL, INCREMENTAL, DIFFERENTIAL, INCREMENTAL):
        results = [host.good_backup(level, changed(guest)) for host in hosts]
    for host, result in zip(hosts, results, strict=True):
        host.assert_restores(result, guest)


def test_a_sweep_leaves_alone_what_another_client_needs(
    product: Product, other: Product, capsys: pytest.CaptureFixture[str]
) -> None:
    guest = product.guest(MIB)
    product.good_backup(FULL, guest)
    words = [f"{name}={value}" for name, value in other.parameters() if name != "password"]
    (other.root / "password").parent.mkdir(exist_ok=True, parents=True)
    (other.root / "password").write_text(f"{other.lab.password}\n")
    run("sweep", *words, f"password_file={other.root / 'password'}")
    product.good_backup(INCREMENTAL, changed(guest))


def test_a_client_moves_to_another_host(
    product: Product, other: Product, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    guests = [product.guest(2 * MIB), product.guest(MIB)]
    product.good_backup(FULL, *guests)
    archive = tmp_path / "chains.tar.gz"
    run("state", "export", archive, f"state_dir={product.root / 'state'}")
    other.root.mkdir()
    (product.root / "store").rename(other.root / "store")  # the Director has the jobs of both
    run("state", "import", archive, f"state_dir={other.root / 'state'}")
    assert capsys.readouterr().out.count("the chains of 2 VMs") == 2
    result = other.good_backup(INCREMENTAL, *map(changed, guests))
    other.assert_restores(result, *guests)


def exported(product: Product, archive: Path) -> Path:
    """The state of the host in an archive."""
    transfer.export(product.root / "state", archive)
    return archive


def test_an_import_that_came_half_way_is_done_again(
    product: Product, other: Product, tmp_path: Path
) -> None:
    product.good_backup(FULL, product.guest(MIB))
    archive = exported(product, tmp_path / "chains.tar.gz")
    for _ in range(2):
        assert transfer.import_from(archive, other.root / "state") == 1


def test_a_chain_of_this_host_is_not_replaced(
    product: Product, other: Product, tmp_path: Path
) -> None:
    guests = [product.guest(MIB), product.guest(MIB)]
    product.good_backup(FULL, *guests)
    attrs.evolve(other, references=6).good_backup(FULL, guests[1])
    archive = exported(product, tmp_path / "chains.tar.gz")
    state = other.root / "state"
    before = sorted(state.rglob("*"))
    with pytest.raises(StateError, match=r"has a chain of VM .* already"):
        transfer.import_from(archive, state)
    assert sorted(state.rglob("*")) == before


def test_a_state_in_use_is_not_exported(product: Product, tmp_path: Path) -> None:
    product.good_backup(FULL, product.guest(MIB))
    (path,) = (product.root / "state" / "bitmap").glob("*/*.json")
    archive = tmp_path / "chains.tar.gz"
    with StateFile(path, path.stem).locked():
        run("state", "export", archive, f"state_dir={product.root / 'state'}", status=1)
    assert not archive.exists()


def test_an_archive_is_not_written_over(product: Product, tmp_path: Path) -> None:
    archive = tmp_path / "chains.tar.gz"
    archive.write_text("something else")
    run("state", "export", archive, f"state_dir={product.root / 'state'}", status=1)
    assert archive.read_text() == "something else"


VM_STATE = {"schema": 1, "vm_id": "vm", "jobs": []}


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("../etc/passwd", b"", "no part of a state"),
        ("bitmap/../../x.json", b"", "no part of a state"),
        ("bitmap/../x.json", b"", "no part of a state"),
        ("identity/key.pem", b"", "no part of a state"),
        ("bitmap/c/vm.json", b"{", "cannot be used by this version"),
        ("bitmap/c/vm.json", json.dumps({**VM_STATE, "schema": 9}).encode(), "schema 9"),
        ("bitmap/c/vm.json", json.dumps({**VM_STATE, "vm_id": "x"}).encode(), "of another VM"),
        ("selected/job-1.json", b"{}", "cannot be used by this version"),
    ],
)
def test_an_archive_that_cannot_be_used_changes_nothing(
    tmp_path: Path, name: str, content: bytes, words: str
) -> None:
    archive = tmp_path / "archive.tar"
    with tarfile.open(archive, "w") as file:
        for member, data in (("bitmap/c/vm.json", json.dumps(VM_STATE).encode()), (name, content)):
            info = tarfile.TarInfo(member)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    with pytest.raises(StateError, match=words):
        transfer.import_from(archive, tmp_path / "state")
    assert not (tmp_path / "state").exists()


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "chains.tar.gz"
    file.write_text("no archive")
    run("state", "import", file, f"state_dir={tmp_path / 'state'}", status=1)
    link = tmp_path / "links.tar"
    with tarfile.open(link, "w") as archive:
        info = tarfile.TarInfo("bitmap/c/vm.json")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(info)
    with pytest.raises(StateError, match="no part of a state"):
        transfer.import_from(link, tmp_path / "state")
