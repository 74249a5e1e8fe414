"""References of VMs that no job saves any more: they go after a stated time."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from nutanix_backend.references import state
from ptcomm import Level

if TYPE_CHECKING:
    from pathlib import Path

    from apps.nutanix_backend.tests.conftest import Product

MIB = 1 << 20


def age(path: Path, seconds: float) -> None:
    """Make a file as old as that."""
    then = time.time() - seconds
    os.utime(path, (then, then))


def test_a_vm_that_left_the_fileset_keeps_no_reference_for_ever(product: Product) -> None:
    stays, leaves = product.guest(MIB), product.guest(MIB)
    product.good_backup(Level.FULL, stays, leaves)
    (file,) = product.root.glob(f"state/*/*/{leaves.ext_id}.json")
    age(file, state.STALE - 3600)
    product.backup(Level.INCREMENTAL, stays)
    assert len(leaves.recovery_points()) == 1, "it may come back"
    age(file, state.STALE + 3600)
    result = product.backup(Level.INCREMENTAL, stays)
    assert not leaves.recovery_points()
    assert not file.exists()
    assert any("no job has saved its VM for 90 days" in message.text for message in result.log)
    assert stays.recovery_points()


def test_a_reference_that_another_prism_may_hold_stays_recorded(
    product: Product, tmp_path: Path
) -> None:
    guest = product.guest(MIB)
    product.good_backup(Level.FULL, guest)
    folder = product.root / "state" / state.BACKUP / "other-cluster"
    folder.mkdir()
    reference = state.Reference("0" * 36, "0" * 36, "sha256:0", ())
    record = state.JobRecord("other.2026-01-01_00.00.00_01", 1, "F", "", state.SENT, reference)
    file = state.StateFile(folder / "vm.json", "vm")
    file.save(state.VmState(state.SCHEMA, "vm", (record,)))
    age(folder / "vm.json", state.STALE + 3600)
    product.backup(Level.INCREMENTAL, guest)
    assert file.load()[0].references() == [reference]
