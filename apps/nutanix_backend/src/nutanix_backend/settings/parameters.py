"""The settings that a job gets from its parameters."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import prism_client

from nutanix_backend.errors import ParameterError
from nutanix_backend.settings import files, places, values
from nutanix_backend.settings.places import Given, SettingPlace
from nutanix_backend.settings.table import (
    BY_NAME,
    TABLE,
    Access,
    ChainRules,
    Connection,
    DrillOptions,
    Host,
    JobOptions,
    Kind,
    ReplicationOptions,
    RestoreOptions,
    Selection,
    rows,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

SENT_BY_THE_DAEMON = {"Accurate"}
"""What bacula-fd adds to the parameters by itself; it changes nothing for whole disks."""


@attrs.frozen(kw_only=True, slots=False)
class Settings(
    Connection, Access, Host, Selection, ChainRules, ReplicationOptions, RestoreOptions,
    DrillOptions, JobOptions,
):  # fmt: skip
    """The parameters of a job, read and checked: all topics in one.

    A function that needs one topic asks for that class, and is given these. All files that they
    name have been read: whoever has them needs no right to read those files any more.
    """

    ca_pem: str | None = attrs.field(default=None, repr=False, eq=False)
    """What is in `ca`."""
    target: Settings | None = attrs.field(default=None, repr=False, eq=False)
    """What `target_config_file` makes of these settings."""

    given: Mapping[str, Given] = attrs.field(factory=dict, repr=False, eq=False)
    """The text of each parameter that was given, and its place."""


def parse(items: Iterable[tuple[str, str]], place: SettingPlace = places.HOST) -> Settings:
    """Read the parameters that a place gives; of a repeated one the last counts, except lists.

    `target_config_file` is left to with_target.

    Raises ParameterError, naming the parameter and what it should be.
    """
    given = _collect(items, place)
    _add_config_file(given)
    _add_password(given)
    for name in (*places.FILES, *places.FOLDERS, "drill_console"):
        _check_path(given, name)
    read: dict[str, Any] = {
        row.name: values.value(row, [one.text for one in given.get(row.name, ())]) for row in TABLE
    }
    ca: Path | None = read["ca"]
    return Settings(
        **read,
        given={name: found[-1] for name, found in given.items()},
        ca_pem=files.whole("ca", ca) if ca else None,
    )


def refuse_secrets(words: Iterable[str]) -> None:
    """Raise ParameterError when a word of a command line gives a secret: `ps` shows it to all."""
    for word in words:
        name = word.partition("=")[0].strip()
        if "=" in word and name in BY_NAME and BY_NAME[name].kind is Kind.SECRET:
            raise ParameterError(
                f"{name}= on a command line can be read by every user of this host: write it into "
                "a file, chmod 600, and give config_file or password_file; change it in Prism"
            )


def require_connection(settings: Settings) -> None:
    """Raise ParameterError unless the settings say where Prism is and who we are.

    The credentials must go where the place that named them sends them.
    """
    if not settings.prism:
        raise ParameterError("parameter prism is missing: give the address of Prism Central")
    if not settings.api_key and not (settings.user and settings.password):
        raise ParameterError(
            "no credentials for Prism: give user and password_file (or password), or api_key"
        )
    places.check_credentials(settings.given)


def with_target(settings: Settings) -> Settings:
    """The settings of a restore, with those of the Prism that receives the VM as their `target`.

    Raises ParameterError when `target_config_file` cannot be read, or says more than how to reach
    that Prism.
    """
    path = settings.target_config_file
    if path is None:
        return settings
    items = files.config_lines("target_config_file", path)
    reaching = [row.name for row in rows(Connection, Access) if row.name != "config_file"]
    strange = sorted({name for name, _ in items} - set(reaching))
    if strange:
        raise ParameterError(
            f"target_config_file {path} is for the connection: "
            f"{', '.join(strange)} does not belong there"
        )
    other = parse(items, SettingPlace(places.Speaker.FILE, path))
    given = {name: found for name, found in settings.given.items() if name not in reaching}
    changed = {name: getattr(other, name) for name in (*reaching, "ca_pem")}
    target = attrs.evolve(settings, **changed, given={**given, **other.given})
    return attrs.evolve(settings, target=target)


def prism_endpoint(settings: Connection) -> prism_client.Endpoint:
    """Where Prism listens; raise ParameterError when `prism` is no address."""
    try:
        return prism_client.Endpoint.parse(settings.prism)
    except ValueError as error:
        raise ParameterError(
            f"parameter prism: {error}: give a host name, an IPv4 or an IPv6 address; a port goes "
            "behind a colon, with an IPv6 address in brackets, as in [fd00::10]:9440"
        ) from error


def prism_address(settings: Connection) -> str:
    """Prism as host:port, however it was given; empty when it was not given."""
    return prism_endpoint(settings).address if settings.prism else ""


def _collect(items: Iterable[tuple[str, str]], place: SettingPlace) -> dict[str, list[Given]]:
    given: dict[str, list[Given]] = {}
    for name, text in items:
        if name in SENT_BY_THE_DAEMON:
            continue
        if name not in BY_NAME:
            raise ParameterError(files.unknown(name))
        if "\0" in text:
            raise ParameterError(f"parameter {name} holds a NUL byte: it was damaged")
        given.setdefault(name, []).append(Given(text, place))
    return given


def _add_config_file(given: dict[str, list[Given]]) -> None:
    """Add what `config_file` says and nobody else; what both say alike is the file's word."""
    path = _check_path(given, "config_file")
    if path is None:
        return
    lines = files.config_lines("config_file", path)
    for name, found in _collect(lines, SettingPlace(places.Speaker.FILE, path)).items():
        ours = given.setdefault(name, found)
        if ours[-1].text == found[-1].text:
            given[name] = found


def _add_password(given: dict[str, list[Given]]) -> None:
    """Add the password that lies in `password_file`: it is bound to who named that file."""
    path = _check_path(given, "password_file")
    if path is not None and "password" not in given:
        place = given["password_file"][-1].place
        text = files.first_line("password_file", path)
        given["password"] = [Given(text, place, is_stored=True)]


def _check_path(given: Mapping[str, list[Given]], name: str) -> Path | None:
    """The path of a parameter, if given; raise ParameterError when its place may not name it."""
    if name not in given or not given[name][-1].text:
        return None
    found = given[name][-1]
    path = values.value(BY_NAME[name], [found.text])
    if not isinstance(path, Path):
        return None
    places.check_path(name, path, found.place)
    return path
