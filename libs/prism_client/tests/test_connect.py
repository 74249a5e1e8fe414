"""Which revision of each namespace is spoken."""

from __future__ import annotations

import logging
import re
from typing import Any

import prism_client as pc
import pytest


def spoken(prism: Any) -> set[str]:
    found = [re.match(r"/api/(\w+)/(v4\.\d+)/", r.path) for r in prism.requests]
    return {f"{m[1]} {m[2]}" for m in found if m}


def test_what_the_server_announces_is_spoken(prism: Any, dial: Any) -> None:
    prism.revisions["vmm"] = "v4.1"
    client = dial()
    list(client.vms.list())
    assert spoken(prism) == {"vmm v4.1", "clustermgmt v4.2"}


def test_a_newer_server_is_spoken_to_in_a_revision_that_is_known(prism: Any, dial: Any) -> None:
    prism.revisions["vmm"] = "v4.17"
    client = dial()
    list(client.vms.list())
    assert "vmm v4.3" in spoken(prism)


@pytest.mark.parametrize("label", [None, "v4.2.b1", "v5.0", 7, ""])
def test_without_a_usable_announcement_lists_are_tried_from_the_newest(
    prism: Any, dial: Any, label: Any
) -> None:
    prism.revisions["vmm"] = label
    prism.oldest_only = "v4.0"
    prism.revisions["clustermgmt"] = "v4.0"
    client = dial()
    assert len(list(client.vms.list())) == 1
    tried = [r.path.split("/")[3] for r in prism.sent("GET", "/vmm/")]
    assert tried == ["v4.3", "v4.2", "v4.1", "v4.0", "v4.0"]


def test_an_empty_answer_to_options_is_no_announcement(prism: Any, dial: Any) -> None:
    prism.script("OPTIONS", "/vmm/", prism.reply(200))
    assert list(dial().vms.list())


def test_no_api_at_all_is_said_in_one_line(prism: Any, dial: Any) -> None:
    for namespace in ("clustermgmt", "vmm", "dataprotection", "volumes", "networking", "prism"):
        prism.revisions[namespace] = None
    prism.revisions["datapolicies"] = None
    prism.oldest_only = "v4.99"
    prism.script("POST", "/v3/clusters/list", prism.reply(404))
    with pytest.raises(pc.Unsupported, match=r"neither the v4 nor the v3 API; connect to a Prism"):
        dial()


@pytest.mark.parametrize(
    ("status", "kind"), [(401, pc.AuthFailed), (403, pc.Forbidden), (500, pc.ServerError)]
)
def test_a_failure_is_no_downgrade(prism: Any, dial: Any, status: int, kind: type) -> None:
    prism.script("OPTIONS", "/vmm/", prism.refused(status, "not now"))
    with pytest.raises(pc.ApiError, match="not now") as caught:
        dial()
    assert type(caught.value) is kind
    assert prism.sent("GET", "/vmm/") == []
    prism.revisions["vmm"] = None
    prism.script("GET", "/vmm/", prism.refused(status, "not now"))
    with pytest.raises(kind):
        dial()


def test_a_web_page_for_any_path_is_no_api(prism: Any, dial: Any) -> None:
    page = prism.reply(body=b"<html>", headers={"Content-Type": "text/html"})
    prism.script("OPTIONS", "/vmm/", page)
    prism.script("GET", "/vmm/", page)
    with pytest.raises(pc.BadAnswer, match="is this host and port a Prism"):
        dial()


def test_the_capabilities_are_logged_once(
    prism: Any, dial: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    dial()
    lines = [r.getMessage() for r in caplog.records if "speaks" in r.getMessage()]
    assert len(lines) == 1
    assert "vmm v4.2" in lines[0]
    assert prism.password not in caplog.text


def test_a_client_closes_twice_without_complaint(dial: Any) -> None:
    client = dial()
    client.close()
    client.close()


def test_an_ipv6_address_stands_in_brackets() -> None:
    assert pc.Endpoint("fd00::7").address == "[fd00::7]:9440"
    assert pc.Endpoint("pc.example.com", 443).address == "pc.example.com:443"
