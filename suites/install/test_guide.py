"""The guide, followed on a host that has nothing but Debian, its Bacula 15 and our package."""

from __future__ import annotations

import os
import random
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import pytest

from suites.install.conftest import wait_until

if TYPE_CHECKING:
    from prism_lab import Lab

    from suites.install.conftest import Host

GUIDE = Path(__file__).parents[2] / "docs" / "guide.md"
EXAMPLES = "/usr/share/doc/podheitor-nutanix/examples"
CONFIG = "/etc/podheitor-nutanix/prism.conf"
MIB = 1 << 20
VM = "web01"
JOB = "nutanix-one-vm"


@attrs.frozen
class Console:
    """The administrator at bconsole."""

    host: Host
    client: str

    def type(self, *lines: str) -> str:
        """Type lines, and return what is printed."""
        return self.host.run("bconsole", typed="\n".join([*lines, "quit", ""]))

    def run(self, command: str) -> str:
        """Start a job, wait for its end, and return its log; it must have ended well."""
        shown = self.type(command)
        (job_id,) = re.findall(r"Job queued\. JobId=(\d+)", shown)
        self.type(f"wait jobid={job_id}")
        log = self.type(f"list joblog jobid={job_id}")
        status = re.findall(r"(?i)jobstatus: (\w)", self.type(f"llist jobid={job_id}"))
        assert status == ["T"], log
        return log


def guide_lines(heading: str) -> list[str]:
    """Return the lines of the first block of commands behind a heading of the guide."""
    text = GUIDE.read_text()
    return text[text.index(heading) :].split("```\n", 2)[1].splitlines()


@pytest.fixture(scope="module")
def disks(lab: Lab) -> list[Path]:
    """A VM with two disks that hold file systems of real size."""
    lab.create_vm(VM, [48 * MIB, 16 * MIB])
    made = [lab.disk_file(VM, index) for index in range(2)]
    for disk in made:
        subprocess.run(["mke2fs", "-q", "-t", "ext4", disk], check=True)
        with disk.open("r+b") as file:
            file.seek(8 * MIB)
            file.write(random.randbytes(3 * MIB))
    return made


def configure(client: Host, lab: Lab) -> None:
    """Follow step 5 of the installation; what the guide gives an editor for is edited here."""
    for line in guide_lines("**5. Write the configuration**"):
        if not line.startswith("editor"):
            client.shell(line)
            continue
        config = client.path(CONFIG)
        text = config.read_text().replace("prism-central.example.com", lab.pc_host)
        config.write_text(text.replace("user = backup", f"user = {lab.user}"))
        client.path("/etc/podheitor-nutanix/password").write_text(f"{lab.password}\n")
        client.path("/etc/podheitor-nutanix/prism-ca.pem").write_bytes(lab.ca_file.read_bytes())


def director_names(client: Host) -> dict[str, str]:
    """Return the names that Debian's Director has, for those of the examples."""
    settings = client.path("/etc/bacula/bacula-dir.conf").read_text()
    (name,) = re.findall(r"^Client \{\s+Name = (\S+)", settings, re.MULTILINE)
    return {
        "Client = client": f"Client = {name}",
        "= disk": "= File1",
        "Pool = File1": "Pool = File",
    }


@pytest.fixture(scope="module")
def console(client: Host, lab: Lab, disks: list[Path]) -> Console:
    """Bacula as Debian configures it, with the job of the guide."""
    configure(client, lab)
    names = director_names(client)
    client.shell("install -d -o bacula /var/lib/bacula/volumes /run/bacula")
    storage = client.path("/etc/bacula/bacula-sd.conf")
    archive = re.sub(
        r"Archive Device = /non\S+", "Archive Device = /var/lib/bacula/volumes", storage.read_text()
    )
    storage.write_text(archive)
    defined = client.shell(f"cat {EXAMPLES}/fileset-one-vm.conf {EXAMPLES}/job.conf")
    for shown, real in names.items():
        defined = defined.replace(shown, real)
    director = client.path("/etc/bacula/bacula-dir.conf")
    director.write_text(f"{director.read_text()}\n{defined}")
    client.start("/usr/sbin/bacula-sd", "-f", "-u", "bacula", "-c", "/etc/bacula/bacula-sd.conf")
    client.start("/usr/sbin/bacula-fd", "-f", "-c", "/etc/bacula/bacula-fd.conf")
    client.start("/usr/sbin/bacula-dir", "-f", "-u", "bacula", "-c", "/etc/bacula/bacula-dir.conf")
    made = Console(client, names["Client = client"].removeprefix("Client = "))
    wait_until(
        lambda: "Daemon started" in client.run("bconsole", typed="status dir\nquit\n", check=False),
        "the Director",
    )
    return made


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
    assert "Backup OK" in console.run(f"run job={JOB} level=Full yes")
    before = [disk.read_bytes() for disk in disks]
    with disks[0].open("r+b") as file:
        file.seek(20 * MIB + 123)
        file.write(random.randbytes(400_000))
    assert "2 as changes only" in console.run(f"run job={JOB} level=Incremental yes")
    now = [disk.read_bytes() for disk in disks]
    restore = f"restore client={console.client} fileset={JOB} restorejob=RestoreFiles"

    console.run(f"{restore} where=/restore select current all done yes")
    assert images(console.host, "/restore") == now

    log = console.run(f"{restore} where=/ select current all done yes")
    (name,) = re.findall(r"is restored as (\S+)", log)
    assert [lab.disk_file(name, index).read_bytes() for index in range(2)] == now

    full = re.findall(r"^\| (\d+) +\|.*\| B +\| F ", console.type("list jobs"), re.MULTILINE)
    console.run(
        f"restore client={console.client} jobid={full[0]} restorejob=RestoreFiles all done "
        "where=/older yes"
    )
    assert images(console.host, "/older") == before
    owners = console.host.run("find", "/var/lib/podheitor-nutanix", "-printf", "%u\\n")
    assert set(owners.split()) == {"podheitor-nutanix"}


def images(host: Host, folder: str) -> list[bytes]:
    """Return the bytes of the restored disks, the first disk first."""
    return [file.read_bytes() for file in sorted(host.path(folder).rglob("disk-*.raw"))]
