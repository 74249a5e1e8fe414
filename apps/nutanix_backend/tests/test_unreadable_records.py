"""A record of Prism that cannot be read costs the VM it is about, and no other."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from ptcomm import Level, Severity
from ptcomm_runner import jobs
from ptcomm_runner.catalog import Status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ptcomm_runner.jobs import Result

    from apps.nutanix_backend.tests.conftest import Product

MIB = 1 << 20
FULL, INCREMENTAL = Level.FULL, Level.INCREMENTAL


def texts(result: Result, severity: Severity) -> str:
    return "\n".join(message.text for message in result.log if message.severity is severity)


@contextmanager
def damaged(product: Product, path: str, name: str, harm: Callable[[Any], Any]) -> Iterator[None]:
    """Harm the entry of this name in each answer to a list."""

    def edit(body: dict[str, Any]) -> None:
        for entry in body.get("data") or []:
            if entry.get("name") == name:
                harm(entry)

    product.lab.faults.edit(f"GET */{path}", edit, times=1000)
    try:
        yield
    finally:
        product.lab.faults.clear()


HOLES: list[tuple[str, Callable[[Any], Any]]] = [
    ("cluster: is missing", lambda vm: vm.pop("cluster")),
    ("disks[0].backingInfo: is missing", lambda vm: vm["disks"][0].pop("backingInfo")),
    (
        "disks[0].backingInfo.diskSizeBytes: is missing",
        lambda vm: vm["disks"][0]["backingInfo"].pop("diskSizeBytes"),
    ),
    ("name: is missing", lambda vm: vm.pop("name")),
    ("numSockets: is missing", lambda vm: vm.pop("numSockets")),
]


@pytest.mark.parametrize(("problem", "harm"), HOLES, ids=[problem for problem, _ in HOLES])
def test_another_vm_is_backed_up_and_restored(
    product: Product, problem: str, harm: Callable[[Any], Any]
) -> None:
    good, odd = product.guest(MIB), product.guest(MIB)
    with damaged(product, "ahv/config/vms", odd.name, harm):
        result = product.backup(FULL, good)
        assert result.status is Status.GOOD, result.log
        assert problem in texts(result, Severity.WARNING)
        assert odd.ext_id in texts(result, Severity.WARNING)
        restored = product.restore("/", restore_vm_name=f"copy of {good.name}")
        assert restored.status is Status.GOOD, restored.log
        assert problem in texts(restored, Severity.WARNING)
    product.assert_restores(result, good)


def test_of_several_vms_only_the_unreadable_one_fails(product: Product) -> None:
    guests = [product.guest(MIB, name=f"shop-{letter}") for letter in "abc"]
    with damaged(product, "ahv/config/vms", "shop-b", lambda vm: vm.pop("cluster")):
        result = product.backup(FULL, vm="shop-*")
    assert result.status is Status.WARNINGS, result.log
    assert "VM shop-b is not backed up: VM shop-b (" in texts(result, Severity.NONFATAL)
    (job,) = product.jobs()
    for guest, is_saved in zip(guests, (True, False, True), strict=True):
        assert any(guest.ext_id in file.file.name for file in job.files) is is_saved


@pytest.mark.parametrize(
    "parameters", [{"vm": "shop-x"}, {"vm": "shop-*", "abort_on_error": "yes"}]
)
def test_who_asks_only_for_an_unreadable_vm_gets_an_error(
    product: Product, parameters: dict[str, Any]
) -> None:
    product.guest(MIB, name="shop-x")
    with damaged(product, "ahv/config/vms", "shop-x", lambda vm: vm.pop("cluster")):
        result = product.backup(FULL, **parameters)
    assert result.status is Status.FAILED
    assert "VM shop-x (" in texts(result, Severity.FATAL)
    assert "cluster: is missing" in texts(result, Severity.FATAL)


def test_the_vms_of_an_unreadable_cluster_fail_and_are_named(product: Product) -> None:
    guest = product.guest(MIB)
    name = product.lab.cluster_name
    with damaged(product, "config/clusters", name, lambda cluster: cluster.update(network=7)):
        result = product.backup(FULL, guest)
    assert result.status is Status.FAILED
    assert f"cluster {name} (" in texts(result, Severity.FATAL)


def test_an_unreadable_subnet_stops_no_backup(product: Product) -> None:
    guest = product.guest(MIB)
    with damaged(product, "config/subnets", "lab-net-2", lambda subnet: subnet.update(extId=7)):
        result = product.backup(FULL, guest)
        rows = jobs.query("query", product.settings(query="vms"))
    assert result.status is Status.GOOD, result.log
    assert "subnet lab-net-2 cannot be read: extId" in texts(result, Severity.WARNING)
    assert any(guest.name in row for row in rows.rows)
