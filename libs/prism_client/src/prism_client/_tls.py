"""Which certificate is good enough: Trust turned into what urllib3 connects with."""

from __future__ import annotations

import hashlib
import re
import ssl
from functools import partial
from typing import TYPE_CHECKING, Any

from urllib3 import HTTPSConnectionPool
from urllib3.connection import HTTPSConnection

from prism_client._answer import BoundedResponse

if TYPE_CHECKING:
    from prism_client._answer import AnswerLimit
    from prism_client.model import Trust

_SHA256_HEX = re.compile(r"[0-9a-f]{64}")
_WRONG_NAME = frozenset({62, 64})  # X509_V_ERR_HOSTNAME_MISMATCH, _IP_ADDRESS_MISMATCH


class NotPinned(ssl.SSLCertVerificationError):
    """The certificate has another fingerprint, `seen`, than was given."""

    def __init__(self, seen: str) -> None:
        super().__init__(seen)
        self.seen = seen


def advice(error: ssl.SSLCertVerificationError, trust: Trust) -> str:
    """Return what an administrator can do about a certificate that does not verify."""
    if error.verify_code in _WRONG_NAME:
        return "connect by the name that is in the certificate, or give its fingerprint"
    if trust.ca_file is None:
        return "give its CA file or its fingerprint"
    return (
        f"check that {trust.ca_file} holds the CA that signed it, or give the fingerprint of the"
        " certificate in place of the CA file"
    )


def pool_arguments(trust: Trust) -> dict[str, Any]:
    """Return the TLS arguments of a urllib3 pool. Raises ValueError for an unusable Trust."""
    if _checks_names(trust):
        return {"ssl_context": _verifying_context(trust), "cert_reqs": "CERT_REQUIRED"}
    return {"ssl_context": _bare_context(), "cert_reqs": "CERT_NONE"}


def pool_class(trust: Trust, limit: AnswerLimit, *, keeps: bool) -> type[HTTPSConnectionPool]:
    """Return a pool whose answers obey a limit, and whose certificates have a pinned fingerprint.

    The second only where Trust gives fingerprints. keeps: whether a connection is used again.
    """
    pins = _fingerprints(trust.fingerprint) if trust.fingerprint is not None else None
    is_checked = _checks_names(trust)

    class Connection(HTTPSConnection):
        response_class = staticmethod(partial(BoundedResponse, limit))  # type: ignore[assignment]  # it is only called

        @property
        def is_connected(self) -> bool:
            """Whether it can take a request: urllib3 connects anew where it cannot."""
            return keeps and super().is_connected

        def connect(self) -> None:
            super().connect()
            if pins is not None:
                _check(self, pins)
            if not is_checked:
                # Pinned, or waived by the administrator: urllib3 need not warn on every request.
                self.is_verified = True

    class Pool(HTTPSConnectionPool):
        ConnectionCls = Connection  # type: ignore[mutable-override]  # how urllib3 wants it

    return Pool


def _checks_names(trust: Trust) -> bool:
    return not trust.insecure and trust.fingerprint is None


def _verifying_context(trust: Trust) -> ssl.SSLContext:
    """Return a context that verifies. A CA file need not obey RFC 5280 to the letter.

    Python 3.13 refuses, for example, a CA without a key usage, and such CAs are common inside of
    companies and on appliances. Who names a CA file has vouched for that very certificate, so the
    form of its extensions adds nothing; the signature, the dates and the name are checked.
    """
    text = None if trust.ca_pem is None else trust.ca_pem.encode("ascii", "ignore").decode()
    if text is not None and "-----BEGIN" not in text:  # empty, it would mean the system's store
        raise ValueError(f"cannot use the CA file {trust.ca_file}: it holds no certificate")
    try:
        context = ssl.create_default_context(cafile=None if text else trust.ca_file, cadata=text)
    except (OSError, ValueError) as exc:  # ssl.SSLError, for what is no PEM file, is an OSError
        raise ValueError(f"cannot use the CA file {trust.ca_file}: {exc}") from exc
    if trust.ca_file is not None:
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


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
