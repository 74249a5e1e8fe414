"""Which transport a job takes, and at which address."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from nutanix_backend.cluster import transport
from nutanix_backend.errors import ParameterError, SourceError
from nutanix_backend.settings.parameters import parse
from prism_client import Cluster
from ptcomm import Level, Severity
from ptcomm_runner.catalog import Status

if TYPE_CHECKING:
    from prism_lab import Lab

    from apps.nutanix_backend.tests.conftest import Product

MIB = 1 << 20


@pytest.mark.parametrize(
    ("wanted", "why_not", "name", "says"),
    [
        ("auto", "", "kernel", "by the kernel (open-iscsi), transport=auto"),
        ("kernel", "", "kernel", "by the kernel (open-iscsi), transport=kernel"),
        (
            "auto",
            "it needs root",
            "userspace",
            "in user space (libiscsi), transport=auto",
        ),
        ("userspace", "", "userspace", "in user space, as transport=userspace says"),
    ],
)
def test_the_choice_is_made_and_said(wanted: str, why_not: str, name: str, says: str) -> None:
    chosen = transport.choose(wanted, lambda: why_not)
    assert chosen.name == name
    assert str(chosen) == f"disks are read over iSCSI {says}"


def test_a_kernel_that_is_asked_for_and_cannot_is_an_error() -> None:
    with pytest.raises(ParameterError, match="transport=kernel cannot be used: iscsid does not"):
        transport.choose("kernel", lambda: "iscsid does not run")


def cluster(address: str | None) -> Cluster:
    return Cluster("c", "prod", "7.0", False, None, address)


@pytest.mark.parametrize(
    ("given", "own", "address", "warns"),
    [
        ({}, "10.0.0.1", "10.0.0.1:3260", True),
        ({"proxy_mode": "in_cluster"}, "10.0.0.1", "10.0.0.1:3260", False),
        ({"dsip": "10.9.9.9"}, "10.0.0.1", "10.9.9.9:3260", False),
        ({"dsip": "10.9.9.9:3261"}, None, "10.9.9.9:3261", False),
        ({"proxy_mode": "external"}, "10.0.0.1", "10.0.0.1:3260", True),
        ({"proxy_mode": "external", "dsip": "10.9.9.9"}, "10.0.0.1", "10.9.9.9:3260", False),
        ({"proxy_mode": "in_cluster", "dsip": "10.9.9.9"}, None, "10.9.9.9:3260", False),
    ],
)
def test_the_address_of_the_data_services(
    given: dict[str, str], own: str | None, address: str, warns: bool
) -> None:
    warnings: list[str] = []
    found = transport.portal(parse(given.items()), cluster(own), warnings.append)
    assert str(found) == address
    assert bool(warnings) is warns
    assert not warns or "proxy_mode=external without dsip: using 10.0.0.1" in warnings[0]


@pytest.mark.parametrize("mode", ["external", "in_cluster"])
def test_no_address_anywhere_is_an_error(mode: str) -> None:
    settings = parse([("proxy_mode", mode)])
    with pytest.raises(SourceError, match=r"cluster prod has no data services IP.*give dsip="):
        transport.portal(settings, cluster(None), print)


def test_an_address_that_is_none() -> None:
    with pytest.raises(ParameterError, match="dsip=a:b is not host or host:port"):
        transport.portal(parse([("dsip", "a:b")]), cluster(None), print)


def test_a_proxy_outside_is_warned_and_served(product: Product, lab: Lab) -> None:
    guest, other = product.guest(MIB), product.guest(MIB)
    result = product.backup(Level.FULL, guest, other, proxy_mode=None, transport=None)
    assert result.status is Status.GOOD
    assert sum("proxy_mode" in message.text for message in result.log) == 1
    said = {m.severity: m.text for m in result.log if "iSCSI" in m.text or "proxy" in m.text}
    assert f"using {lab.data_services_ip}" in said[Severity.WARNING]
    assert said[Severity.INFO].startswith("disks are read over iSCSI ")


def test_nothing_is_abandoned_where_nothing_was() -> None:
    assert transport.abandoned("iqn.2026-01.local.test:nobody", "vg-1") == []
