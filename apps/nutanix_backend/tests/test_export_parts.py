"""Parts of `files export` by themselves: extents, the command of qemu, what is refused."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest
from chain_disk import Disk
from hypothesis import given
from hypothesis import strategies as st
from nutanix_backend.errors import RestoreRefused
from nutanix_backend.files import export
from nutanix_backend.files.boot import qemu_command
from nutanix_backend.files.choice import OpenVm

if TYPE_CHECKING:
    from pathlib import Path

PROXMOX = "bios: {bios}\ncores: 3\nmemory: 512\nname: web\n{disks}\nscsihw: virtio-scsi-pci\n"
DISKS = "scsi0: local:vm-100-disk-0,size=16M\nsata1: local:vm-100-disk-1,size=8M"


class Extents(Disk):
    """A disk that has nothing but extents."""

    def __init__(self, size: int, ranges: list[tuple[int, int]]) -> None:
        self._size = size
        self._ranges = ranges

    @property
    def size(self) -> int:
        return self._size

    def read(self, offset: int, length: int) -> bytes:
        raise NotImplementedError

    def extents(self) -> list[tuple[int, int]]:
        return self._ranges

    def close(self) -> None: ...


@given(st.lists(st.integers(0, 100), max_size=8, unique=True), st.integers(0, 99), st.data())
def test_extents_are_those_of_the_disk(cuts: list[int], offset: int, data: st.DataObject) -> None:
    ends = sorted(cuts)
    ranges = list(zip(ends[::2], ends[1::2], strict=False))
    length = data.draw(st.integers(1, 100 - offset))
    found = export.Served(Extents(100, ranges)).extents(offset, length)
    shown = [is_zero for count, is_zero in found for _ in range(count)]
    expected = [
        not any(begin <= at < end for begin, end in ranges) for at in range(offset, offset + length)
    ]
    assert shown == expected


def vm(bios: str = "seabios", disks: str = DISKS) -> OpenVm:
    opened = {0: Extents(1, []), 1: Extents(1, [])}
    text = PROXMOX.format(bios=bios, disks=disks)
    return OpenVm("web,1", "now", opened, {0: "scsi0", 1: "sata1"}, "@proxmox", text)


URIS = {0: "nbd+unix:///?socket=/a,b/0.sock", 1: "nbd+unix:///?socket=/1.sock"}


@pytest.fixture(autouse=True)
def programs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")


def test_the_machine_is_the_one_of_the_configuration() -> None:
    words = qemu_command(vm(), URIS, ["-accel", "tcg"])
    text = " ".join(words)
    assert "-name web,,1 " in text
    assert "-snapshot" in words, "what it writes goes"
    assert "-m 512 -smp 3" in text
    assert "file=nbd+unix:///?socket=/a,,b/0.sock" in text
    assert "scsi-hd,drive=disk0,bootindex=1" in text
    assert "ide-hd,drive=disk1,bootindex=2" in text
    assert "pflash" not in text
    assert "-netdev" not in words
    assert words[-2:] == ["-accel", "tcg"]
    assert words.count("-accel") == 1


def test_what_a_machine_needs_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nutanix_backend.files.boot._FIRMWARE", ())
    with pytest.raises(RestoreRefused, match="boots by UEFI: install ovmf"):
        qemu_command(vm("ovmf"), URIS, [])
    without = OpenVm("web", "now", {})
    with pytest.raises(RestoreRefused, match="has no configuration here"):
        qemu_command(without, {}, [])
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(RestoreRefused, match="install qemu-system-x86"):
        qemu_command(vm(), URIS, [])


def test_an_export_needs_nbdkit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with (
        pytest.raises(RestoreRefused, match="install nbdkit and nbdkit-plugin-python"),
        export.exported({}, tmp_path),
    ):
        pass
