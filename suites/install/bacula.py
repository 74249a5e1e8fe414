"""Bacula as Debian configures it, and an administrator who follows the guide."""

from __future__ import annotations

import random
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from suites.install.conftest import wait_until

if TYPE_CHECKING:
    from prism_lab import Lab

    from suites.install.conftest import Host

GUIDE = Path(__file__).parents[2] / "docs" / "guide.md"
EXAMPLES = "/usr/share/doc/podheitor-nutanix/examples"
CONFIG = "/etc/podheitor-nutanix/prism.conf"
DIRECTOR = "/etc/bacula/bacula-dir.conf"
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

    def queue(self, command: str) -> str:
        """Start a job and return its number."""
        (job_id,) = re.findall(r"Job queued\. JobId=(\d+)", self.type(command))
        return str(job_id)

    def finish(self, job_id: str) -> str:
        """Wait for the end of a job and return its log; it must have ended well."""
        self.type(f"wait jobid={job_id}")
        log = self.type(f"list joblog jobid={job_id}")
        status = re.findall(r"(?i)jobstatus: (\w)", self.type(f"llist jobid={job_id}"))
        assert status == ["T"], log
        return log

    def run(self, command: str) -> str:
        """Start a job, wait for its end, and return its log; it must have ended well."""
        return self.finish(self.queue(command))

    def restore(self, where: str) -> str:
        """Restore the newest state of all disks to `where`, and return the job log."""
        return self.run(
            f"restore client={self.client} fileset={JOB} restorejob=RestoreFiles where={where} "
            "select current all done yes"
        )

    def restore_job(self, job_id: str, where: str) -> str:
        """Restore what one job has saved to `where`, and return the job log."""
        return self.run(
            f"restore client={self.client} jobid={job_id} restorejob=RestoreFiles all done "
            f"where={where} yes"
        )


def guide_lines(heading: str) -> list[str]:
    """Return the lines of the first block of commands behind a heading of the guide."""
    text = GUIDE.read_text()
    return text[text.index(heading) :].split("```\n", 2)[1].splitlines()


def make_vm(lab: Lab) -> list[Path]:
    """Make the VM of the guide with two disks that hold file systems of real size."""
    lab.create_vm(VM, [48 * MIB, 16 * MIB])
    made = [lab.disk_file(VM, index) for index in range(2)]
    for disk in made:
        subprocess.run(["mke2fs", "-q", "-t", "ext4", disk], check=True)
        with disk.open("r+b") as file:
            file.seek(8 * MIB)
            file.write(random.randbytes(3 * MIB))
    return made


def change(disk: Path) -> None:
    """Write 400,000 bytes somewhere into a disk."""
    with disk.open("r+b") as file:
        file.seek(12 * MIB + 123)
        file.write(random.randbytes(400_000))


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


def start(client: Host, lab: Lab) -> Console:
    """Start Bacula as Debian configures it, with the job of the guide."""
    configure(client, lab)
    names = director_names(client)
    client.shell("install -d -o bacula /var/lib/bacula/volumes")
    storage = client.path("/etc/bacula/bacula-sd.conf")
    archive = re.sub(
        r"Archive Device = /non\S+", "Archive Device = /var/lib/bacula/volumes", storage.read_text()
    )
    storage.write_text(archive)
    defined = client.shell(f"cat {EXAMPLES}/fileset-one-vm.conf {EXAMPLES}/job.conf")
    for shown, real in names.items():
        defined = defined.replace(shown, real)
    director = client.path(DIRECTOR)
    director.write_text(f"{director.read_text()}\n{defined}")
    start_file_daemon(client)
    client.start("/usr/sbin/bacula-sd", "-f", "-u", "bacula", "-c", "/etc/bacula/bacula-sd.conf")
    client.start("/usr/sbin/bacula-dir", "-f", "-u", "bacula", "-c", DIRECTOR)
    made = Console(client, names["Client = client"].removeprefix("Client = "))
    wait_until(
        lambda: "Daemon started" in client.run("bconsole", typed="status dir\nquit\n", check=False),
        "the Director",
    )
    return made


def start_file_daemon(host: Host) -> subprocess.Popen[bytes]:
    """Start the File Daemon of a host."""
    host.shell("install -d -o bacula /run/bacula")
    return host.start("/usr/sbin/bacula-fd", "-f", "-c", "/etc/bacula/bacula-fd.conf")


def images(host: Host, folder: str) -> list[bytes]:
    """Return the bytes of the restored disks, the first disk first."""
    return [file.read_bytes() for file in sorted(host.path(folder).rglob("disk-*.raw"))]
