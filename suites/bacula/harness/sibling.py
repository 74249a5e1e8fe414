"""Another client, on which the plugins of our siblings back up: a second File Daemon.

Its plugins are our adapters, with the sibling's backend of the tests in the place of ours.
"""

from __future__ import annotations

import shutil
import string
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from suites.bacula.harness import daemons as bacula

if TYPE_CHECKING:
    from collections.abc import Iterator

    from suites.bacula.harness.console import Console

NAME = "sibling"
BACKEND = Path(__file__).with_name("sibling_backend.py")
RESOURCES = """
Client {{
  Name = {name}
  Address = {address}
  FD Port = 9102
  Catalog = catalog
  Password = "{password}"
}}
"""


@contextmanager
def client(daemons: bacula.Daemons, console: Console) -> Iterator[str]:
    """A second client, known to the Director by the name given."""
    work, address = daemons.work / NAME, bacula.free_address()
    password = _lay_out(daemons, work, address)
    command = [str(work / "sbin" / "bacula-fd"), "-f", "-c", str(work / "bacula-fd.conf")]
    with (work / "out").open("ab") as output:
        process = subprocess.Popen(
            [*bacula.WITH_US, *bacula.IN_NAMESPACE, *command],
            stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            env=daemons.installation.environment,
        )  # fmt: skip
    try:
        _wait(address)
        console.define(RESOURCES.format(name=NAME, address=address, password=password))
        yield NAME
    finally:
        process.kill()
        process.wait(bacula.PATIENCE)


def _lay_out(daemons: bacula.Daemons, work: Path, address: str) -> str:
    """Its files; returns its password."""
    for folder in ("fd", "sbin", "plugins"):
        (work / folder).mkdir(parents=True)
    shutil.copy(daemons.work / "sbin" / "bacula-fd", work / "sbin")
    for plugin in daemons.installation.adapters:
        shutil.copy(plugin, work / "plugins")
    backend = work / "sbin" / "podheitor-nutanix-backend"
    backend.write_text(f"#!{sys.executable}\n{BACKEND.read_text()}")
    backend.chmod(0o755)
    values = {
        "address": address, "work": work, "plugins": work / "plugins", "tls": "",
        "password": f"of-{address}",
    }  # fmt: skip
    template = string.Template((bacula.TEMPLATES / "bacula-fd.conf").read_text())
    configuration = template.substitute(values).replace("Name = client", f"Name = {NAME}")
    (work / "bacula-fd.conf").write_text(configuration)
    return f"of-{address}"


def _wait(address: str) -> None:
    deadline = time.monotonic() + bacula.PATIENCE
    while not bacula.is_listening(address, bacula.PORTS["bacula-fd"]):
        if time.monotonic() > deadline:
            raise RuntimeError("the second file daemon did not start")
        time.sleep(0.05)
