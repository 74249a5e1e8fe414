"""VMs that really run: a virtual machine in qemu (TCG) for each VM that is powered on.

Without them (`Settings.run_guests` is off) power is a word in the record of a VM.
"""

from __future__ import annotations

import shutil
import threading
from typing import TYPE_CHECKING

from prism_lab._process import Daemon
from prism_lab.errors import StartFailed

if TYPE_CHECKING:
    from pathlib import Path

    from prism_lab._model import Vm

PROGRAM = "qemu-system-x86_64"
MEMORY = 256
"""MiB of memory of a guest, whatever the record of its VM says."""


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

    def console(self, vm: Vm) -> str:
        """Return what the serial console of a VM has printed."""
        path = self._folder / f"{vm.ext_id}.console"
        return path.read_text(errors="replace") if path.exists() else ""

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
        console = self._folder / f"{vm.ext_id}.console"
        argv = [PROGRAM, "-accel", "tcg", "-machine", "pc", "-m", str(MEMORY), "-nodefaults"]
        argv += ["-display", "none", "-no-reboot", "-serial", f"file:{console}"]
        argv += ["-device", "virtio-scsi-pci,id=scsi"]
        for number, disk in enumerate(vm.disks):
            file = str(disk.file).replace(",", ",,")
            argv += ["-drive", f"if=none,id=d{number},format=raw,cache=unsafe,file={file}"]
            argv += ["-device", f"scsi-hd,bus=scsi.0,drive=d{number},bootindex={number + 1}"]
        return argv
