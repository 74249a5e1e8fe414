"""The chain of a client goes on when its package is upgraded, and beside a second client.

Version 0.1.0 makes a full and an incremental. Then the package is upgraded under the running File
Daemon, a second client with the newer package comes, and the first one gets the old package again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import pytest

from suites.install import bacula
from suites.install.bacula import DIRECTOR, JOB, Console, change, images
from suites.install.conftest import running, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from prism_lab import Lab

    from suites.install.conftest import Host

FD_SETTINGS = "/etc/bacula/bacula-fd.conf"
SECOND = "second"
PORT = 9112


@attrs.define
class Clients:
    """A VM, the console of its first client, and a job of the old version with its bytes."""

    console: Console
    disks: list[Path]
    full: str
    first_state: list[bytes]

    def now(self) -> list[bytes]:
        """Return the bytes of the disks."""
        return [disk.read_bytes() for disk in self.disks]

    def incremental(self) -> str:
        """Back up what changed with the first client, and return the job log."""
        return self.console.run(f"run job={JOB} level=Incremental yes")


def install(host: Host, pattern: str) -> str:
    """Install a package that lies in the root's home, and return the version that is there now."""
    (package,) = host.path("/root").glob(pattern)
    host.run("dpkg", "--install", f"/root/{package.name}")
    return version(host)


def version(host: Host) -> str:
    """Return the version of our package."""
    return host.run("dpkg-query", "-W", "-f", "${Version}", "podheitor-nutanix")


def restart_file_daemon(console: Console) -> None:
    """Stop the File Daemon and start it again, so that it loads the plugin that is there now."""
    console.host.shell("kill $(cat /run/bacula/bacula-fd.9102.pid)")
    daemons = console.host.daemons
    (file_daemon,) = (daemon for daemon in daemons if "bacula-fd" in str(daemon.args))
    file_daemon.wait()
    daemons.remove(file_daemon)
    bacula.start_file_daemon(console.host)
    wait_for_plugin(console)


def wait_for_plugin(console: Console) -> None:
    """Wait until the File Daemon of the client answers and has loaded the plugin."""
    wait_until(
        lambda: "podheitor-nutanix(" in console.type(f"status client={console.client}"),
        f"the File Daemon of {console.client}",
    )


@pytest.fixture(scope="module")
def clients(client: Host, lab: Lab) -> Clients:
    """A full and an incremental by version 0.1.0, then the upgrade."""
    assert version(client) == "0.1.0"
    disks = bacula.make_vm(lab)
    console = bacula.start(client, lab)
    full = console.queue(f"run job={JOB} level=Full yes")
    assert "Backup OK" in console.finish(full)
    made = Clients(console, disks, full, [disk.read_bytes() for disk in disks])
    change(disks[0])
    made.incremental()
    assert install(client, "podheitor-nutanix_*+deb12_*.deb").endswith("+deb12")
    return made


def test_the_chain_goes_on_under_the_running_daemon(clients: Clients) -> None:
    change(clients.disks[1])
    assert "2 as changes only" in clients.incremental()
    clients.console.restore("/upgraded")
    assert images(clients.console.host, "/upgraded") == clients.now()


def test_the_chain_goes_on_after_a_restart(clients: Clients) -> None:
    restart_file_daemon(clients.console)
    change(clients.disks[0])
    assert "2 as changes only" in clients.incremental()
    clients.console.restore("/restarted")
    assert images(clients.console.host, "/restarted") == clients.now()


def test_a_backup_of_the_old_version_is_restored(clients: Clients) -> None:
    clients.console.restore_job(clients.full, "/older")
    assert images(clients.console.host, "/older") == clients.first_state


@pytest.fixture(scope="module")
def second(clients: Clients, lab: Lab) -> Iterator[Host]:
    """A second client on a host of its own; the Director has a job for it, for the same VM."""
    with running(SECOND) as host:
        bacula.configure(host, lab)
        settings = host.path(FD_SETTINGS)
        settings.write_text(settings.read_text().replace("FDport = 9102", f"FDport = {PORT}"))
        password = host.shell(f"grep -m1 Password {FD_SETTINGS}").split('"')[1]
        director = clients.console.host.path(DIRECTOR)
        director.write_text(f"{director.read_text()}{director_lines(password)}")
        bacula.start_file_daemon(host)
        clients.console.type("reload")
        wait_for_plugin(Console(clients.console.host, SECOND))
        yield host


def director_lines(password: str) -> str:
    """Return what the Director needs to know of the second client."""
    return f"""
Client {{ Name = {SECOND}; Address = 127.0.0.1; FDPort = {PORT}; Catalog = MyCatalog
  Password = "{password}" }}
Job {{ Name = {SECOND}; Type = Backup; Client = {SECOND}; FileSet = {JOB}; Storage = File1
  Pool = File; Messages = Standard }}
"""


def test_two_clients_have_chains_of_their_own(clients: Clients, second: Host) -> None:
    """Both back up the same VM at the same time, twice; neither loses its chain or its bytes."""
    first, other = clients.console, Console(clients.console.host, SECOND)
    assert "Backup OK" in other.run(f"run job={SECOND} level=Full yes")
    for disk in clients.disks:
        change(disk)
        jobs = [first.queue(f"run job={job} level=Incremental yes") for job in (JOB, SECOND)]
        for job in jobs:
            assert "2 as changes only" in first.finish(job)
    first.restore("/first")
    other.restore("/second")
    assert images(first.host, "/first") == images(second, "/second") == clients.now()


def test_a_downgrade_loses_nothing(clients: Clients) -> None:
    """The old version goes on with its jobs; the newer one restores what both have saved."""
    host = clients.console.host
    install(host, "podheitor-nutanix_0.1.0_*.deb")
    restart_file_daemon(clients.console)
    change(clients.disks[0])
    clients.incremental()
    install(host, "podheitor-nutanix_*+deb12_*.deb")
    restart_file_daemon(clients.console)
    clients.console.restore("/downgraded")
    assert images(host, "/downgraded") == clients.now()
