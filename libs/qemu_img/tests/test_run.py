"""qemu-img: its errors name the cause."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import qemu_img
from qemu_img import ToolFailed

if TYPE_CHECKING:
    from pathlib import Path


def test_qemu_img_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(ToolFailed, match=r"cannot convert nowhere\.raw: .*No such file"):
        qemu_img.convert_to_qcow2(tmp_path / "nowhere.raw", tmp_path / "out.qcow2")


def test_qemu_img_that_is_missing_names_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolFailed, match="qemu-img is not installed: install qemu-utils"):
        qemu_img.convert_to_qcow2(tmp_path / "a.raw", tmp_path / "a.qcow2")
