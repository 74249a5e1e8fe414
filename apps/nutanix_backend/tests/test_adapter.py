"""Our backend, started by an adapter with a sibling's name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from nutanix_backend import adapter
from nutanix_backend.errors import ParameterError
from ptcomm import Job, JobType, Phase

if TYPE_CHECKING:
    from pathlib import Path

GIVEN = (("user", "root@pam"), ("prism", "pc"))
THEIRS = (("user", "root@pam"), ("vmid", "100"))


def job(namespace: str, kind: JobType = JobType.RESTORE) -> Job:
    return Job("job.1", 1, kind, namespace=namespace)


@pytest.mark.parametrize("kind", JobType)
def test_our_own_jobs_have_the_parameters_given(kind: JobType) -> None:
    for namespace in ("", "@nutanix"):
        settings = adapter.settings(job(namespace, kind), GIVEN)
        assert (settings.user, settings.prism) == ("root@pam", "pc")


def test_a_siblings_parameters_are_not_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "adapter.conf"
    monkeypatch.setenv(adapter.VARIABLE, str(file))
    assert not adapter.settings(job("@proxmox"), THEIRS).user
    file.write_text("user = ours\n")
    assert adapter.settings(job("@proxmox"), THEIRS).user == "ours"


@pytest.mark.parametrize("phase", Phase)
def test_an_adapter_does_nothing_but_restore(phase: Phase) -> None:
    adapter.refuse_all_but_restores("@nutanix", phase)
    if phase is Phase.RESTORE:
        adapter.refuse_all_but_restores("@hyperv", phase)
        return
    with pytest.raises(ParameterError, match="@hyperv restores"):
        adapter.refuse_all_but_restores("@hyperv", phase)
