"""Backups of siblings' plugins on one client, restored through our adapters on another."""

from __future__ import annotations

import os
import random
import subprocess
from typing import TYPE_CHECKING

import pytest

from suites.bacula.harness import sibling
from suites.bacula.harness.site import FILESET, JOB, MIB, assert_quiet, same

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from suites.bacula.harness.console import BaculaJob
    from suites.bacula.harness.daemons import Daemons, Installation
    from suites.bacula.harness.site import Site

PROXMOX = "name: pve\nmemory: 1024\nscsihw: virtio-scsi-pci\nscsi0: local:vm-100-disk-0,size=9M\n"
VSPHERE = 'displayName = "esx"\nmemSize = "1024"\nscsi0:0.fileName = "web.vmdk"\n'
HYPERV = """<configuration>
  <properties><name>hv</name></properties>
  <settings><memory><bank><size>1024</size></bank></memory></settings>
  <_83f8638b-8dca-4152-9eda-2ca8b33039b4_><controller0><drive0>
    <type>VHD</type><pathname>C:\\VMs\\win.vhdx</pathname>
  </drive0></controller0></_83f8638b-8dca-4152-9eda-2ca8b33039b4_>
</configuration>
"""
CONFIGURATIONS = {
    "proxmox": ("100.conf", PROXMOX, "pve"),
    "vsphere": ("web.vmx", VSPHERE, "esx"),
    "hyperv": ("win.xml", HYPERV, "hv"),
}
DISKS = {
    "proxmox": ("vm-100-disk-0", "raw", ""),
    "vsphere": ("web", "vmdk", "subformat=streamOptimized"),
    "hyperv": ("win", "vhdx", "subformat=dynamic"),
}
NOT_OURS = "host=pve1 user=root@pam password=secret timeout=never config_file=/etc/sibling.conf"


@pytest.fixture(scope="module")
def client(daemons: Daemons) -> Iterator[str]:
    """The client on which siblings back up."""
    from suites.bacula.harness.console import Console  # noqa: PLC0415

    with sibling.client(daemons, Console(daemons)) as name:
        yield name


class Machine:
    """A VM of another hypervisor, with one disk, and its backup job."""

    def __init__(self, site: Site, kind: str, client: str, *, before: str = "") -> None:
        self.site, self.kind, self.client = site, kind, client
        self.folder = site.folder / "machine"
        self.disk_name, self.form, self.options = DISKS[kind]
        for folder in ("config", "full", "now"):
            (self.folder / folder).mkdir(parents=True)
        file, text, self.name = CONFIGURATIONS[kind]
        (self.folder / "config" / file).write_text(text)
        (self.folder / "config" / "notes.log").write_text("nothing of ours\n")
        self.disk = self.folder / "now" / f"{self.disk_name}.raw"
        with self.disk.open("wb") as disk:
            disk.truncate(9 * MIB)
        self.write(MIB)
        self.convert()
        line = f"podheitor-{kind}: vmid=100 folder={self.folder} {NOT_OURS} {before}"
        text = FILESET.format(name=site.name, lines=f'    Plugin = "{line}"')
        job = JOB.format(name=site.name, fileset=site.name, storage="disk", options="")
        site.console.define(text + job.replace("Client = client", f"Client = {client}"))

    def write(self, offset: int) -> None:
        """Write random bytes inside the guest."""
        with self.disk.open("r+b") as disk:
            disk.seek(offset)
            disk.write(random.randbytes(MIB))

    def convert(self) -> None:
        """Give the disk the form that the sibling backs up."""
        more = ["-o", self.options] if self.options else []
        target = self.folder / "full" / f"{self.disk_name}.{self.form}"
        command = ["qemu-img", "convert", "-f", "raw", "-O", self.form, *more]
        subprocess.run([*command, str(self.disk), str(target)], check=True)

    def backup(self, level: str) -> BaculaJob:
        """Run the job."""
        job = self.site.console.run(self.site.name, level)
        assert job.status == "T", job.words
        return job

    def restore(self, job: BaculaJob, where: Path | str) -> BaculaJob:
        """Restore the point in time of a job, on our client."""
        console = self.site.console
        chain = console.chain(job.job_id)
        return console.wait(console.start_restore(chain, where, client=self.client))


@pytest.fixture
def conf(site: Site, daemons: Daemons) -> Iterator[Path]:
    """The file that tells the adapters where to go: the lab's cluster."""
    daemons.adapter_conf.touch(mode=0o600)
    daemons.adapter_conf.write_text(site.config_file.read_text())
    yield daemons.adapter_conf
    daemons.adapter_conf.unlink()


@pytest.mark.usefixtures("conf")
@pytest.mark.parametrize("kind", ["proxmox", "vsphere", "hyperv"])
def test_siblings_backups_come_back(site: Site, client: str, kind: str) -> None:
    twice = "before=@vsphere/100/" if kind == "vsphere" else ""  # as older ones named their files
    machine = Machine(site, kind, client, before=twice)
    full = machine.backup("Full")
    assert any(f"@{kind}/100/disks/" in name for name in site.console.files(full.job_id))
    machine.write(5 * MIB)
    machine.backup("Incremental")
    machine.write(5 * MIB + 4096)
    last = machine.backup("Incremental")

    where = site.folder / "back"
    done = machine.restore(last, where)
    assert done.status == "T", done.words
    assert_quiet(done)
    (image,) = where.rglob("*.raw")
    assert same(image, machine.disk)

    made = machine.restore(last, "/")
    assert made.status == "T", made.words
    assert_quiet(made)
    names = {vm["name"] for vm in site.lab.state()["vms"]}
    (vm,) = (name for name in names if name.startswith(machine.name))
    assert same(site.lab.disk_file(vm, 0), machine.disk)


def test_an_adapter_does_not_back_up(site: Site) -> None:
    machine = Machine(site, "proxmox", "client")
    job = site.console.run(machine.site.name, "Full")
    assert job.status == "f", job.words
    assert job.said("back up on a client with the sibling's own plugin")


def test_without_its_file_an_adapter_restores_disks_and_says_what_a_vm_needs(
    site: Site, client: str
) -> None:
    machine = Machine(site, "hyperv", client)
    full = machine.backup("Full")
    done = machine.restore(full, "/")
    assert done.status == "f", done.words
    assert done.said("parameter prism is missing"), done.words


def test_the_package_keeps_the_adapters_where_no_daemon_looks(installation: Installation) -> None:
    """Beside a sibling's own plugin an adapter would take its place."""
    adapters = {path.name for path in installation.adapters}
    kinds = ("proxmox", "vsphere", "hyperv")
    assert adapters == {f"podheitor-{kind}-fd.so" for kind in kinds} | {
        f"libpodheitor-{kind}-metaplugin.so" for kind in kinds
    }
    standard = installation.product / "usr/lib/bacula"
    assert not {path.name for path in standard.iterdir()} & adapters
    assert not any(os.access(path, os.X_OK) for path in installation.adapters)
