"""Certificates that are renewed, revoked, denied or too old, on both sides of a connection."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from vm_replica.errors import CycleRefused, IdentityError, PeerRefused
from vm_replica.protocol import allowed, channel, tls

from libs.vm_replica.tests.receiver_site import QUICK, VM, cycle_of, opened, send
from libs.vm_replica.tests.test_receiver import logged

if TYPE_CHECKING:
    from pathlib import Path

    from libs.vm_replica.tests.receiver_site import Site

pytestmark = pytest.mark.security

NOW = dt.datetime.now(dt.UTC)
DAY = dt.timedelta(days=1)


def name_of(text: str) -> x509.Name:
    """A subject."""
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])


def write(folder: Path, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
    """Put an identity into a folder."""
    folder.mkdir(exist_ok=True)
    (folder / "certificate.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )


class Authority:
    """A CA that signs, and revokes."""

    def __init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        usage = {name: name in {"key_cert_sign", "crl_sign"} for name in (
            "digital_signature", "content_commitment", "key_encipherment", "data_encipherment",
            "key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
        )}  # fmt: skip
        self.certificate = (
            self._builder("ca", self.key.public_key(), 1)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(x509.KeyUsage(**usage), critical=True)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(self.key.public_key()), critical=False
            )
            .sign(self.key, hashes.SHA256())
        )

    def _builder(
        self, name: str, key: ec.EllipticCurvePublicKey, serial: int
    ) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(name_of(name))
            .issuer_name(name_of("ca"))
            .public_key(key)
            .serial_number(serial)
            .not_valid_before(NOW - DAY)
            .not_valid_after(NOW + 9 * DAY)
        )

    def issue(self, folder: Path, name: str, serial: int) -> Path:
        """An identity in a folder."""
        key = ec.generate_private_key(ec.SECP256R1())
        authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        signed = self._builder(name, key.public_key(), serial).add_extension(
            x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False
        )
        write(
            folder,
            signed.add_extension(authority, critical=False).sign(self.key, hashes.SHA256()),
            key,
        )
        pem = self.certificate.public_bytes(serialization.Encoding.PEM)
        (folder / "ca.pem").write_bytes(pem)
        return folder

    def revoke(self, *serials: int, until: dt.datetime) -> bytes:
        """A revocation list."""
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(name_of("ca"))
            .last_update(NOW - 2 * DAY)
            .next_update(until)
        )
        for serial in serials:
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(NOW)
            builder = builder.add_revoked_certificate(entry.build())
        return builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def connect_by_name(site: Site, source: Path) -> None:
    """Open a replica as a source that trusts a CA."""
    with channel.connect(f"localhost:{site.port}", source, patience=QUICK) as session:
        channel.greet(session, "test")
        opened(session)


def test_a_ca_revokes_and_a_list_denies(
    site: Site, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ca = Authority()
    ca.issue(site.identity, "receiver", 2)
    one = ca.issue(tmp_path / "one", "one", 3)
    two = ca.issue(tmp_path / "two", "two", 4)
    grants = (allowed.Grant("cn:one", "*", "*"), allowed.Grant("cn:two", "*", "*"))
    allowed.save(site.identity, grants)
    connect_by_name(site, one)
    (site.identity / "crl.pem").write_bytes(ca.revoke(3, until=NOW + DAY))
    with pytest.raises(PeerRefused, match="revoked"):
        connect_by_name(site, one)
    assert logged(caplog, "the CA has revoked it")
    connect_by_name(site, two)
    tls.deny(site.identity, tls.load_identity(two).fingerprint)
    with pytest.raises(Exception, match=r"(?i)denied|closed|reset|eof|broke"):
        connect_by_name(site, two)
    assert logged(caplog, "is denied here")
    (site.identity / "crl.pem").write_bytes(ca.revoke(until=NOW - DAY))
    with pytest.raises(PeerRefused):
        connect_by_name(site, one)
    assert logged(caplog, "crl.pem has expired")


def test_an_expired_certificate_is_called_that_on_both_sides(
    site: Site, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = site.source("source", VM)
    key = ec.generate_private_key(ec.SECP256R1())
    old = (
        x509.CertificateBuilder()
        .subject_name(name_of("old"))
        .issuer_name(name_of("old"))
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(NOW - 9 * DAY)
        .not_valid_after(NOW - DAY)
        .sign(key, hashes.SHA256())
    )
    write(source, old, key)
    tls.add_peer(site.identity, old.public_bytes(serialization.Encoding.DER))
    with pytest.raises(PeerRefused, match="it has expired"):
        site.connect(source)
    assert logged(caplog, "it has expired: make a new one on that host")


# --- renewal --------------------------------------------------------------------------------------


def test_a_source_renews_its_key_without_a_gap(site: Site) -> None:
    source = site.source("source", VM)
    old = tls.load_identity(source).fingerprint
    manifest, stream = cycle_of(b"x" * 1000)
    with site.connect(source) as session:
        send(session, manifest, stream)
    new = tls.make_next(source, "source")
    assert tls.load_identity(source).fingerprint == old, "the old one stays in use"
    tls.renew_peer(site.identity, old, new.certificate, overlap=3600)
    with site.connect(source) as session:
        opened(session)
    assert tls.change_to_next(source).fingerprint == new.fingerprint
    assert new.fingerprint != old
    second, stream = cycle_of(b"y" * 1000, manifest.digest(), 2)
    with site.connect(source) as session:
        assert send(session, second, stream) == 2, "the replica and the grant are still its own"
    third = tls.make_next(source, "source")
    tls.renew_peer(site.identity, new.fingerprint, third.certificate, overlap=3600)
    tls.change_to_next(source)
    with site.connect(source) as session:
        assert opened(session).generation == 2
    assert tls.certificates_of(site.identity, old) == [old, new.fingerprint, third.fingerprint]


def test_a_renewed_certificate_ends_with_its_overlap(site: Site) -> None:
    source = site.source("source", VM)
    old = tls.load_identity(source).fingerprint
    new = tls.make_next(source, "source")
    tls.renew_peer(site.identity, old, new.certificate, overlap=-10)
    with pytest.raises(Exception, match=r"(?i)renewed|closed|reset|eof|broke"):
        site.connect(source)
    assert "overlap is over" in tls.distrusted(site.identity, old)
    tls.change_to_next(source)
    with site.connect(source) as session:
        opened(session)


def test_a_receiver_renews_its_key_without_a_gap(site: Site) -> None:
    source = site.source("source", VM)
    address = f"127.0.0.1:{site.port}"
    old = tls.load_identity(site.identity).fingerprint
    new = tls.make_next(site.identity, "receiver")
    tls.add_peer(source, new.certificate)
    tls.remember_pair(source, address, new.fingerprint, overlap=3600)
    assert tls.paired_with(source, address) == {old, new.fingerprint}
    with site.connect(source) as session:
        opened(session)
    tls.change_to_next(site.identity)
    with site.connect(source) as session:
        opened(session)
    tls.remember_pair(source, address, new.fingerprint)
    assert tls.paired_with(source, address) == {new.fingerprint}


def test_a_change_that_broke_off_is_made_again(tmp_path: Path) -> None:
    tls.ensure_identity(tmp_path, "x")
    new = tls.make_next(tmp_path, "x")
    (tmp_path / "key.pem").write_bytes((tmp_path / "next/key.pem").read_bytes())
    assert tls.change_to_next(tmp_path).fingerprint == new.fingerprint
    tls.server_context(tmp_path)
    with pytest.raises(IdentityError):
        tls.change_to_next(tmp_path)


def test_nobody_renews_what_is_not_trusted(site: Site, tmp_path: Path) -> None:
    stranger = tls.ensure_identity(tmp_path / "stranger", "x")
    with pytest.raises(IdentityError, match="not trusted here"):
        tls.renew_peer(site.identity, stranger.fingerprint, stranger.certificate, 1)


def test_a_denied_certificate_has_its_session_ended(site: Site) -> None:
    source = site.source("source", VM)
    with site.connect(source) as session:
        opened(session)
        tls.deny(site.identity, tls.load_identity(source).fingerprint)
        with pytest.raises((CycleRefused, Exception), match="denied"):
            session.receive()
