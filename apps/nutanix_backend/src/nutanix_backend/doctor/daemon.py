"""The file daemon of this host: where it is, and whether it finds and can start the backend.

bacula-fd 15.0.3 looks for plugins in its Plugin Directory, and for the backend in the folder from
whose path it was started itself.
"""

from __future__ import annotations

import os
import re
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
from ptcomm import BackendHello, PluginHello, PtcommError
from ptcomm_runner.daemon import PLUGIN_API, PLUGIN_NAME
from ptcomm_runner.display import Silent
from ptcomm_runner.errors import RunnerError
from ptcomm_runner.joblog import JobLog
from ptcomm_runner.process import Backend, Cancellation

from nutanix_backend.doctor.finding import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

PROGRAM, PLUGIN = "podheitor-nutanix-backend", "podheitor-nutanix-fd.so"
FRAMEWORK = "libpodheitor-nutanix-metaplugin.so"
DIRECTORY = re.compile(r'^\s*plugin\s*directory\s*=\s*"?([^"#\s]+)', re.IGNORECASE | re.MULTILINE)
PLACES = (
    ("/usr/sbin/bacula-fd", "/etc/bacula/bacula-fd.conf"),  # Debian
    ("/opt/bacula/bin/bacula-fd", "/opt/bacula/etc/bacula-fd.conf"),  # bacula.org
)
PLUGIN_FOLDERS = ("/usr/lib/bacula", "/usr/lib64/bacula", "/opt/bacula/plugins")
"""Where packages of the plugin put it: Debian's, those of Red Hat's relatives, bacula.org's."""
PATIENCE = 20.0
"""Seconds for a backend to answer; it needs a tenth of one."""


@attrs.frozen
class Daemon:
    """A bacula-fd: the program as it is (or would be) started, its configuration, and its user.

    `user` is None when it does not run.
    """

    program: Path
    config: Path
    user: int | None = None


def find(program: Path | None, config: Path | None) -> Daemon | None:
    """The daemon that runs as named; else as it would be started, if it is installed or named."""
    for daemon in running():
        if program in {None, daemon.program} and config in {None, daemon.config}:
            return daemon
    found = _installed()
    if program is None and config is None:
        return found
    usual = found or Daemon(Path(PLACES[0][0]), Path(PLACES[0][1]))
    return Daemon(program or usual.program, config or usual.config)


def _installed() -> Daemon | None:
    for program, config in PLACES:
        if Path(program).exists():
            return Daemon(Path(program), Path(config))
    return None


def running() -> Iterator[Daemon]:
    """Every bacula-fd among the processes of this host."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_text(errors="replace").split("\0")
            user = process.stat().st_uid
        except OSError:
            continue  # it has ended meanwhile
        if words[0].rpartition("/")[2] == "bacula-fd":
            config = words[words.index("-c") + 1] if "-c" in words else PLACES[0][1]
            yield Daemon(Path(words[0]), Path(config), user)


def check(daemon: Daemon | None) -> Iterator[Finding]:
    """Look at the daemon, its plugin and the backend that it would start."""
    if daemon is None:
        yield Finding.bad("daemon", "bacula-fd is not on this host: install bacula-fd 15")
        return
    yield _program(daemon)
    yield _plugin(daemon)
    yield _backend(daemon)


def _program(daemon: Daemon) -> Finding:
    if not daemon.program.is_absolute():
        return Finding.bad(
            "daemon",
            f"{daemon.program} was started without its path, and therefore finds no backends: "
            "start it as /usr/sbin/bacula-fd",
        )
    if not daemon.program.is_file():
        return Finding.bad("daemon", f"{daemon.program} is not there: install bacula-fd 15")
    if daemon.user is None:
        return Finding.note("daemon", f"{daemon.program} does not run: start it when all is well")
    if daemon.user != os.geteuid():
        return Finding.note(
            "daemon",
            f"{daemon.program} runs as user {daemon.user}, the doctor as {os.geteuid()}: what it "
            "says of rights on this host holds for the latter",
        )
    return Finding.ok("daemon", f"{daemon.program} runs with {daemon.config}")


def _plugin(daemon: Daemon) -> Finding:
    try:
        match = DIRECTORY.search(daemon.config.read_text(errors="replace"))
    except OSError as error:
        return Finding.bad("plugin", f"{daemon.config} cannot be read: {error.strerror}")
    if match is None:
        return Finding.bad(
            "plugin",
            f"{daemon.config} has no Plugin Directory: add `Plugin Directory = {_plugin_folder()}` "
            "to its FileDaemon resource, then restart bacula-fd",
        )
    for name in (PLUGIN, FRAMEWORK):
        path = Path(match[1], name)
        if path.is_symlink() or not path.is_file():
            return Finding.bad(
                "plugin",
                f"{path} is not there as a regular file: install the package podheitor-nutanix, "
                "or copy the file there",
            )
    return Finding.ok("plugin", f"{match[1]}/{PLUGIN}")


def _plugin_folder() -> str:
    """The folder that the plugin is in; where it is in none, that of Debian."""
    found = (folder for folder in PLUGIN_FOLDERS if Path(folder, PLUGIN).exists())
    return next(found, PLUGIN_FOLDERS[0])


def _backend(daemon: Daemon) -> Finding:
    path = daemon.program.parent / PROGRAM
    began = time.monotonic()
    try:
        _greet(path)
    except RunnerError as error:
        return Finding.bad("backend", f"{path} does not start for bacula-fd: {error}")
    return Finding.ok("backend", f"{path} answers after {time.monotonic() - began:.2f} s")


def _greet(path: Path) -> None:
    """Start the backend as the daemon does, and leave when it has said Hello."""
    log = JobLog(Silent())
    backend = Backend(
        (str(path),),
        job_log=log,
        environment={},
        timeout=PATIENCE,
        cancellation=Cancellation(),
    )
    with backend, suppress(PtcommError):
        backend.send(PluginHello(PLUGIN_NAME, PLUGIN_API))
        if isinstance(backend.receive(), BackendHello):
            return
    words = "; ".join(message.text for message in log.messages[:3])
    raise RunnerError(f"it does not answer with Hello; {words or 'it says nothing'}")
