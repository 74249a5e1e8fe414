"""The receiver as a service: started by systemd, replicated to, killed; a failover beside it."""

from __future__ import annotations

import random
import resource
import subprocess
import sys
from typing import TYPE_CHECKING

import attrs
import pytest

from suites.bacula.harness.site import MIB, same
from suites.install.conftest import wait_until
from suites.install.test_receiver import listening
from suites.systemd.conftest import MOST_FILES, UNIT

if TYPE_CHECKING:
    from pathlib import Path

    from prism_lab import Lab

    from suites.systemd.conftest import Booted

PORT = 9848
HOME = "/var/lib/podheitor-receiver"
CREDENTIALS = "/etc/podheitor-failover/site.conf"
VM = "web01"


@attrs.frozen
class ReplicationSource:
    """The host that sends: the backend of this checkout, with a state of its own."""

    lab: Lab
    folder: Path

    def run(self, *words: object) -> str:
        """Run a command of the backend."""
        done = subprocess.run(
            [sys.executable, "-m", "nutanix_backend", *map(str, words)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    @property
    def identity(self) -> Path:
        """Its key."""
        return self.folder / "state" / "identity"

    @property
    def disk(self) -> Path:
        """The live bytes of the VM."""
        return self.lab.disk_file(VM, 0)

    def settings(self) -> str:
        """How Prism is reached."""
        return (
            f"prism = {self.lab.pc_host}\nuser = {self.lab.user}\npassword = {self.lab.password}\n"
        )

    def replicate(self) -> str:
        """Bring the replica up to date."""
        config = self.folder / "prism.conf"
        config.touch(mode=0o600)
        config.write_text(
            f"{self.settings()}ca = {self.lab.ca_file}\nstate_dir = {self.folder / 'state'}\n"
        )
        return self.run(
            "replicate", "--to", f"127.0.0.1:{PORT}", f"config_file={config}",
            "transport=userspace", VM,
        )  # fmt: skip

    def change(self) -> None:
        """Write to the disk of the guest."""
        with self.disk.open("r+b") as file:
            file.seek(random.randrange(8) * MIB)
            file.write(random.randbytes(200_000))


@pytest.fixture(scope="module")
def source(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> ReplicationSource:
    lab.create_vm(VM, [16 * MIB])
    made = ReplicationSource(lab, tmp_path_factory.mktemp("source"))
    made.change()
    return made


@pytest.fixture(scope="module")
def service(host: Booted, source: ReplicationSource) -> Booted:
    """The service, as an administrator sets it up with docs/disaster-recovery.md."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most < MOST_FILES:
        folder = host.path(f"/etc/systemd/system/{UNIT}.service.d")
        folder.mkdir(parents=True)
        (folder / "files.conf").write_text(f"[Service]\nLimitNOFILE={most}\n")
        host.run("systemctl", "daemon-reload")
    fingerprint, certificate = shown(host.receiver("pair"))
    host.run("systemctl", "enable", "--now", UNIT)
    wait_until(lambda: listening(PORT), "the receiver to listen")
    pair = ("pair", "--identity", source.identity)
    source.run(*pair, "--receiver", f"127.0.0.1:{PORT}", "--fingerprint", fingerprint)
    _, certificate = shown(source.run(*pair))
    host.receiver("allow", "--vm", "*", certificate)
    return host


def shown(said: str) -> tuple[str, str]:
    """Fingerprint and certificate in what `pair` prints."""
    first, second = (line.rpartition(" ")[2] for line in said.splitlines()[:2])
    return first, second


def images(host: Booted) -> list[Path]:
    return sorted(host.path(f"{HOME}/store/replicas").rglob("images/*.raw"))


def test_it_runs_as_its_user_without_rights(service: Booted) -> None:
    assert service.shown("ActiveState") == "active"
    status = service.run("cat", f"/proc/{service.shown('MainPID')}/status")
    user = service.run("id", "-u", UNIT).strip()
    assert f"Uid:\t{user}\t{user}\t{user}\t{user}\n" in status
    assert "CapBnd:\t0000000000000000\n" in status
    assert "NoNewPrivs:\t1\n" in status
    assert "Seccomp:\t2\n" in status


def test_a_source_replicates_to_it(service: Booted, source: ReplicationSource) -> None:
    assert "as generation 1 (seed)" in source.replicate()
    source.change()
    assert "as generation 2 (changes)" in source.replicate()
    (image,) = images(service)
    assert same(image, source.disk)
    service.receiver("status")
    service.receiver("verify")


def test_it_is_started_again_after_a_death(service: Booted, source: ReplicationSource) -> None:
    before = service.shown("MainPID")
    service.run("systemctl", "kill", "--signal=KILL", UNIT)
    wait_until(lambda: service.shown("MainPID") not in {before, "0"}, "the service to come back")
    wait_until(lambda: listening(PORT), "the receiver to listen")
    source.change()
    assert "as generation 3 (changes)" in source.replicate()
    (image,) = images(service)
    assert same(image, source.disk)


def test_audit_lines_are_in_the_journal(service: Booted) -> None:
    assert '"event":"allow"' in service.run("journalctl", "-t", UNIT, "--no-pager")
    service.receiver("audit", "--verify")


def test_the_service_does_not_see_credentials(service: Booted, source: ReplicationSource) -> None:
    """Neither the files of its own mounts, nor as its user with those of the host."""
    ca = service.path("/etc/podheitor-failover/ca.pem")
    ca.write_bytes(source.lab.ca_file.read_bytes())
    file = service.path(CREDENTIALS)
    file.touch(mode=0o600)
    file.write_text(f"{source.settings()}ca = /etc/podheitor-failover/ca.pem\n")
    service.run("chown", "-R", "podheitor-failover:", "/etc/podheitor-failover")
    inside = ("nsenter", "--mount", "--target", service.shown("MainPID"), "cat", CREDENTIALS)
    assert "No such file" in service.run(*inside, check=False)
    assert "Permission denied" in service.run("cat", CREDENTIALS, user=UNIT, check=False)
    failover = ("failover", "test", VM, "--target", f"config_file={CREDENTIALS}")
    assert "Permission denied" in service.receiver(*failover, check=False)


def test_a_failover_reads_them_and_works_in_the_store(
    service: Booted, source: ReplicationSource
) -> None:
    target = ("--target", f"config_file={CREDENTIALS}", "--off")
    said = service.run("podheitor-failover", "test", VM, *target)
    assert "test is done: the replica is testing" in said
    assert same(source.lab.disk_file(f"{VM}-test", 0), source.disk)
    service.run("podheitor-failover", "end-test", VM, *target[:2])
    service.run("install", "-d", "-o", UNIT, "-m", "700", "/srv/dr")
    service.run("podheitor-failover", "test", VM, "--folder", "/srv/dr")
    (made,) = service.path("/srv/dr").rglob("*.qcow2")
    subprocess.run(
        ["qemu-img", "compare", "-f", "qcow2", "-F", "raw", made, source.disk], check=True
    )
    service.run("podheitor-failover", "end-test", VM)
    owners = {path.stat().st_uid for path in service.path(f"{HOME}/store").rglob("*")}
    assert owners == {int(service.run("id", "-u", UNIT))}
    source.change()
    assert "as generation 4 (changes)" in source.replicate()
