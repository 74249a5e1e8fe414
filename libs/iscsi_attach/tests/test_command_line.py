"""The command line, and the example of the README, against a real tgtd."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from iscsi_attach.__main__ import main
from iscsi_attach.testing import free_loopback

if TYPE_CHECKING:
    import pytest

INITIATOR = "--initiator=iqn.2026-01.local.test:initiator"


def test_discover(served: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["discover", str(served.portal), INITIATOR]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert first == f"iqn.2010-06.com.nutanix:plain\t{served.portal}"


def test_disks_with_chap(
    served: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    target = served.target("chap").iqn
    command = ["disks", str(served.portal), target, INITIATOR, "--chap-user=bk"]
    monkeypatch.setenv("ISCSI_CHAP_SECRET", "secretsecret12")
    assert main(command) == 0
    assert capsys.readouterr().out.startswith("1\t1048576\t512\tdisk1\tnaa.")
    monkeypatch.setenv("ISCSI_CHAP_SECRET", "guessguess1234")
    assert main(command) == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert "wrong CHAP user or secret" in output.err
    assert "guess" not in output.err


def test_an_unreachable_portal_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["discover", free_loopback(), INITIATOR]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_the_example_of_the_readme(served: Any) -> None:
    text = (Path(__file__).parents[1] / "README.md").read_text()
    example = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert example is not None
    names: dict[str, Any] = {}
    exec(example[1].replace("192.0.2.10", served.portal.host), names)  # our own text
    assert names["target"].iqn.endswith(":plain")
    last = served.disks[-1].read_bytes()
    assert names["digest"].digest() == hashlib.sha256(last).digest()
