"""The language of iscsiadm: arguments, output, node records, exit codes. Pure functions, no IO.

Exit codes and texts were measured with open-iscsi 2.1.8. No argument ever holds a CHAP secret,
since command lines are public on a host: it is written into the node record, which is root's.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from iscsi_attach._run import MISSING, TIMED_OUT
from iscsi_attach.errors import (
    AttachError,
    CommandFailed,
    KernelUnavailable,
    LoginFailed,
    PortalUnreachable,
    TargetInUse,
    TargetNotFound,
)
from iscsi_attach.model import DiscoveredTarget, Portal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from iscsi_attach._run import Done
    from iscsi_attach.model import Chap, Target

OK, NO_INTERFACE, NOT_FOUND = 0, 7, 21
BUSY = (6, 32)
"""The record database is locked by another iscsiadm; iscsid is not ready yet."""
END_OF_RECORD = "# END RECORD"
INITIATOR = "iface.initiatorname"
_OFFER = re.compile(r"^(\S+),-?\d+ (iqn\.\S+|eui\.\S+|naa\.\S+)$", re.MULTILINE)
_REASON = re.compile(r"\((\d+) - ")


# --- arguments


def version() -> list[str]:
    """Say which version it is; works without anything else."""
    return ["iscsiadm", "--version"]


def new_interface(name: str) -> list[str]:
    """Make an interface record."""
    return ["iscsiadm", "-m", "iface", "-I", name, "--op", "new"]


def name_interface(name: str, initiator: str) -> list[str]:
    """Give an interface record an initiator name of its own."""
    return [
        "iscsiadm",
        "-m",
        "iface",
        "-I",
        name,
        "--op",
        "update",
        "-n",
        INITIATOR,
        "-v",
        initiator,
    ]


def delete_interface(name: str) -> list[str]:
    """Delete an interface record."""
    return ["iscsiadm", "-m", "iface", "-I", name, "--op", "delete"]


def discover(portal: Portal, interface: str) -> list[str]:
    """Ask a portal for its targets without recording them."""
    return ["iscsiadm", "-m", "discovery", "-t", "sendtargets", "-p", str(portal),
            "-I", interface, "--op", "nonpersistent"]  # fmt: skip


def new_record(target: Target) -> list[str]:
    """Make a node record, from the host's defaults."""
    return [*_node(target), "--op", "new"]


def delete_record(target: Target) -> list[str]:
    """Delete a node record."""
    return [*_node(target), "--op", "delete"]


def log_in(target: Target) -> list[str]:
    """Log in as the node record says."""
    return [*_node(target), "--login"]


def log_out(session: int) -> list[str]:
    """Log one session out."""
    return ["iscsiadm", "-m", "session", "-r", str(session), "--logout"]


def _node(target: Target) -> list[str]:
    return ["iscsiadm", "-m", "node", "-T", target.iqn, "-p", str(target.portal)]


# --- output


def parse_discovery(text: str) -> list[DiscoveredTarget]:
    """Read the targets of a discovery; lines that look like nothing we know are passed over."""
    portals: dict[str, list[Portal]] = {}
    for address, iqn in _OFFER.findall(text):
        portals.setdefault(iqn, []).append(Portal.parse(address))
    return [DiscoveredTarget(iqn, tuple(there)) for iqn, there in portals.items()]


# --- node records


def record_settings(
    initiator: str, chap: Chap | None, *, login_timeout: float, replacement_timeout: float
) -> dict[str, str]:
    """What a node record of ours says, other than the host's defaults.

    Nothing logs in by itself (manual startup), no LUN appears unasked (manual scan), a target that
    is gone fails reads after ``replacement_timeout`` seconds in place of two minutes.
    """
    settings = {
        INITIATOR: initiator,
        "node.startup": "manual",
        "node.conn[0].startup": "manual",
        "node.leading_login": "No",
        "node.session.scan": "manual",
        "node.session.nr_sessions": "1",
        "node.session.initial_login_retry_max": "1",
        "node.session.timeo.replacement_timeout": str(max(1, round(replacement_timeout))),
        "node.conn[0].timeo.login_timeout": str(max(1, round(login_timeout))),
        "node.session.auth.authmethod": "None",
    }
    if chap is not None:
        settings["node.session.auth.authmethod"] = "CHAP"
        settings["node.session.auth.username"] = chap.user
        settings["node.session.auth.password"] = chap.secret
    return settings


def edit_record(text: str, settings: Mapping[str, str]) -> str:
    """Set fields of a node record; credentials that it has from elsewhere are dropped."""
    kept = [line for line in text.splitlines() if not _is_replaced(line, settings)]
    at = kept.index(END_OF_RECORD) if END_OF_RECORD in kept else len(kept)
    kept[at:at] = [f"{name} = {value}" for name, value in settings.items()]
    return "\n".join(kept) + "\n"


def _is_replaced(line: str, settings: Mapping[str, str]) -> bool:
    name = line.partition(" = ")[0]
    return name in settings or name.startswith(("node.session.auth.user", "node.session.auth.pass"))


def record_initiator(text: str) -> str:
    """The initiator name that a node record logs in with; empty for the host's own."""
    for line in text.splitlines():
        name, _, value = line.partition(" = ")
        if name == INITIATOR:
            return value.strip()
    return ""


# --- exit codes


def failure(done: Done, *, step: str, target: str) -> AttachError:
    """The error for a command that failed: typed by its exit code, in the words of iscsiadm."""
    status = done.status
    if reason := _REASON.search(done.stderr):
        status = int(reason[1])  # the code of the whole command may hide it
    kind, hint = _KINDS.get(status, (None, ""))
    said = " ".join(done.stderr.split())[-300:]
    if kind is None:
        return CommandFailed(status=status, said=said, step=step, target=target)
    return kind(f"{hint} (iscsiadm: {said})", step=step, target=target)


_UNREACHABLE = "the portal does not answer: check address, port and firewall"
_KINDS: Mapping[int, tuple[type[AttachError], str]] = {
    4: (PortalUnreachable, _UNREACHABLE),
    5: (PortalUnreachable, "the portal broke the connection"),
    8: (PortalUnreachable, _UNREACHABLE),
    11: (PortalUnreachable, _UNREACHABLE),
    15: (TargetInUse, "a session to it exists already"),
    19: (TargetNotFound, "the portal does not offer this target to this initiator"),
    20: (KernelUnavailable, "iscsid does not run: systemctl start iscsid"),
    21: (TargetNotFound, "the portal offers no target to this initiator"),
    24: (LoginFailed, "wrong or missing CHAP user or secret, or this initiator is not admitted"),
    MISSING: (KernelUnavailable, "install the Debian package open-iscsi"),
    TIMED_OUT: (PortalUnreachable, "no answer in time"),
}
