"""What the backend needs of Prism: an answer, a certificate, an account, data over iSCSI."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import iscsi_attach
import prism_client

from nutanix_backend.cluster import inventory, selection
from nutanix_backend.doctor.finding import Finding
from nutanix_backend.doctor.rights import RIGHTS, Need, Right
from nutanix_backend.errors import BackendError, SelectionError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from prism_client import PrismClient

    from nutanix_backend.settings.parameters import Settings

ROLE = "give the account a role with the operation"


def check(settings: Settings) -> Iterator[Finding]:
    """Connect as a job does, and look at what the account may see and what can be reached."""
    try:
        client = inventory.connect(settings)
    except (BackendError, prism_client.PrismError, ValueError) as error:
        yield from _refused(settings, error)
        return
    with client:
        yield Finding.ok("prism", f"{settings.prism} answers")
        yield _trust(settings)
        yield _account(settings)
        yield from _rights(client)
        yield from _data_services(client, settings)
        if settings.vm:
            yield _selection(client, settings)


def _refused(settings: Settings, error: Exception) -> Iterator[Finding]:
    """Say how far we came: each of these errors tells that what precedes it is in order."""
    answers = Finding.ok("prism", f"{settings.prism} answers")
    match error:
        case prism_client.UntrustedCertificate():
            yield answers
            yield Finding.bad("certificate", f"{error}: ca= or fingerprint=")
        case prism_client.AuthFailed():
            yield answers
            yield _trust(settings)
            yield Finding.bad("account", str(error))
        case prism_client.Forbidden():
            yield answers
            yield _trust(settings)
            yield _account(settings)
            yield Finding.bad(
                "rights", f"{error}: see docs/rights.md for the role that the account needs"
            )
        case _:
            yield Finding.bad("prism", str(error))


def _trust(settings: Settings) -> Finding:
    if settings.prism_insecure:
        return Finding.note(
            "certificate", "not verified, because prism_insecure=yes: use ca= or fingerprint="
        )
    if settings.fingerprint:
        return Finding.ok("certificate", "it is the one that fingerprint= pins")
    by = f"the CA in {settings.ca}" if settings.ca else "a CA that this host trusts"
    return Finding.ok("certificate", f"signed by {by}")


def _account(settings: Settings) -> Finding:
    return Finding.ok("account", "the API key" if settings.api_key else f"user {settings.user}")


def _rights(client: PrismClient) -> Iterator[Finding]:
    """Use every right that changes nothing. If no job needs a missing right, it is only a note."""
    tried = [(right, read) for right in RIGHTS if (read := right.read)]
    refused = [(right, error) for right, read in tried if (error := _attempt(read, client))]
    for right, error in refused:
        yield _missing(right, error)
    if not refused:
        yield Finding.ok(
            "rights",
            f"{len(tried)} of the {len(RIGHTS)} rights in docs/rights.md were tried; jobs show the "
            "others",
        )


def _missing(right: Right, error: prism_client.PrismError) -> Finding:
    text = f"{right.operation}: {error}; it {right.why}"
    if right.need is Need.COMFORT:
        return Finding.note("rights", text)
    return Finding.bad("rights", f"{text}; needed for {right.need.value}: {ROLE}")


def _attempt(
    read: Callable[[PrismClient], Iterable[object]], client: PrismClient
) -> prism_client.PrismError | None:
    try:
        next(iter(read(client)), None)
    except prism_client.PrismError as error:
        return error
    return None


def _data_services(client: PrismClient, settings: Settings) -> Iterator[Finding]:
    try:
        clusters = inventory.data_clusters(client, settings.cluster)
    except prism_client.PrismError:
        return  # said by _rights
    except SelectionError as error:
        yield Finding.bad("cluster", str(error))
        return
    for found in clusters.values():
        yield _portal(found.name, settings.dsip or found.data_services_ip, settings.timeout)


def _portal(name: str, address: str | None, timeout: float) -> Finding:
    """Only the way there is tried: a login is for those who have something to attach."""
    if not address:
        return Finding.bad(
            "data services",
            f"cluster {name} has no data services IP: set one in Prism Element, or give dsip=",
        )
    portal = iscsi_attach.Portal(address)
    try:
        socket.create_connection((portal.host, portal.port), timeout).close()
    except OSError as error:
        return Finding.bad(
            "data services",
            f"{address} of cluster {name} does not answer on TCP {portal.port}: "
            f"{error.strerror or error}: open the firewall for this host, or give dsip=",
        )
    return Finding.ok("data services", f"{address} of cluster {name} answers")


def _selection(client: PrismClient, settings: Settings) -> Finding:
    try:
        selected = selection.select(client, settings)
    except (SelectionError, prism_client.PrismError) as error:
        return Finding.bad("vm", str(error))
    if selected.missing:
        return Finding.bad("vm", "; ".join(missing.reason for missing in selected.missing))
    sources = selected.sources
    return Finding.ok("vm", f"{len(sources)} VMs: {', '.join(s.vm.name for s in sources[:10])}")
