"""Which certificates are accepted, of Prism Central and of the cluster behind it."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import prism_client as pc
import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

REF = pc.DiskSnapshotRef("rp", "vmrp", "drp")


def regions(client: Any, prism: Any) -> list[pc.ChangedRegion]:
    return list(client.changed_regions.open(REF, None, disk_size=prism.disk_size))


def test_the_ca_file_covers_both_hops(prism: Any, client: Any) -> None:
    assert regions(client, prism) == []


def test_by_default_only_the_systems_authorities_count(prism: Any, dial: Any) -> None:
    with pytest.raises(pc.UntrustedCertificate, match="its CA file or its fingerprint") as caught:
        dial(trust=pc.Trust())
    assert f"{prism.pc}:{prism.port}" in str(caught.value)
    assert prism.requests == []
    assert prism.clock.slept == []


def test_the_systems_store_is_believed(
    prism: Any, dial: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(prism.ca_file))  # where OpenSSL finds the store
    assert regions(dial(trust=pc.Trust()), prism) == []


def test_another_authority_is_refused(dial: Any, tmp_path: Path) -> None:
    other = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(str(other))
    words = r"check that \S+other.pem holds the CA that signed it, or give the fingerprint"
    with pytest.raises(pc.UntrustedCertificate, match=words):
        dial(trust=pc.Trust(ca_file=other))


@pytest.fixture
def lax_ca(ca: trustme.CA, tmp_path: Path) -> Path:
    """The CA of the tests, signed once more without a key usage, as many a company's CA is."""
    old = x509.load_pem_x509_certificate(ca.cert_pem.bytes())
    key = load_pem_private_key(ca.private_key_pem.bytes(), None)
    assert isinstance(key, EllipticCurvePrivateKey)
    builder = (
        x509.CertificateBuilder()
        .subject_name(old.subject)
        .issuer_name(old.issuer)
        .public_key(old.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(old.not_valid_before_utc)
        .not_valid_after(old.not_valid_after_utc)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    )
    path = tmp_path / "lax.pem"
    path.write_bytes(builder.sign(key, SHA256()).public_bytes(Encoding.PEM))
    return path


@pytest.fixture
def strict(monkeypatch: pytest.MonkeyPatch) -> None:
    """Verify as Python 3.13 does, whichever this is."""
    usual = ssl.create_default_context

    def as_python_3_13(*args: Any, **kwargs: Any) -> ssl.SSLContext:
        context = usual(*args, **kwargs)
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        return context

    monkeypatch.setattr(ssl, "create_default_context", as_python_3_13)


@pytest.mark.usefixtures("strict")
def test_a_named_ca_without_key_usage_is_good_enough(prism: Any, dial: Any, lax_ca: Path) -> None:
    assert regions(dial(trust=pc.Trust(ca_file=lax_ca)), prism) == []


@pytest.mark.usefixtures("strict")
def test_in_the_systems_store_such_a_ca_is_refused_and_the_way_out_is_said(
    dial: Any, lax_ca: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(lax_ca))
    words = "key usage extension; give its CA file or its fingerprint"
    with pytest.raises(pc.UntrustedCertificate, match=words):
        dial(trust=pc.Trust())


@pytest.mark.usefixtures("strict")
def test_a_named_ca_must_still_have_signed_the_certificate(
    dial: Any, tmp_path: Path, lax_ca: Path
) -> None:
    other = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(str(other))
    with pytest.raises(pc.UntrustedCertificate):
        dial(trust=pc.Trust(ca_file=other))


def test_a_pinned_fingerprint_needs_no_authority(prism: Any, dial: Any) -> None:
    pin = prism.fingerprints[prism.pc]
    colons = ":".join(pin[i : i + 2] for i in range(0, 64, 2)).upper()
    client = dial(trust=pc.Trust(fingerprint=colons))
    assert client.clusters.list()
    with pytest.raises(pc.UntrustedCertificate, match=prism.fingerprints[prism.pe]):
        regions(client, prism)  # the cluster has a certificate of its own


def test_several_fingerprints_cover_the_cluster_too(prism: Any, dial: Any) -> None:
    client = dial(trust=pc.Trust(fingerprint=", ".join(prism.fingerprints.values())))
    assert regions(client, prism) == []


def test_a_wrong_fingerprint_is_refused_before_anything_is_sent(prism: Any, dial: Any) -> None:
    with pytest.raises(pc.UntrustedCertificate) as caught:
        dial(trust=pc.Trust(fingerprint="ab" * 32))
    assert str(caught.value) == (
        f"the certificate of {prism.pc}:{prism.port} is not trusted: its fingerprint is"
        f" {prism.fingerprints[prism.pc]}, which is not the one given; was it renewed? Compare it"
        " with the server's own, then give it"
    )
    assert prism.requests == []


def test_insecure_takes_anything_and_warns_nobody(prism: Any, dial: Any) -> None:
    assert regions(dial(trust=pc.Trust(insecure=True)), prism) == []


class TestAClusterWithAnotherNameInItsCertificate:
    @pytest.fixture
    def cluster_certificate_name(self) -> str:
        return "cluster.lab.invalid"

    def test_is_refused_under_a_ca(self, prism: Any, client: Any) -> None:
        with pytest.raises(pc.UntrustedCertificate, match=r"not valid for '127\.0\.0\.2'"):
            regions(client, prism)

    def test_is_accepted_by_fingerprint(self, prism: Any, dial: Any) -> None:
        pins = ",".join(prism.fingerprints.values())
        assert regions(dial(trust=pc.Trust(fingerprint=pins)), prism) == []


@pytest.mark.parametrize(
    "make",
    [
        lambda: pc.Trust(ca_file=Path("ca.pem"), insecure=True),
        lambda: pc.Trust(fingerprint="aa" * 32, insecure=True),
    ],
)
def test_only_one_kind_of_trust_at_a_time(make: Any) -> None:
    with pytest.raises(ValueError, match="one of"):
        make()


def test_unusable_trust_is_said_at_once(dial: Any, tmp_path: Path) -> None:
    not_pem = tmp_path / "not.pem"
    not_pem.write_text("hello")
    for trust, words in (
        (pc.Trust(fingerprint="1234"), "64 hex digits"),
        (pc.Trust(ca_file=tmp_path / "absent.pem"), "absent.pem"),
        (pc.Trust(ca_file=not_pem), "not.pem"),
    ):
        with pytest.raises(ValueError, match=words):
            dial(trust=trust)
