"""Which certificates are accepted, of Prism Central and of the cluster behind it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import prism_client as pc
import pytest
import trustme

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
