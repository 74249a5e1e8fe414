"""Where a Prism is said to be: as people write it, and as a server does."""

from __future__ import annotations

import contextlib
from typing import Any

import prism_client as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("text", "host", "port", "address"),
    [
        ("pc.example", "pc.example", 9440, "pc.example:9440"),
        (" PRISM.Example.COM. ", "prism.example.com.", 9440, "prism.example.com.:9440"),
        ("prism_central:443", "prism_central", 443, "prism_central:443"),
        ("10.0.0.1", "10.0.0.1", 9440, "10.0.0.1:9440"),
        ("10.0.0.1:9441", "10.0.0.1", 9441, "10.0.0.1:9441"),
        ("https://pc:9440", "pc", 9440, "pc:9440"),
        ("https://pc/console/#login", "pc", 9440, "pc:9440"),
        ("pc:9440/console", "pc", 9440, "pc:9440"),
        ("::1", "::1", 9440, "[::1]:9440"),
        ("[::1]", "::1", 9440, "[::1]:9440"),
        ("[::1]:443", "::1", 443, "[::1]:443"),
        ("https://[FD00::0:10]:443/", "fd00::10", 443, "[fd00::10]:443"),
        ("fd00::10", "fd00::10", 9440, "[fd00::10]:9440"),
        ("fd00::10:9440", "fd00::10:9440", 9440, "[fd00::10:9440]:9440"),
        ("fe80::1%eth0", "fe80::1%eth0", 9440, "[fe80::1%25eth0]:9440"),
        ("münchen.example", "xn--mnchen-3ya.example", 9440, "xn--mnchen-3ya.example:9440"),
    ],
)
def test_an_address_in_any_usual_form(text: str, host: str, port: int, address: str) -> None:
    endpoint = pc.Endpoint.parse(text)
    assert (endpoint.host, endpoint.port, endpoint.address) == (host, port, address)
    assert pc.Endpoint.parse(endpoint.address.replace("%25", "%")) == endpoint


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "neither a host name nor an IP address"),
        ("pc:", "the port is a number from 1 to 65535, not ''"),
        ("pc:99999", "not '99999'"),
        ("pc:0", "not '0'"),
        ("pc:https", "not 'https'"),
        ("http://pc", "over https, not http"),
        ("user@pc", "neither"),
        ("two words", "neither"),
        ("a" * 300, "neither"),
        ("[::1", "neither|port"),
        ("fe80::1%e!x", "port|neither"),
        ("pc..example", "neither"),
    ],
)
def test_what_is_no_address_is_said(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        pc.Endpoint.parse(text)


@given(st.text(alphabet=st.sampled_from("a1.:[]%/@?#\\ \r\n-_é\0"), max_size=20) | st.text())
def test_whatever_is_accepted_is_one_place_in_a_url(text: str) -> None:
    with contextlib.suppress(ValueError):
        endpoint = pc.Endpoint.parse(text)
        assert not set("/@?#\\ \r\n\0") & set(endpoint.address)
        assert endpoint.address.isascii()


@pytest.mark.parametrize(
    "given_address",
    ["127.0.0.2:1/x?", "evil.example/a#", "user:pw@127.0.0.2", "127.0.0.2\r\nX: y", "a\x1b[31m b"],
)
def test_an_address_from_prism_is_checked_before_it_is_used(
    prism: Any, client: Any, given_address: str
) -> None:
    usual = prism.discover

    def discover() -> Any:
        reply = usual()
        reply.body["data"]["clusterIp"] = {"ipv4": {"value": given_address}}
        return reply

    prism.discover = discover
    before = len(prism.requests)
    with pytest.raises(pc.BadAnswer, match="a cluster's address that is none") as caught:
        client.changed_regions.open(pc.DiskSnapshotRef("a", "b", "c"), None, disk_size=1 << 20)
    assert str(caught.value).isprintable()
    assert [r.path.rpartition("/")[2] for r in prism.requests[before:]] == ["discover-cluster"]


def test_prism_answers_on_ipv6(prism_v6: Any) -> None:
    where = pc.Endpoint.parse(f"[0:0::1]:{prism_v6.port}")
    login, trust = pc.Basic("admin", prism_v6.password), pc.Trust(ca_file=prism_v6.ca_file)
    with pc.connect(where, login, trust) as client:
        assert [cluster.name for cluster in client.clusters.list()] == ["lab"]
        assert {request.host for request in prism_v6.requests} == {"::1"}
    with pytest.raises(pc.UntrustedCertificate, match=r"the certificate of \[::1\]:\d+ is not"):
        pc.connect(where, login)
