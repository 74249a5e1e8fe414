"""Which certificate is good enough: Trust turned into what urllib3 connects with. No HTTP here."""

from __future__ import annotations

import hashlib
import re
import ssl
from typing import TYPE_CHECKING, Any

from urllib3 import HTTPSConnectionPool
from urllib3.connection import HTTPSConnection

if TYPE_CHECKING:
    from prism_client.model import Trust

_SHA256_HEX = re.compile(r"[0-9a-f]{64}")


class NotPinned(ssl.SSLCertVerificationError):
    """The certificate has another fingerprint, `seen`, than was given."""

    def __init__(self, seen: str) -> None:
        super().__init__(seen)
        self.seen = seen


def pool_arguments(trust: Trust) -> dict[str, Any]:
    """Return the TLS arguments of a urllib3 pool. Raises ValueError for an unusable Trust."""
    if _checks_names(trust):
        return {"ssl_context": _verifying_context(trust), "cert_reqs": "CERT_REQUIRED"}
    return {"ssl_context": _bare_context(), "cert_reqs": "CERT_NONE"}


def pool_class(trust: Trust) -> type[HTTPSConnectionPool]:
    """Return a pool whose connections are checked against the pinned fingerprints, if any."""
    if _checks_names(trust):
        return HTTPSConnectionPool
    pins = None if trust.insecure else _fingerprints(trust.fingerprint or "")

    class PinnedConnection(HTTPSConnection):
        def connect(self) -> None:
            super().connect()
            if pins is not None:
                _check(self, pins)
            # Pinned, or waived by the administrator: urllib3 need not warn on every request.
            self.is_verified = True

    class PinnedPool(HTTPSConnectionPool):
        ConnectionCls = PinnedConnection  # type: ignore[mutable-override]  # how urllib3 wants it

    return PinnedPool


def _checks_names(trust: Trust) -> bool:
    return not trust.insecure and trust.fingerprint is None


def _verifying_context(trust: Trust) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=trust.ca_file)
    except OSError as exc:  # ssl.SSLError, for what is no PEM file, is one too
        raise ValueError(f"cannot use the CA file {trust.ca_file}: {exc}") from exc


def _bare_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _fingerprints(text: str) -> frozenset[str]:
    pins = [re.sub(r"[:\s]", "", pin).lower() for pin in text.split(",")]
    for pin in pins:
        if not _SHA256_HEX.fullmatch(pin):
            raise ValueError(f"a fingerprint is the 64 hex digits of a SHA-256, not {pin!r}")
    return frozenset(pins)


def _check(connection: HTTPSConnection, pins: frozenset[str]) -> None:
    """Raise SSLCertVerificationError, before anything is sent, unless the certificate is pinned."""
    sock = connection.sock
    certificate = sock.getpeercert(binary_form=True) if isinstance(sock, ssl.SSLSocket) else None
    seen = hashlib.sha256(certificate or b"").hexdigest()
    if seen not in pins:
        connection.close()
        raise NotPinned(seen)
