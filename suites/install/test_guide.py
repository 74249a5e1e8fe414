"""The guide, followed on a host that has nothing but Debian, its Bacula 15 and our package."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

import pytest

from suites.install.bacula import CONFIG, JOB, VM, Console, change, images, make_vm, start

if TYPE_CHECKING:
    from pathlib import Path

    from prism_lab import Lab

    from suites.install.conftest import Host


@pytest.fixture(scope="module")
def disks(lab: Lab) -> list[Path]:
    """The disks of the VM."""
    return make_vm(lab)


@pytest.fixture(scope="module")
def console(client: Host, lab: Lab, disks: list[Path]) -> Console:
    """Bacula with the job of the guide; the VM is there."""
    return start(client, lab)


def test_the_package_is_of_this_release(client: Host) -> None:
    version = client.run("dpkg-query", "-W", "-f", "${Version}", "podheitor-nutanix")
    assert version.endswith(f"+{os.environ['INSTALL_RELEASE']}")
    assert client.run("dpkg", "--verify", "podheitor-nutanix") == ""


def test_the_manual_page_renders(client: Host) -> None:
    page = client.run("man", "podheitor-nutanix-backend")
    for word in ("doctor", "restore_vm_name=", "/etc/podheitor-nutanix"):
        assert word in page


def test_words_are_completed(client: Host) -> None:
    completed = client.shell(
        "source /usr/share/bash-completion/completions/podheitor-nutanix-backend\n"
        "COMP_WORDS=(podheitor-nutanix-backend doctor restore_vm) COMP_CWORD=2\n"
        "_shtab_podheitor_nutanix_backend && echo ${COMPREPLY[@]}"
    )
    assert completed.split() == ["restore_vm_name="]


def test_the_state_belongs_to_the_user_of_the_package(client: Host) -> None:
    owner = client.run("stat", "-c", "%U %a", "/var/lib/podheitor-nutanix").split()
    assert owner == ["podheitor-nutanix", "700"]


def test_the_file_daemon_knows_the_plugin(console: Console) -> None:
    assert "podheitor-nutanix(" in console.type(f"status client={console.client}")


def test_the_doctor_finds_nothing_wrong(console: Console) -> None:
    found = console.host.run(
        "podheitor-nutanix-backend", "doctor", f"config_file={CONFIG}", f"vm={VM}"
    )
    lines = found.splitlines()
    assert [line for line in lines if line.split()[0] not in ("ok", "note")] == []
    for what in ("daemon", "plugin", "backend", "qemu-img", "initiator", "prism", "certificate"):
        assert [line for line in lines if line.split()[:2] == ["ok", what]], found


def test_backups_and_restores(console: Console, lab: Lab, disks: list[Path]) -> None:
    """The order of the guide: Full, Incremental, disk images, a new VM, an older state."""
    full = console.queue(f"run job={JOB} level=Full yes")
    assert "Backup OK" in console.finish(full)
    before = [disk.read_bytes() for disk in disks]
    change(disks[0])
    assert "2 as changes only" in console.run(f"run job={JOB} level=Incremental yes")
    now = [disk.read_bytes() for disk in disks]

    console.restore("/restore")
    assert images(console.host, "/restore") == now

    (name,) = re.findall(r"is restored as (\S+)", console.restore("/"))
    assert [lab.disk_file(name, index).read_bytes() for index in range(2)] == now

    console.restore_job(full, "/older")
    assert images(console.host, "/older") == before
    owners = console.host.run("find", "/var/lib/podheitor-nutanix", "-printf", "%u\\n")
    assert set(owners.split()) == {"podheitor-nutanix"}
