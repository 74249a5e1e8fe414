"""The summary at the end of a job log."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from nutanix_backend.backup import summary
from nutanix_backend.backup.summary import SavedVm, Stopwatch
from ptcomm import Level, Severity
from ptcomm_runner import jobs
from ptcomm_runner.catalog import Status

if TYPE_CHECKING:
    from prism_lab import Lab

    from apps.nutanix_backend.tests.conftest import Product

MIB = 1 << 20


def saved(name: str, prepare: float, stream: float, clean_up: float) -> SavedVm:
    """A VM that was saved."""
    watch = Stopwatch(prepare, stream, clean_up)
    return SavedVm(name, "incremental", "", "crash", 2, 2, 3 * MIB, 4 * MIB, 64 * MIB, MIB, watch)


def test_one_vm_has_no_totals() -> None:
    line, proof = summary.lines([saved("web01", 8.04, 1.0, 2.5)], [], 11.6)
    assert line == (
        "VM web01: 2 disks (2 as changes only), 3.0 MiB read, 4.0 MiB sent, 11.5 s (8.0 s to "
        "prepare, 1.0 s to send, 2.5 s to clean up), crash-consistent, incremental"
    )
    assert proof == (
        "VM web01: 64.0 MiB without changes read and compared, 1.0 MiB with changes in part read "
        "for the digest lists"
    )


def test_several_have_totals_and_the_longest_step() -> None:
    vms = [saved("web01", 8.0, 1.0, 2.5), saved("web02", 5.0, 12.25, 2.0)]
    *_, failed, totals = summary.lines(vms, ["db01"], 21.0)
    assert failed == "VM db01: not backed up, see its error above"
    assert totals == (
        "2 VMs are backed up, 1 are not: 6.0 MiB read, 8.0 MiB sent, 21.0 s, for 13.2 s of which "
        "data was sent; what took longest: 12.2 s to send VM web02"
    )


def test_totals_of_nothing_name_no_longest() -> None:
    *_, totals = summary.lines([], ["db01", "db02"], 2.0)
    assert totals.endswith("for 0.0 s of which data was sent")


def test_the_end_of_the_log_says_what_became_of_each_vm(product: Product, lab: Lab) -> None:
    guests = [product.guest(MIB) for _ in range(3)]
    names = [guest.name for guest in guests]
    settings = product.settings(vm=names, consistency="app_or_crash")
    product.good_backup(Level.FULL, *guests)
    shutil.rmtree(product.root / "state")
    lab.faults.fail_task("POST */volume-groups", message="no space for a clone")
    result = jobs.backup(product.store, "job", Level.INCREMENTAL, settings)
    assert result.status is Status.WARNINGS
    (report,) = (m.text for m in result.log if m.severity is Severity.NONFATAL)
    (failed,) = (name for name in names if f"VM {name} " in report)
    *vms, failure, totals = [m.text for m in result.log][-4:]
    good = [name for name in names if name != failed]
    for line, name in zip(vms, good, strict=True):
        assert line.startswith(f"VM {name}: 1 disks (0 as changes only), ")
        assert line.endswith(
            "app-consistent, full instead of incremental: no state of this VM is on this host"
        )
    assert failure == f"VM {failed}: not backed up, see its error above"
    assert totals.startswith("2 VMs are backed up, 1 are not: ")
