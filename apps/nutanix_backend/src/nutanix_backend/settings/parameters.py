"""The one table of plugin parameters, and the settings that a job gets from them.

The same names are used on the Plugin line of a FileSet, as restore options, in a configuration file
and on the command line.
"""

from __future__ import annotations

import re
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import prism_client

from nutanix_backend.errors import ParameterError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

YES = {"1", "yes", "true", "on"}
NO = {"0", "no", "false", "off"}


class Kind(Enum):
    """How the text of a parameter is read."""

    TEXT = "text"
    LIST = "text, may be repeated"
    FLAG = "yes or no"
    SECONDS = "seconds"
    COUNT = "number"
    RATE = "MiB per second"
    PATH = "path"
    PATHS = "path, or number:path,..."
    SECRET = "secret"  # noqa: S105 - the name of a kind, not a secret


@attrs.frozen
class Parameter:
    """A row of the table: its name, kind, default as text, legal values, and what it is for."""

    name: str
    kind: Kind
    help: str
    default: str = ""
    choices: tuple[str, ...] = ()


TABLE: tuple[Parameter, ...] = (
    # connection
    Parameter("prism", Kind.TEXT, "address of Prism Central, host or host:port"),
    Parameter("user", Kind.TEXT, "Prism user"),
    Parameter("password", Kind.SECRET, "its password; better in password_file or config_file"),
    Parameter("password_file", Kind.PATH, "file whose first line is the password"),
    Parameter("api_key", Kind.SECRET, "API key, instead of user and password"),
    Parameter("config_file", Kind.PATH, "file of name=value lines; the plugin line wins"),
    Parameter("ca", Kind.PATH, "PEM file of the authority that signed Prism's certificate"),
    Parameter("fingerprint", Kind.TEXT, "SHA-256 fingerprint of Prism's certificate, to pin it"),
    Parameter("prism_insecure", Kind.FLAG, "do not verify Prism's certificate", "no"),
    Parameter("timeout", Kind.SECONDS, "longest wait for one answer of Prism", "30"),
    # where we run
    Parameter(
        "proxy_mode",
        Kind.TEXT,
        "whether this host is a VM of the cluster, which reaches its data services address",
        "in_cluster",
        ("external", "in_cluster"),
    ),
    Parameter("dsip", Kind.TEXT, "data services address, when not the cluster's own"),
    Parameter(
        "transport",
        Kind.TEXT,
        "iSCSI by the kernel (open-iscsi, root), in user space (libiscsi), or the first that works",
        "auto",
        ("auto", "kernel", "userspace"),
    ),
    Parameter("chap", Kind.FLAG, "protect iSCSI sessions with one-time CHAP secrets", "yes"),
    Parameter(
        "state_dir", Kind.PATH, "where the chain of each VM is kept", "/var/lib/podheitor-nutanix"
    ),
    # what
    Parameter("vm", Kind.LIST, "VM to back up: name, UUID or pattern with * and ?"),
    Parameter("exclude_vm", Kind.LIST, "VM to leave out: name, UUID or pattern"),
    Parameter("cluster", Kind.TEXT, "cluster to look at, when Prism manages several"),
    Parameter(
        "consistency",
        Kind.TEXT,
        "snapshots are crash-consistent, application-consistent, or the better one that works",
        "crash",
        ("crash", "app", "app_or_crash"),
    ),
    # chain
    Parameter(
        "fallback_to_full", Kind.FLAG, "back up in full when an incremental has no base", "yes"
    ),
    Parameter(
        "references",
        Kind.TEXT,
        "recovery points kept between jobs: what the next incremental or differential may need, or "
        "only the newest (lean: a differential after incrementals is then a full)",
        "chain",
        ("chain", "lean"),
    ),
    # replication
    Parameter(
        "mode",
        Kind.TEXT,
        "what a backup job does: save the VMs, or bring their replicas up to date",
        "backup",
        ("backup", "replicate"),
    ),
    Parameter("replicate_to", Kind.TEXT, "receiver of the replicas, host or host:port"),
    Parameter("replicate_limit", Kind.RATE, "most that is sent to the receiver, for all VMs"),
    Parameter("replicate_parallel", Kind.COUNT, "VMs that are replicated side by side", "2"),
    Parameter(
        "replicate_rpo",
        Kind.SECONDS,
        "age of a replica beyond which the receiver calls it late",
        "86400",
    ),
    Parameter(
        "replicate_protected",
        Kind.FLAG,
        "replicate VMs too that a protection policy of Prism replicates already",
        "no",
    ),
    # restore
    Parameter(
        "restore_to", Kind.TEXT, "make a VM (ahv) or write raw images (disk)", "", ("ahv", "disk")
    ),
    Parameter(
        "restore_via",
        Kind.TEXT,
        "disks of a VM go over iSCSI into a volume group, or as images, or the first that works",
        "auto",
        ("auto", "volume_group", "image"),
    ),
    Parameter("disk", Kind.LIST, "restore only these disks, by number"),
    Parameter(
        "disk_path",
        Kind.PATHS,
        "file or block device that receives the one disk restored; number:path,... for several",
    ),
    Parameter("target_cluster", Kind.TEXT, "cluster that receives the VM, when not the old one"),
    Parameter(
        "target_config_file",
        Kind.PATH,
        "file like config_file: the Prism that receives the VM, when not the one of the backup",
    ),
    Parameter("restore_vm_name", Kind.TEXT, "name of the restored VM"),
    Parameter(
        "restore_identity",
        Kind.TEXT,
        "BIOS UUID and MAC addresses: old ones if the source is gone (auto), in any case, or new",
        "auto",
        ("auto", "old", "new"),
    ),
    Parameter(
        "network_map",
        Kind.TEXT,
        "source:subnet,... where source is a network, VLAN id or MAC address, or * for all others",
    ),
    Parameter("storage_container", Kind.TEXT, "storage container of the restored VM"),
    Parameter("overwrite", Kind.FLAG, "replace existing files and devices with content", "no"),
    Parameter("verify", Kind.FLAG, "read back what was written, and compare", "no"),
    Parameter("restore_powerstate", Kind.TEXT, "state of the restored VM", "off", ("on", "off")),
    # what every metaplugin has
    Parameter(
        "listing", Kind.TEXT, "what .ls shows: / for clusters, then /CLUSTER and /CLUSTER/VM"
    ),
    Parameter(
        "query",
        Kind.TEXT,
        "what .query answers",
        "",
        ("clusters", "vms", "disks", "subnets", "containers"),
    ),
    Parameter("abort_on_error", Kind.FLAG, "fail the job with the first VM that fails", "no"),
    Parameter("debug", Kind.FLAG, "log every step", "no"),
)
REACHING = (
    "prism", "user", "password", "password_file", "api_key", "ca", "fingerprint", "prism_insecure",
    "timeout", "proxy_mode", "dsip", "transport", "chap",
)  # fmt: skip
"""The parameters that say how a Prism and its disks are reached."""
SENT_BY_THE_DAEMON = {"Accurate"}
"""What bacula-fd adds to the parameters by itself; it changes nothing for whole disks."""
BY_NAME = {parameter.name: parameter for parameter in TABLE}


@attrs.frozen
class Settings:
    """The parameters of a job, read and checked.

    Paths are absolute or empty, times in seconds, rates in bytes per second (0: no limit).
    `disk_path` is by the number of the disk; "" stands for the one disk that is restored.
    """

    prism: str
    user: str
    password: str = attrs.field(repr=False)
    password_file: Path | None
    api_key: str = attrs.field(repr=False)
    config_file: Path | None
    ca: Path | None
    fingerprint: str
    prism_insecure: bool
    timeout: float
    proxy_mode: str
    dsip: str
    transport: str
    chap: bool
    state_dir: Path
    vm: tuple[str, ...]
    exclude_vm: tuple[str, ...]
    cluster: str
    consistency: str
    fallback_to_full: bool
    references: str
    mode: str
    replicate_to: str
    replicate_limit: float
    replicate_parallel: int
    replicate_rpo: float
    replicate_protected: bool
    restore_to: str
    restore_via: str
    disk: tuple[str, ...]
    disk_path: Mapping[str, Path]
    target_cluster: str
    target_config_file: Path | None
    restore_vm_name: str
    restore_identity: str
    network_map: str
    storage_container: str
    overwrite: bool
    verify: bool
    restore_powerstate: str
    listing: str
    query: str
    abort_on_error: bool
    debug: bool

    @property
    def is_lean(self) -> bool:
        """Whether only the newest recovery point of a VM stays between jobs."""
        return self.references == "lean"


def parse(items: Iterable[tuple[str, str]]) -> Settings:
    """Read the parameters of a job; of a repeated one the last counts, except lists.

    Raises ParameterError, naming the parameter and what it should be.
    """
    given = _collect(items)
    if "config_file" in given:
        given = _collect(_config_lines(Path(given["config_file"][-1]))) | given
    if "password_file" in given and "password" not in given:
        given["password"] = [_first_line(Path(given["password_file"][-1]))]
    return Settings(**{p.name: _value(p, given.get(p.name)) for p in TABLE})  # type: ignore[arg-type]


def require_connection(settings: Settings) -> None:
    """Raise ParameterError unless the settings say where Prism is and who we are."""
    if not settings.prism:
        raise ParameterError("parameter prism is missing: give the address of Prism Central")
    if not settings.api_key and not (settings.user and settings.password):
        raise ParameterError(
            "no credentials for Prism: give user and password_file (or password), or api_key"
        )


def for_target(settings: Settings) -> Settings:
    """The settings of the Prism that receives a VM: those of `target_config_file`, if given.

    Raises ParameterError when it cannot be read, or says more than how to reach that Prism.
    """
    if settings.target_config_file is None:
        return settings
    items = _config_lines(settings.target_config_file)
    strange = sorted({name for name, _ in items} - set(REACHING))
    if strange:
        raise ParameterError(
            f"target_config_file {settings.target_config_file} is for the connection: "
            f"{', '.join(strange)} does not belong there"
        )
    other = parse(items)
    return attrs.evolve(settings, **{name: getattr(other, name) for name in REACHING})


def prism_endpoint(settings: Settings) -> prism_client.Endpoint:
    """Where Prism listens; raise ParameterError when `prism` is no address."""
    try:
        return prism_client.Endpoint.parse(settings.prism)
    except ValueError as error:
        raise ParameterError(
            f"parameter prism: {error}: give a host name, an IPv4 or an IPv6 address; a port goes "
            "behind a colon, with an IPv6 address in brackets, as in [fd00::10]:9440"
        ) from error


def prism_address(settings: Settings) -> str:
    """Prism as host:port, however it was given."""
    return prism_endpoint(settings).address if settings.prism else ""


def _collect(items: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    given: dict[str, list[str]] = {}
    for name, text in items:
        if name in SENT_BY_THE_DAEMON:
            continue
        if name not in BY_NAME:
            raise ParameterError(f"unknown parameter {name}: known are {', '.join(BY_NAME)}")
        if "\0" in text:
            raise ParameterError(f"parameter {name} holds a NUL byte: it was damaged")
        given.setdefault(name, []).append(text)
    return given


def _config_lines(path: Path) -> list[tuple[str, str]]:
    items = []
    for number, line in enumerate(_read_text("config_file", path).splitlines(), start=1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        name, equals, value = text.partition("=")
        if not equals:
            raise ParameterError(f"config_file {path} line {number}: expected name=value")
        items.append((name.strip(), value.strip()))
    return items


def _first_line(path: Path) -> str:
    return _read_text("password_file", path).partition("\n")[0].rstrip("\r")


def _read_text(parameter: str, path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ParameterError(f"{parameter} {path} cannot be read: {error}") from error


def _value(parameter: Parameter, texts: list[str] | None) -> object:
    if parameter.kind is Kind.LIST:
        return tuple(texts or ())
    text = texts[-1] if texts else parameter.default
    if parameter.choices and text and text not in parameter.choices:
        raise ParameterError(
            f"{parameter.name}={text} is not one of {', '.join(parameter.choices)}"
        )
    return READERS[parameter.kind](parameter.name, text)


def _flag(name: str, text: str) -> bool:
    if text.lower() in YES:
        return True
    if text.lower() in NO:
        return False
    raise ParameterError(f"{name}={text} is neither yes nor no")


def _seconds(name: str, text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e6:
        raise ParameterError(f"{name}={text} is not a positive number of seconds")
    return seconds


def _count(name: str, text: str) -> int:
    if not (text.isascii() and text.isdecimal() and 1 <= int(text) <= 64):
        raise ParameterError(f"{name}={text} is not a number from 1 to 64")
    return int(text)


def _rate(name: str, text: str) -> float:
    if not text:
        return 0.0
    try:
        rate = float(text)
    except ValueError:
        rate = 0.0
    if not 0.05 <= rate <= 1e6:
        raise ParameterError(f"{name}={text} is not a number of MiB per second, at least 0.05")
    return rate * 1024 * 1024


def _path(name: str, text: str) -> Path | None:
    if text and not text.startswith("/"):
        raise ParameterError(f"{name}={text} is not an absolute path")
    return Path(text) if text else None


def _paths(name: str, text: str) -> dict[str, Path]:
    """Read one path, or `number:path` several times with commas between them."""
    found: dict[str, Path] = {}
    for part in re.split(r",(?=[0-9]+:/)", text) if text else ():
        number, _, path = ("", "", part) if part.startswith("/") else part.partition(":")
        if number in found or "" in found or not (number.isdecimal() or path == part):
            raise ParameterError(f"{name}={text} is neither a path nor number:path,...")
        found[number] = _path(name, path) or Path()
    return found


def _text(_name: str, text: str) -> str:
    return text


READERS: Mapping[Kind, Callable[[str, str], object]] = {
    Kind.TEXT: _text,
    Kind.SECRET: _text,
    Kind.FLAG: _flag,
    Kind.SECONDS: _seconds,
    Kind.COUNT: _count,
    Kind.RATE: _rate,
    Kind.PATH: _path,
    Kind.PATHS: _paths,
}
