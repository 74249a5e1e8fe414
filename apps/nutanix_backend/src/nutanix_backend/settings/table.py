"""The table of plugin parameters: one class for each topic, and a row for each of its fields.

The same names are used on the Plugin line of a FileSet, as restore options, in a configuration file
and on the command line. The shim repeats them, and docs/parameters.md is rendered from them.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Any

import attrs
import phcbt01

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_ROW = "parameter"


class Kind(Enum):
    """How the text of a parameter is read."""

    TEXT = "text"
    LIST = "text, may be repeated"
    FLAG = "yes or no"
    SECONDS = "seconds"
    COUNT = "number"
    PORT = "number of a TCP port"
    RATE = "MiB per second"
    SHARE = "percent, or all"
    PATH = "path"
    PATHS = "path, or number:path,..."
    LAYOUT = "layout, as `phcbt01 identify` prints it"
    SECRET = "secret"  # noqa: S105 - the name of a kind, not a secret


@attrs.frozen
class Parameter:
    """A row of the table: its name, kind, default as text, legal values, and what it is for."""

    name: str
    kind: Kind
    help: str
    default: str = ""
    choices: tuple[str, ...] = ()


def _row(kind: Kind, text: str, default: str = "", choices: tuple[str, ...] = ()) -> Any:  # noqa: ANN401 - a field takes the type that its class gives it
    row = Parameter("", kind, text, default, choices)
    return attrs.field(metadata={_ROW: row}, repr=kind is not Kind.SECRET)


@attrs.frozen(kw_only=True, slots=False)  # several topics can be the bases of one class
class Connection:
    """How Prism is reached, and as whom. `timeout` is in seconds."""

    prism: str = _row(Kind.TEXT, "address of Prism Central, host or host:port")
    user: str = _row(Kind.TEXT, "Prism user")
    password: str = _row(Kind.SECRET, "its password; better in password_file or config_file")
    password_file: Path | None = _row(Kind.PATH, "file whose first line is the password")
    api_key: str = _row(Kind.SECRET, "API key, instead of user and password")
    config_file: Path | None = _row(Kind.PATH, "file of name=value lines; the plugin line wins")
    ca: Path | None = _row(Kind.PATH, "PEM file of the authority that signed Prism's certificate")
    fingerprint: str = _row(Kind.TEXT, "SHA-256 fingerprint of Prism's certificate, to pin it")
    prism_insecure: bool = _row(Kind.FLAG, "do not verify Prism's certificate", "no")
    timeout: float = _row(Kind.SECONDS, "longest wait for one answer of Prism", "30")


@attrs.frozen(kw_only=True, slots=False)
class Access:
    """Where this host stands, and how it reaches the disks."""

    proxy_mode: str = _row(
        Kind.TEXT,
        "where this host is: a VM of the cluster reaches its data services address (in_cluster)",
        "external",
        ("external", "in_cluster"),
    )
    dsip: str = _row(Kind.TEXT, "data services address, when not the cluster's own")
    transport: str = _row(
        Kind.TEXT,
        "iSCSI by the kernel (open-iscsi, root), in user space (libiscsi), or the first that works",
        "auto",
        ("auto", "kernel", "userspace"),
    )
    data_path: str = _row(
        Kind.TEXT,
        "few changes are read by HTTP ranges where a cluster was seen to offer them (auto; no "
        "public release is known to), or all is read over iSCSI and ranges are not asked for",
        "auto",
        ("auto", "iscsi"),
    )
    chap: bool = _row(Kind.FLAG, "protect iSCSI sessions with one-time CHAP secrets", "yes")


@attrs.frozen(kw_only=True, slots=False)
class Host:
    """Folders of this host."""

    state_dir: Path = _row(
        Kind.PATH, "where the chain of each VM is kept", "/var/lib/podheitor-nutanix"
    )
    metrics_dir: Path | None = _row(
        Kind.PATH, "folder of node_exporter's text files, for metrics of each backup job"
    )


@attrs.frozen(kw_only=True, slots=False)
class Selection:
    """What is backed up."""

    vm: tuple[str, ...] = _row(Kind.LIST, "VM to back up: name, UUID or pattern with * and ?")
    exclude_vm: tuple[str, ...] = _row(Kind.LIST, "VM to leave out: name, UUID or pattern")
    category: tuple[str, ...] = _row(
        Kind.LIST, "VMs to back up by their category, Key:Value; any of several does"
    )
    exclude_category: tuple[str, ...] = _row(
        Kind.LIST, "VMs to leave out by their category, Key:Value"
    )
    project: tuple[str, ...] = _row(Kind.LIST, "VMs to back up by their project: name or UUID")
    exclude_disk: tuple[str, ...] = _row(
        Kind.LIST,
        "disks that no backup reads: bus address (scsi:1), number (1), or larger than (>2T)",
    )
    cluster: str = _row(Kind.TEXT, "cluster to look at, when Prism manages several")
    consistency: str = _row(
        Kind.TEXT,
        "snapshots are crash-consistent, application-consistent, or the better one that works",
        "crash",
        ("crash", "app", "app_or_crash"),
    )
    backup_type: str = _row(
        Kind.TEXT,
        "application-consistent snapshots leave the applications' own history alone (copy) or "
        "count there as a full backup, after which they truncate their logs (full)",
        "copy",
        ("copy", "full"),
    )
    volume_groups: str = _row(
        Kind.TEXT,
        "the volume groups that are attached to a VM are saved with it, or not, or they alone",
        "yes",
        ("yes", "no", "only"),
    )
    parallel_vms: int = _row(
        Kind.COUNT,
        "VMs that are prepared while another one streams, and VMs that are cleaned up behind it; a "
        "restore makes and finishes so many things at a time",
        "4",
    )
    lock_wait: float = _row(
        Kind.SECONDS, "longest wait for another job that is processing the same VM", "300"
    )


@attrs.frozen(kw_only=True, slots=False)
class ChainRules:
    """What a full is, what other backups may stand on, and how that is tested.

    `scrub` is from 0 to 1.
    """

    fallback_to_full: bool = _row(
        Kind.FLAG, "back up in full when an incremental has no base", "yes"
    )
    references: str = _row(
        Kind.TEXT,
        "recovery points kept between jobs: what the next incremental or differential may need, or "
        "only the newest (lean: a differential after incrementals is then a full)",
        "chain",
        ("chain", "lean"),
    )

    scrub: float = _row(
        Kind.SHARE,
        "part of the blocks without changes that an incremental reads and compares, at least 64",
        "0.1",
    )
    full_format: str = _row(
        Kind.TEXT,
        "a full sends every byte of a disk (raw), or only what is allocated (sparse)",
        "raw",
        ("raw", "sparse"),
    )

    @property
    def is_sparse(self) -> bool:
        """Whether a full sends only what is allocated."""
        return self.full_format == "sparse"

    @property
    def is_lean(self) -> bool:
        """Whether only the newest recovery point of a VM stays between jobs."""
        return self.references == "lean"


@attrs.frozen(kw_only=True, slots=False)
class ReplicationOptions:
    """Replicas: where they go, how fast, and when they are late (in seconds).

    `replicate_limit` is in bytes per second; 0 is no limit.
    """

    mode: str = _row(
        Kind.TEXT,
        "what a backup job does: save the VMs, or bring their replicas up to date",
        "backup",
        ("backup", "replicate"),
    )
    replicate_to: str = _row(Kind.TEXT, "receiver of the replicas, host or host:port")
    replicate_limit: float = _row(Kind.RATE, "most that is sent to the receiver, for all VMs")
    replicate_parallel: int = _row(Kind.COUNT, "VMs that are replicated side by side", "2")
    replicate_rpo: float = _row(
        Kind.SECONDS, "age of a replica beyond which the receiver calls it late", "86400"
    )
    replicate_protected: bool = _row(
        Kind.FLAG,
        "replicate VMs too that a protection policy of Prism replicates already",
        "no",
    )


@attrs.frozen(kw_only=True, slots=False)
class RestoreOptions:
    """What a restore makes, and where.

    `disk_path` is by the number of the disk; "" stands for the one disk that is restored.
    """

    restore_to: str = _row(
        Kind.TEXT,
        "a new VM (ahv), the VM's own disks (inplace), raw images (disk), files in a running guest "
        "(guest), or only a proof (verify)",
        "",
        ("ahv", "inplace", "disk", "guest", "verify"),
    )
    restore_via: str = _row(
        Kind.TEXT,
        "disks of a VM go over iSCSI into a volume group, or as images, or the first that works",
        "auto",
        ("auto", "volume_group", "image"),
    )
    disk: tuple[str, ...] = _row(Kind.LIST, "restore only these disks, by number")
    disk_path: Mapping[str, Path] = _row(
        Kind.PATHS,
        "file or block device that receives the one disk restored; number:path,... for several",
    )
    file: tuple[str, ...] = _row(
        Kind.LIST, "restore only these files: paths or patterns, with commas between them"
    )
    key_file: Path | None = _row(
        Kind.PATH, "file with the passphrase or key of encrypted volumes, for file"
    )
    guest_vm: str = _row(
        Kind.TEXT, "running VM whose guest receives files, name or UUID, when not the old one"
    )
    guest_user: str = _row(Kind.TEXT, "user of that guest")
    guest_password_file: Path | None = _row(
        Kind.PATH, "file whose first line is the password of that user"
    )
    target_cluster: str = _row(Kind.TEXT, "cluster that receives the VM, when not the old one")
    target_config_file: Path | None = _row(
        Kind.PATH,
        "file like config_file: the Prism that receives the VM, when not the one of the backup",
    )
    restore_vm_name: str = _row(Kind.TEXT, "name of the restored VM")
    restore_volume_group: str = _row(
        Kind.TEXT, "volume group, by name or UUID, whose disks are overwritten; else a new one"
    )
    restore_identity: str = _row(
        Kind.TEXT,
        "BIOS UUID and MAC addresses: old ones if the source is gone (auto), in any case, or new",
        "auto",
        ("auto", "old", "new"),
    )
    network_map: str = _row(
        Kind.TEXT,
        "source:subnet,... where source is a network, VLAN id or MAC address, or * for all others",
    )
    storage_container: str = _row(Kind.TEXT, "storage container of the restored VM")
    overwrite: bool = _row(Kind.FLAG, "replace existing files and devices with content", "no")
    verify: bool = _row(Kind.FLAG, "read back what was written, and compare", "no")
    check_space: bool = _row(
        Kind.FLAG, "refuse a restore for which there is too little space", "yes"
    )
    layout: phcbt01.Layout = _row(
        Kind.LAYOUT,
        "layout of the deltas in the backup of another maker's plugin",
        str(phcbt01.OURS),
    )
    restore_powerstate: str = _row(Kind.TEXT, "state of the restored VM", "off", ("on", "off"))
    restore_start: tuple[str, ...] = _row(
        Kind.LIST,
        "VMs to start when all are restored, in this order: name,... as they are called in the "
        "backup, or their UUIDs there",
    )


@attrs.frozen(kw_only=True, slots=False)
class DrillOptions:
    """A restore that only proves that the VM starts. `drill_wait` is in seconds.

    `drill_port` is 0 for none.
    """

    restore_drill: bool = _row(
        Kind.FLAG, "make the VM without network, start it, see whether it lives, remove it", "no"
    )
    drill_sign: str = _row(
        Kind.TEXT,
        "what the VM has to show: its guest tools answer, a line on its serial console, an open "
        "port, or at least that it stays on",
        "on",
        ("on", "tools", "console", "port"),
    )
    drill_wait: float = _row(
        Kind.SECONDS, "how long the VM may take to show it, and how long it has to stay on", "300"
    )
    drill_console: Path | None = _row(
        Kind.PATH, "folder where something writes the serial consoles of VMs, UUID.console each"
    )
    drill_line: str = _row(Kind.TEXT, "text that a line of the serial console has", "login:")
    drill_subnet: str = _row(
        Kind.TEXT, "isolated subnet for the first network card, where the port is looked for"
    )
    drill_port: int = _row(Kind.PORT, "TCP port that has to be open, such as 22")


@attrs.frozen(kw_only=True, slots=False)
class JobOptions:
    """What every metaplugin of Bacula has."""

    listing: str = _row(Kind.TEXT, "what .ls shows: / for clusters, then /CLUSTER and /CLUSTER/VM")
    query: str = _row(
        Kind.TEXT,
        "what .query answers",
        "",
        (
            "clusters",
            "vms",
            "disks",
            "subnets",
            "containers",
            "coverage",
            "leftovers",
            "sweep",
        ),
    )
    coverage_days: int = _row(
        Kind.COUNT, "days without a backup after which coverage reports a VM", "2"
    )
    abort_on_error: bool = _row(Kind.FLAG, "fail the job with the first VM that fails", "no")
    debug: bool = _row(Kind.FLAG, "log every step", "no")


TOPICS = (
    Connection, Access, Host, Selection, ChainRules, ReplicationOptions, RestoreOptions,
    DrillOptions, JobOptions,
)  # fmt: skip


def rows(*topics: type[attrs.AttrsInstance]) -> tuple[Parameter, ...]:
    """The rows of topics, in the order of their fields."""
    return tuple(
        attrs.evolve(field.metadata[_ROW], name=field.name)
        for topic in topics
        for field in attrs.fields(topic)
    )


TABLE = rows(*TOPICS)
BY_NAME = {row.name: row for row in TABLE}
