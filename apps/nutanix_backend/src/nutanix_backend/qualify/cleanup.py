"""Removing what `qualify` made: everything whose name has the id of a run, and nothing else."""

from __future__ import annotations

import re
import shutil
from typing import TYPE_CHECKING

import attrs

from nutanix_backend.cluster import sweep
from nutanix_backend.cluster.objects import remove_vm

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from prism_client import PrismClient, Vm

    from nutanix_backend.settings.parameters import Settings

PREFIX = "podheitor-qualify-"
_RUN = re.compile(rf"{PREFIX}[0-9a-f]{{12}}")


def remove_earlier_runs(client: PrismClient, settings: Settings, root: Path) -> Iterator[str]:
    """Remove what runs left that were killed: `root` has a folder for each of them."""
    for folder in sorted(root.iterdir()) if root.is_dir() else ():
        if _RUN.fullmatch(folder.name):
            yield from remove_run(client, of_run(settings, folder), folder)


def of_run(settings: Settings, folder: Path) -> Settings:
    """The settings of the run of a folder: its chains and journals are in there."""
    return attrs.evolve(settings, state_dir=folder / "state")


def remove_run(client: PrismClient, settings: Settings, folder: Path) -> Iterator[str]:
    """Remove what the run of a folder made; the folder goes when nothing is left.

    `settings` are those of the run, with its own state_dir. Yields a line for each thing.
    """
    run = folder.name
    for line in sweep.sweep(client, settings):
        yield str(line)
    for vm in [vm for vm in client.vms.list() if run in vm.name]:
        yield from _remove_vm(client, vm)
    if not list(leftovers(client, settings, run)):
        shutil.rmtree(folder)


def leftovers(client: PrismClient, settings: Settings, run: str) -> Iterator[str]:
    """List what is left of a run."""
    for left in sweep.leftovers(client, settings):
        if run in left.name:
            yield str(left)
    for vm in client.vms.list():
        if run in vm.name:
            yield f"VM {vm.ext_id} {vm.name}"


def _remove_vm(client: PrismClient, vm: Vm) -> Iterator[str]:
    for point in client.recovery_points.list(vm_ext_id=vm.ext_id):
        client.recovery_points.delete(point.ext_id)
        yield f"removed: recovery point {point.name} of VM {vm.name}"
    remove_vm(client, vm.ext_id)
    yield f"removed: VM {vm.name}"
