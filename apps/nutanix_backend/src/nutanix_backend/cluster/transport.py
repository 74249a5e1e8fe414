"""How disks are reached over iSCSI: by the kernel or in user space, and at which address."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import attrs
import iscsi_attach
from iscsi_attach import kernel

from nutanix_backend.errors import ParameterError, SourceError

if TYPE_CHECKING:
    from collections.abc import Callable

    import prism_client

    from nutanix_backend.settings.parameters import Settings


@attrs.frozen
class Transport:
    """One of the two: how to find targets and log in, and why it was taken."""

    name: str
    reason: str
    discover: Callable[
        [iscsi_attach.Portal, str, iscsi_attach.Chap | None], list[iscsi_attach.DiscoveredTarget]
    ]
    attach: Callable[[iscsi_attach.Target, str], iscsi_attach.Attachment]

    def __str__(self) -> str:
        return f"disks are read over iSCSI {self.reason}"


def choose(wanted: str, unavailable: Callable[[], str] = kernel.unavailable) -> Transport:
    """The transport for `auto`, `kernel` or `userspace`; `auto` prefers the kernel.

    Why the kernel cannot be used is told by `doctor`, not by each job. Raises ParameterError when
    the kernel is asked for and cannot.
    """
    if wanted == "userspace":
        return _in_user_space("in user space, as transport=userspace says")
    why_not = unavailable()
    if not why_not:
        return _by_the_kernel(f"by the kernel (open-iscsi), transport={wanted}")
    if wanted == "kernel":
        raise ParameterError(f"transport=kernel cannot be used: {why_not}")
    return _in_user_space("in user space (libiscsi), transport=auto")


def portal(
    settings: Settings, cluster: prism_client.Cluster, warn: Callable[[str], object]
) -> iscsi_attach.Portal:
    """Where the data services of a cluster are, for a proxy inside or outside of it.

    `dsip` wins; without it the cluster's own address has to do, which a proxy outside may not
    reach: then `warn` says so. Raises SourceError when neither is set.
    """
    address = settings.dsip or cluster.data_services_ip
    if not address:
        raise SourceError(
            f"cluster {cluster.name} has no data services IP: set one in Prism Element (cluster "
            "details), or give dsip="
        )
    if settings.proxy_mode == "external" and not settings.dsip:
        warn(
            f"proxy_mode=external without dsip: using {address}, which cluster {cluster.name} "
            "reports as its data services address; if this host reaches it, write "
            "proxy_mode=in_cluster, otherwise dsip="
        )
    try:
        return iscsi_attach.Portal.parse(address)
    except ValueError as error:
        raise ParameterError(f"dsip={address} is not host or host:port") from error


def initiator_name() -> str:
    """The IQN under which this host logs in."""
    host = "".join(c if c.isalnum() or c in "-." else "-" for c in socket.gethostname().lower())
    return f"iqn.2026-11.com.podheitor:nutanix.{host}"


def abandoned(initiator: str, target_name: str) -> list[str]:
    """Kernel sessions to a target, by IQN, whose process died."""
    found = kernel.abandoned(initiator=initiator)
    return [iqn for iqn in found if is_target(iqn, target_name)]


def end(initiator: str, iqn: str) -> None:
    """End such a session; raise SourceError when that fails."""
    try:
        kernel.recover(iqn, initiator=initiator)
    except iscsi_attach.IscsiAttachError as error:
        raise SourceError(str(error)) from error


def is_target(iqn: str, target_name: str) -> bool:
    """Whether an IQN is of the target that Prism names so: without prefix, and without `-tgt0`."""
    wanted = target_name.rpartition(":")[2]
    return bool(wanted) and iqn.rpartition(":")[2].startswith(wanted)


def _by_the_kernel(reason: str) -> Transport:
    return Transport(
        "kernel",
        reason,
        lambda portal, initiator, _chap: kernel.discover(portal, initiator=initiator),
        lambda target, initiator: kernel.attach(target, initiator=initiator),
    )


def _in_user_space(reason: str) -> Transport:
    return Transport(
        "userspace",
        reason,
        lambda portal, initiator, chap: iscsi_attach.discover(
            portal, initiator=initiator, chap=chap
        ),
        lambda target, initiator: iscsi_attach.attach(target, initiator=initiator),
    )
