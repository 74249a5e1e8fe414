"""Files that Prism copies from a restored disk into a guest that runs."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from prism_lab import Lab
from ptcomm import Level
from ptcomm_runner.catalog import Status

from apps.nutanix_backend.tests.conftest import MIB, words

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from apps.nutanix_backend.tests.conftest import Guest, Product

USER, PASSWORD = "root", "guest-password"  # of a guest in the lab
PATHS = "/etc/motd,/etc/hosts"


@pytest.fixture
def product(tmp_path: Path, make_product: Callable[[Lab, Path], Product]) -> Iterator[Product]:
    """The product with a Prism that knows the call."""
    with Lab.start(tmp_path / "lab", personality="newest", task_seconds=0) as lab:
        yield make_product(lab, tmp_path / "host")


@pytest.fixture
def guest(product: Product, tmp_path: Path) -> Guest:
    """A running VM whose second disk was saved with an ext4 on it."""
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (root / "etc" / "motd").write_text("as it was saved")
    (root / "etc" / "hosts").write_bytes(bytes(range(256)) * 5000)
    guest = product.guest(MIB, 8 * MIB)
    subprocess.run(["mke2fs", "-q", "-F", "-d", root, guest.disk(1), "8m"], check=True)
    product.good_backup(Level.FULL, guest)
    product.lab._world.vms[guest.ext_id].power_state = "ON"
    product.lab.set_guest_login(guest.name, USER, PASSWORD)
    return guest


def options(product: Product, **others: object) -> dict[str, Any]:
    """The parameters of a restore into the guest."""
    password = product.root / "guest-password"
    password.write_text(f"{PASSWORD}\n")
    password.chmod(0o600)
    given = {"restore_to": "guest", "disk": "1", "file": PATHS, "guest_user": USER}
    return {**given, "guest_password_file": password, **others}


def test_files_come_into_the_guest_and_the_disk_goes(product: Product, guest: Guest) -> None:
    result = product.good_restore(**options(product))
    assert f"2 files of VM {guest.name}" in words(result)
    found = product.lab.guest_files(guest.name)
    assert found == {
        "/etc/motd": b"as it was saved",
        "/etc/hosts": bytes(range(256)) * 5000,
    }
    assert len(product.lab.state()["vms"]) == 1
    assert PASSWORD not in words(result)


def test_another_vm_and_files_that_are_there(product: Product, guest: Guest) -> None:
    other = product.guest(MIB, name="other")
    product.lab._world.vms[other.ext_id].power_state = "ON"
    product.lab.set_guest_login("other", USER, PASSWORD)
    for wanted in ("other", other.ext_id):
        product.good_restore(**options(product, guest_vm=wanted, overwrite="yes"))
    assert product.lab.guest_files("other")["/etc/motd"] == b"as it was saved"
    refused = product.restore(**options(product, guest_vm="other"))
    assert refused.status is Status.FAILED
    assert "/etc/motd exists in the guest" in words(refused)
    assert product.lab.guest_files(guest.name) == {}


@pytest.mark.parametrize(
    ("others", "reason"),
    [
        ({"disk": None}, "takes one disk"),
        ({"file": "/etc/*"}, "whole paths and no patterns"),
        ({"file": None}, "whole paths and no patterns"),
        ({"guest_user": None}, "needs guest_user and guest_password_file"),
        ({"guest_vm": "nobody"}, "Prism knows 0 VMs called nobody"),
        ({"guest_user": "somebody"}, "the guest refuses this user"),
        ({"file": "/etc/none"}, "/etc/none cannot be read"),
    ],
)
def test_what_cannot_work_is_refused_and_leaves_nothing(
    product: Product, guest: Guest, others: dict[str, object], reason: str
) -> None:
    result = product.restore(**options(product, **others))
    assert result.status is Status.FAILED
    assert reason in words(result)
    assert product.lab.guest_files(guest.name) == {}


def test_a_guest_that_does_not_run_takes_no_files(product: Product, guest: Guest) -> None:
    product.lab._world.vms[guest.ext_id].power_state = "OFF"
    result = product.restore(**options(product))
    assert "is not switched on: its guest takes no files" in words(result)


@pytest.mark.parametrize("release", ["7.3", "2023.4"])
def test_an_older_prism_is_told_at_once(
    tmp_path: Path, make_product: Callable[[Lab, Path], Product], release: str
) -> None:
    with Lab.start(tmp_path / "lab", personality=release) as lab:
        product = make_product(lab, tmp_path / "host")
        product.good_backup(Level.FULL, product.guest(MIB))
        result = product.restore(**options(product, disk=None))
    assert "only with vmm v4.3" in words(result)
