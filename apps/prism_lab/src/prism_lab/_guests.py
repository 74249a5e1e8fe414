"""VMs that really run: a virtual machine in qemu (TCG) for each VM that is powered on.

Without them (`Settings.run_guests` is off) power is a word in the record of a VM.

A guest has two serial ports. The first is its console. The second stands for the channel of the
guest tools: they are reachable from the first byte that the guest writes there.
"""

from __future__ import annotations

import shutil
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from prism_lab._process import Daemon
from prism_lab.errors import NotInLab, StartFailed

if TYPE_CHECKING:
    from prism_lab._model import Vm

PROGRAM = "qemu-system-x86_64"
MEMORY = 256
"""MiB of memory of a guest, whatever the record of its VM says."""
UEFI = Path("/usr/share/ovmf/OVMF.fd")
"""The firmware of VMs that boot by UEFI."""


class Guests:
    """The running guests of a cluster, by VM."""

    def __init__(self, folder: Path) -> None:
        """Keep what the serial consoles of guests print in `folder`; raise StartFailed."""
        if shutil.which(PROGRAM) is None:
            raise StartFailed(f"{PROGRAM} is missing: install qemu-system-x86")
        self._folder = folder
        self._running: dict[str, Daemon] = {}
        self._lock = threading.Lock()

    def switch(self, vm: Vm, state: str) -> None:
        """Power a VM on or off; one that powers itself off is OFF afterwards."""
        with self._lock:
            if old := self._running.pop(vm.ext_id, None):
                old.kill()
            if state == "ON":
                guest = Daemon(self._command(vm), env={}, log=self._folder / f"{vm.ext_id}.log")
                self._running[vm.ext_id] = guest
                threading.Thread(target=self._wait, args=(vm, guest), daemon=True).start()

    def has_tools(self, vm: Vm) -> bool:
        """Return whether guest tools answer in a VM."""
        with self._lock:
            if vm.ext_id not in self._running:
                return False
        path = self._folder / f"{vm.ext_id}.tools"
        return path.exists() and path.stat().st_size > 0

    def stop(self) -> None:
        """End all guests."""
        with self._lock:
            for guest in self._running.values():
                guest.kill()
            self._running.clear()

    def _wait(self, vm: Vm, guest: Daemon) -> None:
        guest.join()
        with self._lock:
            if self._running.get(vm.ext_id) is guest:
                del self._running[vm.ext_id]
                vm.power_state = "OFF"

    def _command(self, vm: Vm) -> list[str]:
        argv = [PROGRAM, "-accel", "tcg", "-machine", "pc", "-m", str(MEMORY), "-nodefaults"]
        argv += ["-display", "none", *_firmware(vm)]
        for port in ("console", "tools"):
            argv += ["-serial", f"file:{self._folder / vm.ext_id}.{port}"]
        argv += ["-device", "virtio-scsi-pci,id=scsi"]
        for number, disk in enumerate(vm.disks):
            file = str(disk.file).replace(",", ",,")
            argv += ["-drive", f"if=none,id=d{number},format=raw,cache=unsafe,file={file}"]
            argv += ["-device", f"scsi-hd,bus=scsi.0,drive=d{number},bootindex={number + 1}"]
        return argv


def _firmware(vm: Vm) -> list[str]:
    """Return how qemu is told to boot by UEFI; nothing for a VM that does not."""
    if not vm.hardware["bootConfig"].get("$objectType", "").endswith("UefiBoot"):
        return []
    if not UEFI.exists():
        raise NotInLab(f"{UEFI} is missing: install ovmf")
    return ["-bios", str(UEFI)]
