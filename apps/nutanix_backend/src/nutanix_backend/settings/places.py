"""The places that name parameters, and which of them may send a credential where.

A credential is bound to the place that named it. The address of Prism, and what its certificate is
checked against, must come from the same place, or from the administrator of this host.

In a restore bacula-fd 15.0.3 replaces parameters of the plugin line by restore options of the same
name before it sends them, so nobody can tell which of the two was given (`parse_plugin_command` of
its metaplugin framework). The line of an estimate, a listing or a query can be typed in bconsole.
"""

from __future__ import annotations

import os
import stat
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from nutanix_backend.errors import ParameterError
from nutanix_backend.settings import values

if TYPE_CHECKING:
    from collections.abc import Mapping

ETC = Path("/etc/podheitor-nutanix")
ALLOWED_FOLDERS = ETC / "allowed-folders"
VARIABLE = "PODHEITOR_ALLOWED_FOLDERS"
"""Names another file than ALLOWED_FOLDERS, in the environment of bacula-fd."""
STARTED_BY = "PODHEITOR_STARTED_BY"
COMMAND_LINE = "command-line"
"""What our own command line leaves in the environment of the backends that it starts."""
STATE = Path("/var/lib/podheitor-nutanix")
FILES = (
    "config_file",
    "password_file",
    "guest_password_file",
    "ca",
    "target_config_file",
    "key_file",
)
"""Parameters that name a file which we read."""
FOLDERS = ("state_dir", "metrics_dir")
"""Parameters that name a folder in which we write."""
REACHING = ("prism", "ca", "fingerprint", "prism_insecure")
"""Parameters that decide who gets the credentials."""


class Speaker(Enum):
    """Who speaks at a place."""

    HOST = "the command line"
    FILE = "file"
    PLUGIN_LINE = "the plugin line"
    TYPED_LINE = "the plugin line, which can be typed in bconsole"
    RESTORE = "the plugin line or a restore option"


@attrs.frozen
class SettingPlace:
    """Where a parameter was given: by whom, and in which file."""

    kind: Speaker
    file: Path | None = None

    def __str__(self) -> str:
        """For messages."""
        return str(self.file or self.kind.value)

    @property
    def is_of_host(self) -> bool:
        """Whether only the administrator of this host speaks there."""
        return self.kind in {Speaker.HOST, Speaker.FILE}


HOST = SettingPlace(Speaker.HOST)
PLUGIN_LINE = SettingPlace(Speaker.PLUGIN_LINE)
TYPED_LINE = SettingPlace(Speaker.TYPED_LINE)
RESTORE = SettingPlace(Speaker.RESTORE)


@attrs.frozen
class Given:
    """The text of a parameter and the place that gave it."""

    text: str = attrs.field(repr=False)
    place: SettingPlace
    is_stored: bool = False
    """A secret that lies in a file of this host, of which the place has only given the path."""


def check_credentials(given: Mapping[str, Given]) -> None:
    """Raise ParameterError unless the credentials go only where their place sends them."""
    for name in ("prism_insecure", "ca"):
        found = given.get(name)
        if found and not found.place.is_of_host and _weakens(name, found.text):
            raise ParameterError(
                f"{name}={found.text} counts only in a file of this host, not on {found.place}: "
                "write it into the file that config_file names"
            )
    secret = given.get("api_key") or given.get("password")
    if secret is None or secret.place.kind is Speaker.HOST:
        return
    for name in REACHING:
        found = given.get(name)
        if found and not _may_send(secret, found.place):
            raise ParameterError(_refusal(name, found.place, secret))


def _weakens(name: str, text: str) -> bool:
    return values.is_yes(text) if name == "prism_insecure" else not text


def _may_send(secret: Given, place: SettingPlace) -> bool:
    """Whether a place may decide where a secret goes."""
    if place.kind is Speaker.HOST:
        return True
    if secret.place.kind is Speaker.FILE or place.kind is Speaker.RESTORE:
        return secret.place.kind is Speaker.FILE and place == secret.place
    if secret.is_stored:
        return place.kind in {Speaker.PLUGIN_LINE, Speaker.FILE}
    return True


def _refusal(name: str, place: SettingPlace, secret: Given) -> str:
    way_out = (
        "write address and credentials into one file below /etc/podheitor-nutanix and give "
        "config_file, or target_config_file in a restore"
    )
    if place.kind is Speaker.FILE:
        return (
            f"{name} comes from {place}, the credentials for Prism from {secret.place}: "
            f"credentials are sent only where the same place names Prism; {way_out}"
        )
    if secret.place.kind is Speaker.FILE:
        return (
            f"{name} comes from {place}, but the credentials for Prism from {secret.place}: they "
            f"are sent only to the Prism that this file names; {way_out}"
        )
    return (
        f"{name} and the credentials for Prism come from {place}: a restore option could send "
        f"them to another host; {way_out}"
    )


def check_path(name: str, path: Path, place: SettingPlace) -> None:
    """Raise ParameterError unless the place may name this path."""
    if place.is_of_host:
        return
    folders = [ETC, *allowed_folders()]
    if name == "state_dir":
        folders.append(STATE)
    real = Path(os.path.realpath(path))
    if not any(real.is_relative_to(os.path.realpath(folder)) for folder in folders):
        raise ParameterError(
            f"{name}={path} is outside of the folders that {place} may name: move it to {ETC}, or "
            f"list its folder in {ALLOWED_FOLDERS} (owner root)"
        )


def allowed_folders() -> list[Path]:
    """The folders that the administrator of this host has listed, one a line."""
    path = Path(os.environ.get(VARIABLE, ALLOWED_FOLDERS))
    try:
        with path.open(encoding="utf-8-sig") as file:
            _refuse_foreign(path, os.fstat(file.fileno()))
            lines = [line.strip() for line in file]
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise ParameterError(f"{path} cannot be read: {error}") from error
    wrong = [line for line in lines if line and not line.startswith(("/", "#"))]
    if wrong:
        raise ParameterError(f"{path}: {wrong[0]} is not an absolute path")
    return [Path(line) for line in lines if line.startswith("/")]


def _refuse_foreign(path: Path, found: os.stat_result) -> None:
    if found.st_uid not in {0, os.geteuid()} or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ParameterError(
            f"{path} can be changed by others than root: chown root {path}; chmod 644 {path}"
        )
