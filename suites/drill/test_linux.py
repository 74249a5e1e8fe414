"""The same with a Linux that boots, and with its kernel that finds no root file system."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from ptcomm import Level, Severity
from ptcomm_runner.catalog import Status

from apps.nutanix_backend.tests.conftest import Guest, said, words

if TYPE_CHECKING:
    from suites.drill.conftest import Drills

BUILD = Path(__file__).parents[2] / ".ci" / "guest" / "build"
PANIC = "Kernel panic - not syncing"


def saved(drills: Drills, image: Path, name: str) -> Guest:
    """A VM with this image, saved by a full backup."""
    guest = Guest(drills.lab, name, drills.lab.create_vm(name, [image.stat().st_size]))
    copy = ["dd", f"if={image}", f"of={guest.disk(0)}", "conv=notrunc,sparse", "bs=1M"]
    subprocess.run(copy, check=True, capture_output=True)
    drills.product.good_backup(Level.FULL, guest, name=name)
    return guest


def without_root(image: Path, folder: Path) -> None:
    """Take the initramfs away from the kernel."""
    config, place = folder / "syslinux.cfg", f"{image}@@1M"
    subprocess.run(["mcopy", "-o", "-i", place, "::syslinux.cfg", config], check=True)
    text = config.read_text().replace("initrd initrd\n", "")
    config.write_text(re.sub(r"quiet panic=\S+", "panic=0 root=/dev/none", text))
    subprocess.run(["mcopy", "-o", "-i", place, config, "::"], check=True)


def test_a_linux_that_boots_and_one_that_panics(drills: Drills, tmp_path: Path) -> None:
    image = tmp_path / "guest.raw"
    subprocess.run([BUILD, image, "drill"], check=True)
    good = saved(drills, image, "boots")
    result = drills.drill(good.name)
    assert result.status is Status.GOOD, words(result)
    (line,) = (text for text in said(result, Severity.INFO) if " lives: " in text)
    assert "PODHEITOR GUEST BOOTED drill" in line
    without_root(image, tmp_path)
    bad = saved(drills, image, "panics")
    result = drills.drill(bad.name, drill_line=PANIC)
    assert result.status is Status.GOOD, "here the panic itself is waited for"
    result = drills.drill(bad.name, drill_wait=60)
    assert result.status is Status.FAILED
    assert "no line of its serial console has 'BOOTED'" in said(result, Severity.FATAL)[0]
