"""Our backend, started by an adapter with a sibling's name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from nutanix_backend import adapter
from nutanix_backend.errors import ParameterError
from ptcomm import Phase

if TYPE_CHECKING:
    from pathlib import Path

GIVEN = (("user", "root@pam"), ("vmid", "100"))


def test_our_own_jobs_have_the_parameters_given() -> None:
    for namespace in ("", "@nutanix"):
        assert adapter.parameters(namespace, GIVEN) == GIVEN


def test_a_siblings_parameters_are_not_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "adapter.conf"
    monkeypatch.setenv(adapter.VARIABLE, str(file))
    assert adapter.parameters("@proxmox", GIVEN) == ()
    file.touch()
    assert adapter.parameters("@proxmox", GIVEN) == (("config_file", str(file)),)


@pytest.mark.parametrize("phase", Phase)
def test_an_adapter_does_nothing_but_restore(phase: Phase) -> None:
    adapter.refuse_all_but_restores("@nutanix", phase)
    if phase is Phase.RESTORE:
        adapter.refuse_all_but_restores("@hyperv", phase)
        return
    with pytest.raises(ParameterError, match="@hyperv restores"):
        adapter.refuse_all_but_restores("@hyperv", phase)
