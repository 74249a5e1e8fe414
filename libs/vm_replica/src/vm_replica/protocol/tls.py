"""Keys, trusted certificates, and the TLS contexts made of them: TLS 1.3, mutual authentication.

A folder that only its owner can read holds:

    key.pem, certificate.pem     our own, made by `pair` or by the administrator
    peers/<fingerprint>.pem      the certificates that are trusted, added by `pair` or `allow`
    ca.pem                       optional: trust every certificate that this CA signed instead
    crl.pem                      optional: the revocation list of that CA; it must be valid
    denied/<fingerprint>         certificates that are never trusted, also with a CA
    next/                        our new key and certificate, while `pair --renew` is under way
    renewed.json                 the certificates of peers that replaced older ones
    pairs.json                   the address (host:port) of each receiver that we paired with

Without a CA, a peer is trusted if its certificate is in `peers`. An administrator put it there
after comparing the SHA-256 fingerprint. Private keys never leave this folder.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import datetime as dt
import hashlib
import os
import re
import socket
import ssl
import time
from typing import TYPE_CHECKING, Any, TypeVar

import attrs
import durable
from durable import records

from vm_replica.errors import IdentityError, PeerLost, PeerRefused

if TYPE_CHECKING:
    from pathlib import Path

T = TypeVar("T")

YEARS = 20
"""Years for which the certificates that we make are valid. Trust depends on the fingerprint."""
MAX_CERTIFICATE = 65_536
ONE_LINE = "podheitor-certificate:"
"""The prefix of a certificate in one line, which an administrator copies to the other host."""


@attrs.frozen
class Peer:
    """The other side of a connection: the fingerprint of its certificate, and the name in it."""

    fingerprint: str
    name: str


@attrs.frozen
class Pair:
    """A receiver that we paired with: its address (host:port) and its fingerprint.

    The fingerprint is valid `until` then (seconds since the epoch); 0: without limit.
    """

    address: str
    fingerprint: str
    until: int = 0


@attrs.frozen
class _Pairs:
    schema: int
    pairs: tuple[Pair, ...]


@attrs.frozen
class Renewal:
    """The fingerprint `new` of a source replaces its fingerprint `old`.

    `source` is the first fingerprint that the source had: it identifies the source. The `old`
    certificate is valid `until` then (seconds since the epoch).
    """

    new: str
    source: str
    old: str
    until: int


@attrs.frozen
class _Renewals:
    schema: int
    renewals: tuple[Renewal, ...]


@attrs.frozen
class Identity:
    """Our certificate, in the folder of its key."""

    folder: Path
    certificate: bytes = attrs.field(repr=False)  # DER

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the certificate, 64 hexadecimal digits."""
        return fingerprint(self.certificate)

    @property
    def one_line(self) -> str:
        """The certificate (which is no secret) as one line."""
        return ONE_LINE + base64.b64encode(self.certificate).decode()


def fingerprint(certificate: bytes) -> str:
    """SHA-256 of a certificate in DER, 64 hexadecimal digits."""
    return hashlib.sha256(certificate).hexdigest()


def normalise(text: str) -> str:
    """Convert a fingerprint as people write it to 64 lower-case digits; raise IdentityError."""
    plain = text.strip().lower().removeprefix("sha256:").replace(":", "")
    if not re.fullmatch(r"[0-9a-f]{64}", plain, re.ASCII):
        raise IdentityError(f"{text[:100]!r} is not a SHA-256 fingerprint: 64 hexadecimal digits")
    return plain


def ensure_identity(folder: Path, name: str) -> Identity:
    """Load our identity; make a key and a certificate for `name` if there are none."""
    if not (folder / "certificate.pem").exists():
        _make_identity(folder, name)
    return load_identity(folder)


def load_identity(folder: Path) -> Identity:
    """The identity in a folder; raise IdentityError."""
    try:
        text = (folder / "certificate.pem").read_text("ascii")
        return Identity(folder, ssl.PEM_cert_to_DER_cert(_first_certificate(text)))
    except (OSError, ValueError) as error:
        raise IdentityError(
            f"{folder} has no usable certificate: run the command `pair` ({error})"
        ) from error


def _make_identity(folder: Path, name: str) -> None:
    from cryptography import x509  # noqa: PLC0415 - only pairing needs it, and it is large
    from cryptography.hazmat.primitives import hashes, serialization  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415
    from cryptography.x509.oid import ExtendedKeyUsageOID  # noqa: PLC0415

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name[:64] or "podheitor")])
    now = dt.datetime.now(dt.UTC)
    usage = x509.ExtendedKeyUsage(
        [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
    )
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=2))
        .not_valid_after(now + dt.timedelta(days=365 * YEARS))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    _write(folder / "key.pem", private)
    _write(folder / "certificate.pem", certificate.public_bytes(serialization.Encoding.PEM))


def make_next(folder: Path, name: str) -> Identity:
    """Return the new key and certificate, made if they do not exist yet. Raises IdentityError."""
    return ensure_identity(folder / "next", name)


def change_to_next(folder: Path) -> Identity:
    """Use the new key and certificate from now on; raise IdentityError.

    It can be repeated after an interruption.
    """
    following = folder / "next"
    load_identity(following)
    try:
        for name in ("key.pem", "certificate.pem"):
            _write(folder / name, (following / name).read_bytes())
        for name in ("certificate.pem", "key.pem"):
            durable.remove(following / name)
    except OSError as error:
        raise IdentityError(f"{following} cannot be used: {error.strerror}") from error
    return load_identity(folder)


# --- peers ----------------------------------------------------------------------------------------


def read_certificate(text: str) -> bytes:
    """Read a certificate from PEM or from the line that `pair` prints; return it in DER."""
    plain = text.strip()
    try:
        if plain.startswith(ONE_LINE):
            return base64.b64decode(plain.removeprefix(ONE_LINE), validate=True)
        return ssl.PEM_cert_to_DER_cert(_first_certificate(plain))
    except (ValueError, binascii.Error) as error:
        raise IdentityError(
            f"this is not a certificate: give the line that begins with {ONE_LINE}, or a PEM file"
        ) from error


def _first_certificate(text: str) -> str:
    end = "-----END CERTIFICATE-----"
    begin, mark, rest = text.partition("-----BEGIN CERTIFICATE-----")
    if not mark or end not in rest or len(begin) > MAX_CERTIFICATE:
        raise ValueError("no certificate in PEM form")
    return f"{mark}{rest.partition(end)[0]}{end}"


def add_peer(folder: Path, certificate: bytes, expected: str = "") -> str:
    """Trust a certificate (DER); return its fingerprint.

    `expected` is the fingerprint that someone compared. Raises IdentityError.
    """
    found = fingerprint(certificate)
    if expected and normalise(expected) != found:
        raise IdentityError(
            f"the certificate has another fingerprint than the one that was given: {found}"
        )
    pem = ssl.DER_cert_to_PEM_cert(certificate)
    try:
        _anchors(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=pem)
    except ssl.SSLError as error:
        raise IdentityError("this certificate cannot be used: it is damaged") from error
    _write(_peer_path(folder, found), pem.encode())
    return found


def remove_peer(folder: Path, wanted: str) -> bool:
    """Stop trusting a certificate; return False if it was not trusted."""
    path = _peer_path(folder, normalise(wanted))
    if not path.exists():
        return False
    durable.remove(path)
    return True


def peers(folder: Path) -> list[str]:
    """The fingerprints of the certificates that are trusted."""
    return sorted(path.stem for path in (folder / "peers").glob("*.pem"))


def _peer_path(folder: Path, found: str) -> Path:
    return folder / "peers" / f"{found}.pem"


def renewals(folder: Path) -> tuple[Renewal, ...]:
    """List the certificates that replaced older ones; raise IdentityError."""
    return _load(folder / "renewed.json", _Renewals(1, ())).renewals


def renew_peer(folder: Path, old: str, certificate: bytes, overlap: int) -> Renewal:
    """Trust a certificate (DER) instead of the one with fingerprint `old`.

    The old one stays valid for `overlap` seconds. Raises IdentityError.
    """
    old = normalise(old)
    if not _peer_path(folder, old).exists():
        raise IdentityError(f"the certificate {old} is not trusted here: it cannot be renewed")
    made = Renewal(
        add_peer(folder, certificate), original(folder, old), old, int(time.time()) + overlap
    )
    others = tuple(known for known in renewals(folder) if known.new != made.new)
    _write(folder / "renewed.json", records.dump(_Renewals(1, (*others, made))))
    return made


def original(folder: Path, found: str) -> str:
    """Return the first fingerprint of the owner of a certificate: it identifies the owner."""
    return next((known.source for known in renewals(folder) if known.new == found), found)


def certificates_of(folder: Path, source: str) -> list[str]:
    """List the fingerprints of all certificates that a source has had."""
    return [source, *(known.new for known in renewals(folder) if known.source == source)]


def deny(folder: Path, found: str) -> None:
    """Never trust this certificate again, even if a CA signed it. Raises IdentityError."""
    _write(folder / "denied" / normalise(found), b"")


def remember_pair(folder: Path, address: str, found: str, overlap: int = 0) -> None:
    """Record that the receiver at this address (host:port) has this fingerprint.

    The fingerprint that it had before stays valid for `overlap` seconds.
    """
    until = int(time.time()) + overlap
    kept = [pair for pair in _pairs(folder) if pair.address != address]
    if overlap:
        kept += [
            attrs.evolve(pair, until=pair.until or until)
            for pair in _pairs(folder)
            if pair.address == address and pair.fingerprint != found
        ]
    _write(folder / "pairs.json", records.dump(_Pairs(1, (*kept, Pair(address, found)))))


def paired_with(folder: Path, address: str) -> frozenset[str]:
    """Return the valid fingerprints of the receiver at this address; empty if not paired."""
    now = time.time()
    return frozenset(
        pair.fingerprint
        for pair in _pairs(folder)
        if pair.address == address and (not pair.until or pair.until > now)
    )


def _pairs(folder: Path) -> tuple[Pair, ...]:
    return _load(folder / "pairs.json", _Pairs(1, ())).pairs


def _load(path: Path, missing: T) -> T:
    try:
        return records.load(path.read_bytes(), type(missing), schema=1)
    except FileNotFoundError:
        return missing
    except (OSError, records.RecordError) as error:
        raise IdentityError(f"{path} cannot be used: {error}: pair again") from error


def fetch_certificate(host: str, port: int, timeout: float) -> bytes:
    """Fetch the certificate (DER) that a receiver presents. It is not verified.

    The caller compares its fingerprint. Raises PeerLost and PeerRefused.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # no data is sent on this connection
    try:
        with (
            socket.create_connection((host, port), timeout=timeout) as plain,
            context.wrap_socket(plain) as wrapped,
        ):
            found = wrapped.getpeercert(binary_form=True)
    except OSError as error:
        raise PeerLost(f"no receiver answers at {host}:{port}: {error}") from error
    if not found:
        raise PeerRefused(f"the host at {host}:{port} presents no certificate")
    return found


# --- contexts -------------------------------------------------------------------------------------


def server_context(folder: Path) -> ssl.SSLContext:
    """Make the context of a receiver: TLS refuses clients without a trusted certificate."""
    context = _context(folder, ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_REQUIRED
    context.num_tickets = 0  # no resumption: every connection authenticates again
    return context


class Trust:
    """The context of a receiver. It is made again only after one of its files has changed."""

    def __init__(self, folder: Path) -> None:
        """Use the identity and the peers in a folder."""
        self._folder = folder
        self._version: tuple[object, ...] = ()
        self._context: ssl.SSLContext | None = None

    def context(self) -> ssl.SSLContext:
        """Return the current context; raise IdentityError."""
        version = _version(self._folder)
        if self._context is None or version != self._version:
            self._context, self._version = server_context(self._folder), version
        return self._context


def _version(folder: Path) -> tuple[object, ...]:
    """Return a value that changes when one of the files of the context changes."""
    found: list[object] = []
    for name in ("key.pem", "certificate.pem", "ca.pem", "crl.pem"):
        with contextlib.suppress(FileNotFoundError):
            status = (folder / name).stat()
            found.append((name, status.st_ino, status.st_mtime_ns, status.st_size))
    with contextlib.suppress(FileNotFoundError), os.scandir(folder / "peers") as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            status = entry.stat()
            found.append((entry.name, status.st_ino, status.st_mtime_ns, status.st_size))
    return tuple(found)


def client_context(folder: Path) -> ssl.SSLContext:
    """Make the context of a source.

    With a CA, TLS checks the host name. Without, the caller checks the fingerprint afterwards.
    """
    context = _context(folder, ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = uses_ca(folder)
    return context


def uses_ca(folder: Path) -> bool:
    """Tell whether certificates are trusted because a CA signed them."""
    return (folder / "ca.pem").exists()


def _context(folder: Path, protocol: ssl._SSLMethod) -> ssl.SSLContext:
    context = _anchors(protocol)
    try:
        context.load_cert_chain(folder / "certificate.pem", folder / "key.pem", _no_password)
        if uses_ca(folder):
            context.load_verify_locations(cafile=folder / "ca.pem")
            if (folder / "crl.pem").exists():
                context.load_verify_locations(cafile=folder / "crl.pem")
                context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
        else:
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # the certificate itself counts
            for path in sorted((folder / "peers").glob("*.pem")):
                context.load_verify_locations(cafile=path)
    except (OSError, ValueError) as error:
        raise IdentityError(
            f"the key, certificate or peers in {folder} cannot be used: {error}: "
            "run the command `pair`"
        ) from error
    return context


def _anchors(protocol: ssl._SSLMethod) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


def _no_password() -> str:
    raise IdentityError("the private key is encrypted: a service cannot ask for its password")


def identify(connection: ssl.SSLSocket, folder: Path) -> Peer:
    """Who is at the other end, after the handshake; raise PeerRefused.

    TLS has checked it before; this makes sure that it is one of the certificates in the folder, and
    not one that such a certificate signed.
    """
    certificate = connection.getpeercert(binary_form=True)
    if not certificate:
        raise PeerRefused("the peer has shown no certificate")
    found = Peer(fingerprint(certificate), _common_name(connection))
    if reason := distrusted(folder, found.fingerprint):
        raise PeerRefused(reason)
    return found


def distrusted(folder: Path, found: str) -> str:
    """Say why a certificate that TLS accepted is not trusted; empty if it is trusted."""
    if (folder / "denied" / found).exists():
        return f"the certificate {found} is denied here: see podheitor-receiver allow --deny"
    if uses_ca(folder):
        return ""
    if not _peer_path(folder, found).exists():
        return f"the certificate {found} does not belong to a host that we are paired with"
    if any(known.old == found and known.until < time.time() for known in renewals(folder)):
        return f"the certificate {found} was renewed, and its time of overlap is over"
    return ""


_WORDS = {
    3: "crl.pem has no revocation list of the CA that has signed it",
    9: "it is not valid yet: compare the clocks of both hosts",
    10: "it has expired: make a new one on that host with `pair --renew`",
    12: "the revocation list crl.pem has expired: get the current one from the CA",
    23: "the CA has revoked it",
}
"""The verification codes of OpenSSL (x509_vfy.h), explained for an administrator."""


def explain(error: ssl.SSLError) -> str:
    """Say in a few words why a handshake failed."""
    if isinstance(error, ssl.SSLCertVerificationError):
        words = _WORDS.get(error.verify_code, error.verify_message)
        return f"{error.reason}: the certificate of the other side is not accepted: {words}"
    return str(error.reason or error)


def _common_name(connection: ssl.SSLSocket) -> str:
    shown: Any = connection.getpeercert() or {}
    parts = shown.get("subject", ())
    names = [value for part in parts for key, value in part if key == "commonName"]
    return str(names[-1]) if names else ""


def _write(path: Path, content: bytes) -> None:
    try:
        durable.make_folder(path.parent)
        durable.replace(path, content)
        os.chmod(path, 0o600)  # noqa: PTH101 - also when an earlier file was left there
    except OSError as error:
        raise IdentityError(f"{path} cannot be written: {error.strerror}") from error
