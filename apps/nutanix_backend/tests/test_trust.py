"""Which certificate of Prism a job takes, what it says of another, and that it warns of none."""

from __future__ import annotations

import hashlib
import ssl
from typing import TYPE_CHECKING, Any

import pytest
from ptcomm import Level, Phase, Severity
from ptcomm_runner import jobs
from ptcomm_runner.catalog import Status

if TYPE_CHECKING:
    from prism_lab import Lab
    from ptcomm_runner.jobs import Result

    from apps.nutanix_backend.tests.conftest import Product

MIB = 1 << 20
WARNING = (
    "prism_insecure=yes: the certificate of Prism is not verified; an attacker on "
    "the network can read and change the connection"
)


def fingerprint(lab: Lab, host: str) -> str:
    """Of the certificate that a server of the lab shows."""
    certificate = ssl.get_server_certificate((host, lab.port))
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(certificate)).hexdigest()


def texts(result: Result, severity: Severity) -> list[str]:
    return [message.text for message in result.log if message.severity is severity]


def test_the_systems_store_is_what_counts_when_nothing_is_said(
    product: Product, lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    guest = product.guest(MIB)
    result = product.backup(Level.FULL, guest, ca=None)
    (line,) = texts(result, Severity.FATAL)
    assert f"the certificate of {lab.pc_host}:9440 is not trusted: " in line
    monkeypatch.setenv("SSL_CERT_FILE", str(lab.ca_file))  # where OpenSSL finds the store
    product.good_backup(Level.FULL, guest, ca=None)


def test_pinned_fingerprints_need_no_authority(product: Product, lab: Lab) -> None:
    guest = product.guest(MIB)
    pins = [fingerprint(lab, host) for host in (lab.pc_host, lab.pe_host)]
    full = product.good_backup(Level.FULL, guest, ca=None, fingerprint=",".join(pins))
    product.assert_restores(full, guest)


@pytest.mark.parametrize("known", [[], ["pc_host"]], ids=["of Prism Central", "of the cluster"])
def test_another_fingerprint_is_shown_with_what_to_do(
    product: Product, lab: Lab, known: list[str]
) -> None:
    """Prism Central is asked first; the cluster behind it has a certificate of its own."""
    guest = product.guest(MIB)
    before = len(lab.requests)
    pins = ["ab" * 32, *(fingerprint(lab, getattr(lab, name)) for name in known)]
    result = product.backup(Level.FULL, guest, ca=None, fingerprint=",".join(pins))
    assert result.status is Status.FAILED
    host = lab.pe_host if known else lab.pc_host
    said = [text for kind in (Severity.FATAL, Severity.NONFATAL) for text in texts(result, kind)]
    assert (
        f"the certificate of {host}:9440 is not trusted: its fingerprint is"
        f" {fingerprint(lab, host)}, which is not the one given; was it renewed? Compare it with"
        " the server's own, then give it" in said[0]
    )
    assert bool(known) == (len(lab.requests) > before), "nothing is sent to who is not trusted"
    assert not guest.recovery_points()


def test_every_job_warns_when_no_certificate_is_verified(product: Product, lab: Lab) -> None:
    guest = product.guest(MIB)
    given: dict[str, Any] = {"ca": None, "prism_insecure": "yes"}
    settings = product.settings(**given, vm=guest.name)
    done = [
        product.backup(Level.FULL, guest, **given),
        product.backup(Level.INCREMENTAL, guest, **given),
        jobs.listing("estimate", settings, Phase.ESTIMATE),
        jobs.listing("ls", product.settings(**given, listing="/"), Phase.LISTING),
        jobs.query("query", product.settings(**given, query="vms")),
        product.restore(product.root / "restored", **given),
        product.restore("/", restore_vm_name=f"{guest.name} again", **given),
    ]
    for result in done:
        assert result.status.good, result.log
        assert texts(result, Severity.WARNING) == [WARNING]
    assert f"{guest.name} again" in {vm["name"] for vm in lab.state()["vms"]}


def test_an_api_key_backs_up_and_restores(product: Product, lab: Lab) -> None:
    guest = product.guest(MIB)
    key: dict[str, Any] = {"user": None, "password": None, "api_key": lab.api_key}
    full = product.good_backup(Level.FULL, guest, **key)
    product.assert_restores(full, guest)
    product.good_restore("/", **key)
    before = len(lab.requests)
    product.good_restore("/", restore_via="image", **key)
    assert not [path for method, path, _ in lab.requests[before:] if method == "PUT"]


def test_an_api_key_uploads_no_images(product: Product, lab: Lab) -> None:
    guest = product.guest(MIB)
    key: dict[str, Any] = {"user": None, "password": None, "api_key": lab.api_key}
    product.good_backup(Level.FULL, guest, **key)
    lab.faults.fail_task("POST */content/images", message="the address cannot be reached")
    (line,) = texts(product.restore("/", restore_via="image", **key), Severity.FATAL)
    assert "images are uploaded over Prism's v3 API, which does not take this login" in line
    assert "give user and password" in line
